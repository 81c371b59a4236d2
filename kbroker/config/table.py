"""The whole table: every key by its scope and name, and help for names that are not in it."""

from __future__ import annotations

from collections.abc import Mapping

from kbroker.config.broker_keys import BROKER_KEYS
from kbroker.config.inert_keys import IGNORED_PREFIXES, INERT_KEYS, REMOVED_NAMES
from kbroker.config.keys import ConfigError, ConfigKey, Scope, Update, Value, parse
from kbroker.config.topic_keys import GROUP_KEYS, TOPIC_KEYS
from kbroker.config.views import check_view

MIN_LAG, MAX_LAG = "min.compaction.lag.ms", "max.compaction.lag.ms"

TABLE: Mapping[Scope, Mapping[str, ConfigKey]] = {
    Scope.TOPIC: {key.name: key for key in TOPIC_KEYS},
    Scope.BROKER: {key.name: key for key in (*BROKER_KEYS, *INERT_KEYS)},
    Scope.GROUP: {key.name: key for key in GROUP_KEYS},
}


def find(scope: Scope, name: str) -> ConfigKey:
    """The key of that name. Raises ConfigError: "unknown config retention, did you mean retention.ms?"."""
    key = TABLE[scope].get(name)
    if key is None:
        raise ConfigError(unknown(scope, name))
    return key


def unknown(scope: Scope, name: str) -> str:
    """What to say about a name that is not in the table."""
    close = did_you_mean(scope, name)
    elsewhere = _elsewhere(scope, name)
    hint = elsewhere or (f", did you mean {close}?" if close else "")
    return f"unknown {scope.name.lower()} config {name}{hint}"


def did_you_mean(scope: Scope, name: str) -> str | None:
    """The name in the table that looks most like it, if any does."""
    from difflib import get_close_matches  # only for those who mistype

    found = get_close_matches(name, TABLE[scope], n=1, cutoff=0.7)
    return found[0] if found else None


def is_ignored(name: str) -> bool:
    """Whether a broker name outside the table is passed over with a warning: once Kafka's, or a plug-in's."""
    return name in REMOVED_NAMES or name.startswith(IGNORED_PREFIXES)


def check_topic_configs(configs: Mapping[str, str | None]) -> dict[str, Value]:
    """Typed values of a topic's own configs. Raises ConfigError for an unknown name or a value that is not allowed.

    A None value (a client that sends null) is refused, as Kafka does.
    """
    values = _check(Scope.TOPIC, configs)
    low, high = (values.get(name, TABLE[Scope.TOPIC][name].default) for name in (MIN_LAG, MAX_LAG))
    assert isinstance(low, int) and isinstance(high, int)
    if low > high:
        raise ConfigError(f"conflict topic config setting {MIN_LAG} ({low}) > {MAX_LAG} ({high})")
    if values.get("kbroker.delay.enable") and "compact" in str(values.get("cleanup.policy")):
        raise ConfigError("kbroker.delay.enable is true, so cleanup.policy cannot be compact: it has one or the other")
    check_view(values)
    return values


def check_group_configs(configs: Mapping[str, str | None]) -> dict[str, Value]:
    """Typed values of a group's own configs; as `check_topic_configs`."""
    return _check(Scope.GROUP, configs)


def check_broker_configs(configs: Mapping[str, str | None], *, per_broker: bool) -> dict[str, Value]:
    """Typed values of dynamic broker configs, for one broker or for all (KIP-226).

    Raises ConfigError also for a key that may not change while running, or not for all brokers at once.
    """
    values = _check(Scope.BROKER, configs)
    for name in values:
        update = TABLE[Scope.BROKER][name].update
        if update is Update.READ_ONLY:
            raise ConfigError(f"{name} cannot be changed while the broker runs: set it in the file it starts with")
        if update is Update.PER_BROKER and not per_broker:
            raise ConfigError(f"{name} can only be set for one broker, not as the default of all")
    return values


def _check(scope: Scope, configs: Mapping[str, str | None]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for name, text in configs.items():
        key = find(scope, name)
        if text is None:
            raise ConfigError(f"{name}: a value is needed")
        values[name] = parse(key, text)
    return values


def _elsewhere(scope: Scope, name: str) -> str:
    """A broker name given to a topic, or the other way round."""
    if scope is Scope.TOPIC:
        for key in TOPIC_KEYS:
            if any(synonym.name == name for synonym in key.synonyms):
                return f": that is the broker's name, a topic's is {key.name}"
    if scope is Scope.BROKER and name in TABLE[Scope.TOPIC]:
        synonyms = TABLE[Scope.TOPIC][name].synonyms
        if synonyms:
            return f": that is a topic's name, the broker's is {synonyms[0].name}"
    return ""
