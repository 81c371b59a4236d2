"""A seed file: topics to have from the start, with configs and records. Pure: text in, wishes out.

TOML (*.toml):                          JSON lines (any other name): a topic or a record each

    [[topic]]                           {"topic": "orders", "partitions": 3, "config": {"retention.ms": "7d"}}
    name = "orders"                     {"topic": "orders", "key": "a", "value": {"total": 3}}
    partitions = 3
    config = {"retention.ms" = "7d"}    replication_factor, config, and of a record partition, key, headers and
    [[topic.record]]                    timestamp may be left out. What `kbroker topic consume -J` writes is such a
    key = "a"                           file, too: payload is value there, ts timestamp; offsets do not count.
    value = "one"

A value (or a key, or a header's) is text, null for none, {"base64": "..."} for bytes; anything else of JSON is written
as its text. Every mistake is told with its line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from kbroker.cli.broker.seed.wishes import Record, Wish, check_name, configs_of
from kbroker.cli.json_records import as_bytes, as_headers, as_object, is_bytes
from kbroker.cli.times import time_ms
from kbroker.cli.topics.partitions import no_partition
from kbroker.config import format_value

OF_TOPICS = ("name", "partitions", "replication_factor", "config")
OF_RECORDS = ("partition", "key", "value", "headers", "timestamp")
OF_CONSUMED = ("offset", "tstype", "broker")  # of `consume -J`: of no use here
NO_TIMESTAMP = -1  # Kafka's word, which `consume -J` passes on
TIMESTAMP_MAX = 2**63 - 1

T = TypeVar("T")


class Mistake(NamedTuple):
    """What is wrong in a line."""

    line: int
    text: str


class SeedError(Exception):
    """A file with mistakes."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(f"line {each.line}: {each.text}" for each in mistakes))
        self.mistakes = mistakes


def read_seed(text: str, name: str) -> list[Wish]:
    """The topics of a file, with their records. Raises SeedError with all its mistakes."""
    reader = _Reader()
    (_read_toml if name.lower().endswith(".toml") else _read_json)(text, reader)
    if reader.mistakes:
        raise SeedError(sorted(reader.mistakes))
    return list(reader.wishes.values())


class _Reader:
    """Collects wishes and mistakes."""

    def __init__(self) -> None:
        self.wishes: dict[str, Wish] = {}
        self.mistakes: list[Mistake] = []
        self._declared: dict[str, int] = {}  # topic to the line that says what it is

    def topic(self, line: int, told: Mapping[str, Any]) -> Wish:
        """A topic that is described. With mistakes: as far as it is understood."""
        name = told.get("name")
        self._try(line, "", lambda: _check_known(told, OF_TOPICS))
        self._try(line, "", lambda: _name(name))
        name = str(name)
        if name in self._declared:
            self._note(line, f"topic {name} was described before, in line {self._declared[name]}")
        self._declared.setdefault(name, line)
        partitions = self._try(line, -1, lambda: _count(told, "partitions"))
        replicas = self._try(line, -1, lambda: _count(told, "replication_factor"))
        configs = self._try(line, dict[str, str](), lambda: configs_of(list(_pairs(told.get("config", {})))))
        earlier = self.wishes.get(name)
        self.wishes[name] = Wish(name, partitions, replicas, configs, earlier.records if earlier else [])
        return self.wishes[name]

    def record(self, line: int, name: object, told: Mapping[str, Any]) -> None:
        """A record of a topic, which need not be described."""
        if not isinstance(name, str) or name not in self.wishes:  # else it was looked at
            name = self._try(line, None, lambda: _name(name))
        self._try(line, "", lambda: _check_known(told, OF_RECORDS))
        record = self._try(line, None, lambda: _record(told))
        if name is None or record is None:
            return
        wish = self.wishes.setdefault(name, Wish(name))
        if record.partition is not None and 0 < wish.partitions <= record.partition:
            self._note(line, no_partition(name, record.partition, range(wish.partitions)))
        wish.records.append(record)

    def _try(self, line: int, default: T, read: Callable[[], T]) -> T:
        """What is read; the default where it is a mistake, which is noted."""
        try:
            return read()
        except ValueError as error:
            self._note(line, str(error))
            return default

    def _note(self, line: int, text: str) -> None:
        self.mistakes.append(Mistake(line, text))


def _read_json(text: str, reader: _Reader) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            told = as_object(line)
        except ValueError as error:
            reader.mistakes.append(Mistake(number, str(error)))
            continue
        if "topic" not in told:
            reader.mistakes.append(Mistake(number, 'not {"topic": NAME, ...}'))
            continue
        name = told.pop("topic")
        for alias, meant in (("payload", "value"), ("ts", "timestamp")):
            if alias in told:
                told.setdefault(meant, told.pop(alias))
        if told.keys() & {*OF_RECORDS}:
            reader.record(number, name, {key: value for key, value in told.items() if key not in OF_CONSUMED})
        else:
            reader.topic(number, {"name": name, **told})


def _read_toml(text: str, reader: _Reader) -> None:
    from kbroker.config.sources import parse_toml

    try:
        tree = parse_toml(text)
    except ValueError as error:
        from kbroker.config.review import broken_toml

        found = broken_toml(str(error))
        line = found.line or (len(text.splitlines()) if "end of document" in found.text else 1)
        reader.mistakes.append(Mistake(line, found.text))
        return
    lines = _Lines(text)
    for key in tree.keys() - {"topic"}:
        reader.mistakes.append(Mistake(1, f"{key} is not known here: topics are [[topic]]"))
    topics = tree.get("topic", [])
    if not isinstance(topics, list) or not all(isinstance(each, dict) for each in topics):
        reader.mistakes.append(Mistake(1, "topics are [[topic]], each with a name"))
        return
    for index, each in enumerate(topics):
        records = each.pop("record", [])
        wish = reader.topic(lines.topic(index), each)
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            reader.mistakes.append(Mistake(lines.topic(index), "records are [[topic.record]]"))
            continue
        for number, record in enumerate(records):
            reader.record(lines.record(index, number), wish.name, record)


class _Lines:
    """Where the tables of a TOML file begin."""

    def __init__(self, text: str) -> None:
        from kbroker.config.review import toml_statements

        self._topics: list[int] = []
        self._records: list[list[int]] = []
        for line, _, tree in toml_statements(text):
            if tree is None:
                return
            head = tree.get("topic")
            if isinstance(head, list):  # [[topic]]
                self._topics.append(line)
                self._records.append([])
            elif isinstance(head, dict) and isinstance(head.get("record"), list) and self._records:
                self._records[-1].append(line)

    def topic(self, index: int) -> int:
        return self._topics[index] if index < len(self._topics) else 1

    def record(self, index: int, number: int) -> int:
        """Its topic's line, where it has no head of its own."""
        records = self._records[index] if index < len(self._records) else []
        return records[number] if number < len(records) else self.topic(index)


def _check_known(told: Mapping[str, Any], known: tuple[str, ...]) -> str:
    unknown = [key for key in told if key not in known]
    if unknown:
        raise ValueError(f"{unknown[0]} is not known here: {', '.join(known)} are")
    return ""


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError("a topic needs a name")
    check_name(name)
    return name


def _count(told: Mapping[str, Any], key: str) -> int:
    value = told.get(key, -1)
    if key in told and not _is_whole(value, 1, 2**31 - 1):
        raise ValueError(f"{key}: {json.dumps(value, default=str)} is not a whole number, at least 1")
    return int(value)


def _pairs(configs: object) -> Iterator[str]:
    if not isinstance(configs, dict):
        raise ValueError("config: expected names and values")
    for name, value in configs.items():
        if isinstance(value, dict | list) or value is None:
            raise ValueError(f"config {name}: expected text, a number, true or false")
        yield f"{name}={format_value(value)}"


def _record(told: Mapping[str, Any]) -> Record:
    partition = told.get("partition")
    if partition is not None and not _is_whole(partition, 0, 2**31 - 1):
        raise ValueError(f"partition: {json.dumps(partition, default=str)} is not a whole number, at least 0")
    return Record(
        _bytes(told.get("key"), "key"),
        _bytes(told.get("value"), "value"),
        as_headers(told.get("headers"), _bytes),
        partition,
        _timestamp(told.get("timestamp")),
    )


def _bytes(value: Any, what: str) -> bytes | None:
    if is_bytes(value):
        return as_bytes(value, what)
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError):
        raise ValueError(f"{what}: {value!r} is no value of JSON") from None


def _timestamp(told: object) -> int | None:
    if told == NO_TIMESTAMP:
        return None
    if isinstance(told, datetime):
        told = told.isoformat()
    try:
        if isinstance(told, str):
            return time_ms(told)
    except (ValueError, OverflowError):
        pass
    if told is None or _is_whole(told, 0, TIMESTAMP_MAX):
        return told  # type: ignore[return-value]
    raise ValueError(f"timestamp: {told!r} is no time: milliseconds since the epoch, or 2026-11-28T18:30:00Z")


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
