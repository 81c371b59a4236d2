"""What a broker in a container makes of the variables that compose files and Testcontainers set for other images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from kbroker.cli import cli
from kbroker.cli.broker import container
from kbroker.cli.broker.container import DATA_DIR, check, defaults
from kbroker.cli.errors import Misconfigured
from kbroker.config import BrokerConfig, ConfigError, load


class Start(NamedTuple):
    """What comes of an environment."""

    environment: Mapping[str, str]
    listeners: str  # NAME://HOST:PORT, as they are opened
    advertised: str
    warnings: tuple[str, ...] = ()  # how each begins


def configured(environment: Mapping[str, str]) -> BrokerConfig:
    """As `kbroker start` does it."""
    config = load({}, environment, derived={"KBROKER_CONTAINER": defaults})
    check(config, environment)
    return config


def text(name: str, host: str, port: int) -> str:
    return f"{name}://{host}:{port}"


KRAFT = {
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_NODE_ID": "1",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@kafka:9093",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,HOST:PLAINTEXT",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
}
NOT_OPENED = "listener CONTROLLER is not opened"
STARTS = {
    "nothing": Start({}, "PLAINTEXT://:9092,INTERNAL://:19092", "PLAINTEXT://localhost:9092"),
    "a listener for the host, and one for the controller": Start(
        {
            **KRAFT,
            "KAFKA_LISTENERS": "CONTROLLER://:9093,HOST://:9092,PLAINTEXT://:19092",
            "KAFKA_ADVERTISED_LISTENERS": "HOST://localhost:9092,PLAINTEXT://kafka:19092",
        },
        "HOST://:9092,PLAINTEXT://:19092",
        "HOST://localhost:9092,PLAINTEXT://kafka:19092",
        (NOT_OPENED,),
    ),
    "only what is advertised": Start(
        {
            "KAFKA_ADVERTISED_LISTENERS": "INSIDE://kafka:19092,OUTSIDE://127.0.0.1:9092",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT",
            "KAFKA_INTER_BROKER_LISTENER_NAME": "INSIDE",
        },
        "INSIDE://:19092,OUTSIDE://:9092",
        "INSIDE://kafka:19092,OUTSIDE://127.0.0.1:9092",
    ),
    "ZooKeeper, and what only start scripts know": Start(
        {
            "KAFKA_BROKER_ID": "1",
            "KAFKA_ZOOKEEPER_CONNECT": "zookeeper:2181",
            "KAFKA_ADVERTISED_HOST_NAME": "192.168.99.100",
            "KAFKA_ADVERTISED_PORT": "9092",
            "KAFKA_CREATE_TOPICS": "test:1:1",
            "KAFKA_JMX_PORT": "9101",
            "KAFKA_HEAP_OPTS": "-Xmx1G",
        },
        "PLAINTEXT://:9092,INTERNAL://:19092",
        "PLAINTEXT://localhost:9092",
        (
            "environment variable KAFKA_ADVERTISED_HOST_NAME is ignored: unknown config advertised.host.name, "
            "did you mean KAFKA_ADVERTISED_LISTENERS?",
            "environment variable KAFKA_ADVERTISED_PORT is ignored: say KAFKA_ADVERTISED_LISTENERS",
            "environment variable KAFKA_CREATE_TOPICS is ignored: say it in the command: start --topic",
            "environment variable KAFKA_ZOOKEEPER_CONNECT is ignored: kbroker needs no ZooKeeper",
        ),
    ),
    "another prefix, and no host": Start(
        {
            **{name.replace("KAFKA_", "KAFKA_CFG_", 1): value for name, value in KRAFT.items()},
            "KAFKA_CFG_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
            "KAFKA_CFG_ADVERTISED_LISTENERS": "PLAINTEXT://:9092",
        },
        "PLAINTEXT://:9092",
        "PLAINTEXT://:9092",
        (NOT_OPENED,),
    ),
    "a name that is not known": Start(
        {"KAFKA_SOME_SETTING": "1"},
        "PLAINTEXT://:9092,INTERNAL://:19092",
        "PLAINTEXT://localhost:9092",
        ("environment variable KAFKA_SOME_SETTING is ignored: unknown config some.setting",),
    ),
}
QUORUM = "1@kafka-1:9093,2@kafka-2:9093,3@kafka-3:9093"
REFUSED = {
    "one of three": (
        {**KRAFT, "KAFKA_CONTROLLER_QUORUM_VOTERS": QUORUM},
        "controller.quorum.voters names 3 controllers, and this broker would be alone",
    ),
    "a controller": (
        {**KRAFT, "KAFKA_PROCESS_ROLES": "controller", "KAFKA_LISTENERS": "CONTROLLER://:9093"},
        "process.roles is controller: kbroker is broker and controller in one process",
    ),
    "quotes that a shell would have taken": (
        {"KAFKA_ADVERTISED_LISTENERS": 'PLAINTEXT://"127.0.0.1":9092'},
        'a host has no \'"\', as "127.0.0.1":9092 has',
    ),
    "a listener without a protocol": (
        {"KAFKA_LISTENERS": "PLAINTEXT://:29092,HOST://:9092"},
        "HOST has no entry in listener.security.protocol.map",
    ),
    "TLS": (
        {"KAFKA_LISTENERS": "SSL://0.0.0.0:9093", "KAFKA_ADVERTISED_LISTENERS": "SSL://kafka:9093"},
        "SSL would speak SSL; kbroker speaks only PLAINTEXT so far",
    ),
}


@pytest.mark.parametrize("name", STARTS)
def test_an_environment_of_other_images_is_understood(name: str, caplog: pytest.LogCaptureFixture) -> None:
    start = STARTS[name]
    with caplog.at_level(logging.WARNING):
        config = configured(start.environment)
    assert ",".join(text(*each) for each in config.listeners) == start.listeners
    assert ",".join(text(of, *at) for of, at in config.advertised_listeners.items()) == start.advertised
    warnings = [*config.warnings, *caplog.messages]
    assert len(warnings) == len(start.warnings), warnings
    assert all(said.startswith(begin) for said, begin in zip(warnings, start.warnings, strict=True)), warnings


@pytest.mark.parametrize("name", REFUSED)
def test_an_environment_that_cannot_be_met_is_refused(name: str) -> None:
    environment, reason = REFUSED[name]
    with pytest.raises((Misconfigured, ConfigError)) as refusal:
        configured(environment)
    assert reason in str(refusal.value)


def test_data_is_where_other_images_have_their_volume_unless_it_is_said() -> None:
    assert configured({}).data_dir == DATA_DIR
    for variable in ("KAFKA_LOG_DIRS", "KAFKA_LOG_DIR", "KBROKER_DATA_DIR"):
        assert configured({variable: "/elsewhere"}).data_dir == "/elsewhere"


def test_status_and_stop_look_where_the_broker_of_a_container_has_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "DATA_DIR", "/no/such/data")
    for command in ("status", "stop"):
        told = CliRunner().invoke(cli, [command], env={"KBROKER_CONTAINER": "1"})
        assert (told.exit_code, told.stderr) == (3, "kbroker: no broker runs on /no/such/data\n")


def test_one_of_several_is_accepted_where_it_is_told_where_they_meet() -> None:
    several = {**KRAFT, "KAFKA_CONTROLLER_QUORUM_VOTERS": QUORUM, "KBROKER_COORDINATION": "sqlite:/shared/coord.db"}
    assert configured(several).node_id == 1
