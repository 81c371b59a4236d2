"""Files, environment and flags into a BrokerConfig; their precedence; what is refused and what gets a warning."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.config import ConfigError, load, read_file, read_properties, read_toml
from kbroker.config.sources import env_name

SERVER_PROPERTIES = Path(__file__).parent.parent / "data" / "server.properties"


def test_server_properties_of_apache_kafka_is_accepted() -> None:
    values = read_properties(SERVER_PROPERTIES.read_text(encoding="utf-8"))
    config = load(values, file_name="server.properties")
    assert config.get("num.partitions") == 3
    assert config.get("auto.create.topics.enable") is False
    assert [address.name for address in config.listeners] == ["PLAINTEXT"]
    assert config.advertised_listeners == {"PLAINTEXT": ("localhost", 9092)}
    assert config.data_dir == "/tmp/kraft-combined-logs"
    assert config.topic_defaults.retention_ms == 24 * 3_600_000
    about_controller = [text for text in config.warnings if "CONTROLLER" in text]
    assert about_controller == ["listener CONTROLLER is not opened: kbroker has no separate controllers"]
    assert len(config.warnings) == 3  # the others: inter.broker.protocol.version, listener.name.…


def test_precedence() -> None:
    sources = [
        {"file": {"num.partitions": "2"}},
        {"env": {"KAFKA_NUM_PARTITIONS": "3"}},
        {"env": {"KAFKA_NUM_PARTITIONS": "3", "KBROKER_NUM_PARTITIONS": "4"}},
        {"flags": {"num.partitions": "5"}},
    ]
    given_so_far: dict[str, dict[str, str]] = {}
    for number, source in enumerate(sources, 2):
        given_so_far.update(source)
        assert load(**given_so_far).get("num.partitions") == number  # type: ignore[arg-type]
    assert load(**given_so_far).origin("num.partitions") == "command line"  # type: ignore[arg-type]


def test_unknown_name_is_an_error_in_file_and_flag() -> None:
    for source in ({"file": {"num.partition": "1"}}, {"flags": {"num.partition": "1"}}):
        with pytest.raises(ConfigError, match=r"did you mean num\.partitions\?"):
            load(**source)


def test_unknown_name_is_a_warning_in_the_environment() -> None:
    config = load(env={"KBROKER_NUM_PARTITION": "1", "KBROKER_XYZZY": "1", "KAFKA_XYZZY": "1", "HOME": "/"})
    assert config.get("num.partitions") == 1
    assert config.warnings == (
        "environment variable KBROKER_NUM_PARTITION is ignored: unknown config num.partition, "
        "did you mean KBROKER_NUM_PARTITIONS?",
        "environment variable KBROKER_XYZZY is ignored: unknown config xyzzy",
    )
    assert load(env={"KAFKA_HOME": "/opt", "KAFKA_HEAP_OPTS": "-Xmx1g", "KAFKA_BOOTSTRAP_SERVERS": "x"}).warnings == ()
    assert len(load(env={"KAFKA_NUM_PARTITION": "1"}).warnings) == 1


def test_error_names_the_variable() -> None:
    with pytest.raises(ConfigError, match="KAFKA_NUM_PARTITIONS: num.partitions: "):
        load(env={"KAFKA_NUM_PARTITIONS": "x"})


def test_variables_that_kubernetes_makes_up_for_services_are_no_config() -> None:
    """Of services called kafka, kbroker-http and kafka-connect."""
    env = {
        "KAFKA_PORT": "tcp://10.0.0.9:9092",
        "KAFKA_PORT_9092_TCP_ADDR": "10.0.0.9",
        "KAFKA_SERVICE_HOST": "10.0.0.9",
        "KAFKA_CONNECT_SERVICE_PORT_HTTP": "8083",
        "KBROKER_SERVICE_PORT": "9092",
        "KBROKER_HTTP_PORT": "tcp://10.0.0.8:80",
    }
    config = load(env=env)
    assert not config.warnings
    assert not config.is_set("kbroker.http.port")
    assert load(env={"KBROKER_HTTP_PORT": "80"}).get_int("kbroker.http.port") == 80


def test_the_prefix_of_another_image_goes_before_the_shorter_one() -> None:
    env = {"KAFKA_CFG_NUM_PARTITIONS": "3", "KAFKA_NUM_PARTITIONS": "4", "KAFKA_CFG_NUM_PARTITION": "5"}
    config = load(env=env)
    assert config.get_int("num.partitions") == 3
    assert config.origin("num.partitions") == "KAFKA_CFG_NUM_PARTITIONS"
    assert "did you mean KAFKA_CFG_NUM_PARTITIONS?" in config.warnings[0]


def test_own_names_in_the_environment() -> None:
    assert load(env={"KBROKER_DATA_DIR": "/d"}).data_dir == "/d"
    assert load(env={"KBROKER_KBROKER_DATA_DIR": "/d"}).data_dir == "/d"


@pytest.mark.parametrize(
    ("variable", "name"),
    [("NUM_PARTITIONS", "num.partitions"), ("A__B_C", "a_b.c"), ("A___B_C__D", "a-b.c_d"), ("NODE_ID", "node.id")],
)
def test_env_name(variable: str, name: str) -> None:
    assert env_name(variable) == name


def test_toml() -> None:
    text = """
    num.partitions = 3
    "log.retention.ms" = -1
    log.dirs = ["a", "b"]
    [group]
    initial.rebalance.delay.ms = 10
    [auto.create.topics]
    enable = false
    """
    assert read_toml(text) == {
        "num.partitions": "3",
        "log.retention.ms": "-1",
        "log.dirs": "a,b",
        "group.initial.rebalance.delay.ms": "10",
        "auto.create.topics.enable": "false",
    }
    assert read_file("num.partitions = 3", "x.TOML") == {"num.partitions": "3"}
    assert read_file("num.partitions = 3", "x.conf") == {"num.partitions": "3"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = ", "f.toml is not TOML"),
        ("a = 1979-05-27", "expected text"),
        ("a = " + "[" * 10_000, "f.toml is not TOML: a value is nested too deeply"),
        ("a = " + "1" * 5_000, "f.toml is not TOML: Exceeds the limit"),
    ],
)
def test_bad_toml(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_toml(text, "f.toml")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1\n\n# b=2\n! c\n  d : 4\ne 5\nf", {"a": "1", "d": "4", "e": "5", "f": ""}),
        ("a=1\\\n   2,\\\n3\nb=4", {"a": "12,3", "b": "4"}),
        ("a\\:b=c\\=d\\u0041\\t\\\\", {"a:b": "c=dA\t\\"}),
        ("url=PLAINTEXT://:9092", {"url": "PLAINTEXT://:9092"}),
        ("a = 1 \r\nb=2", {"a": "1", "b": "2"}),
        ("a=1\na=2", {"a": "2"}),
    ],
)
def test_properties(text: str, values: dict[str, str]) -> None:
    assert read_properties(text) == values


@given(st.text())
def test_properties_never_raise(text: str) -> None:
    read_properties(text)
