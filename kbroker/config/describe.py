"""Rows for DescribeConfigs (KIP-133, KIP-226, KIP-524, KIP-569, KIP-1043): what is set, by whom, and what it means.

Where Kafka names a topic key's origin it looks only at the first broker synonym (log.retention.ms), so that a
log.retention.hours in the file is reported as a default; here every synonym counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from kbroker.config.keys import ConfigKey, Scope, Update, Value, format_value, parse
from kbroker.config.table import TABLE
from kbroker.config.values import BrokerConfig, Source, scaled


class SynonymRow(NamedTuple):
    """One of the values that were considered, closest first."""

    name: str
    value: str | None
    source: int


class ConfigRow(NamedTuple):
    """One config of a DescribeConfigs answer. source and type are the wire's codes."""

    name: str
    value: str | None  # None: null, or not shown because sensitive
    read_only: bool
    source: int
    sensitive: bool
    synonyms: tuple[SynonymRow, ...]
    type: int
    documentation: str | None


def describe_topic(
    overrides: Mapping[str, str],
    broker: BrokerConfig,
    names: Collection[str] | None = None,
    *,
    documentation: bool = False,
) -> list[ConfigRow]:
    """The configs of a topic. overrides: its own; names: only these (None: all); unknown names are left out."""
    return _describe(Scope.TOPIC, Source.DYNAMIC_TOPIC, overrides, broker, names, documentation)


def describe_group(
    overrides: Mapping[str, str],
    broker: BrokerConfig,
    names: Collection[str] | None = None,
    *,
    documentation: bool = False,
) -> list[ConfigRow]:
    """The configs of a group; as `describe_topic`. A group that does not exist has them too."""
    return _describe(Scope.GROUP, Source.DYNAMIC_GROUP, overrides, broker, names, documentation)


def describe_broker(
    broker: BrokerConfig, names: Collection[str] | None = None, *, documentation: bool = False
) -> list[ConfigRow]:
    """The configs of this broker."""
    rows = []
    for key in _keys(Scope.BROKER, names):
        synonyms = tuple(_synonym(key, key.name, value, source) for source, value in broker.settings(key.name))
        read_only = key.update is Update.READ_ONLY
        rows.append(_row(key, broker.get(key.name), read_only, synonyms, documentation))
    return rows


def describe_cluster_default(
    broker: BrokerConfig, names: Collection[str] | None = None, *, documentation: bool = False
) -> list[ConfigRow]:
    """The dynamic configs that hold for all brokers (the broker resource with an empty name): only those set."""
    rows = []
    for key in _keys(Scope.BROKER, names):
        values = [value for source, value in broker.settings(key.name) if source is Source.DYNAMIC_DEFAULT_BROKER]
        if values:
            synonyms = (_synonym(key, key.name, values[0], Source.DYNAMIC_DEFAULT_BROKER),)
            rows.append(_row(key, values[0], False, synonyms, documentation))
    return rows


def _describe(
    scope: Scope,
    own_source: Source,
    overrides: Mapping[str, str],
    broker: BrokerConfig,
    names: Collection[str] | None,
    documentation: bool,
) -> list[ConfigRow]:
    rows = []
    for key in _keys(scope, names):
        considered = [(key.name, parse(key, overrides[key.name]), own_source, 1)] if key.name in overrides else []
        for synonym in key.synonyms:
            for source, value in broker.settings(synonym.name):
                considered.append((synonym.name, value, source, synonym.factor))
        value = scaled(considered[0][1], considered[0][3]) if considered else key.default
        synonyms = tuple(_synonym(key, name, text, source) for name, text, source, _ in considered)
        rows.append(_row(key, value, False, synonyms, documentation))
    return rows


def _keys(scope: Scope, names: Collection[str] | None) -> list[ConfigKey]:
    table = TABLE[scope]
    if names is None:
        return [key for key in table.values() if not key.internal]
    return [table[name] for name in dict.fromkeys(names) if name in table]


def _synonym(key: ConfigKey, name: str, value: Value, source: Source) -> SynonymRow:
    return SynonymRow(name, None if key.sensitive else format_value(value), source)


def _row(
    key: ConfigKey, value: Value, read_only: bool, synonyms: tuple[SynonymRow, ...], documentation: bool
) -> ConfigRow:
    return ConfigRow(
        key.name,
        None if key.sensitive else format_value(value),
        read_only,
        synonyms[0].source if synonyms else Source.DEFAULT,
        key.sensitive,
        synonyms,
        key.type,
        _documentation(key) if documentation else None,
    )


def _documentation(key: ConfigKey) -> str:
    from kbroker.config.docs import documentation  # only when asked for

    return documentation(key)
