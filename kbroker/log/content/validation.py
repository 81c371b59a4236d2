"""What a client's batch must be before a log takes it (B4).

    first_batch      there is one whole batch of magic 2, and no more
    check_batch      its header: base offset, size, CRC, codec, count, sequence. Costs a microsecond, always done
    Rules.passes     nearly every batch: nothing about its records has to be known (`kbroker.produce.validate`) and the
                     header's timestamps can be true, or a quick look at not too many records shows them to be fine
    Rules.examine    reads the records of others, in turns; names each bad one, mends the largest timestamp, changes the
                     codec, takes out what is for later

The order of the checks and the answers are Kafka's, as far as it has an order: nothing, an old format or several
batches INVALID_RECORD, a length that lies CORRUPT_MESSAGE, a base offset INVALID_RECORD, too large MESSAGE_TOO_LARGE,
a wrong CRC CORRUPT_MESSAGE, no such codec or a payload that is not what the codec makes UNKNOWN_SERVER_ERROR, count,
control, sequence INVALID_RECORD, then the records: INVALID_RECORD, INVALID_TIMESTAMP.

A look at a compressed batch decompresses it, never beyond a bound: sixteen times the largest batch, and a thousand
times its own size where that is less. More is MESSAGE_TOO_LARGE, upon which producers send in smaller pieces.
(Kafka: ProduceRequest.validateRecords, UnifiedLog.analyzeAndValidateRecords, LogValidator.)
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, NoReturn, TypeAlias

from kafka_wire import compression as codecs
from kafka_wire import records
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import LENGTH_OFFSET, BatchHeader, CorruptRecords, check_crc, read_header
from kafka_wire.walk import FAR, RECORD_SIZE_MIN, RecordWalk, follow_chain, heads, last_delta, walk_fields
from kbroker.config.topic import TopicConfig
from kbroker.log.content import delayed
from kbroker.log.content.delayed import DELIVERY_SEQUENCE, Diverted
from kbroker.turns import Errands, do_errands

CODECS = {"uncompressed": 0, "none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
CODEC_MAX = 4
RECORD_ERRORS_MAX = 1000  # named of one batch; the rest is told by its code
RECORD_ERRORS_SHOWN = 3  # in the text for the whole batch
BATCH_BYTES_MIN = 1024 * 1024  # what the bounds of decompression count from, at least
GROWTH_MAX, RATIO_MAX = 16, 1024
AT_ONCE_BYTES, AT_ONCE_BYTES_MAX = 16 * 1024, 128 * 1024  # compressed, decompressed: in the event loop
WALKED_AT_ONCE_BYTES = 8 * 1024  # of a topic with delay, whose records are read more often than others'
QUICK_RECORDS_MAX = 1024  # read field by field at a quick look; 400 µs
QUICK_CHAIN_MAX = 8192  # records whose lengths are followed at a quick look; 500 µs
HEADS_AT_ONCE = 32  # between two pauses
_MAGIC_AT, _MESSAGE_MIN, _LENGTH_AT, _RECORDS_AT = 16, 14, 8, records.HEADER_SIZE

WritableBuffer: TypeAlias = "bytearray | memoryview"


class BadRecords(KafkaError):
    """Some records of a batch are refused, and all with them: `records` has (index, why) of each (KIP-467)."""

    def __init__(self, code: ErrorCode, message: str, bad: Sequence[tuple[int, str]]) -> None:
        super().__init__(code, message)
        self.records = bad


class Examined(NamedTuple):
    """A batch as it is to be stored."""

    batch: WritableBuffer  # if nothing is left of it: as it was sent
    header: BatchHeader
    diverted: Diverted | None  # what was taken out of it


def _check_codec(codec: int, batch: WritableBuffer) -> None:
    """Refuse a payload that does not begin as the codec's do: most often it is not compressed at all."""
    if codec > CODEC_MAX:
        _refuse(ErrorCode.UNKNOWN_SERVER_ERROR, f"there is no codec {codec}")
    if not codecs.may_be(codec, batch[_RECORDS_AT : _RECORDS_AT + codecs.BEGINNING]):
        _refuse(ErrorCode.UNKNOWN_SERVER_ERROR, f"the payload is not {codecs.NAMES[codec]}: it begins otherwise")


class NoBatch(KafkaError):
    """What was sent is not one batch; no log has seen it."""


# the header ---------------------------------------------------------------------------------------------------------


def check_batch(batch: WritableBuffer, header: BatchHeader, config: TopicConfig) -> None:
    """Raise KafkaError unless this is an honest batch from a client, as far as its header tells."""
    base_offset, length, _, _, _, attributes, delta, _, _, producer_id, producer_epoch, sequence, count = header
    if base_offset:
        _refuse(ErrorCode.INVALID_RECORD, f"the base offset should be 0, not {base_offset}")
    check_size(length + 12, config)
    if not check_crc(batch, 0, header):
        _refuse(ErrorCode.CORRUPT_MESSAGE, f"the batch's CRC-32C is {header.crc}, which does not match its bytes")
    if attributes & 7:
        _check_codec(attributes & 7, batch)
    if count <= 0 or count != delta + 1:
        _refuse(ErrorCode.INVALID_RECORD, f"{count} records cannot have the last offset delta {delta}")
    packed = length + 12 - _RECORDS_AT
    room = _unpacked_max(packed, config) if attributes & 7 else packed
    if count * RECORD_SIZE_MIN > room:
        _refuse(ErrorCode.INVALID_RECORD, f"{count} records cannot lie in {room} bytes")
    if attributes & 0x20:
        _refuse(ErrorCode.INVALID_RECORD, "clients may not write control batches")
    if producer_id >= 0:
        if sequence < 0:
            _refuse(ErrorCode.INVALID_RECORD, f"producer {producer_id} sent the sequence number {sequence}")
        if producer_epoch < -1:
            _refuse(ErrorCode.INVALID_PRODUCER_EPOCH, f"producer {producer_id} sent the epoch {producer_epoch}")
    elif attributes & 0x10:
        _refuse(ErrorCode.INVALID_RECORD, "a transactional batch has no producer id")


def check_size(size: int, config: TopicConfig) -> None:
    """Raise KafkaError MESSAGE_TOO_LARGE unless a batch of so many bytes may be written."""
    if size > config.max_message_bytes:
        text = f"the batch has {size} bytes, max.message.bytes is {config.max_message_bytes}"
        _refuse(ErrorCode.MESSAGE_TOO_LARGE, text)


def _unpacked_max(packed: int, config: TopicConfig) -> int:
    """What so many compressed bytes may be at most, decompressed."""
    most = max(config.max_message_bytes, BATCH_BYTES_MIN)
    return min(GROWTH_MAX * most, max(most, RATIO_MAX * packed))


def first_batch(data: WritableBuffer) -> tuple[WritableBuffer, BatchHeader]:
    """The one batch of magic 2 that a client sent, without an incomplete one behind it; its header. Raises KafkaError.

    (Kafka: ByteBufferLogInputStream, ProduceRequest.validateRecords.)
    """
    length = len(data)
    if length >= _RECORDS_AT and data[_MAGIC_AT] == 2:
        header = read_header(data)
        if header.length + LENGTH_OFFSET == length:
            return data, header
    size = _size_of(data, 0)
    if not size:
        raise NoBatch(ErrorCode.INVALID_RECORD, f"{length} bytes hold no whole record batch")
    if data[_MAGIC_AT] != 2:
        raise NoBatch(ErrorCode.INVALID_RECORD, f"magic {data[_MAGIC_AT]}: only version 2 of the format is accepted")
    if _size_of(data, size):
        raise NoBatch(ErrorCode.INVALID_RECORD, "exactly one record batch may be sent to a partition")
    batch = memoryview(data)[:size]
    return batch, read_header(batch)


def _size_of(data: WritableBuffer, at: int) -> int:
    """The size of the batch at a position, 0 if it is not there to its end. Raises KafkaError where none can be."""
    left = len(data) - at
    if left <= _MAGIC_AT:
        return 0
    length = int.from_bytes(data[at + _LENGTH_AT : at + _LENGTH_AT + 4], "big", signed=True)
    if length < _MESSAGE_MIN:
        raise NoBatch(ErrorCode.CORRUPT_MESSAGE, f"a batch length of {length} is below the least, {_MESSAGE_MIN}")
    magic = int.from_bytes(data[at + _MAGIC_AT : at + _MAGIC_AT + 1], "big", signed=True)
    if not 0 <= magic <= 2:
        raise NoBatch(ErrorCode.CORRUPT_MESSAGE, f"magic {magic} does not exist")
    return length + 12 if length + 12 <= left else 0


# the records --------------------------------------------------------------------------------------------------------


class Rules:
    """What a topic's settings demand of a batch. `name` is the partition's, to be told."""

    __slots__ = (
        "config",
        "name",
        "stamps",
        "leaves_unread",
        "delays",
        "_heeds",
        "codec",
        "_reads",
        "_reads_fields",
        "_reads_quickly",
        "_before_ms",
        "_after_ms",
    )

    def __init__(self, config: TopicConfig, name: str = "") -> None:
        self.config = config
        self.name = name
        self.stamps = config.message_timestamp_type == "LogAppendTime"  # the log does, when it appends
        # the one that all is stored in; None: the producer's
        self.codec = None if config.compression_type == "producer" else CODECS[config.compression_type]
        levels = [config.kbroker_produce_validate] + [config.kbroker_produce_validate_compressed] * 7
        self._reads = [  # by codec
            level != "header" or config.compacts or self.codec not in (None, codec)
            for codec, level in enumerate(levels)
        ]
        self._reads_quickly = not self.codec  # or another codec is to be made
        self._reads_fields = config.kbroker_produce_validate == "full" or config.compacts  # of uncompressed ones
        # some of what is stored nobody has read field by field
        self.leaves_unread = not (self._reads_fields and all(self._reads))
        self._heeds = config.kbroker_delay_enable  # what asks for delay
        # A record that is pending is no value of its key yet: where old values go, what asks for delay is refused.
        self.delays = config.kbroker_delay_enable and not config.compacts
        self._before_ms = config.message_timestamp_before_max_ms
        self._after_ms = config.message_timestamp_after_max_ms

    def passes(self, batch: WritableBuffer, header: BatchHeader, now_ms: int) -> bool:
        """Whether a checked batch may be stored as it is, as far as its header and a quick look can tell.

        If not, examine says what is wrong, or makes it right.
        """
        _, _, _, _, _, attributes, _, base, latest, _, _, _, count = header
        if attributes & 0x08 or (latest < 0 and not self.stamps):
            return False
        if self._heeds and (attributes & 7 or header.base_sequence == DELIVERY_SEQUENCE or delayed.may_ask(batch)):
            return False
        low = 0
        if self._reads[attributes & 7]:
            if attributes & 7 or not self._reads_quickly:
                return False
            if self._reads_fields:
                found = self._quick_fields(batch, header)
                if found is None or base + found[1] != latest:
                    return False
                low = found[0]
            else:
                delta = self._quick_chain(batch, count)
                if delta is None or base + delta > latest or (count == 1 and base + delta != latest):
                    return False
                if delta < 0:
                    low = delta
        if self.stamps:
            return True
        if latest < base + low or not latest:  # it cannot be true
            return False
        return latest - now_ms <= self._after_ms and now_ms - base - low <= self._before_ms

    def _quick_chain(self, batch: WritableBuffer, count: int) -> int | None:
        """The timestamp delta of the last record, if the chain of lengths leads to it and it is in order; else None.

        Its offset delta tells of producers that number records wrongly, at the cost of one record.
        """
        if count > QUICK_CHAIN_MAX:
            return None
        last = follow_chain(batch, _RECORDS_AT, count - 1) if count > 1 else _RECORDS_AT
        if last < 0:
            return None
        delta = last_delta(batch, last, count - 1)
        if delta is not None:
            return delta
        try:
            end, delta, _, _ = walk_fields(batch, last, count - 1, count, FAR, -FAR)
        except CorruptRecords:
            return None
        return delta if end == len(batch) else None

    def _quick_fields(self, batch: WritableBuffer, header: BatchHeader) -> tuple[int, int] | None:
        """The smallest and the largest timestamp delta of not too many records that are in order; else None."""
        if header.count > QUICK_RECORDS_MAX:
            return None
        try:
            end, low, high, has_null_key = walk_fields(batch, _RECORDS_AT, 0, header.count, FAR, -FAR)
        except CorruptRecords:
            return None
        return None if end != len(batch) or (has_null_key and self.config.compacts) else (low, high)

    def check(self, batch: WritableBuffer, now_ms: int) -> Examined:
        """The whole check at once, for batches that are known to be small. Raises what the parts raise."""
        batch, header = first_batch(batch)
        check_batch(batch, header, self.config)
        if self.passes(batch, header, now_ms):
            return Examined(batch, header, None)
        return do_errands(self.examine(batch, now_ms))

    def examine(self, batch: WritableBuffer, now_ms: int) -> Errands[Examined]:
        """Read the records of a checked batch; the batch as it is to be stored.

        It is changed in place, or replaced where the topic wants another codec, or some of it is for later. Raises
        KafkaError INVALID_RECORD; BadRecords where it is certain records that are refused; MESSAGE_TOO_LARGE,
        UNKNOWN_SERVER_ERROR.
        """
        header = read_header(batch)
        if header.log_append_time:
            self._check_append_time(header, now_ms)
        data = yield from self._decompressed(batch, header)
        walk = RecordWalk(data, header.count)
        if self._heeds and len(data) > WALKED_AT_ONCE_BYTES:  # records with very many headers may be among them
            yield partial(walk.step, header.count)
        else:
            while not walk.step():
                yield None
        base = header.base_timestamp
        is_early, is_late = now_ms - base - walk.low > self._before_ms, base + walk.high - now_ms > self._after_ms
        if (not self.stamps and (is_early or is_late)) or (walk.has_null_key and self.config.compacts):
            yield from self._refuse_records(data, header, now_ms)
        if not -(1 << 63) <= base + walk.low <= base + walk.high < 1 << 63:
            _refuse(ErrorCode.INVALID_RECORD, f"timestamps from {base + walk.low} to {base + walk.high} do not fit")
        latest = max(base + walk.high, records.NO_TIMESTAMP)
        if self._heeds:
            split = yield from self._split(data, header, now_ms)
            if split.diverted is not None:
                return (yield from self._divert(split, split.diverted, batch, header._replace(max_timestamp=latest)))
        if self.codec not in (None, header.compression):
            batch = yield partial(self._recompress, data, header._replace(max_timestamp=latest))
        elif latest != header.max_timestamp or header.log_append_time:
            records.set_create_time(batch, 0, header, latest)
        return Examined(batch, read_header(batch), None)

    def _split(self, data: bytes | memoryview, header: BatchHeader, now_ms: int) -> Errands[delayed.Split]:
        """What of a batch is for later. Raises BadRecords."""
        if header.base_sequence == DELIVERY_SEQUENCE and not header.has_producer:
            _refuse(ErrorCode.INVALID_RECORD, f"the base sequence {DELIVERY_SEQUENCE} is for the broker alone")
        if not delayed.may_ask(data):
            return delayed.Split(None, b"", [])
        split = yield from delayed.split(header, data, now_ms, self.config.kbroker_delay_max_ms)
        if split.bad:
            raise _bad_records(ErrorCode.INVALID_RECORD, header.count, split.bad)
        if split.diverted is not None and not self.delays:
            text = f"{self.name} delays nothing, as its cleanup.policy is {self.config.cleanup_policy}"
            _refuse(ErrorCode.INVALID_RECORD, f"{text}, though kbroker.delay.enable is true")
        return split

    def _divert(
        self, split: delayed.Split, diverted: Diverted, batch: WritableBuffer, header: BatchHeader
    ) -> Errands[Examined]:
        """The two batches of one that is partly for later. header: of what was sent."""
        if len(diverted.batch) > self.config.max_message_bytes and header.compression:
            smaller = yield partial(delayed.compressed, diverted.batch, header.compression)
            diverted = diverted._replace(batch=smaller)
        if diverted.is_all:
            return Examined(batch, header, diverted)
        codec = header.compression if self.codec is None else self.codec
        batch = yield partial(delayed.rest_of, header, split.rest, diverted.taken, codec, self.level(codec))
        check_size(len(batch), self.config)
        return Examined(batch, read_header(batch), diverted)

    def _check_append_time(self, header: BatchHeader, now_ms: int) -> None:
        """Producers do not say when a batch is appended; one who does says the time of every record by it."""
        latest = header.max_timestamp
        if self.stamps or latest == records.NO_TIMESTAMP:
            why = "Producer should not set timestamp type to LogAppendTime"
        elif now_ms - latest > self._before_ms or latest - now_ms > self._after_ms:
            why = ""
        else:
            return
        indexes = range(min(header.count, RECORD_ERRORS_MAX))
        every = [(index, why or self._out_of_range(latest, index, now_ms)) for index in indexes]
        raise BadRecords(ErrorCode.INVALID_TIMESTAMP, f"records with an invalid timestamp: {every[0][1]}", every)

    def _decompressed(self, batch: WritableBuffer, header: BatchHeader) -> Errands[bytes | memoryview]:
        """The records' bytes: here when that is quick, by a worker when it may not be."""
        packed = memoryview(batch)[_RECORDS_AT:]
        codec = header.compression
        if codec == codecs.NONE:
            return packed
        most = _unpacked_max(len(packed), self.config)
        try:
            if len(packed) <= AT_ONCE_BYTES:
                try:
                    return codecs.decompress(codec, packed, AT_ONCE_BYTES_MAX)
                except KafkaError as error:
                    if error.code is not ErrorCode.MESSAGE_TOO_LARGE:
                        raise
            data: bytes = yield partial(codecs.decompress, codec, packed, most)
            return data
        except KafkaError as error:
            if error.code is ErrorCode.MESSAGE_TOO_LARGE:
                raise
            raise KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR, error.message) from None

    def _refuse_records(
        self, data: bytes | memoryview, header: BatchHeader, now_ms: int
    ) -> Generator[None, None, None]:
        """Name the records that are to blame; none may be: -1 is no timestamp, and never too old."""
        bad: list[tuple[int, str]] = []
        code = ErrorCode.INVALID_RECORD
        found = enumerate(heads(data, header.count))
        while some := list(islice(found, HEADS_AT_ONCE)):
            for index, head in some:
                timestamp = header.base_timestamp + head.timestamp_delta
                if self.config.compacts and not head.has_key:
                    bad.append(
                        (index, f"Compacted topic cannot accept message without key in topic partition {self.name}")
                    )
                elif not self.stamps and timestamp != records.NO_TIMESTAMP and self._is_out_of_range(timestamp, now_ms):
                    bad.append((index, self._out_of_range(timestamp, index, now_ms)))
                    code = ErrorCode.INVALID_TIMESTAMP
            if len(bad) >= RECORD_ERRORS_MAX:
                break
            yield None
        if bad:
            raise _bad_records(code, header.count, bad[:RECORD_ERRORS_MAX])

    def _is_out_of_range(self, timestamp: int, now_ms: int) -> bool:
        return now_ms - timestamp > self._before_ms or timestamp - now_ms > self._after_ms

    def _out_of_range(self, timestamp: int, offset: int, now_ms: int) -> str:
        window = f"[{now_ms - self._before_ms}, {now_ms + self._after_ms}]"
        what = f"Timestamp {timestamp} of message with offset {offset} is out of range."
        return f"{what} The timestamp should be within {window}"

    def _recompress(self, data: bytes | memoryview, header: BatchHeader) -> bytearray:
        """The records in the topic's codec. Raises KafkaError MESSAGE_TOO_LARGE where they have become too large."""
        config, codec = self.config, self.codec
        assert codec is not None
        batch = records.recompress(header, data, codec, self.level(codec))
        if len(batch) > config.max_message_bytes:
            text = f"as {config.compression_type} the batch has {len(batch)} bytes,"
            _refuse(ErrorCode.MESSAGE_TOO_LARGE, f"{text} max.message.bytes is {config.max_message_bytes}")
        return batch

    def level(self, codec: int) -> int | None:
        """The level that a topic has for a codec."""
        config = self.config
        gzip, lz4, zstd = config.compression_gzip_level, config.compression_lz4_level, config.compression_zstd_level
        return (None, gzip, None, lz4, zstd)[codec]


def _bad_records(code: ErrorCode, count: int, bad: Sequence[tuple[int, str]]) -> BadRecords:
    shown = "; ".join(f"{index}: {why}" for index, why in bad[:RECORD_ERRORS_SHOWN])
    return BadRecords(code, f"{len(bad)} of {count} records are refused; {shown}", bad)


def _refuse(code: ErrorCode, message: str) -> NoReturn:
    raise KafkaError(code, message)
