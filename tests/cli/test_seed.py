"""`start --topic` and `start --seed`: what is understood, every mistake with its line, and records written once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as of_kafka_python
from trio.testing import MockClock

from kafka_wire.messages.produce_fetch import FetchPartition, FetchRequest, FetchTopic
from kafka_wire.records import headers, read_records
from kbroker.cli import cli
from kbroker.cli.broker.seed import planting
from kbroker.cli.broker.seed.planting import murmur2, plant
from kbroker.cli.broker.seed.reading import SeedError, read_seed
from kbroker.cli.broker.seed.wishes import Record, Wish, merged, wish
from kbroker.cli.topics.formats import Shown, json_line
from kbroker.server.identity import StartFailed
from kbroker.testing.broker import HOST, MemoryBroker, memory_broker, memory_cluster
from tests.cli.process import broker_process

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orders", Wish("orders")),
        ("orders:3", Wish("orders", 3)),
        ("orders:3:2", Wish("orders", 3, 2)),
        ("orders::2", Wish("orders", -1, 2)),
        ("orders,retention.ms=7d", Wish("orders", configs={"retention.ms": str(7 * DAY_MS)})),
        (
            "orders:3,cleanup.policy=compact,delete,segment.bytes=64MiB",
            Wish("orders", 3, configs={"cleanup.policy": "compact,delete", "segment.bytes": str(64 << 20)}),
        ),
    ],
)
def test_what_topic_says(text: str, expected: Wish) -> None:
    assert wish(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a:b", "is not NAME[:PARTITIONS[:REPLICAS]]"),
        ("a:0", "is not NAME"),
        ("a:", "is not NAME"),
        ("a:1:1:1", "is not NAME"),
        ("bad/name", "Topic name is invalid"),
        ("", "the empty string is not allowed"),
        ("a,retention.mss=1", "did you mean retention.ms?"),
        ("a,retention.ms=many", '"many" is not allowed'),
        ("a,segment.bytes=64M", "M could be MB"),
        ("a,compact", "'compact' is not NAME=VALUE"),
    ],
)
def test_what_topic_cannot_say(text: str, why: str) -> None:
    done = CliRunner().invoke(cli, ["start", "--topic", text])
    assert done.exit_code == 2
    assert why in done.stderr.replace("\n", " ")


def test_each_topic_once() -> None:
    records = [Record(b"k", b"v")]
    found = merged([Wish("a", 5)], [Wish("a", 3, records=records), Wish("b")])
    assert found == [Wish("a", 5, records=records), Wish("b")]


TOML = """\
[[topic]]
name = "orders"
partitions = 3
config = {"retention.ms" = "7d", "cleanup.policy" = "delete"}

[[topic.record]]
key = "a"
value = "one"
headers = {country = "de", none = {base64 = "AP8="}}
timestamp = 2026-11-28T12:00:00Z

[[topic.record]]
value = {total = 3}
partition = 2

[[topic]]
name = "empty"
[topic.config]
"min.insync.replicas" = 1
"""
JSON = """\
{"topic": "orders", "partitions": 3, "config": {"retention.ms": "7d", "cleanup.policy": "delete"}}

{"topic": "orders", "key": "a", "value": "one", "headers": {"country": "de", "none": {"base64": "AP8="}}, "ts": TIME}
{"topic": "orders", "payload": {"total": 3}, "partition": 2, "offset": 7, "headers": []}
{"topic": "empty", "config": {"min.insync.replicas": 1}}
""".replace("TIME", "1795867200000")


@pytest.mark.parametrize(("text", "name"), [(TOML, "seed.toml"), (JSON, "seed.jsonl")])
def test_both_forms_say_the_same(text: str, name: str) -> None:
    assert read_seed(text, name) == [
        Wish(
            "orders",
            3,
            -1,
            {"retention.ms": str(7 * DAY_MS), "cleanup.policy": "delete"},
            [
                Record(b"a", b"one", (("country", b"de"), ("none", b"\x00\xff")), None, 1_795_867_200_000),
                Record(None, b'{"total":3}', (), 2),
            ],
        ),
        Wish("empty", -1, -1, {"min.insync.replicas": "1"}),
    ]


def test_what_consume_and_rpk_write_is_a_seed() -> None:
    record = Shown("t", 0, 7, -1, None, b"\xff", [("a", b"1"), ("none", None)])  # without a timestamp
    rpk = '{"topic":"t","value":"v","headers":[{"key":"a","value":"1"}],"timestamp":5,"partition":1,"offset":3}'
    assert read_seed(json_line(record).decode() + rpk, "x") == [
        Wish(
            "t",
            records=[
                Record(None, b"\xff", (("a", b"1"), ("none", None)), 0, None),
                Record(None, b"v", (("a", b"1"),), 1, 5),
            ],
        )
    ]


def test_a_record_without_a_topic_that_is_described(tmp_path: Path) -> None:
    lines = ['{"topic": "t", "value": null}', '{"topic": "t", "partitions": 2}', '{"topic": "t", "key": null}']
    assert read_seed("\n".join(lines), "x") == [Wish("t", 2, records=[Record(None, None), Record(None, None)])]


@pytest.mark.parametrize(
    ("text", "name", "mistakes"),
    [
        ("x = = 1", "s.toml", ["1: not TOML: Invalid value (column 5)"]),
        ("x = " + "[" * 10_000, "s.toml", ["1: not TOML: a value is nested too deeply"]),
        ("x = " + "1" * 5_000, "s.toml", ["1: not TOML: Exceeds the limit"]),
        ('[[topic]]\nname = "a"\npart', "s.toml", ["3: not TOML: Expected '=' after a key"]),
        ("[topic]\nname = 'a'", "s.toml", ["1: topics are [[topic]], each with a name"]),
        ("[[topics]]\nname = 'a'", "s.toml", ["1: topics is not known here: topics are [[topic]]"]),
        (
            TOML.replace('"orders"', '"or/ders"').replace("partition = 2", "partition = -2").replace("7d", "7w")
            + '[[topic]]\nname="empty"\n[[topic]]\nnam = "x"\n[[topic]]\nname = "y"\nrecord = 3\n',
            "s.toml",
            [
                "1: Topic name is invalid: 'or/ders' contains one or more characters",
                '1: retention.ms: "7w" is not allowed',
                "12: partition: -2 is not a whole number, at least 0",
                "20: topic empty was described before, in line 16",
                "22: a topic needs a name",
                "22: nam is not known here: name, partitions, replication_factor, config are",
                "24: records are [[topic.record]]",
            ],
        ),
        (
            "\n".join(
                [
                    "{",
                    "3",
                    '{"partitions": 1}',
                    '{"topic": 7}',
                    '{"topic": "t", "partitions": 0}',
                    '{"topic": "u", "config": {"retention.ms": "7w"}}',
                    '{"topic": "v", "config": {"retention.mss": 1}}',
                    '{"topic": "w", "config": 1}',
                    '{"topic": "x", "value": {"base64": "%"}}',
                    '{"topic": "x", "value": 1, "headers": ["a"]}',
                    '{"topic": "x", "value": 1, "timestamp": "yesterday"}',
                    '{"topic": "x", "value": 1, "partitions": 3}',
                    '{"topic": "y", "partitions": 3}',
                    '{"topic": "y", "value": 1, "partition": 3}',
                    '{"topic": "z", "partitions": true}',
                    "[" * 100_000,
                    r'{"topic": "x", "value": "\ud800"}',
                    r'{"topic": "x", "value": 1, "headers": {"\ud800": "a"}}',
                ]
            ),
            "s.jsonl",
            [
                "1: not JSON",
                "2: not a JSON object: '3'",
                "3: not {",
                "4: a topic needs a name",
                "5: partitions: 0 is not a whole number, at least 1",
                '6: retention.ms: "7w" is not allowed: w is no unit of time',
                "7: unknown topic config retention.mss, did you mean retention.ms?",
                "8: config: expected names and values",
                "9: value: what base64 says is not Base64",
                "10: headers: expected names and values",
                "11: timestamp: 'yesterday' is no time",
                "12: partitions is not known here",
                "14: topic y has no partition 3: it has 0 to 2",
                "15: partitions: true is not a whole number",
                "16: not JSON",
                "17: value: half of a character",
                "18: headers: half of a character",
            ],
        ),
    ],
)
def test_every_mistake_with_its_line(text: str, name: str, mistakes: list[str], tmp_path: Path) -> None:
    with pytest.raises(SeedError) as refused:
        read_seed(text, name)
    found = [f"{each.line}: {each.text}" for each in refused.value.mistakes]
    assert len(found) == len(mistakes), found
    assert all(said.startswith(expected) for said, expected in zip(found, mistakes, strict=True)), found
    file = tmp_path / name
    file.write_text(text)
    done = CliRunner().invoke(cli, ["start", "--seed", str(file)])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"kbroker: {file}:{mistakes[0]}")
    assert len(done.stderr.splitlines()) == len(mistakes)


@given(st.text(max_size=80), st.sampled_from(["x.toml", "x.jsonl"]))
def test_any_text_is_a_seed_or_has_mistakes(text: str, name: str) -> None:
    try:
        read_seed(text, name)
    except SeedError as error:
        assert error.mistakes


@given(st.binary(max_size=40))
def test_keys_go_where_kafkas_clients_put_them(key: bytes) -> None:
    assert murmur2(key) == of_kafka_python(key) & 0xFFFFFFFF


# planting ------------------------------------------------------------------------------------------------------------


async def planted(broker: MemoryBroker, wishes: Sequence[Wish]) -> int:
    return await plant(wishes, broker.env.net, broker.env.clock, HOST, broker.port)


async def values(broker: MemoryBroker, topic: str, partition: int = 0) -> list[bytes | None]:
    async with broker.client() as client:
        asked = FetchPartition(partition=partition, fetch_offset=0, partition_max_bytes=1 << 24)
        request = FetchRequest(max_wait_ms=0, min_bytes=0, topics=[FetchTopic(topic=topic, partitions=[asked])])
        data = bytes((await client.call(request, 11)).responses[0].partitions[0].records)
    return [r.value for pos, _ in headers(data) for r in read_records(data, pos, max_bytes=1 << 24)]


async def test_records_are_written_once() -> None:
    records = [Record(None, b"0"), Record(None, b"1"), Record(None, b"2"), Record(b"k", b"3", partition=1)]
    async with memory_broker(topics={"t": 2, "u": 1}) as broker:
        wishes = [Wish("t", records=records), Wish("u")]
        assert await planted(broker, wishes) == 4
        assert await values(broker, "t", 0) == [b"0", b"2"]
        assert await values(broker, "t", 1) == [b"1", b"3"]
        assert await planted(broker, wishes) == 0
        assert await planted(broker, [Wish("u")]) == 0


async def test_a_partition_that_somebody_wrote_to_is_left_alone() -> None:
    async with memory_broker(topics={"t": 2}) as broker:
        await planted(broker, [Wish("t", records=[Record(None, b"mine", partition=0)])])
        seeded = [Record(None, b"seed", partition=index) for index in (0, 0, 1)]
        assert await planted(broker, [Wish("t", records=seeded)]) == 1
        assert await values(broker, "t", 0) == [b"mine"]


async def test_one_that_was_killed_amid_a_partition_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planting, "BATCH_BYTES", 200)
    records = [Record(None, b"%d" % n) for n in range(10)]
    async with memory_broker(topics={"t": 1}) as broker:
        await planted(broker, [Wish("t", records=records[:6])])  # two batches of three
        assert await planted(broker, [Wish("t", records=records)]) == 4
        assert await values(broker, "t") == [b"%d" % n for n in range(10)]


async def test_each_record_goes_to_the_broker_that_leads() -> None:
    async with memory_cluster(3, topics={"t": 6}, replication_factor=2) as cluster:
        records = [Record(None, b"%d" % n, partition=n) for n in range(6)]
        assert await planted(cluster.brokers[1], [Wish("t", records=records)]) == 6
        assert await planted(cluster.brokers[2], [Wish("t", records=records)]) == 0


async def test_what_cannot_be_written_ends_the_start(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}) as broker:
        with pytest.raises(StartFailed, match="--seed: topic t has no partition 3: it has only 0"):
            await planted(broker, [Wish("t", records=[Record(None, b"", partition=3)])])
        with pytest.raises(StartFailed, match="--seed: t 0: MESSAGE_TOO_LARGE"):
            await planted(broker, [Wish("t", records=[Record(None, bytes(2 << 20))])])
        with pytest.raises(StartFailed, match="not written within 60 s"):
            await planted(broker, [Wish("absent", records=[Record(None, b"")])])


@pytest.mark.slow
def test_a_broker_with_a_seed(tmp_path: Path) -> None:
    (tmp_path / "seed.toml").write_text(TOML)
    options = ("--seed", str(tmp_path / "seed.toml"), "--topic", "t2:2:1,cleanup.policy=compact,delete")
    with broker_process(*options) as address:
        listed = CliRunner().invoke(cli, ["topic", "list", "-b", address, "--format", "json"]).stdout
        read = CliRunner().invoke(cli, ["topic", "consume", "orders", "-e", "-J", "-b", address]).stdout
    rows = {row["name"]: (row["partitions"], row["records"], row["cleanup_policy"]) for row in json.loads(listed)}
    assert rows == {
        "orders": (3, 2, "delete"), "empty": (1, 0, "delete"), "t": (2, 0, "delete"), "t2": (2, 0, "compact,delete")
    }  # fmt: skip
    assert sorted(json.loads(line)["payload"] for line in read.splitlines()) == ["one", '{"total":3}']
