"""BrokerConfig's layers, and what a topic inherits."""

from __future__ import annotations

import pytest

from kbroker.config import (
    TABLE,
    BrokerConfig,
    ConfigError,
    ListenerAddress,
    Scope,
    Source,
    TopicConfig,
    load,
    parse,
    topic_config,
)

HOUR_MS = 3_600_000


def test_nothing_set_is_kafkas_defaults() -> None:
    assert topic_config({}, BrokerConfig()) == TopicConfig()
    assert BrokerConfig().node_id == 1
    assert BrokerConfig().data_dir == "kbroker-data"
    assert BrokerConfig().listeners == [ListenerAddress("PLAINTEXT", "127.0.0.1", 9092)]
    assert BrokerConfig().advertised_listeners == {}


@pytest.mark.parametrize(
    ("broker", "retention_ms"),
    [
        ({"log.retention.hours": "2"}, 2 * HOUR_MS),
        ({"log.retention.hours": "2", "log.retention.minutes": "3"}, 180_000),
        ({"log.retention.hours": "2", "log.retention.minutes": "3", "log.retention.ms": "4"}, 4),
        ({"log.retention.hours": "-1"}, -1),
        ({"log.retention.ms": "-1", "log.retention.hours": "1"}, -1),
    ],
)
def test_retention_synonyms(broker: dict[str, str], retention_ms: int) -> None:
    config = load(broker)
    assert topic_config({}, config).retention_ms == retention_ms
    assert topic_config({"retention.ms": "77"}, config).retention_ms == 77


def test_other_synonyms() -> None:
    config = load({"log.roll.hours": "1", "log.flush.scheduler.interval.ms": "9", "message.max.bytes": "2000"})
    topic = topic_config({}, config)
    assert (topic.segment_ms, topic.flush_ms, topic.max_message_bytes) == (HOUR_MS, 9, 2000)


def test_topic_config_passes_over_what_it_does_not_know() -> None:
    assert topic_config({"new.in.a.later.version": "1", "retention.ms": "soon"}, BrokerConfig()) == TopicConfig()


def test_internal_segment_bytes_has_no_minimum() -> None:
    assert topic_config({"internal.segment.bytes": "100"}, BrokerConfig()).segment_bytes == 100


def test_layers() -> None:
    config = load({"log.retention.ms": "1", "num.partitions": "2"}, file_name="server.properties")
    config = config.with_dynamic(cluster={"log.retention.ms": "3"}, broker={})
    assert (config.get("log.retention.ms"), config.origin("log.retention.ms")) == (3, "config of all brokers")
    config = config.with_dynamic(cluster={"log.retention.ms": "3"}, broker={"log.retention.ms": "4", "nonsense": "5"})
    assert config.get("log.retention.ms") == 4
    assert config.settings("log.retention.ms") == [
        (Source.DYNAMIC_BROKER, 4),
        (Source.DYNAMIC_DEFAULT_BROKER, 3),
        (Source.STATIC_BROKER, 1),
    ]
    assert config.origin("num.partitions") == "server.properties"
    assert config.origin("num.io.threads") == "default"
    assert config.with_dynamic(cluster={}, broker={}).get("log.retention.ms") == 1
    assert topic_config({}, config).retention_ms == 4


def test_with_values() -> None:
    config = BrokerConfig().with_values({"num.partitions": "5", "max.connections": 7, "broker.rack": None})
    assert (config.get_int("num.partitions"), config.get_int("max.connections")) == (5, 7)
    assert config.origin("num.partitions") == "code"
    with pytest.raises(ConfigError, match="at least 1"):
        config.with_values({"num.partitions": "0"})
    with pytest.raises(ConfigError, match="did you mean"):
        config.with_values({"num.partition": "0"})


def test_typed_getters() -> None:
    config = BrokerConfig()
    assert config.get_bool("auto.create.topics.enable") is True
    assert config.get_str("broker.rack") == ""
    assert config.get_list("group.consumer.assignors") == ["uniform", "range"]
    with pytest.raises(KeyError):
        config.get("no.such.name")


def test_node_id() -> None:
    assert load({"node.id": "3"}).node_id == 3
    assert load({"broker.id": "4"}).node_id == 4
    assert load({"broker.id": "4", "node.id": "4"}).node_id == 4
    with pytest.raises(ConfigError, match="must agree"):
        load({"broker.id": "4", "node.id": "5"})


def test_data_dir() -> None:
    assert load({"log.dir": "/a"}).data_dir == "/a"
    assert load({"log.dir": "/a", "log.dirs": "/b"}).data_dir == "/b"
    assert load({"log.dirs": "/b", "kbroker.data.dir": "/c"}).data_dir == "/c"
    config = load({"log.dirs": "/a,/b"})
    assert config.data_dir == "/a"
    assert "one data directory" in config.warnings[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"listeners": "SSL://:9093"}, "SSL would speak SSL; kbroker speaks only PLAINTEXT"),
        ({"listeners": "INSIDE://:9093"}, "no entry in listener.security.protocol.map, such as INSIDE:PLAINTEXT"),
        ({"listeners": "C://:1", "controller.listener.names": "C"}, "no listener for clients"),
        ({"process.roles": "controller"}, "broker and controller in one process"),
        ({"advertised.listeners": "OTHER://h:1"}, "OTHER is not one of listeners"),
        ({"advertised.listeners": "PLAINTEXT://0.0.0.0:1"}, "no address that a client can connect to"),
        ({"inter.broker.listener.name": "X"}, "X is not one of listeners"),
        ({"listeners": "PLAINTEXT://:1", "kbroker.coordination": "etcd://h:2379"}, "cannot be told where PLAINTEXT is"),
        ({"inter.broker.listener.name": "PLAINTEXT", "security.inter.broker.protocol": "PLAINTEXT"}, "are both set"),
    ],
)
def test_inconsistent(values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(values)


def test_own_listener_names() -> None:
    protocols = "INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT"
    listeners = "INSIDE://[::1]:1,OUTSIDE://:2"
    config = load(
        {
            "listeners": listeners,
            "listener.security.protocol.map": protocols,
            "advertised.listeners": "OUTSIDE://broker.example:22",
        }
    )
    assert config.listeners == [ListenerAddress("INSIDE", "::1", 1), ListenerAddress("OUTSIDE", "", 2)]
    assert config.advertised_listeners == {"OUTSIDE": ("broker.example", 22)}


def test_internal_topics_fit_the_cluster() -> None:
    """A single broker serves groups at once, whatever Kafka's default of 3 replicas says."""
    name = "offsets.topic.replication.factor"
    assert [BrokerConfig().internal_replication_factor(name, brokers) for brokers in (0, 1, 2, 3, 9)] == [1, 1, 2, 3, 3]


@pytest.mark.parametrize("text", ["compact,", ",compact", "compact,,delete", " , "])
def test_a_list_of_choices_has_no_empty_items(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(TABLE[Scope.TOPIC]["cleanup.policy"], text)


@pytest.mark.parametrize(
    ("values", "names", "listener"),
    [
        ({}, ["OUTSIDE", "INSIDE"], "OUTSIDE"),
        ({}, ["OUTSIDE", "PLAINTEXT"], "PLAINTEXT"),
        ({"inter.broker.listener.name": "inside"}, ["PLAINTEXT", "INSIDE"], "INSIDE"),
        ({"inter.broker.listener.name": "INSIDE"}, ["OUTSIDE"], "OUTSIDE"),  # of a broker that lacks it
    ],
)
def test_which_listener_brokers_use_among_themselves(values: dict[str, str], names: list[str], listener: str) -> None:
    assert BrokerConfig().with_values(values).inter_broker_listener(names) == listener
