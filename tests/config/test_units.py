"""Durations and sizes with units: what they come to, where they are taken, and what could mean two things."""

from __future__ import annotations

import pytest

from kbroker.config import ConfigError, Scope, find, load, read_file
from kbroker.config.table import TABLE
from kbroker.config.units import exact, unit_of


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        ("log.retention.ms", "7d", 604_800_000),
        ("log.retention.ms", "500ms", 500),
        ("log.retention.ms", "30s", 30_000),
        ("log.retention.ms", "15 m", 900_000),
        ("log.retention.minutes", "2h", 120),
        ("log.retention.hours", "120m", 2),
        ("leader.imbalance.check.interval.seconds", "5m", 300),
        ("log.segment.bytes", "64MiB", 64 << 20),
        ("log.segment.bytes", "10MB", 10_000_000),
        ("log.segment.bytes", "2048KiB", 2 << 20),
        ("log.segment.bytes", "2000kB", 2_000_000),
        ("log.segment.bytes", "2000KB", 2_000_000),
        ("log.segment.bytes", "1GiB", 1 << 30),
        ("log.retention.bytes", "3TB", 3 * 10**12),
        ("kbroker.scrub.bytes.per.second", "1MiB", 1 << 20),
        ("log.cleaner.dedupe.buffer.size", "128MiB", 128 << 20),
        ("leader.replication.throttled.rate", "50MB", 50_000_000),
        ("log.cleaner.io.max.bytes.per.second", "1MB", 1_000_000),
    ],
)
def test_what_it_comes_to(name: str, text: str, number: int) -> None:
    assert exact(find(Scope.BROKER, name), text) == str(number)


@pytest.mark.parametrize("text", ["604800000", "-1", " 7 ", "", "many", "1.5h", "1e3", "0x10", "7d12h"])
def test_what_has_no_unit_is_left_to_the_rule_of_its_key(text: str) -> None:
    assert exact(find(Scope.BROKER, "log.retention.ms"), text) == text


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("log.retention.ms", "5M", "M could be minutes or months; minutes are m"),
        ("log.retention.ms", "5w", "w is no unit of time: 500ms, 30s, 15m, 12h or 7d"),
        ("log.retention.ms", "5MB", "it counts time"),
        ("log.retention.ms", "-5s", "it is negative (-1, without a unit, is no limit)"),
        ("log.retention.hours", "90m", "it is no whole number of hours"),
        ("log.segment.bytes", "64M", "M could be MB (1000000 bytes) or MiB (1048576): write which"),
        ("log.segment.bytes", "64k", "k could be kB (1000 bytes) or KiB (1024): write which"),
        ("log.segment.bytes", "64G", "G could be GB"),
        ("log.segment.bytes", "64Mb", "Mb could be bits; bytes are MB"),
        ("log.segment.bytes", "64mib", "mib could be bits; bytes are MiB"),
        ("log.segment.bytes", "64m", "it counts bytes"),
        ("log.segment.bytes", "64pages", "pages is no unit of bytes: 512B"),
    ],
)
def test_what_could_mean_two_things_or_none_is_refused_with_the_reason(name: str, text: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        exact(find(Scope.BROKER, name), text)
    assert str(refused.value).startswith(f'{name}: "{text}" is not allowed: ') and why in str(refused.value)


@pytest.mark.parametrize("name", ["num.partitions", "socket.listen.backlog.size", "group.max.size", "node.id"])
def test_what_counts_neither_time_nor_bytes_has_no_unit(name: str) -> None:
    assert unit_of(find(Scope.BROKER, name)) is None
    assert exact(find(Scope.BROKER, name), "5s") == "5s"


def test_every_key_that_counts_time_or_bytes_says_so_in_its_name() -> None:
    """Names end in what they count; those that do not are told here, so that a new one is thought of."""
    words = ("ms", "seconds", "secs", "minutes", "hours", "bytes", "per.second", "buffer.size", "throttled.rate")
    for keys in TABLE.values():
        for key in keys.values():
            unit = unit_of(key)
            assert unit is None or key.name.endswith(words)
            if unit is None and key.type.name in ("INT", "LONG"):
                assert not key.name.endswith((".ms", ".bytes", ".hours", ".minutes", ".seconds")), key.name


def test_where_units_are_taken() -> None:
    flags = load(flags={"log.retention.ms": "7d"})
    environment = load(env={"KAFKA_LOG_RETENTION_MS": "7d", "KBROKER_LOG_SEGMENT_BYTES": "64MiB"})
    toml = load(read_file('log.retention.ms = "7d"\nlog.segment.bytes = "64MiB"', "x.toml"))
    for config in (flags, environment, toml):
        assert config.get("log.retention.ms") == 604_800_000
    assert environment.get("log.segment.bytes") == toml.get("log.segment.bytes") == 64 << 20


def test_a_properties_file_stays_exact() -> None:
    """Kafka reads it, too, and would refuse it."""
    with pytest.raises(ConfigError) as refused:
        load(read_file("log.retention.ms=7d", "server.properties"), file_name="server.properties")
    assert str(refused.value).startswith('server.properties: log.retention.ms: "7d" is not allowed: expected a whole')
    assert str(refused.value).endswith("(units are for TOML, flags and the environment)")


@pytest.mark.parametrize(
    ("sources", "culprit"),
    [
        ({"flags": {"log.segment.bytes": "64M"}}, "command line: log.segment.bytes"),
        ({"env": {"KAFKA_LOG_SEGMENT_BYTES": "64M"}}, "KAFKA_LOG_SEGMENT_BYTES: log.segment.bytes"),
    ],
)
def test_a_refusal_names_where_it_was_written(sources: dict[str, dict[str, str]], culprit: str) -> None:
    with pytest.raises(ConfigError, match=f"^{culprit}"):
        load(**sources)  # type: ignore[arg-type]
