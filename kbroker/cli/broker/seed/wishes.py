"""A topic to have from the start, and how `--topic` says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kafka_wire.errors import KafkaError
from kafka_wire.records import Headers
from kbroker.cluster.changes.placement import NewTopic, check_topic_name
from kbroker.config import ConfigError, Scope, check_topic_configs
from kbroker.config.units import exact_pairs

FORM = "NAME[:PARTITIONS[:REPLICAS]][,CONFIG=VALUE...]"


@dataclass(frozen=True, slots=True)
class Record:
    """A record to be there from the start. partition None: the one of its key, or the next. timestamp None: now."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    timestamp: int | None = None  # ms


@dataclass(slots=True)
class Wish:
    """A topic to be there from the start. -1: the broker's default."""

    name: str
    partitions: int = -1
    replication_factor: int = -1
    configs: Mapping[str, str] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)

    def topic(self) -> NewTopic:
        """Without its records."""
        return NewTopic(self.name, self.partitions, self.replication_factor, configs=dict(self.configs))


def wish(text: str) -> Wish:
    """What --topic says. Raises ValueError with the reason, for people."""
    head, *rest = text.split(",")
    name, _, numbers = head.partition(":")
    partitions, _, replicas = numbers.partition(":")
    counts = [_count(number) for number in (partitions, replicas)]
    if head.endswith(":") or None in counts:
        raise ValueError(f"{text!r} is not {FORM}")
    check_name(name)
    return Wish(name, counts[0] or -1, counts[1] or -1, configs_of(list(_settings(rest))))


def merged(named: Sequence[Wish], seeded: Sequence[Wish]) -> list[Wish]:
    """Each topic once: what --topic says of one counts, with the records that the seed has for it."""
    wishes = {each.name: each for each in seeded}
    for each in named:
        each.records = wishes[each.name].records if each.name in wishes else []
        wishes[each.name] = each
    return list(wishes.values())


def check_name(name: str) -> None:
    """Raises ValueError for what is no topic's name."""
    try:
        check_topic_name(name)
    except KafkaError as error:
        raise ValueError(error.message) from None


def configs_of(pairs: list[str]) -> dict[str, str]:
    """Topic configs of NAME=VALUE, with units as numbers. Raises ValueError."""
    try:
        configs = dict(exact_pairs(Scope.TOPIC, pairs))
        check_topic_configs(configs)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return configs


def _settings(parts: list[str]) -> Iterator[str]:
    """NAME=VALUE of what stands between commas: cleanup.policy=compact,delete is one of them."""
    pending = ""
    for part in parts:
        if "=" in part and pending:
            yield pending
            pending = part
        else:
            pending += f",{part}" if pending else part
    if pending:
        yield pending


def _count(text: str) -> int | None:
    """0 for none that is said; None for one that is none."""
    if not text:
        return 0
    return int(text) if text.isdecimal() and 0 < int(text) < 2**31 else None
