"""Durations and sizes as people write them, for the keys that count milliseconds, hours, bytes and the like: 7d, 64MiB.

Only where kbroker alone is told: flags, TOML, the environment, the command line. Kafka's own files and requests stay
exact: there, what Kafka would refuse is refused. What could mean two things is refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import NamedTuple

from kbroker.config.keys import NUMBERS, ConfigError, ConfigKey, Scope
from kbroker.config.table import TABLE

_DURATIONS_MS = MappingProxyType({"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000})
_SIZES = MappingProxyType(
    {"B": 1}
    | {f"{prefix}B": 1000**power for power, prefix in enumerate(("k", "M", "G", "T"), 1)}
    | {f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), 1)}
    | {"KB": 1000}
)
_OWN_UNITS_MS = MappingProxyType({"ms": 1, "seconds": 1000, "secs": 1000, "minutes": 60_000, "hours": 3_600_000})
_SIZED = ("bytes", "bytes.per.second", "buffer.size", "throttled.rate")  # how names of keys end that count bytes
_WRITTEN = re.compile(r"(?P<sign>-?)(?P<number>\d{1,19}) ?(?P<unit>[A-Za-zµ]+)")
_DURATION_EXAMPLES, _SIZE_EXAMPLES = "500ms, 30s, 15m, 12h or 7d", "512B, 64KiB, 64MiB, 10MB or 1GB"


class Unit(NamedTuple):
    """What a key counts. step: milliseconds or bytes in each one it counts."""

    is_duration: bool
    step: int
    word: str  # "hours"

    @property
    def examples(self) -> str:
        """What may be written."""
        return _DURATION_EXAMPLES if self.is_duration else _SIZE_EXAMPLES


def unit_of(key: ConfigKey) -> Unit | None:
    """What a key counts, by its type and the end of its name; None: neither time nor bytes."""
    if key.type not in NUMBERS:
        return None
    last = key.name.rpartition(".")[2]
    if last in _OWN_UNITS_MS:
        return Unit(True, _OWN_UNITS_MS[last], "milliseconds" if last == "ms" else last.replace("secs", "seconds"))
    return Unit(False, 1, "bytes") if key.name.endswith(_SIZED) else None


def exact(key: ConfigKey, text: str) -> str:
    """The number that a key counts, of a text with a unit: "7d" is "604800000". Any other text stays as it is.

    Raises ConfigError for a unit that the key does not have, or that could mean two things.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        return text
    unit = unit_of(key)
    if unit is None:
        return text  # the key's own rule tells what is wrong with it
    written = found["unit"]
    factor = (_DURATIONS_MS if unit.is_duration else _SIZES).get(written)
    if factor is None:
        raise ConfigError(f'{key.name}: "{text.strip()}" is not allowed: {_why(unit, written)}')
    amount = int(found["sign"] + found["number"]) * factor
    if found["sign"]:
        raise ConfigError(
            f'{key.name}: "{text.strip()}" is not allowed: it is negative (-1, without a unit, is no limit)'
        )
    if amount % unit.step:
        raise ConfigError(f'{key.name}: "{text.strip()}" is not allowed: it is no whole number of {unit.word}')
    return str(amount // unit.step)


def exact_pairs(scope: Scope, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each NAME=VALUE as a pair, the value as in `exact`. What is in no table of ours stays: another may judge it.

    Raises ConfigError.
    """
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise ConfigError(f"{text!r} is not NAME=VALUE")
        key = TABLE[scope].get(name)
        yield name, value if key is None else exact(key, value)


def _why(unit: Unit, written: str) -> str:
    """What is wrong with a unit."""
    if unit.is_duration:
        if written == "M":
            return "M could be minutes or months; minutes are m"
        if written in _SIZES:
            return f"it counts time: {unit.examples}"
        return f"{written} is no unit of time: {unit.examples}"
    if written in ("k", "K", "M", "G", "T"):
        power = "kMGT".index(written.replace("K", "k")) + 1
        decimal, binary = ("kB", "KiB") if power == 1 else (f"{written}B", f"{written}iB")
        return f"{written} could be {decimal} ({1000**power} bytes) or {binary} ({1024**power}): write which"
    close = [name for name in _SIZES if name.lower() == written.lower()]
    if close:
        return f"{written} could be bits; bytes are {close[-1]}"
    if written in _DURATIONS_MS:
        return f"it counts bytes: {unit.examples}"
    return f"{written} is no unit of bytes: {unit.examples}"
