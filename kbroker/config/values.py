"""BrokerConfig: the values a broker runs with, and where each came from. topic_config: what a topic makes of them.

A BrokerConfig is layers over the table's defaults, the closest first:

    for this broker, while it runs   Source.DYNAMIC_BROKER           `with_dynamic(broker=...)`
    for all brokers, while they run  Source.DYNAMIC_DEFAULT_BROKER   `with_dynamic(cluster=...)`
    flags, environment, file         Source.STATIC_BROKER            `load`, `with_values`
    the table                        Source.DEFAULT

It never changes: the `with_` methods return a new one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from kbroker.config.checks import ListenerAddress, StoreAddress, parse_listener, parse_store
from kbroker.config.keys import ConfigError, ConfigKey, Scope, Value, parse, split_list
from kbroker.config.table import TABLE, find
from kbroker.config.topic import TopicConfig

_BROKER_KEYS = TABLE[Scope.BROKER]
_TOPIC_KEYS = TABLE[Scope.TOPIC]
_DEFAULTS: Mapping[str, Value] = {name: key.default for name, key in _BROKER_KEYS.items()}
WILDCARDS = ("", "0.0.0.0", "::")  # hosts to listen on that stand for every address of the machine


class Source(IntEnum):
    """Where a value comes from, with the codes of DescribeConfigs."""

    DYNAMIC_TOPIC = 1
    DYNAMIC_BROKER = 2
    DYNAMIC_DEFAULT_BROKER = 3
    STATIC_BROKER = 4
    DEFAULT = 5
    DYNAMIC_GROUP = 8


class Setting(NamedTuple):
    """A value that somebody set, and where, in words for people ("--override", "KAFKA_NUM_PARTITIONS")."""

    value: Value
    origin: str


class BrokerConfig:
    """A broker's configuration. `BrokerConfig()` is all defaults."""

    __slots__ = ("_layers", "_topic_defaults", "_values", "warnings")

    def __init__(
        self, layers: Mapping[Source, Mapping[str, Setting]] | None = None, warnings: Iterable[str] = ()
    ) -> None:
        self._layers: dict[Source, Mapping[str, Setting]] = dict(sorted((layers or {}).items()))
        self._values: dict[str, Value] = dict(_DEFAULTS)
        for layer in reversed(self._layers.values()):
            self._values.update((name, setting.value) for name, setting in layer.items())
        self._topic_defaults: TopicConfig | None = None
        self.warnings = tuple(warnings)  # to be logged once, at start

    # ---- looking up

    def get(self, name: str) -> Any:
        """The value of a broker key, of the key's type. A name that is not in the table is a bug: KeyError."""
        return self._values[name]

    def get_int(self, name: str) -> int:
        """A whole number: INT, SHORT or LONG, of a key that has a default."""
        value = self._values[name]
        assert isinstance(value, int) and not isinstance(value, bool), name
        return value

    def get_float(self, name: str) -> float:
        """A DOUBLE."""
        value = self._values[name]
        assert isinstance(value, float), name
        return value

    def get_bool(self, name: str) -> bool:
        """A BOOLEAN."""
        value = self._values[name]
        assert isinstance(value, bool), name
        return value

    def get_str(self, name: str) -> str:
        """A text, "" where the value is null."""
        value = self._values[name]
        assert value is None or isinstance(value, str), name
        return value or ""

    def get_list(self, name: str) -> list[str]:
        """The items of a LIST."""
        return split_list(self.get_str(name))

    def origin(self, name: str) -> str:
        """Where the value came from, in words; "default" when nobody set it."""
        return next((layer[name].origin for layer in self._layers.values() if name in layer), "default")

    def is_set(self, name: str) -> bool:
        """Whether somebody set the key."""
        return any(name in layer for layer in self._layers.values())

    def settings(self, name: str) -> list[tuple[Source, Value]]:
        """All values the key has, closest first, the default last if it has one."""
        found: list[tuple[Source, Value]] = [
            (source, layer[name].value) for source, layer in self._layers.items() if name in layer
        ]
        default = _DEFAULTS[name]
        return [*found, (Source.DEFAULT, default)] if default is not None else found

    # ---- making others

    def with_values(self, values: Mapping[str, Value], origin: str = "code") -> BrokerConfig:
        """With these values set as if in the file. A text is parsed. Raises ConfigError."""
        added = {name: Setting(_typed(find(Scope.BROKER, name), value), origin) for name, value in values.items()}
        static = {**self._layers.get(Source.STATIC_BROKER, {}), **added}
        return BrokerConfig({**self._layers, Source.STATIC_BROKER: static}, self.warnings)

    def with_dynamic(self, *, cluster: Mapping[str, str], broker: Mapping[str, str]) -> BrokerConfig:
        """With these dynamic configs in place of earlier ones (KIP-226).

        They were checked when they were accepted; what a newer version accepted and this one does not know is left out.
        """
        layers = {
            **self._layers,
            Source.DYNAMIC_DEFAULT_BROKER: _dynamic(cluster, "config of all brokers"),
            Source.DYNAMIC_BROKER: _dynamic(broker, "config of this broker"),
        }
        return BrokerConfig(layers, self.warnings)

    # ---- values that are made of several keys

    @property
    def node_id(self) -> int:
        """This broker's number: node.id, or broker.id where only that is set."""
        broker_id = self.get_int("broker.id")
        return broker_id if broker_id >= 0 and not self.is_set("node.id") else self.get_int("node.id")

    @property
    def data_dir(self) -> str:
        """Where data is kept: kbroker.data.dir, else the first of log.dirs, else the first of log.dir."""
        return self.get_str("kbroker.data.dir") or [*self.get_list("log.dirs"), *self.get_list("log.dir")][0]

    @property
    def store(self) -> StoreAddress:
        """Where the coordination store is."""
        return parse_store(self.get_str("kbroker.coordination"))

    @property
    def listeners(self) -> list[ListenerAddress]:
        """Where to listen: (name, host, port); host "" means every interface. Controller listeners are left out."""
        controllers = {name.upper() for name in self.get_list("controller.listener.names")}
        addresses = [parse_listener(item) for item in self.get_list("listeners")]
        return [address for address in addresses if address.name not in controllers]

    @property
    def advertised_listeners(self) -> dict[str, tuple[str, int]]:
        """What clients are told, {listener name: (host, port)}: only what is configured."""
        addresses = [parse_listener(item) for item in self.get_list("advertised.listeners")]
        used = {address.name for address in self.listeners}
        return {address.name: (address.host, address.port) for address in addresses if address.name in used}

    def inter_broker_listener(self, names: Collection[str]) -> str:
        """Which of a broker's listeners brokers use among themselves: inter.broker.listener.name, else the one named
        after security.inter.broker.protocol, else the first.
        """
        configured = self.get_str("inter.broker.listener.name").upper()
        wanted = (configured, self.get_str("security.inter.broker.protocol"), next(iter(names)))
        return next(name for name in wanted if name in names)

    @property
    def topic_defaults(self) -> TopicConfig:
        """The TopicConfig of a topic without configs of its own."""
        if self._topic_defaults is None:
            inherited = {key.attribute: _inherited(key, self) for key in _TOPIC_KEYS.values() if not key.internal}
            self._topic_defaults = TopicConfig(**inherited)  # type: ignore[arg-type]  # test_topic_fields_match_table
        return self._topic_defaults

    def internal_replication_factor(self, name: str, brokers: int) -> int:
        """A value such as offsets.topic.replication.factor or transaction.state.log.min.isr: at most one per broker."""
        return max(1, min(self.get_int(name), brokers))


def topic_config(overrides: Mapping[str, str], broker: BrokerConfig) -> TopicConfig:
    """What a topic runs with: its own configs, else the broker's, else Kafka's defaults.

    Names and values that this version does not accept are passed over: they were checked when they were set.
    """
    values = {_TOPIC_KEYS[name].attribute: value for name, value in _accepted(Scope.TOPIC, overrides).items()}
    small_segment = values.pop("internal_segment_bytes", None)
    if small_segment is not None:
        values["segment_bytes"] = small_segment
    return broker.topic_defaults._replace(**values) if values else broker.topic_defaults  # type: ignore[arg-type]


def _inherited(key: ConfigKey, broker: BrokerConfig) -> Value:
    for synonym in key.synonyms:
        value = broker.get(synonym.name)
        if value is not None:
            return scaled(value, synonym.factor)
    return key.default


def scaled(value: Value, factor: int) -> Value:
    """A synonym's value in the key's unit; any negative time is -1, for no limit."""
    if factor == 1 or not isinstance(value, int):
        return value
    return -1 if value < 0 else value * factor


def _typed(key: ConfigKey, value: Value) -> Value:
    return parse(key, value) if isinstance(value, str) else value


def _dynamic(configs: Mapping[str, str], origin: str) -> dict[str, Setting]:
    return {name: Setting(value, origin) for name, value in _accepted(Scope.BROKER, configs).items()}


def _accepted(scope: Scope, configs: Mapping[str, str]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for name, text in configs.items():
        key = TABLE[scope].get(name)
        if key is None:
            continue
        try:
            values[name] = parse(key, text)
        except ConfigError:
            continue
    return values
