"""The table against Apache Kafka's own: names, types, defaults, bounds and update modes of release 4.3."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbroker.config import TABLE, ConfigError, ConfigKey, ConfigType, Scope, TopicConfig, find, format_value, parse
from kbroker.config.docs import BROKER_DOCS, GROUP_DOCS, TOPIC_DOCS, documentation
from kbroker.config.inert_keys import IGNORED_PREFIXES, REMOVED_NAMES
from kbroker.config.keys import expected
from kbroker.config.table import check_broker_configs, check_topic_configs, is_ignored

KAFKA = Path(__file__).parent.parent / "data" / "kafka-4.3-configs.tsv"
ALL_KEYS = [key for scope in Scope for key in TABLE[scope].values()]

# Where kbroker means to differ; each is explained in the key's documentation.
OTHER_DEFAULTS = {
    "controller.listener.names": "",
    "group.initial.rebalance.delay.ms": "0",
    "group.max.size": "1000",
    "listeners": "PLAINTEXT://127.0.0.1:9092",
    "log.dir": "kbroker-data",
    "max.connections": "10000",
    "max.connections.per.ip": "10000",
    "node.id": "1",
    "process.roles": "",
}
NOT_DYNAMIC = {"listeners", "listener.security.protocol.map", "config.providers"}


def kafka_rows() -> list[list[str]]:
    lines = KAFKA.read_text(encoding="utf-8").split("\n")
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("row", kafka_rows(), ids=lambda row: f"{row[0]}-{row[1]}")
def test_key_is_kafkas(row: list[str]) -> None:
    scope, name, type_name, default, _valid, update = row
    key = TABLE[Scope[scope.upper()]][name]
    assert key.type.name == type_name
    ours = format_value(key.default)
    if scope == "broker" and name in OTHER_DEFAULTS:
        assert ours == OTHER_DEFAULTS[name]
    elif type_name == "DOUBLE":
        assert float(ours or "nan") == float(default)
    else:
        assert ("null" if ours is None else ours) == default
    if scope == "broker" and name not in NOT_DYNAMIC and not name.startswith("ssl."):
        assert key.update.name.lower().replace("_", "-") == update


@pytest.mark.parametrize("key", ALL_KEYS, ids=lambda key: f"{key.scope.name}-{key.name}")
def test_default_parses(key: ConfigKey) -> None:
    text = format_value(key.default)
    if text is not None and not (text == "" and key.type is ConfigType.LIST):
        assert parse(key, text) == key.default
    assert documentation(key)
    assert expected(key)


def test_no_documentation_without_key() -> None:
    for scope, docs in ((Scope.TOPIC, TOPIC_DOCS), (Scope.BROKER, BROKER_DOCS), (Scope.GROUP, GROUP_DOCS)):
        assert set(docs) <= set(TABLE[scope])


def test_topic_fields_match_table() -> None:
    fields = TopicConfig._field_defaults
    assert fields == {key.attribute: key.default for key in TABLE[Scope.TOPIC].values() if not key.internal}


def test_synonyms_are_broker_keys() -> None:
    for key in ALL_KEYS:
        for synonym in key.synonyms:
            assert synonym.name in TABLE[Scope.BROKER]


def test_removed_names_are_not_in_the_table() -> None:
    assert not REMOVED_NAMES & set(TABLE[Scope.BROKER])
    assert all(is_ignored(prefix + "x") for prefix in IGNORED_PREFIXES)
    assert not is_ignored("num.partitions")


@pytest.mark.parametrize(
    ("scope", "name", "text", "message"),
    [
        (Scope.BROKER, "num.partitions", "0", "expected a whole number, at least 1"),
        (Scope.BROKER, "num.partitions", "1_0", "a whole number"),
        (Scope.BROKER, "socket.request.max.bytes", "9999999999", "at least 1"),
        (Scope.BROKER, "default.replication.factor", "many", "-2147483648 to 2147483647"),
        (Scope.TOPIC, "min.cleanable.dirty.ratio", "1.5", "a number, 0 to 1"),
        (Scope.TOPIC, "min.cleanable.dirty.ratio", "nan", "a number, 0 to 1"),
        (Scope.TOPIC, "preallocate", "yes", "true or false"),
        (Scope.TOPIC, "cleanup.policy", "compact,shred", "a list of compact, delete"),
        (Scope.TOPIC, "compression.type", "brotli", "one of uncompressed, zstd"),
        (Scope.TOPIC, "compression.gzip.level", "0", "1 to 9, or -1"),
        (Scope.TOPIC, "segment.bytes", "1000", "at least 1048576"),
        (Scope.TOPIC, "remote.storage.enable", "true", "one of false"),
        (Scope.BROKER, "listeners", "localhost:9092", "NAME://HOST:PORT"),
        (Scope.BROKER, "listeners", "A://h:1,A://h:2", "each name once"),
        (Scope.BROKER, "listeners", "A://h:70000", "NAME://HOST:PORT"),
        (Scope.BROKER, "listener.security.protocol.map", "A:TLS", "the protocol PLAINTEXT, SSL"),
        (Scope.BROKER, "authorizer.class.name", "org.example.Authorizer", "kbroker cannot load Java classes"),
        (Scope.BROKER, "log.retention.hours", "0", "at least 1, or -1"),
        (Scope.BROKER, "kbroker.data.dir", "a\0b", "expected text; no path, host or name has a NUL"),
        (Scope.BROKER, "log.dirs", "a\0b", "no path, host or name has a NUL"),
        (Scope.BROKER, "kbroker.coordination", "sqlite:a\0b", "no path, host or name has a NUL"),
        (Scope.GROUP, "share.auto.offset.reset", "by_duration:1h", "by_duration:PT1H30M"),
    ],
)
def test_error_names_value_and_range(scope: Scope, name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(find(scope, name), text)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f'{name}: "{text}" is not allowed: expected ')
    assert "\n" not in str(caught.value)


def test_password_is_not_in_the_error() -> None:
    key = ConfigKey("secret", ConfigType.PASSWORD, None, choices=("good",))
    with pytest.raises(ConfigError) as caught:
        parse(key, "hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("scope", "name", "text", "value"),
    [
        (Scope.TOPIC, "cleanup.policy", " compact , delete ", "compact,delete"),
        (Scope.TOPIC, "preallocate", "TRUE", True),
        (Scope.TOPIC, "retention.ms", " 5 ", 5),
        (Scope.TOPIC, "follower.replication.throttled.replicas", "0:1,1:2", "0:1,1:2"),
        (Scope.GROUP, "share.auto.offset.reset", "by_duration:PT1H30M", "by_duration:PT1H30M"),
        (Scope.BROKER, "group.consumer.migration.policy", "UPGRADE", "upgrade"),
        (Scope.BROKER, "listeners", "A://[::1]:0, B://:9092", "A://[::1]:0,B://:9092"),
    ],
)
def test_values(scope: Scope, name: str, text: str, value: object) -> None:
    assert parse(find(scope, name), text) == value


@pytest.mark.parametrize(
    ("scope", "name", "hint"),
    [
        (Scope.BROKER, "num.partition", "did you mean num.partitions?"),
        (Scope.TOPIC, "retentions.ms", "did you mean retention.ms?"),
        (Scope.TOPIC, "log.retention.hours", "a topic's is retention.ms"),
        (Scope.BROKER, "retention.ms", "the broker's is log.retention.ms"),
        (Scope.BROKER, "qwertyuiop", "unknown broker config qwertyuiop"),
    ],
)
def test_unknown_name_gets_a_hint(scope: Scope, name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="unknown") as caught:
        find(scope, name)
    assert hint in str(caught.value)


def test_check_topic_configs() -> None:
    assert check_topic_configs({"retention.ms": "1", "cleanup.policy": "compact"}) == {
        "retention.ms": 1,
        "cleanup.policy": "compact",
    }
    with pytest.raises(ConfigError, match="a value is needed"):
        check_topic_configs({"retention.ms": None})


def test_check_broker_configs_respects_update_mode() -> None:
    assert check_broker_configs({"log.retention.ms": "1"}, per_broker=False) == {"log.retention.ms": 1}
    with pytest.raises(ConfigError, match="cannot be changed while the broker runs"):
        check_broker_configs({"listeners": "A://h:1"}, per_broker=True)
    with pytest.raises(ConfigError, match="only be set for one broker"):
        check_broker_configs({"leader.replication.throttled.rate": "1"}, per_broker=False)
