"""What a config key is: its name, type, default, bounds, scope and documentation, and how its text is read.

A value is text outside (files, flags, the environment, the wire) and typed inside: bool, int, float, str, or None where
Kafka's default is null. A LIST is kept as its text with the items trimmed ("compact,delete"); `split_list` opens it.
This module owns no state; the keys themselves are in `topic_keys`, `broker_keys` and `inert_keys`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple, TypeAlias

Value: TypeAlias = "bool | int | float | str | None"

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1
SHOWN_MAX = 1000  # characters of a value in an error: it is sent to a client
DELAY_MS_MAX = 100 * 365 * 86_400_000  # a hundred years: every due time is a timestamp


class ConfigError(Exception):
    """A name or a value that is not possible: one line, for the person who wrote it."""


class Unfit(ValueError):
    """A check's refusal that says what is wrong: the text goes behind what is expected."""


class ConfigType(IntEnum):
    """The types of DescribeConfigs (KIP-569), with Kafka's codes."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


NUMBERS = (ConfigType.INT, ConfigType.SHORT, ConfigType.LONG, ConfigType.DOUBLE)


class Scope(IntEnum):
    """Whose key it is. The codes are those of a config resource on the wire (GROUP: KIP-1043)."""

    TOPIC = 2
    BROKER = 4
    GROUP = 32


class Update(IntEnum):
    """When a key may change: at start only, for one broker while it runs, or for all brokers at once (KIP-226)."""

    READ_ONLY = 0
    PER_BROKER = 1
    CLUSTER_WIDE = 2


class Synonym(NamedTuple):
    """A broker key that gives a key its value when nothing closer does; `factor` turns its unit into the key's."""

    name: str
    factor: int = 1


class ConfigKey(NamedTuple):
    """One row of the table."""

    name: str
    type: ConfigType
    default: Value
    scope: Scope = Scope.BROKER
    low: float | None = None  # the least value allowed
    high: float | None = None  # the greatest value allowed
    choices: tuple[str, ...] = ()  # the values (or list items) allowed; empty: any
    check: Callable[[str], str] | None = None  # returns the text as it is kept; raises ValueError with what is allowed
    update: Update = Update.READ_ONLY
    synonyms: tuple[Synonym, ...] = ()  # closest first
    effect: bool = True  # False: accepted and described, so that Kafka's files work; kbroker does not act on it
    internal: bool = False  # usable, never described

    @property
    def sensitive(self) -> bool:
        """Whether the value is never shown (passwords)."""
        return self.type is ConfigType.PASSWORD

    @property
    def attribute(self) -> str:
        """The name as an attribute: `min.insync.replicas` is `min_insync_replicas`."""
        return self.name.replace(".", "_").replace("-", "_")


_RANGE_OF_TYPE = {
    ConfigType.INT: (-(2**31), INT_MAX),
    ConfigType.SHORT: (-(2**15), 2**15 - 1),
    ConfigType.LONG: (-(2**63), LONG_MAX),
}


def parse(key: ConfigKey, text: str) -> Value:
    """The typed value of text. Raises ConfigError naming the key, the value and what is allowed."""
    text = text.strip()
    try:
        if key.scope is Scope.BROKER and "\0" in text:
            raise Unfit("no path, host or name has a NUL")
        if key.choices and key.type is not ConfigType.LIST and text not in key.choices:
            raise ValueError(text)
        value = _PARSERS.get(key.type, _parse_text)(key, text)
    except ValueError as error:
        shown = "the given value" if key.sensitive else f'"{text}"' if len(text) <= SHOWN_MAX else f'"{text[:60]}..."'
        why = f"; {error}" if isinstance(error, Unfit) else ""
        raise ConfigError(f"{key.name}: {shown} is not allowed: expected {expected(key)}{why}") from None
    return value


def format_value(value: Value) -> str | None:
    """The text of a typed value, as Kafka writes it; None stays None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def default_text(key: ConfigKey) -> str:
    """The default, for people."""
    text = format_value(key.default)
    return "null" if text is None else text or '""'


def split_list(text: str | None) -> list[str]:
    """The items of a LIST value; none of an empty one."""
    return [item for item in (part.strip() for part in (text or "").split(",")) if item]


def expected(key: ConfigKey) -> str:
    """What a key accepts, in words: "a whole number, at least 1"."""
    words = {
        ConfigType.BOOLEAN: "true or false",
        ConfigType.INT: "a whole number",
        ConfigType.SHORT: "a whole number",
        ConfigType.LONG: "a whole number",
        ConfigType.DOUBLE: "a number",
        ConfigType.LIST: "a list separated by commas",
    }.get(key.type, "text")
    if key.choices:
        words = ("a list of " if key.type is ConfigType.LIST else "one of ") + ", ".join(c or '""' for c in key.choices)
    elif key.check is not None and key.check.__doc__:
        return key.check.__doc__
    return words + range_text(key)


def range_text(key: ConfigKey) -> str:
    """The allowed range, to be put behind other words: ", 0 to 1", or nothing."""
    low, high = key.low, key.high
    if low is not None and high is not None:
        return f", {_number(low)} to {_number(high)}"
    if low is not None:
        return f", at least {_number(low)}"
    if key.type in _RANGE_OF_TYPE and not key.choices:
        least, greatest = _RANGE_OF_TYPE[key.type]
        return f", {least} to {greatest}"
    return ""


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def _parse_bool(key: ConfigKey, text: str) -> Value:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _parse_int(key: ConfigKey, text: str) -> Value:
    least, greatest = _RANGE_OF_TYPE[key.type]
    value = int(text)
    if "_" in text or not least <= value <= greatest:
        raise ValueError(text)
    _check_bounds(key, value)
    return value


def _parse_double(key: ConfigKey, text: str) -> Value:
    value = float(text)
    if "_" in text or value != value:  # not a number
        raise ValueError(text)
    _check_bounds(key, value)
    return value


def _parse_list(key: ConfigKey, text: str) -> Value:
    items = split_list(text)
    if text and len(items) <= text.count(","):
        raise ValueError(text)  # nothing between two commas is no item
    if key.choices and not set(items) <= set(key.choices):
        raise ValueError(text)
    joined = ",".join(dict.fromkeys(items) if key.choices else items)  # each of a set once
    return key.check(joined) if key.check else joined


def _parse_text(key: ConfigKey, text: str) -> Value:
    return key.check(text) if key.check else text


def _check_bounds(key: ConfigKey, value: float) -> None:
    if (key.low is not None and value < key.low) or (key.high is not None and value > key.high):
        raise ValueError(value)
    if key.check is not None:
        key.check(str(value))


_PARSERS = {
    ConfigType.BOOLEAN: _parse_bool,
    ConfigType.INT: _parse_int,
    ConfigType.SHORT: _parse_int,
    ConfigType.LONG: _parse_int,
    ConfigType.DOUBLE: _parse_double,
    ConfigType.LIST: _parse_list,
}
