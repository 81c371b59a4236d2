"""Delayed records: how they lie hidden in the log of their own partition, and how they come out again. Pure.

What a producer's batch holds for later is diverted into a hidden batch, which all clients pass over, as it is a control
batch of a type they do not know; its other records stay as they are. When it is due a record is appended again, in a
delivery batch, which names what it delivers. So one log, in one order, says what is pending.

    batch ──┬── delayed, cancels ──▶ hidden batch      attribute control, base sequence not -1 (a marker has -1)
            └── all others ────────▶ the rest          the batch without them: deltas, sequence, last offset stay

    hidden record    key     int16 0 | int16 0x4B42 (librdkafka takes no other size of a control record's key)
                     value   int8 kind | int64 due, in ms | int64 id, -1: its own offset | the record as it came:
                             key length varint | key | value length varint | value | headers, as on the wire
    base sequence    of a hidden batch: the producer's, if all of its batch was diverted; else -3
                     of a delivery batch: -2, without a producer

The rest of a batch lies right behind what was hidden of it. A kill, or a leader that fails, may leave the hidden batch
of an idempotent producer alone in the log: then it does not count (`is_rest_of`); the producer sends all of it again.

A record asks for delay in its headers, at most one of them:

    kbroker-deliver-at      when it is due: ms since the epoch, decimal. Past or now: a record like any other
    kbroker-deliver-after   the same in ms from when it is appended, by the leader's data clock
    kbroker-delay-cancel    nothing: what is pending of its key in this partition is given up; ids, separated by commas:
                            these are. It is itself delivered to nobody
    kbroker-delay-now       the same for what is to be delivered at once

What is delivered has lost these headers (who passes it on to another topic does not delay it again) and has another,
kbroker-delay-id: the offset the record had when it came, which stays the same however often its log is moved.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

from kafka_wire import compression as codecs
from kafka_wire import records
from kafka_wire.errors import ErrorCode, ProtocolError
from kafka_wire.primitives import read_varint, varint
from kafka_wire.records import NO_SEQUENCE, BatchHeader, Buffer, CorruptRecords, read_records
from kafka_wire.walk import follow_chain, stamps
from kbroker.config.keys import LONG_MAX
from kbroker.turns import Errands

SCHEDULE_DIRECTORY = "delay"  # in a partition's; it is there if anything ever lay hidden in its log
MARK = b"kbroker-de"  # in every batch that asks for delay, and is not compressed
AT, AFTER = b"kbroker-deliver-at", b"kbroker-deliver-after"
CANCEL, NOW = b"kbroker-delay-cancel", b"kbroker-delay-now"
ID = "kbroker-delay-id"
HIDDEN_TYPE = 0x4B42
HIDDEN_SEQUENCE, DELIVERY_SEQUENCE = -3, -2
KEY_BYTES = 8  # of a key's digest
NO_KEY = bytes(KEY_BYTES)
OWN_OFFSET = -1  # in place of an id
BAD_MAX = 1000  # records that are named of one batch
NUMBER_MAX = 19  # digits
FIELDS_AT_ONCE = 1024  # bytes of a record's headers, read in the event loop
STEPS_AT_ONCE, STEPS_A_RECORD = 128, 8  # between two pauses; for a record that may ask for delay, besides its headers
_TRANSACTIONAL = 0x10  # of a batch's attributes
_PAYLOAD_MAX = 2**31 - 1  # what the broker has compressed itself needs no bound

_VALUE = struct.Struct(">bqq")
_HIDDEN_KEY = b"\x08" + struct.pack(">hh", 0, HIDDEN_TYPE)
_ASKING = frozenset((AT, AFTER, CANCEL, NOW))
_DROPPED = _ASKING | {ID.encode()}


class Kind(IntEnum):
    """What a hidden record is."""

    DELAYED = 0
    CANCEL = 1
    NOW = 2
    CARRIED = 3  # one that is pending, written anew so that what lay below may go


class Hidden(NamedTuple):
    """A hidden record, read back."""

    offset: int
    kind: Kind
    due_ms: int
    id: int
    content: bytes  # key, value and headers as they came, on the wire

    @property
    def key(self) -> bytes | None:
        return _field(self.content, 0)[0]

    @property
    def value(self) -> bytes | None:
        return _field(self.content, _field(self.content, 0)[1])[0]

    @property
    def headers(self) -> list[tuple[bytes, bytes | None]]:
        return list(_headers(self.content, _headers_at(self.content)))

    @property
    def ids(self) -> list[int]:
        """Of one that cancels or hurries: what it names; none: all of its key."""
        texts = [text for name, text in self.headers if name in (CANCEL, NOW)]
        return [int(each) for each in (texts[0] or b"").split(b",")] if texts and texts[0] else []


class Effects(NamedTuple):
    """What a hidden batch will change, in short: for who must know before it has been read back."""

    earliest_ms: int  # when the first of its records is due; LONG_MAX: none
    keys: frozenset[bytes]  # digests of those whose pending records it cancels
    ids: frozenset[int]  # of records that it cancels
    is_cut: bool  # what it cancels is not told: it is too much


NO_EFFECTS = Effects(LONG_MAX, frozenset(), frozenset(), False)


class Diverted(NamedTuple):
    """What was taken out of a batch, for later."""

    batch: bytearray  # hidden
    taken: int  # records
    is_all: bool  # nothing is left of it
    effects: Effects


class Split(NamedTuple):
    """A batch, looked through. Nothing diverted: it is as it was."""

    diverted: Diverted | None
    rest: bytes  # the records that are left, as they lay there; none: all are diverted
    bad: list[tuple[int, str]]  # (index, why) of records that ask for what cannot be; then nothing else counts


def is_hidden(header: BatchHeader) -> bool:
    """Whether a batch holds what is delayed: nobody is to see it."""
    return header.is_control and header.base_sequence != NO_SEQUENCE


def is_delivery(header: BatchHeader) -> bool:
    """Whether a batch delivers what was delayed."""
    return header.base_sequence == DELIVERY_SEQUENCE and not header.is_control


def needs_rest(hidden: BatchHeader) -> bool:
    """Whether a hidden batch counts only if the next one is the rest of what its producer sent."""
    return hidden.base_sequence == HIDDEN_SEQUENCE and hidden.has_producer


def is_rest_of(hidden: BatchHeader, following: BatchHeader) -> bool:
    """Whether that is what the batch behind a hidden one is."""
    return (
        not following.is_control
        and following.producer_id == hidden.producer_id
        and following.producer_epoch == hidden.producer_epoch
        and following.leader_epoch == hidden.leader_epoch
        and following.base_offset == hidden.next_offset
        and following.count + hidden.count == following.last_offset_delta + 1
    )


def key_digest(key: bytes | None) -> bytes:
    """What stands for a key in the schedule."""
    return NO_KEY if key is None else blake2b(key, digest_size=KEY_BYTES).digest()


# what producers ask for ---------------------------------------------------------------------------------------------


def may_ask(data: Buffer) -> bool:
    """Whether records, which are not compressed, may ask for delay: a quick look."""
    return MARK in (data if isinstance(data, bytes | bytearray) else bytes(data))


def split(header: BatchHeader, data: Buffer, now_ms: int, max_ms: int) -> Errands[Split]:
    """Divide a batch into what is for later and the rest.

    Args:
        header: as its producer sent it.
        data: its records, not compressed, that were found to be whole.
        now_ms: the data clock.
        max_ms: the longest delay that is allowed.
    """
    content = bytes(data)
    taken = _Taken(header, now_ms, max_ms)
    rest: list[bytes] = []
    kept_from = pos = steps = 0
    mark = content.find(MARK)
    for index in range(header.count):
        size, at = read_varint(content, pos)
        end = at + size
        if 0 <= mark < end:
            record = _content_of(content, at, end)
            fields = len(record) - _headers_at(record)
            is_long = fields > FIELDS_AT_ONCE
            if (yield partial(taken.take, index, record)) if is_long else taken.take(index, record):
                rest.append(content[kept_from:pos])
                kept_from = end
            mark = content.find(MARK, end)
            steps += STEPS_A_RECORD + min(fields, FIELDS_AT_ONCE) // 2
        steps += 1
        if steps >= STEPS_AT_ONCE:
            yield None
            steps = 0
        pos = end
    rest.append(content[kept_from:])
    return taken.result(b"".join(rest))


class _Taken:
    """What has been taken out of a batch so far."""

    def __init__(self, header: BatchHeader, now_ms: int, max_ms: int) -> None:
        self.header = header
        self.now_ms = now_ms
        self.max_ms = max_ms
        self.records: list[bytes] = []
        self.bad: list[tuple[int, str]] = []
        self.earliest_ms = LONG_MAX
        self.keys: set[bytes] = set()
        self.ids: set[int] = set()

    def take(self, index: int, record: bytes) -> bool:
        """Judge a record, given from its key on; whether it is taken out."""
        asked = [each for each in _headers(record, _headers_at(record)) if each[0] in _ASKING]
        if not asked:
            return False
        try:
            kind, due_ms = self._judge(record, asked)
        except ValueError as error:
            if len(self.bad) < BAD_MAX:
                self.bad.append((index, str(error)))
            return False
        if kind is Kind.DELAYED:
            if due_ms <= self.now_ms:
                return False
            self.earliest_ms = min(self.earliest_ms, due_ms)
        self.records.append(_hidden_record(len(self.records), kind, due_ms, OWN_OFFSET, record))
        return True

    def _judge(self, record: bytes, asked: list[tuple[bytes, bytes | None]]) -> tuple[Kind, int]:
        """What a record asks for. Raises ValueError for what cannot be."""
        if len(asked) > 1:
            names = ", ".join(name.decode() for name, _ in asked[:4])
            raise ValueError(f"only one header may say when it is delivered; this has {names}")
        name, text = asked[0]
        if name in (AT, AFTER):
            return Kind.DELAYED, self._due_ms(name, text)
        ids = _ids(name, text)
        if not ids and (key := _field(record, 0)[0]) is None:
            raise ValueError(f"{name.decode()} without ids is for all of a key, and the record has no key")
        if name == NOW:
            return Kind.NOW, self.now_ms
        if ids:
            self.ids.update(ids)
        else:
            self.keys.add(key_digest(key))
        return Kind.CANCEL, self.now_ms

    def _due_ms(self, name: bytes, text: bytes | None) -> int:
        first, last = (0, self.max_ms) if name == AFTER else (0, self.now_ms + self.max_ms)
        number = _number(text)
        if number is None or not first <= number <= last:
            what = "in ms" if name == AFTER else "in ms since the epoch"
            raise ValueError(f"{name.decode()} is {_shown(text)}, not a decimal number {what} from {first} to {last}")
        return number + self.now_ms if name == AFTER else number

    def result(self, rest: bytes) -> Split:
        """What became of the batch. rest: its records that were not taken out."""
        if self.bad or not self.records:
            return Split(None, rest, self.bad)
        is_all = len(self.records) == self.header.count
        effects = Effects(self.earliest_ms, frozenset(self.keys), frozenset(self.ids), False)
        batch = _hidden_batch(self.header, self.records, self.now_ms, is_all=is_all)
        return Split(Diverted(batch, len(self.records), is_all, effects), rest, [])


def rest_of(header: BatchHeader, rest: bytes, taken: int, codec: int, level: int | None = None) -> bytearray:
    """The batch that is left: of the same header, without so many records. Those may be many, and need compressing."""
    count = header.count - taken
    latest = header.max_timestamp
    if not header.log_append_time:
        latest = header.base_timestamp + max(moment for moment, _ in stamps(rest, count))
    return records.recompress(header._replace(count=count, max_timestamp=latest), rest, codec, level)


def compressed(batch: bytearray, codec: int, level: int | None = None) -> bytearray:
    """A hidden batch in a codec."""
    return records.recompress(records.read_header(batch), memoryview(batch)[records.HEADER_SIZE :], codec, level)


def _ids(name: bytes, text: bytes | None) -> list[int]:
    if not text:
        return []
    ids = [_number(each.strip()) for each in text.split(b",")]
    if None in ids:
        raise ValueError(f"{name.decode()} is {_shown(text)}, not ids separated by commas")
    return [id for id in ids if id is not None]


def _number(text: bytes | None) -> int | None:
    """A decimal number that a signed 64-bit integer can hold, from 0 on; None: it is none."""
    if text is None or not text.isdigit() or len(text) > NUMBER_MAX:
        return None
    number = int(text)
    return number if number <= LONG_MAX else None


def _shown(text: bytes | None) -> str:
    return "null" if text is None else repr(text[:40].decode(errors="replace"))


# hidden batches -----------------------------------------------------------------------------------------------------


def _hidden_record(index: int, kind: Kind, due_ms: int, id: int, content: bytes) -> bytes:
    size = _VALUE.size + len(content)
    body = b"\0\0" + varint(index) + _HIDDEN_KEY + varint(size) + _VALUE.pack(kind, due_ms, id) + content + b"\0"
    return varint(len(body)) + body


def _hidden_batch(sent: BatchHeader, hidden: list[bytes], now_ms: int, *, is_all: bool) -> bytearray:
    """The batch of hidden records that were taken out of what a producer sent."""
    header = records.read_header(records.build_batch([(None, None)], timestamp=max(now_ms, 1), control=True))
    sequence = sent.base_sequence if is_all and sent.has_producer else HIDDEN_SEQUENCE
    header = header._replace(
        attributes=header.attributes | sent.attributes & _TRANSACTIONAL,
        last_offset_delta=len(hidden) - 1,
        producer_id=sent.producer_id,
        producer_epoch=sent.producer_epoch,
        base_sequence=sequence,
        count=len(hidden),
    )
    return records.recompress(header, b"".join(hidden), 0)


_BARE = BatchHeader(0, 0, -1, records.MAGIC, 0, 0, 0, -1, -1, -1, -1, -1, 1)  # to begin with: without a producer


def carrying_batch(pending: Sequence[Hidden], now_ms: int) -> bytearray:
    """A hidden batch with records that are pending, for the end of the log: each keeps its id."""
    rows = [_hidden_record(n, Kind.CARRIED, each.due_ms, each.id, each.content) for n, each in enumerate(pending)]
    bare = _BARE._replace(attributes=0)
    return _hidden_batch(bare, rows, now_ms, is_all=False)


def hidden_records(batch: Buffer) -> Iterator[Hidden]:
    """The records of a hidden batch, one at a time. Raises CorruptRecords (INVALID_RECORD) where it is none."""
    header, payload = records.read_header(batch), _payload(batch)
    pos = 0
    for delta in range(header.count):
        hidden, pos = _read_hidden(payload, pos, header.base_offset + delta)
        yield hidden


class HiddenBatch:
    """A hidden batch of which some records are asked for, here and there: those between are passed over."""

    __slots__ = ("header", "_payload", "_delta", "_pos")

    def __init__(self, batch: Buffer) -> None:
        self.header = records.read_header(batch)
        self._payload = _payload(batch)
        self._delta = self._pos = 0  # of a record that was found

    def record(self, offset: int) -> Hidden:
        """The record that has that offset. Raises CorruptRecords as hidden_records does."""
        delta = offset - self.header.base_offset
        known, pos = (self._delta, self._pos) if delta >= self._delta else (0, 0)
        pos = follow_chain(self._payload, pos, delta - known)
        if not 0 <= delta < self.header.count or pos < 0:
            raise _no_hidden(offset)
        self._delta, self._pos = delta, pos
        return _read_hidden(self._payload, pos, offset)[0]


def _payload(batch: Buffer) -> bytes:
    packed = memoryview(batch)[records.HEADER_SIZE :]
    codec = records.read_header(batch).compression
    return codecs.decompress(codec, packed, _PAYLOAD_MAX) if codec else bytes(packed)


def _read_hidden(payload: bytes, pos: int, offset: int) -> tuple[Hidden, int]:
    """The record at a position, which has that offset; and the position behind it."""
    try:
        size, pos = read_varint(payload, pos)
        end = pos + size
        content = _content_of(payload, pos, end)
        key, (value, _) = content[: len(_HIDDEN_KEY)], _field(content, len(_HIDDEN_KEY))
        if key == _HIDDEN_KEY and value is not None and end <= len(payload):
            kind, due_ms, id = _VALUE.unpack_from(value)
            return Hidden(offset, Kind(kind), due_ms, offset if id == OWN_OFFSET else id, value[_VALUE.size :]), end
    except (ProtocolError, IndexError, ValueError, struct.error):
        pass
    raise _no_hidden(offset)


def _no_hidden(offset: int) -> CorruptRecords:
    return CorruptRecords(ErrorCode.INVALID_RECORD, f"there is no hidden record at {offset}")


def effects_of(hidden: Iterable[Hidden]) -> Effects:
    """What these records will change."""
    earliest_ms, keys, ids = LONG_MAX, set[bytes](), set[int]()
    for each in hidden:
        if each.kind in (Kind.DELAYED, Kind.CARRIED):
            earliest_ms = min(earliest_ms, each.due_ms)
        elif each.kind is Kind.CANCEL:
            named = each.ids
            ids.update(named)
            if not named:
                keys.add(key_digest(each.key))
    return Effects(earliest_ms, frozenset(keys), frozenset(ids), False)


# delivery batches ---------------------------------------------------------------------------------------------------


def delivery_batch(due: Sequence[tuple[int, Hidden]], codec: int = 0, level: int | None = None) -> bytearray:
    """The batch that delivers (timestamp in ms, hidden record), in this order."""
    base = due[0][0]
    rows = [_delivered(n, moment - base, each) for n, (moment, each) in enumerate(due)]
    header = _BARE._replace(
        last_offset_delta=len(rows) - 1,
        base_timestamp=base,
        max_timestamp=max(moment for moment, _ in due),
        base_sequence=DELIVERY_SEQUENCE,
        count=len(rows),
    )
    return records.recompress(header, b"".join(rows), codec, level)


def _delivered(index: int, delta_ms: int, hidden: Hidden) -> bytes:
    content, at = hidden.content, _headers_at(hidden.content)
    kept = [_encoded(name, value) for name, value in _headers(content, at) if name not in _DROPPED]
    kept.append(_encoded(ID.encode(), b"%d" % hidden.id))
    fields = [b"\0", varint(delta_ms), varint(index), content[:at], varint(len(kept)), *kept]
    body = b"".join(fields)
    return varint(len(body)) + body


def delivered_ids(batch: Buffer) -> Iterator[int]:
    """The ids of what a delivery batch delivers."""
    for record in read_records(batch, max_bytes=_PAYLOAD_MAX):
        if record.headers and record.headers[-1][0] == ID and (id := _number(record.headers[-1][1])) is not None:
            yield id


# fields -------------------------------------------------------------------------------------------------------------


def _field(content: bytes, at: int) -> tuple[bytes | None, int]:
    """A field with its length before it, at a position; and the position behind."""
    size, at = read_varint(content, at)
    return (None, at) if size < 0 else (content[at : at + size], at + size)


def _content_of(data: bytes, at: int, end: int) -> bytes:
    """A record from its key on; `at` is behind its length."""
    _, at = read_varint(data, at + 1)  # past the attributes: the timestamp
    _, at = read_varint(data, at)
    return data[at:end]


def _headers_at(content: bytes) -> int:
    """Where the number of its headers lies, in a record from its key on."""
    size, at = read_varint(content, 0)
    size, at = read_varint(content, at + max(size, 0))
    return at + max(size, 0)


def _headers(content: bytes, at: int) -> Iterator[tuple[bytes, bytes | None]]:
    count, at = read_varint(content, at)
    for _ in range(count):
        name, at = _field(content, at)
        value, at = _field(content, at)
        yield name or b"", value


def _encoded(name: bytes, value: bytes | None) -> bytes:
    tail = b"\x01" if value is None else varint(len(value)) + value
    return varint(len(name)) + name + tail
