"""What a client's batch must be before a log takes it (B4). Only its header is read, unless the topic asks for more.

The order of the checks, and the answers: nothing or several batches INVALID_RECORD, magic 0 or 1 INVALID_RECORD, a
length that lies CORRUPT_MESSAGE, too large MESSAGE_TOO_LARGE, wrong CRC CORRUPT_MESSAGE, base offset, count, offset
delta, control, sequence INVALID_RECORD, unknown codec UNSUPPORTED_COMPRESSION_TYPE, timestamps INVALID_TIMESTAMP.
Kafka walks the records besides; here timestamps are judged by the header's first and largest.
(Kafka: ProduceRequest.validateRecords, UnifiedLog.analyzeAndValidateRecords, LogValidator.)
"""

from __future__ import annotations

from typing import NoReturn, TypeAlias

from kafka_wire import records
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import BatchHeader, check_crc, read_header
from kbroker.config.topic import TopicConfig

CODECS = {"uncompressed": 0, "none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
CODEC_MAX = 4
_MAGIC_AT = 16

WritableBuffer: TypeAlias = "bytearray | memoryview"


def check_batch(batch: WritableBuffer, max_bytes: int) -> BatchHeader:
    """The header of a buffer that is one honest batch from a client, timestamps aside. Raises KafkaError."""
    length = len(batch)
    if length <= _MAGIC_AT:
        _refuse(ErrorCode.CORRUPT_MESSAGE if length else ErrorCode.INVALID_RECORD, f"{length} bytes are no batch")
    if batch[_MAGIC_AT] != 2:
        if batch[_MAGIC_AT] < 2:
            _refuse(ErrorCode.INVALID_RECORD, f"magic {batch[_MAGIC_AT]}: only version 2 of the format is accepted")
        _refuse(ErrorCode.CORRUPT_MESSAGE, f"magic {batch[_MAGIC_AT]} does not exist")
    header = read_header(batch)
    size = header[1] + 12
    if size != length:
        if size > length:
            _refuse(ErrorCode.CORRUPT_MESSAGE, f"the batch says it has {size} bytes, {length} came")
        _refuse(ErrorCode.INVALID_RECORD, "exactly one batch may be sent to a partition")
    if size > max_bytes:
        _refuse(ErrorCode.MESSAGE_TOO_LARGE, f"the batch has {size} bytes, max.message.bytes is {max_bytes}")
    if not check_crc(batch, 0, header):
        _refuse(ErrorCode.CORRUPT_MESSAGE, "the batch's CRC-32C does not match its bytes")
    base_offset, _, _, _, _, attributes, delta, _, _, producer_id, producer_epoch, sequence, count = header
    if base_offset != 0:
        _refuse(ErrorCode.INVALID_RECORD, f"the base offset should be 0, not {base_offset}")
    if count <= 0 or count != delta + 1:
        _refuse(ErrorCode.INVALID_RECORD, f"{count} records cannot have the last offset delta {delta}")
    if attributes & 0x2F:  # codec, log-append time, control
        if attributes & 0x08:
            _refuse(ErrorCode.INVALID_TIMESTAMP, "producers may not set the timestamp type LogAppendTime")
        if attributes & 0x20:
            _refuse(ErrorCode.INVALID_RECORD, "clients may not write control batches")
        if attributes & 7 > CODEC_MAX:
            _refuse(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"there is no codec {attributes & 7}")
    if producer_id >= 0:
        if sequence < 0 or producer_epoch < 0:
            _refuse(ErrorCode.INVALID_RECORD, f"producer {producer_id} sent epoch {producer_epoch}, number {sequence}")
    elif attributes & 0x10:
        _refuse(ErrorCode.INVALID_RECORD, "a transactional batch has no producer id")
    return header


def check_timestamps(header: BatchHeader, config: TopicConfig, now_ms: int) -> None:
    """CreateTime: neither too old nor too far ahead (KIP-937); -1 is no timestamp. Raises KafkaError."""
    if header[8] - now_ms > config.message_timestamp_after_max_ms:
        _refuse(
            ErrorCode.INVALID_TIMESTAMP,
            f"timestamp {header[8]} is more than {config.message_timestamp_after_max_ms} ms ahead of {now_ms}",
        )
    if now_ms - header[7] > config.message_timestamp_before_max_ms and header[7] != -1:
        _refuse(
            ErrorCode.INVALID_TIMESTAMP,
            f"timestamp {header[7]} is more than {config.message_timestamp_before_max_ms} ms behind {now_ms}",
        )


def needs_records(config: TopicConfig) -> bool:
    """Whether a topic wants more of a batch than its header (or something changed in it)."""
    is_plain = config.compression_type == "producer" and config.message_timestamp_type == "CreateTime"
    return config.compacts or not is_plain


def prepare(
    batch: WritableBuffer, header: BatchHeader, config: TopicConfig, now_ms: int
) -> tuple[WritableBuffer, BatchHeader]:
    """Make a checked batch what its topic wants: keys present, its codec, its timestamps. Raises KafkaError.

    The batch is changed in place or replaced by another.
    """
    limit = 10 * max(config.max_message_bytes, 1024 * 1024)  # decompressed, a batch may be that large
    if config.compacts:
        for record in records.read_records(batch, max_bytes=limit):
            if record.key is None:
                _refuse(ErrorCode.INVALID_RECORD, "a compacted topic accepts only records with a key")
    if config.compression_type != "producer" and CODECS[config.compression_type] != header.compression:
        batch = _recompress(batch, header, config, limit)
        header = read_header(batch)
    if config.message_timestamp_type == "LogAppendTime":
        records.set_log_append_time(batch, 0, header, now_ms)
        header = read_header(batch)
    return batch, header


def _recompress(batch: WritableBuffer, header: BatchHeader, config: TopicConfig, limit: int) -> bytearray:
    codec = CODECS[config.compression_type]
    levels = (None, config.compression_gzip_level, None, config.compression_lz4_level, config.compression_zstd_level)
    rebuilt = records.rebuild(batch, max_bytes=limit, compression=codec, level=levels[codec])
    if len(rebuilt) > config.max_message_bytes:
        _refuse(
            ErrorCode.MESSAGE_TOO_LARGE,
            f"as {config.compression_type} the batch has {len(rebuilt)} bytes,"
            f" max.message.bytes is {config.max_message_bytes}",
        )
    return rebuilt


def _refuse(code: ErrorCode, message: str) -> NoReturn:
    raise KafkaError(code, message)
