"""Changes of configs, as pure functions: what a topic, group or broker has set, after a client's request.

Refusals are KafkaErrors with the codes and texts of Kafka's ConfigurationControlManager, so that clients and their
tests find what they expect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from operator import itemgetter
from typing import NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.config.keys import ConfigError, ConfigType, Scope, Value, format_value, split_list
from kbroker.config.table import TABLE, check_broker_configs, check_group_configs, check_topic_configs

MIN_ISR = "min.insync.replicas"


class ConfigOp(IntEnum):
    """KIP-339; the codes of IncrementalAlterConfigs."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


class ConfigChange(NamedTuple):
    """A change of one resource's configs: step by step, or (replace) what is not named goes (AlterConfigs)."""

    scope: Scope
    name: str  # of the topic or group; or the broker's id, "" for the default of all brokers
    ops: Sequence[tuple[ConfigOp, str, str | None]]
    replace: bool = False


def alter(change: ConfigChange, current: Mapping[str, str], *, has_eligible_replicas: bool = False) -> dict[str, str]:
    """The configs of a resource after a change.

    has_eligible_replicas: the cluster has agreed on them (KIP-966), so all brokers go by one min.insync.replicas.

    Raises KafkaError INVALID_CONFIG, INVALID_REQUEST.
    """
    check_ops(change.ops)
    if has_eligible_replicas and change.scope is Scope.BROKER:
        _check_min_isr(change, current)
    configs = {} if change.replace else dict(current)
    unknown = next(
        (name for op, name, _ in change.ops if name not in TABLE[change.scope] and op is not ConfigOp.DELETE), None
    )
    if unknown is not None:  # at once, however many there are
        return _checked(change, {unknown: ""})
    for op, name, text in change.ops:
        if op is ConfigOp.DELETE:
            configs.pop(name, None)
            continue
        assert text is not None
        if op is ConfigOp.SET:
            configs[name] = text
        else:
            configs[name] = _edit_list(change.scope, op, name, text, configs.get(name))
    return _checked(change, configs)


def _check_min_isr(change: ConfigChange, current: Mapping[str, str]) -> None:
    kept = {name for op, name, _ in change.ops if op is not ConfigOp.DELETE}
    deleted = {name for op, name, _ in change.ops if op is ConfigOp.DELETE}
    if change.replace:
        deleted |= current.keys() - kept
    problem = ""
    if change.name:
        if MIN_ISR in kept | deleted:
            problem = "Broker-level min.insync.replicas cannot be altered while ELR is enabled."
    elif MIN_ISR in deleted:
        problem = "Cluster-level min.insync.replicas cannot be removed while ELR is enabled."
    if problem:
        raise KafkaError(ErrorCode.INVALID_CONFIG, problem)


def check_ops(ops: Sequence[tuple[int, str, str | None]]) -> None:
    """Whether each key is named once and, unless it is deleted, with a value: looked at before anything else.

    Raises KafkaError INVALID_REQUEST.
    """
    if len(set(map(itemgetter(1), ops))) != len(ops):
        raise KafkaError(ErrorCode.INVALID_REQUEST, "Error due to duplicate config keys")
    may_be_null = None in map(itemgetter(2), ops)
    nulls = [name for op, name, text in ops if text is None and op != ConfigOp.DELETE] if may_be_null else []
    if nulls:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Null value not supported for : {', '.join(nulls)}")


def _checked(change: ConfigChange, configs: Mapping[str, str]) -> dict[str, str]:
    if change.scope is Scope.TOPIC:
        return check_configs(configs)
    try:
        if change.scope is Scope.GROUP:
            values = check_group_configs(configs)
        else:
            values = check_broker_configs(configs, per_broker=change.name != "")
    except ConfigError as error:
        code = ErrorCode.INVALID_REQUEST if change.scope is Scope.BROKER else ErrorCode.INVALID_CONFIG  # KAFKA-13609
        raise KafkaError(code, str(error)) from None
    return _texts(values, configs)


def check_configs(configs: Mapping[str, str | None]) -> dict[str, str]:
    """A topic's own configs as they are kept. Raises INVALID_CONFIG."""
    try:
        return _texts(check_topic_configs(configs), configs)
    except ConfigError as error:
        raise KafkaError(ErrorCode.INVALID_CONFIG, str(error)) from None


def _texts(values: Mapping[str, Value], given: Mapping[str, str | None]) -> dict[str, str]:
    """What is stored: what was given, trimmed; lists as the table keeps them."""
    return {name: format_value(value) or (given[name] or "").strip() for name, value in values.items()}


def _edit_list(scope: Scope, op: ConfigOp, name: str, text: str, current: str | None) -> str:
    key = TABLE[scope].get(name)
    if key is None or key.type is not ConfigType.LIST:
        problem = f"Can't {op.name} to key {name} because its type is not LIST."
        raise KafkaError(ErrorCode.INVALID_CONFIG, problem)
    if not all(item.strip() for item in text.split(",")):
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"Configuration '{name}' values must not be empty.")
    items = split_list(format_value(key.default) if current is None else current)
    for item in split_list(text):
        if op is ConfigOp.APPEND and item not in items:
            items.append(item)
        elif op is ConfigOp.SUBTRACT and item in items:
            items.remove(item)
    return ",".join(items)
