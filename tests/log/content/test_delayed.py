"""How delayed records are hidden in a log: what is diverted, what stays, what is refused; how both are read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from kafka_wire import records
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import read_header
from kbroker.cli.log_files.log import verify
from kbroker.env.real import real_env
from kbroker.log.content.delayed import (
    DELIVERY_SEQUENCE,
    HIDDEN_SEQUENCE,
    NO_KEY,
    Hidden,
    Kind,
    carrying_batch,
    delivered_ids,
    delivery_batch,
    hidden_records,
    is_delivery,
    is_hidden,
    is_rest_of,
    key_digest,
    needs_rest,
)
from kbroker.log.content.validation import BadRecords
from kbroker.log.derived.producers import UNVERIFIED
from kbroker.log.derived.transactions import Marker
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from kbroker.log.writing import Appended
from kbroker.turns import do_errands
from tests.log.tools import NOW, Worker, append, batches, new_disk, open_log, producers_of

HOUR = 3_600_000
DAYS_30 = 2_592_000_000

Row = tuple[bytes | None, bytes, Mapping[str, bytes | None]]


def later(key: bytes | None, value: bytes, ms: int = HOUR) -> Row:
    return key, value, {"kbroker-deliver-at": b"%d" % (NOW + ms)}


def plain(key: bytes | None, value: bytes) -> Row:
    return key, value, {}


def sent(*rows: Row, at: int = NOW, **options: Any) -> bytearray:
    """A batch as a producer sends it."""
    return records.build_batch([(at, key, value, tuple(fields.items())) for key, value, fields in rows], **options)


def delay_log(disk: Any = None, crash: Crash = Crash.CLEAN, **config: Any) -> PartitionLog:
    return open_log(disk or new_disk(), crash, kbroker_delay_enable=True, **config)


def put(log: PartitionLog, *rows: Row, now: int = NOW, **options: Any) -> Appended:
    return log.append(sent(*rows, **options), leader_epoch=0, now_ms=now)


def everything(log: PartitionLog) -> list[tuple[records.BatchHeader, bytes]]:
    data = b"".join(piece.read() for piece in log.read(0, 1 << 30, log.end.value))
    list(batches(data))  # whole, and with the right CRCs
    return [(header, data[at : at + header.size]) for at, header in records.headers(data)]


def hidden_in(log: PartitionLog) -> list[Hidden]:
    return [each for header, data in everything(log) if is_hidden(header) for each in hidden_records(data)]


def visible(log: PartitionLog) -> list[tuple[int, bytes | None]]:
    """What a consumer gets."""
    found = []
    for header, data in everything(log):
        if not header.is_control:
            found += [(each.offset, each.value) for each in records.read_records(data, max_bytes=1 << 20)]
    return found


def test_a_batch_of_delayed_records_is_hidden_as_a_whole() -> None:
    log = delay_log()
    assert put(log, later(b"k", b"a"), later(None, b"b", 5)) == Appended(-1, 1, -1, False)
    [(header, data)] = everything(log)
    assert is_hidden(header) and header.is_control and not is_delivery(header)
    assert (header.base_offset, header.last_offset_delta, header.count) == (0, 1, 2)
    found = list(hidden_records(data))
    assert [(each.kind, each.due_ms, each.id, each.offset) for each in found] == [
        (Kind.DELAYED, NOW + HOUR, 0, 0),
        (Kind.DELAYED, NOW + 5, 1, 1),
    ]
    assert [each.key for each in found] == [b"k", None]
    assert visible(log) == []


def test_what_asks_for_nothing_passes_with_its_offset_and_what_is_delayed_lies_before_it() -> None:
    log = delay_log()
    append(log, b"first")
    appended = put(log, plain(b"k", b"0"), later(b"k", b"1"), plain(b"k", b"2"))
    assert appended == Appended(2, 4, -1, False)
    assert visible(log) == [(0, b"first"), (2, b"0"), (4, b"2")]  # as the producer counts: 2 + 0, 2 + 2
    assert [each.offset for each in hidden_in(log)] == [1]
    _, hidden, rest = everything(log)
    assert (rest[0].last_offset_delta, rest[0].count, log.end.value) == (2, 2, 5)
    assert hidden[0].base_sequence == HIDDEN_SEQUENCE


@pytest.mark.parametrize("codec", range(5))
def test_compressed_batches_are_divided_too(codec: int) -> None:
    log = delay_log()
    put(log, plain(b"k", b"0"), later(b"k", b"1"), plain(b"k", b"2"), compression=codec)
    put(log, later(b"k", b"3"), compression=codec)
    assert visible(log) == [(1, b"0"), (3, b"2")]
    assert [each.content.count(b"kbroker-deliver-at") for each in hidden_in(log)] == [1, 1]
    assert [header.compression for header, _ in everything(log)] == [0, codec, 0]


def test_the_topics_codec_holds_for_what_passes() -> None:
    log = delay_log(compression_type="zstd")
    put(log, plain(b"k", b"0"), later(b"k", b"1"))
    assert [header.compression for header, _ in everything(log)] == [0, 4]


def test_a_hidden_batch_that_would_be_larger_than_any_is_kept_in_its_codec() -> None:
    log = delay_log(max_message_bytes=2000)
    put(log, *[later(b"k", b"x" * 500) for _ in range(8)], compression=4)
    [(header, data)] = everything(log)
    assert header.compression == 4 and header.size < 2000
    assert [each.offset for each in hidden_records(data)] == list(range(8))


def test_a_due_time_that_is_past_or_now_is_none() -> None:
    log = delay_log()
    rows: list[Row] = [later(b"k", b"past", -1), later(b"k", b"now", 0), (b"k", b"0", {"kbroker-deliver-after": b"0"})]
    assert put(log, *rows).base_offset == 0
    assert visible(log) == [(0, b"past"), (1, b"now"), (2, b"0")]
    assert everything(log)[0][0].count == 3


def test_after_counts_from_the_leaders_clock() -> None:
    log = delay_log()
    put(log, (b"k", b"v", {"kbroker-deliver-after": b"60000"}), now=NOW + 7, at=NOW - 1000)
    assert [each.due_ms for each in hidden_in(log)] == [NOW + 60007]


def test_the_largest_timestamp_is_that_of_what_is_left() -> None:
    log = delay_log()
    rows = [(NOW, b"k", b"0", ()), (NOW + 500, b"k", b"1", (("kbroker-deliver-after", b"9"),))]
    log.append(records.build_batch(rows), leader_epoch=0, now_ms=NOW)
    assert [header.max_timestamp for header, _ in everything(log)] == [NOW, NOW]


def test_log_append_time_holds_for_what_passes() -> None:
    log = delay_log(message_timestamp_type="LogAppendTime")
    assert put(log, plain(b"k", b"0"), later(b"k", b"1"), now=NOW + 3).append_time_ms == NOW + 3
    assert put(log, later(b"k", b"2"), now=NOW + 4) == Appended(-1, 3, NOW + 4, False)
    hidden, rest, _ = everything(log)
    assert rest[0].log_append_time and rest[0].max_timestamp == NOW + 3
    assert visible(log) == [(1, b"0")]


def test_cancels_are_hidden_and_name_what_they_cancel() -> None:
    log = delay_log()
    put(log, (b"k", b"", {"kbroker-delay-cancel": b""}), (b"k", b"", {"kbroker-delay-cancel": None}))
    put(log, (None, b"", {"kbroker-delay-cancel": b"3, 4"}), (b"k", b"", {"kbroker-delay-now": b"7"}))
    found = hidden_in(log)
    assert [(each.kind, each.key, each.ids) for each in found] == [
        (Kind.CANCEL, b"k", []),
        (Kind.CANCEL, b"k", []),
        (Kind.CANCEL, None, [3, 4]),
        (Kind.NOW, b"k", [7]),
    ]
    assert visible(log) == []


BAD: dict[str, tuple[bytes | None, Mapping[str, bytes | None], str]] = {
    "no number": (b"k", {"kbroker-deliver-at": b"tomorrow"}, "kbroker-deliver-at is 'tomorrow'"),
    "null": (b"k", {"kbroker-deliver-at": None}, "kbroker-deliver-at is null"),
    "empty": (b"k", {"kbroker-deliver-after": b""}, "kbroker-deliver-after is ''"),
    "negative": (b"k", {"kbroker-deliver-after": b"-5"}, f"is '-5', not a decimal number in ms from 0 to {DAYS_30}"),
    "fraction": (b"k", {"kbroker-deliver-after": b"1.5"}, "'1.5'"),
    "other digits": (b"k", {"kbroker-deliver-after": "٣".encode()}, "kbroker-deliver-after is '٣'"),
    "too far": (b"k", {"kbroker-deliver-after": b"%d" % (DAYS_30 + 1)}, f"from 0 to {DAYS_30}"),
    "too late": (b"k", {"kbroker-deliver-at": b"%d" % (NOW + DAYS_30 + 1)}, f"from 0 to {NOW + DAYS_30}"),
    "beyond 64 bits": (b"k", {"kbroker-deliver-at": b"9" * 400}, "'9999999999999999999999999999999999999999'"),
    "both": (b"k", {"kbroker-deliver-at": b"1", "kbroker-deliver-after": b"1"}, "only one header"),
    "cancel and delay": (b"k", {"kbroker-delay-cancel": b"", "kbroker-deliver-after": b"1"}, "only one header"),
    "cancel without a key": (None, {"kbroker-delay-cancel": b""}, "has no key"),
    "now without a key": (None, {"kbroker-delay-now": b""}, "has no key"),
    "no ids": (b"k", {"kbroker-delay-cancel": b"1,x"}, "kbroker-delay-cancel is '1,x', not ids"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("codec", [0, 3])
def test_what_cannot_be_is_refused_and_named(case: str, codec: int) -> None:
    key, fields, why = BAD[case]
    log = delay_log()
    with pytest.raises(BadRecords) as refused:
        put(log, plain(b"k", b"fine"), (key, b"v", fields), later(b"k", b"fine"), compression=codec)
    assert refused.value.code is ErrorCode.INVALID_RECORD
    [(index, text)] = refused.value.records
    assert index == 1 and why in text
    assert why in str(refused.value.message)
    assert log.end.value == 0


def test_the_same_header_twice_is_refused() -> None:
    log = delay_log()
    twice = (("kbroker-deliver-after", b"5"), ("kbroker-deliver-after", b"6"))
    with pytest.raises(BadRecords, match="only one header"):
        log.append(records.build_batch([(NOW, b"k", b"v", twice)]), leader_epoch=0, now_ms=NOW)


def test_headers_that_only_look_alike_delay_nothing() -> None:
    log = delay_log()
    rows: list[Row] = [
        (b"k", b"kbroker-deliver-at", {"kbroker-deliver-atlantic": b"5", "kbroker-desk": b"x"}),
        (b"kbroker-deliver-after", b"v", {"x": b"kbroker-deliver-after"}),
    ]
    put(log, *rows)
    assert [offset for offset, _ in visible(log)] == [0, 1]


def test_topics_without_delay_take_the_headers_as_any_others() -> None:
    log = open_log(new_disk())
    assert put(log, later(b"k", b"v")).base_offset == 0
    assert visible(log) == [(0, b"v")]
    assert log.ahead is None


def test_D1_what_asks_for_delay_is_refused_where_a_brokers_default_gives_it_to_a_compacted_topic() -> None:
    log = delay_log(cleanup_policy="compact,delete")
    for row in (later(b"k", b"v"), (b"k", b"", {"kbroker-delay-cancel": b""})):
        with pytest.raises(KafkaError, match="cleanup.policy is compact,delete") as refused:
            put(log, plain(b"k", b"0"), row)
        assert refused.value.code is ErrorCode.INVALID_RECORD
    assert put(log, plain(b"k", b"kbroker-deliver-at"), later(b"k", b"past", -1)).base_offset == 0


def test_clients_cannot_write_what_delivers() -> None:
    log = delay_log()
    forged = delivery_batch([(NOW, Hidden(3, Kind.DELAYED, NOW, 3, content()))])
    with pytest.raises(KafkaError, match="for the broker alone"):
        log.append(forged, leader_epoch=0, now_ms=NOW)


def test_D2_clients_cannot_write_what_delivers_when_delay_is_switched_off() -> None:
    log = delay_log()
    put(log, later(b"k", b"v"))
    log.reconfigure(open_log(new_disk()).config)
    forged = delivery_batch([(NOW, Hidden(0, Kind.DELAYED, NOW, 0, content()))])
    with pytest.raises(KafkaError, match="for the broker alone"):
        log.append(forged, leader_epoch=0, now_ms=NOW)


def content(key: bytes = b"k", value: bytes = b"v", **fields: bytes) -> bytes:
    log = delay_log()
    put(log, (key, value, {"kbroker-deliver-after": b"5"} | fields))
    return hidden_in(log)[0].content


# producers ----------------------------------------------------------------------------------------------------------


def test_a_hidden_batch_counts_for_its_producer_and_is_recognised_when_it_comes_again() -> None:
    disk = new_disk()
    log = delay_log(disk)
    who = {"producer_id": 7, "producer_epoch": 0}
    put(log, later(b"k", b"0"), later(b"k", b"1"), base_sequence=0, **who)
    again = put(log, later(b"k", b"0"), later(b"k", b"1"), base_sequence=0, now=NOW + 50, **who)
    assert again == Appended(-1, 1, -1, True)
    with pytest.raises(KafkaError) as gap:
        put(log, later(b"k", b"3"), base_sequence=3, **who)
    assert gap.value.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert put(log, plain(b"k", b"2"), base_sequence=2, **who).base_offset == 2
    known = producers_of(log)
    log.roll()  # writes a snapshot
    for crash in (Crash.PROCESS, Crash.POWER):
        reopened = delay_log(disk, crash)
        assert producers_of(reopened) == known
        assert put(reopened, later(b"k", b"0"), later(b"k", b"1"), base_sequence=0, **who) == again
    for name in [name for name in disk.list_dir("orders-0") if name.endswith(".snapshot")]:
        disk.remove(f"orders-0/{name}")
    assert producers_of(delay_log(disk, Crash.PROCESS)) == known  # of the batches alone


def test_a_divided_batch_counts_once_and_is_recognised() -> None:
    log = delay_log()
    who = {"producer_id": 7, "producer_epoch": 0, "base_sequence": 0}
    rows = [plain(b"k", b"0"), later(b"k", b"1")]
    assert put(log, *rows, **who) == Appended(1, 2, -1, False)
    assert put(log, *rows, **who) == Appended(1, 2, -1, True)
    assert put(log, plain(b"k", b"2"), producer_id=7, producer_epoch=0, base_sequence=2).base_offset == 3


def test_a_hidden_batch_alone_leaves_its_producer_unknown() -> None:
    """A kill may have cut the write between the two: the producer, who may be at any number, sends all of it again."""
    disk = new_disk()
    log = delay_log(disk)
    rows, who = [plain(b"k", b"0"), later(b"k", b"1")], {"producer_id": 7, "producer_epoch": 0, "base_sequence": 40}
    put(log, *rows, **who)
    cut = everything(log)[0][0].size
    disk.open("orders-0/00000000000000000000.log").truncate(cut + 30)
    log = delay_log(disk, Crash.PROCESS)
    assert log.end.value == 1 and producers_of(log) == {}
    assert put(log, *rows, **who) == Appended(2, 3, -1, False)
    torn, hidden, rest = [header for header, _ in everything(log)]
    assert needs_rest(torn) and not is_rest_of(torn, hidden)
    assert needs_rest(hidden) and is_rest_of(hidden, rest)


def test_a_batch_that_comes_again_when_all_of_it_is_due_is_no_rest_of_what_was_hidden_before() -> None:
    disk = new_disk()
    log = delay_log(disk)
    rows, who = [plain(b"k", b"0"), later(b"k", b"1")], {"producer_id": 7, "producer_epoch": 0, "base_sequence": 0}
    put(log, *rows, **who)
    disk.open("orders-0/00000000000000000000.log").truncate(everything(log)[0][0].size)
    log = delay_log(disk, Crash.PROCESS)
    put(log, *rows, now=NOW + 2 * HOUR, **who)
    torn, whole = [header for header, _ in everything(log)]
    assert not is_rest_of(torn, whole)


def test_a_transaction_begins_with_what_it_delays() -> None:
    log = delay_log()
    who = {"producer_id": 7, "producer_epoch": 0, "transactional": True}
    batch = sent(later(b"k", b"0"), base_sequence=0, **who)

    log.append(batch, leader_epoch=0, now_ms=NOW, guard=UNVERIFIED)
    assert log.producers.by_id[7].txn_first_offset == 0
    assert log.producers.transactions.first_unstable == 0
    put(log, plain(b"k", b"1"), later(b"k", b"2"), base_sequence=1, **who)
    assert everything(log)[1][0].is_transactional
    log.append_marker(Marker(7, 0, 0, True), leader_epoch=0, now_ms=NOW)
    assert log.producers.by_id[7].txn_first_offset == -1


# followers ----------------------------------------------------------------------------------------------------------


def test_followers_copy_what_is_hidden_and_know_its_producers() -> None:
    log, follower = delay_log(), open_log(new_disk())
    put(log, later(b"k", b"0"), producer_id=7, producer_epoch=0, base_sequence=0)
    put(log, plain(b"k", b"1"), later(b"k", b"2"), producer_id=7, producer_epoch=0, base_sequence=1)
    data = b"".join(piece.read() for piece in log.read(0, 1 << 20, log.end.value))
    assert follower.append_replicated(data, leader_epoch=0, now_ms=NOW) == 3
    assert hidden_in(follower) == hidden_in(log)
    assert producers_of(follower) == producers_of(log)


# delivering ---------------------------------------------------------------------------------------------------------


def test_what_is_delivered_has_lost_what_delayed_it_and_names_its_id() -> None:
    hidden = Hidden(40, Kind.DELAYED, NOW, 12, content(trace=b"1", **{"kbroker-delay-id": b"3"}))
    batch = delivery_batch([(NOW, hidden), (NOW - 5, hidden._replace(id=13))])
    header = read_header(batch)
    assert is_delivery(header) and records.check_crc(batch, 0, header)
    assert (header.base_sequence, header.max_timestamp, header.producer_id) == (DELIVERY_SEQUENCE, NOW, -1)
    first, second = records.read_records(batch, max_bytes=1000)
    assert first == (0, NOW, b"k", b"v", (("trace", b"1"), ("kbroker-delay-id", b"12")))
    assert second.timestamp == NOW - 5
    assert list(delivered_ids(batch)) == [12, 13]


@pytest.mark.parametrize("codec", range(5))
def test_deliveries_in_a_codec_are_read_back(codec: int) -> None:
    rows = [(NOW, Hidden(n, Kind.DELAYED, NOW, n, content())) for n in range(100)]
    assert list(delivered_ids(delivery_batch(rows, codec))) == list(range(100))


def test_what_is_carried_on_keeps_its_id() -> None:
    log = delay_log()
    put(log, later(b"k", b"v"))
    append(log, b"x")
    [hidden] = hidden_in(log)
    assert log.append_hidden(carrying_batch([hidden], NOW), leader_epoch=0, now_ms=NOW) == 2
    assert hidden_in(log)[1] == hidden._replace(offset=2, kind=Kind.CARRIED)
    assert is_hidden(everything(log)[2][0]) and not needs_rest(everything(log)[2][0])


def test_keys_are_told_apart_by_a_digest_that_is_never_none_of_a_key() -> None:
    assert key_digest(None) == NO_KEY
    assert key_digest(b"") not in (NO_KEY, key_digest(b"k"))
    assert len(key_digest(b"k" * 1000)) == len(NO_KEY) == 8


# how long it takes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hundred_thousand_delayed_records_in_one_batch_are_divided_in_turns() -> None:
    log = delay_log(max_message_bytes=20_000_000)
    batch = sent(*[later(b"k", b"v", n + 1) for n in range(100_000)])
    pauses, work = 0, log.rules.examine(batch, NOW)
    result = None
    try:
        while True:
            errand = work.send(result)
            pauses += errand is None
            result = errand() if errand is not None else None
    except StopIteration as done:
        examined = done.value
    assert examined.diverted.taken == 100_000 and pauses > 100_000 / 16
    assert len(examined.diverted.batch) < 2 * len(batch)


def test_a_record_of_very_many_headers_is_read_by_a_worker() -> None:
    log = delay_log(max_message_bytes=20_000_000)
    fields = {f"{n}": b"" for n in range(1000)} | {"kbroker-deliver-after": b"9"}
    errands = [each for each in log.rules.examine(sent((b"k", b"v", fields)), NOW) if each is not None]
    assert len(errands) == 1
    examined = do_errands(log.rules.examine(sent((b"k", b"v", fields)), NOW))
    assert examined.diverted is not None and examined.diverted.is_all


def test_L5_an_aborted_transaction_that_began_with_what_it_delays_is_found_again(tmp_path: Path) -> None:
    disk = real_env(str(tmp_path)).disk
    log = delay_log(disk)
    who = {"producer_id": 7, "producer_epoch": 0, "transactional": True}
    batch = sent(later(b"k", b"0"), base_sequence=0, **who)
    log.append(batch, leader_epoch=0, now_ms=NOW, guard=UNVERIFIED)
    put(log, plain(b"k", b"1"), later(b"k", b"2"), base_sequence=1, **who)
    log.append_marker(Marker(7, 0, 0, False), leader_epoch=0, now_ms=NOW)
    log.roll()
    append(log, b"x")
    named = [(each.producer_id, each.first_offset) for each in log.aborted_between(0, log.end.value)]
    assert named == [(7, 0)]
    trio.run(log.close, Worker())
    verified = CliRunner().invoke(verify, [str(tmp_path)])
    assert verified.exit_code == 0, verified.output
    disk.remove("orders-0/00000000000000000000.txnindex")
    log = delay_log(disk)
    assert [(each.producer_id, each.first_offset) for each in log.aborted_between(0, log.end.value)] == named
