"""Changes of configs; codes and texts are Kafka's."""

from __future__ import annotations

import pytest

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.changes import config_changes
from kbroker.cluster.changes.config_changes import ConfigChange, ConfigOp
from kbroker.config.keys import Scope

SET, DELETE, APPEND, SUBTRACT = ConfigOp


def altered(current: dict[str, str], *ops: tuple[ConfigOp, str, str | None], replace: bool = False) -> dict[str, str]:
    return config_changes.alter(ConfigChange(Scope.TOPIC, "t", ops, replace), current)


def test_configs_step_by_step() -> None:
    assert altered({}, (SET, "retention.ms", "5")) == {"retention.ms": "5"}
    assert altered({"retention.ms": "5"}, (DELETE, "retention.ms", None)) == {}
    assert altered({}, (DELETE, "retention.ms", None)) == {}
    assert altered({}, (APPEND, "cleanup.policy", "compact")) == {"cleanup.policy": "delete,compact"}
    compact = {"cleanup.policy": "compact"}
    assert altered(compact, (APPEND, "cleanup.policy", "compact")) == compact
    both = {"cleanup.policy": "delete,compact"}
    assert altered(both, (SUBTRACT, "cleanup.policy", "delete")) == {"cleanup.policy": "compact"}


def test_configs_as_a_whole() -> None:
    current = {"retention.ms": "5", "segment.bytes": "1048576"}
    assert altered(current, (SET, "retention.ms", "6"), replace=True) == {"retention.ms": "6"}
    assert altered(current, replace=True) == {}


@pytest.mark.parametrize(
    ("ops", "code"),
    [
        ([(SET, "no.such", "1")], ErrorCode.INVALID_CONFIG),
        ([(SET, "retention.ms", "soon")], ErrorCode.INVALID_CONFIG),
        ([(SET, "retention.ms", None)], ErrorCode.INVALID_REQUEST),
        ([(APPEND, "retention.ms", "1")], ErrorCode.INVALID_CONFIG),
        ([(APPEND, "no.such", "1")], ErrorCode.INVALID_CONFIG),
        ([(SET, "retention.ms", "1"), (DELETE, "retention.ms", None)], ErrorCode.INVALID_REQUEST),
    ],
)
def test_configs_that_cannot_be(ops: list[tuple[ConfigOp, str, str | None]], code: ErrorCode) -> None:
    with pytest.raises(KafkaError) as raised:
        altered({}, *ops)
    assert raised.value.code is code


def test_broker_configs() -> None:
    change = ConfigChange(Scope.BROKER, "", [(SET, "log.retention.ms", "5")])
    assert config_changes.alter(change, {}) == {"log.retention.ms": "5"}
    with pytest.raises(KafkaError) as raised:
        config_changes.alter(ConfigChange(Scope.BROKER, "0", [(SET, "node.id", "5")]), {})
    assert raised.value.code is ErrorCode.INVALID_REQUEST  # KAFKA-13609


@pytest.mark.parametrize(
    ("name", "ops", "replace", "text"),
    [
        ("0", [(SET, "min.insync.replicas", "1")], False, "Broker-level min.insync.replicas cannot be altered"),
        ("0", [(DELETE, "min.insync.replicas", None)], False, "Broker-level min.insync.replicas cannot be altered"),
        ("", [(DELETE, "min.insync.replicas", None)], False, "Cluster-level min.insync.replicas cannot be removed"),
        ("", [(SET, "log.retention.ms", "5")], True, "Cluster-level min.insync.replicas cannot be removed"),
        ("", [(SET, "min.insync.replicas", "1"), (SET, "log.retention.ms", "5")], True, None),
        ("", [(SET, "min.insync.replicas", "1")], False, None),
        ("0", [(SET, "log.retention.ms", "5")], True, None),
    ],
)
def test_KIP_966_all_brokers_have_the_same_min_insync_replicas(
    name: str, ops: list[tuple[ConfigOp, str, str | None]], replace: bool, text: str | None
) -> None:
    change = ConfigChange(Scope.BROKER, name, ops, replace)
    current = {} if name else {"min.insync.replicas": "2"}
    config_changes.alter(change, current)
    if text is None:
        assert config_changes.alter(change, current, has_eligible_replicas=True)
    else:
        with pytest.raises(KafkaError, match=text) as raised:
            config_changes.alter(change, current, has_eligible_replicas=True)
        assert raised.value.code is ErrorCode.INVALID_CONFIG
