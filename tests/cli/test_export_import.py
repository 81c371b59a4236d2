"""`kbroker topic export` and `import`, with a real broker."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kafka_wire.api import ApiKey
from kafka_wire.messages.produce_fetch import PartitionProduceData, ProduceRequest, TopicProduceData
from kafka_wire.records import Record, build_batch, read_records
from kbroker.cli import cli
from kbroker.cli.client import bridge
from kbroker.cli.client.connecting import Connection, admin, producer
from kbroker.cli.topics.archive.form import Reader
from tests.cli.process import broker_process

NOW = int(time.time() * 1000) - 1000
RECORDS = [
    Record(0, NOW, b"key", b"value", (("h", b"1"), ("none", None), ("h", b"2"))),
    Record(0, NOW + 7, None, b""),
    Record(0, NOW + 3, b"tombstone", None),
    Record(0, NOW, None, None),
    Record(0, NOW, b"\xff\x00", b"\x00" * 20_000),
]


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with broker_process() as address:
        yield address


def run(broker: str, *arguments: str, input: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["topic", *arguments, "-b", broker], input=input)


def done(broker: str, *arguments: str) -> str:
    result = run(broker, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def write(broker: str, topic: str, partition: int, records: Sequence[Record], compression: int = 0) -> None:
    batch = build_batch(records, compression=compression)
    with admin(Connection((broker,), {})) as client:
        data = TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=partition, records=batch)])
        request = ProduceRequest(acks=-1, timeout_ms=1000, topic_data=[data])
        told = bridge.send(client, None, request, ApiKey.PRODUCE, 9).responses[0].partition_responses[0]
        assert told.error_code == 0, told


def contents(file: Path) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = {}
    with file.open("rb") as source:
        for each in Reader(source).batches():
            records = (record._replace(offset=0) for record in read_records(each.batch, max_bytes=1 << 30))
            found.setdefault(each.partition, []).extend(records)
    return found


def test_round_trip(broker: str, tmp_path: Path) -> None:
    """Keys, values, headers, times, partitions, null values, configs: all is as it was, in a topic of another name."""
    done(broker, "create", "orders", "-p", "3", "-c", "retention.ms=900000000", "-c", "cleanup.policy=delete")
    for compression in range(5):
        write(broker, "orders", 0, RECORDS, compression)
    write(broker, "orders", 2, RECORDS[:1])
    file, second = tmp_path / "orders.kbe", tmp_path / "again.kbe"
    assert "exported 26 records of orders" in done(broker, "export", "orders", str(file))
    assert contents(file) == {0: RECORDS * 5, 2: RECORDS[:1]}
    assert "imported 26 records into copy" in done(broker, "import", str(file), "copy", "--create")
    done(broker, "export", "copy", str(second))
    assert contents(second) == contents(file)
    assert "retention.ms    900000000" in done(broker, "describe", "copy")
    assert "whole; 26 records of orders in 3 partitions" in done(broker, "import", "--check", str(file))
    done(broker, "import", str(file), "copy")  # once more: appended
    assert "exported 52 records" in done(broker, "export", "-f", "copy", str(second))


def test_who_imports_what_retention_will_take_is_told(broker: str, tmp_path: Path) -> None:
    done(broker, "create", "old", "-c", "retention.ms=-1")
    write(broker, "old", 0, [Record(0, 1_700_000_000_000, b"k", b"v")])
    done(broker, "export", "old", str(tmp_path / "old"))
    assert run(broker, "import", str(tmp_path / "old"), "old-copy", "--create").stderr == ""
    done(broker, "create", "short", "-c", "retention.ms=2d")
    said = run(broker, "import", str(tmp_path / "old"), "short").stderr
    assert said == (
        "kbroker: short deletes records older than 2 d, and some of these are: "
        "kbroker topic alter short -c retention.ms=-1 keeps them\n"
    )


def test_the_new_topic_may_have_other_configs(broker: str, tmp_path: Path) -> None:
    """So that what another broker does not know, or what would delete the records, is no obstacle."""
    done(broker, "create", "set", "-c", "retention.ms=1h", "-c", "segment.bytes=64MiB")
    done(broker, "export", "set", str(tmp_path / "set"))
    done(broker, "import", str(tmp_path / "set"), "changed", "--create", "-c", "retention.ms=-1", "-d", "segment.bytes")
    shown = json.loads(done(broker, "describe", "changed", "-o", "json"))[0]["configs"]
    assert {name: each["value"] for name, each in shown.items()} == {"retention.ms": "-1"}
    refused = run(broker, "import", str(tmp_path / "set"), "changed", "-c", "retention.ms=-1")
    assert refused.exit_code == 2 and "for the topic that --create makes" in refused.stderr


def test_through_a_pipe(broker: str) -> None:
    done(broker, "create", "piped")
    write(broker, "piped", 0, RECORDS)
    sent = run(broker, "export", "piped", "-")
    assert sent.stderr == "exported 5 records of piped: 1.1 KB\n" or "exported 5 records" in sent.stderr
    result = run(broker, "import", "-", "piped-copy", "--create", input=sent.stdout_bytes)
    assert result.exit_code == 0, result.output
    assert result.stdout == "imported 5 records into piped-copy\n"


def test_a_device_or_a_pipe_is_written_to_and_a_link_stays_one(broker: str, tmp_path: Path) -> None:
    """Nothing takes their place: whoever may write to /dev may lose /dev/null."""
    write(broker, "t", 0, RECORDS)
    done(broker, "export", "t", str(tmp_path / "file"))
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        done(broker, "export", "t", str(tmp_path / "pipe"))
        assert os.read(reading, 1 << 16)[:8] == (tmp_path / "file").read_bytes()[:8]
        assert (tmp_path / "pipe").is_fifo()
    finally:
        os.close(reading)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    before = (tmp_path / "file").stat().st_ino
    done(broker, "export", "t", str(tmp_path / "link"), "-f")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").stat().st_ino != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "pipe"]


def test_only_what_is_committed(broker: str, tmp_path: Path) -> None:
    done(broker, "create", "paid")
    with producer(Connection((broker,), {}), transactional_id="till") as client:
        client.init_transactions()
        for value, ends in ((b"kept", client.commit_transaction), (b"dropped", client.abort_transaction)):
            client.begin_transaction()
            client.send("paid", value).get(timeout=10)
            ends()
        client.begin_transaction()
        client.send("paid", b"open").get(timeout=10)
        file = tmp_path / "paid.kbe"
        assert "exported 1 record of paid" in done(broker, "export", "paid", str(file))
        assert [record.value for record in contents(file)[0]] == [b"kept"]
        done(broker, "export", "paid", str(file), "-f", "--read-uncommitted")
        assert [record.value for record in contents(file)[0]] == [b"kept", b"dropped", b"open"]
        client.abort_transaction()
    done(broker, "import", str(file), "paid-copy", "--create")


def test_a_compacted_topic_has_gaps_and_its_copy_has_none(broker: str, tmp_path: Path) -> None:
    done(broker, "create", "users", "-c", "cleanup.policy=compact")
    write(broker, "users", 0, [Record(0, NOW + n, b"%d" % (n % 3), b"%d" % n) for n in range(30)])
    write(broker, "users", 0, [Record(0, NOW, b"last", b"")])
    done(broker, "compact", "users")
    done(broker, "export", "users", str(tmp_path / "users"))
    left = contents(tmp_path / "users")[0]
    assert [(record.key, record.value) for record in left] == [
        (b"0", b"27"),
        (b"1", b"28"),
        (b"2", b"29"),
        (b"last", b""),
    ]
    assert "imported 4 records" in done(broker, "import", str(tmp_path / "users"), "users-copy", "--create")
    done(broker, "export", "users-copy", str(tmp_path / "again"))
    assert contents(tmp_path / "again") == {0: left}


def test_times_of_append_become_the_times_of_the_records(broker: str, tmp_path: Path) -> None:
    done(broker, "create", "stamped", "-c", "message.timestamp.type=LogAppendTime")
    write(broker, "stamped", 0, RECORDS)
    done(broker, "export", "stamped", str(tmp_path / "stamped"))
    (at,) = {record.timestamp for record in contents(tmp_path / "stamped")[0]}
    assert at >= NOW + 1000
    done(broker, "create", "plain")
    done(broker, "import", str(tmp_path / "stamped"), "plain")
    done(broker, "export", "plain", str(tmp_path / "plain"))
    assert contents(tmp_path / "plain") == contents(tmp_path / "stamped")


def test_of_a_view_what_it_shows(broker: str, tmp_path: Path) -> None:
    done(broker, "create", "all")
    for tag in (b"eu", b"us", b"eu"):
        write(broker, "all", 0, [Record(0, NOW, tag, b"", (("kbroker-tags", tag),))] * 2)
    done(broker, "create", "all.eu", "--view-of", "all", "--tags", "eu")
    done(broker, "export", "all.eu", str(tmp_path / "eu"))
    assert [record.key for record in contents(tmp_path / "eu")[0]] == [b"eu"] * 4
    assert "imported 4 records into eu" in done(broker, "import", str(tmp_path / "eu"), "eu", "--create")
    assert "read-only view" in run(broker, "import", str(tmp_path / "eu")).stderr


def test_one_that_begins_in_the_middle_of_a_batch(broker: str, tmp_path: Path) -> None:
    from kafka import TopicPartition

    done(broker, "create", "cut")
    write(broker, "cut", 0, RECORDS)
    with admin(Connection((broker,), {})) as client:
        client.delete_records({TopicPartition("cut", 0): 2})
    done(broker, "export", "cut", str(tmp_path / "cut"))
    assert contents(tmp_path / "cut") == {0: RECORDS[2:]}


def test_what_the_topic_would_not_take_in_one_batch_is_divided(broker: str, tmp_path: Path) -> None:
    done(broker, "create", "wide")
    records = [Record(0, NOW, None, os.urandom(1000)) for _ in range(200)]
    write(broker, "wide", 0, records)
    done(broker, "export", "wide", str(tmp_path / "wide"))
    done(broker, "create", "narrow", "-c", "max.message.bytes=5000")
    assert "imported 200 records" in done(broker, "import", str(tmp_path / "wide"), "narrow")
    done(broker, "export", "narrow", str(tmp_path / "narrow"))
    assert contents(tmp_path / "narrow") == contents(tmp_path / "wide")
    done(broker, "create", "tiny", "-c", "max.message.bytes=500")
    refused = run(broker, "import", str(tmp_path / "wide"), "tiny")
    assert refused.exit_code == 1
    assert "more than the topic's max.message.bytes allows" in refused.stderr


def test_an_import_that_was_broken_off_goes_on_where_it_was(broker: str, tmp_path: Path) -> None:
    done(broker, "create", "long", "-p", "2")
    for partition in (0, 1):
        write(broker, "long", partition, RECORDS)
    file = tmp_path / "long"
    done(broker, "export", "long", str(file))
    done(broker, "create", "begun", "-p", "2")
    write(broker, "begun", 0, RECORDS)
    write(broker, "begun", 1, RECORDS[:2])
    assert (
        done(broker, "import", str(file), "begun", "--resume")
        == "imported 3 records into begun, after 7 that were there\n"
    )
    done(broker, "export", "begun", str(tmp_path / "whole"))
    assert contents(tmp_path / "whole") == contents(file)
    write(broker, "begun", 0, RECORDS)
    refused = run(broker, "import", str(file), "begun", "--resume")
    assert "begun 0 has 10 records, more than the export" in refused.stderr


def test_a_broker_that_is_lost_meanwhile(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again for a while; then what is certain is told, and how to go on."""
    from kafka.errors import KafkaConnectionError

    from kbroker.cli.topics.archive import wire

    done(broker, "create", "lost")
    for _ in range(20):
        write(broker, "lost", 0, RECORDS)
    done(broker, "export", "lost", str(tmp_path / "lost"))
    real, sent = bridge.send_all, 0

    def send_all(client: Any, asked: Any) -> Any:
        nonlocal sent
        sent += 1
        return real(client, asked) if sent <= 1 else [KafkaConnectionError("gone") for _ in asked]

    monkeypatch.setattr(wire, "RETRY_S", 0.3)
    monkeypatch.setattr(wire, "TELL_S", 0.1)
    monkeypatch.setattr(wire, "IN_FLIGHT", 1)
    monkeypatch.setattr(bridge, "send_all", send_all)
    result = run(broker, "import", str(tmp_path / "lost"), "lost-copy", "--create")
    monkeypatch.setattr(bridge, "send_all", real)
    told, how_far, why = result.stderr.splitlines()
    assert result.exit_code == 3
    assert told == "kbroker: a broker does not answer: tried again for 0.3 s" and "gone" in why
    count = int(how_far.split()[2])
    assert 0 < count < 100 and "--resume goes on there, if nobody else writes to lost-copy" in how_far
    said = done(broker, "import", str(tmp_path / "lost"), "lost-copy", "--resume")
    assert said == f"imported {100 - count} records into lost-copy, after {count} that were there\n"


def test_what_passes_does_not_end_an_import(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is lost, a broker that nobody has heard of yet: each record is there once."""
    from kafka.errors import RequestTimedOutError, UnknownBrokerIdError

    from kbroker.cli.topics.archive import wire

    done(broker, "create", "rough")
    for _ in range(20):
        write(broker, "rough", 0, RECORDS)
    done(broker, "export", "rough", str(tmp_path / "rough"))
    real, sent = bridge.send_all, 0

    def send_all(client: Any, asked: Any) -> Any:
        nonlocal sent
        sent += 1
        if sent == 2:
            raise UnknownBrokerIdError("7")
        answers = real(client, asked)  # was done
        return [RequestTimedOutError("lost") for _ in answers] if sent in (1, 4) else answers

    monkeypatch.setattr(wire, "IN_FLIGHT", 2)
    monkeypatch.setattr(wire, "PAUSE_S", 0.001)
    monkeypatch.setattr(bridge, "send_all", send_all)
    said = run(broker, "import", str(tmp_path / "rough"), "rough-copy", "--create")
    monkeypatch.setattr(bridge, "send_all", real)
    assert (said.stdout, said.stderr) == ("imported 100 records into rough-copy\n", "")
    done(broker, "export", "rough-copy", str(tmp_path / "again"))
    assert contents(tmp_path / "again") == contents(tmp_path / "rough") and sent > 5


def test_a_damaged_file_tells_the_place_and_what_was_imported(broker: str, tmp_path: Path) -> None:
    done(broker, "create", "broken", "-p", "2")
    for partition in (0, 1):
        write(broker, "broken", partition, RECORDS)
    file, cut = tmp_path / "broken", tmp_path / "cut"
    done(broker, "export", "broken", str(file))
    cut.write_bytes(file.read_bytes()[:-60])
    assert f"the file ends after {cut.stat().st_size} bytes" in run(broker, "import", "--check", str(cut)).stderr
    result = run(broker, "import", str(cut), "broken-copy", "--create")
    assert result.exit_code == 1
    assert "kbroker: imported 5 records into broken-copy: 5 in partition 0" in result.stderr
    assert f"the file ends after {cut.stat().st_size} bytes" in result.stderr


def test_mistakes_are_told(broker: str, tmp_path: Path) -> None:
    file = tmp_path / "t.kbe"
    done(broker, "export", "t", str(file))
    cases = [
        (("export", "absent", "x"), "topic absent does not exist"),
        (("export", "t", str(file)), f"{file} exists (-f writes over it)"),
        (("export", "t", str(tmp_path / "no" / "x")), "cannot write"),
        (("export", "t", "x", "-p", "7"), "topic t has no partition 7: it has 0 to 1"),
        (("import", str(file), "absent"), "topic absent does not exist"),
        (("import", str(file), "--create"), "topic t exists: without --create"),
        (("import", str(tmp_path / "absent")), "cannot read"),
        (("import", str(tmp_path)), "cannot read"),
    ]
    for arguments, said in cases:
        result = run(broker, *arguments)
        assert result.exit_code == 1 and said in result.stderr, result.output
    piped = run(broker, "import", "-", input=b"x\n").stderr
    assert piped == "kbroker: standard input: at byte 0: this is no file that kbroker topic export wrote\n"
    done(broker, "create", "single")
    assert "kbroker topic alter single -p 2" in run(broker, "import", str(file), "single").stderr


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_batch_that_no_file_could_have_is_refused(
    size: int, broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kbroker.cli.topics.archive import form

    done(broker, "create", "vast", "--if-not-exists")
    write(broker, "vast", 0, [Record(0, NOW, None, bytes(size))])
    monkeypatch.setattr(form, "BATCH_BYTES_MAX", 50)
    result = run(broker, "export", "vast", str(tmp_path / "vast"))
    assert "vast 0: the batch at offset 0 is too large for a file" in result.stderr and not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_file_that_looks_whole(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    result = run(broker, "export", "t", str(tmp_path / "t.kbe"))
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert "cannot write" in result.stderr and "No space left on device" in result.stderr


def test_a_topic_that_is_deleted_or_made_anew_meanwhile(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kbroker.cli.topics.archive import export

    real = export.fetch

    def fetch(*arguments: Any) -> Any:
        monkeypatch.setattr(export, "fetch", real)
        done(broker, "delete", "brief")
        if again:
            done(broker, "create", "brief")
        return real(*arguments)

    for again, said in ((False, "topic brief was deleted"), (True, "topic brief was deleted and made anew")):
        if not again:
            done(broker, "create", "brief")
        write(broker, "brief", 0, RECORDS)
        monkeypatch.setattr(export, "fetch", fetch)
        result = run(broker, "export", "brief", str(tmp_path / "brief"))
        assert said in result.stderr and not list(tmp_path.iterdir())
        done(broker, "create", "brief", "--if-not-exists")


def test_records_that_are_deleted_meanwhile_are_told(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kafka import TopicPartition

    from kbroker.cli.topics.archive import export

    real = export.fetch

    def fetch(*arguments: Any) -> Any:
        monkeypatch.setattr(export, "fetch", real)
        with admin(Connection((broker,), {})) as client:
            client.delete_records({TopicPartition("ageing", 0): 2})
        return real(*arguments)

    done(broker, "create", "ageing")
    write(broker, "ageing", 0, RECORDS)
    monkeypatch.setattr(export, "fetch", fetch)
    result = run(broker, "export", "ageing", str(tmp_path / "ageing"))
    assert "ageing 0: offsets 0 to 1 were deleted meanwhile" in result.stderr
    assert contents(tmp_path / "ageing") == {0: RECORDS[2:]}
