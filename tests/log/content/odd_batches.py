"""Batches as no sane producer makes them, in every codec, and what Apache Kafka 4.3 answers to each.

`KAFKA` was recorded from Kafka's LogValidator; test_validation_java.py takes it again where there is Java. An entry is
the answer to an uncompressed batch and to a compressed one: the error code, and which records are named; or, of one
that is stored, 0 and the largest timestamp relative to NOW.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from kafka_wire import compression as codecs
from kafka_wire import primitives
from kafka_wire.primitives import varint
from kafka_wire.records import HEADER_SIZE, MAGIC
from tests.log.tools import NOW

BEFORE_MS, AFTER_MS = 100_000, 3_600_000  # message.timestamp.before.max.ms, message.timestamp.after.max.ms
LARGEST = 1 << 63


def record(
    delta_ms: int = 0,
    offset: int = 0,
    key: bytes | None = b"k",
    value: bytes | None = b"v",
    *,
    attributes: bytes = b"\x00",
    headers: bytes = b"\x00",
    size: int | None = None,
    tail: bytes = b"",
) -> bytes:
    """One record. headers: count and all, as they stand; size: the lie about its length."""
    body = attributes + varint(delta_ms) + varint(offset)
    for field in (key, value):
        body += b"\x01" if field is None else varint(len(field)) + field
    body += headers + tail
    return varint(len(body) if size is None else size) + body


def batch_of(payload: bytes, count: int, codec: int = 0, *, packed: bool = False, **fields: int) -> bytearray:
    """A batch around a payload, sealed. packed: the payload is compressed already. fields: base, latest, attributes,
    producer; timestamps as they stand."""
    data = payload if packed else codecs.compress(codec, payload)
    base, attributes = fields.get("base", NOW), codec | fields.get("attributes", 0)
    header = struct.pack(
        ">qiibIhiqqqhii", 0, HEADER_SIZE + len(data) - 12, -1, MAGIC, 0, attributes, count - 1, base,
        fields.get("latest", base), fields.get("producer", -1), -1, -1, count,
    )  # fmt: skip
    return sealed(bytearray(header) + data)


def sealed(data: bytearray) -> bytearray:
    """With a CRC that fits."""
    struct.pack_into(">I", data, 17, primitives.crc32c(bytes(data[21:])))
    return data


class Odd(NamedTuple):
    """A batch but for its codec, and what Kafka answers: to it uncompressed, and compressed."""

    payload: bytes
    count: int
    plain: str
    packed: str
    fields: dict[str, Any] = {}


def odd(payload: bytes, count: int, plain: str, packed: str | None = None, **fields: Any) -> Odd:
    return Odd(payload, count, plain, plain if packed is None else packed, fields)


TWO = record() + record(offset=1)
THREE = TWO + record(offset=2)
UNEVEN = record(5) + record(3, 1)

KAFKA: dict[str, Odd] = {
    "an honest one": odd(TWO, 2, "0 0"),
    "largest timestamp -1": odd(UNEVEN, 2, "0 5", latest=-1),
    "largest timestamp 0": odd(UNEVEN, 2, "0 5", latest=0),
    "largest timestamp below the base": odd(UNEVEN, 2, "0 5", latest=NOW - 1),
    "largest timestamp far ahead": odd(UNEVEN, 2, "0 5", latest=NOW + 10**10),
    "base and largest timestamp -1": odd(record() + record(NOW + 8, 1), 2, "0 7", base=-1),
    "no timestamps": odd(TWO, 2, f"0 {-1 - NOW}", base=-1),
    "a timestamp below -1": odd(TWO, 2, "32 0 1", base=-500),
    "one ahead": odd(record() + record(AFTER_MS + 1, 1) + record(offset=2), 3, "32 1", latest=NOW + AFTER_MS + 1),
    "all ahead": odd(UNEVEN, 2, "32 0 1", base=NOW + AFTER_MS, latest=NOW + AFTER_MS + 5),
    "just not ahead": odd(TWO, 2, f"0 {AFTER_MS}", base=NOW + AFTER_MS),
    "all behind": odd(TWO, 2, "32 0 1", base=NOW - BEFORE_MS - 1),
    "just not behind": odd(TWO, 2, f"0 {-BEFORE_MS}", base=NOW - BEFORE_MS),
    "one -1 amid": odd(record() + record(-1 - NOW, 1) + record(offset=2), 3, "0 0", latest=-1),
    "a null key": odd(record() + record(offset=1, key=None), 2, "0 0"),
    "a null value": odd(record(value=None), 1, "0 0"),
    "attributes of a record": odd(record(attributes=b"\x07"), 1, "0 0"),
    "headers": odd(record(headers=b"\x04\x02h\x02v\x02h\x01"), 1, "0 0"),
    "a header key that is no text": odd(record(headers=b"\x02\x02\xff\x02v"), 1, "0 0"),
    "a length in more bytes than it needs": odd(b"\x90\x80\x00" + record()[1:], 1, "0 0"),
    "log-append time": odd(TWO, 2, "0 0", attributes=8),
    "log-append time far ahead": odd(TWO, 2, "32 0 1", attributes=8, latest=NOW + 10**10),
    "log-append time without one": odd(TWO, 2, "32 0 1", attributes=8, latest=-1),
    "an attribute nobody knows": odd(TWO, 2, "0 0", attributes=0x4000),
    "a control batch": odd(TWO, 2, "87", attributes=0x20),
    "a producer without sequence": odd(TWO, 2, "87", producer=5),
    "no records": odd(b"", 0, "87"),
}

# What only a look at the records can tell.
KAFKA_RECORDS: dict[str, Odd] = {
    "fewer records": odd(record(), 2, "87"),
    "more records": odd(THREE, 2, "87"),
    "a byte behind them": odd(record() + b"x", 1, "87"),
    "records enough for the earth": odd(record(), 2**31 - 1, "87"),
    "a length beyond the end": odd(record(size=2**31 - 1), 1, "87", "0 0"),
    "a length below zero": odd(record(size=-1), 1, "87", "0 0"),
    "a length of zero": odd(record(size=0), 1, "87", "0 0"),
    "a length of six bytes": odd(b"\x80\x80\x80\x80\x80\x01" + record(), 1, "-1", "87"),
    "one behind": odd(record() + record(-1, 1), 2, "32 1", base=NOW - BEFORE_MS),
    "offset deltas 0 0": odd(record() + record(), 2, "0 0", "-1"),
    "offset deltas 0 5": odd(record() + record(offset=5), 2, "0 0", "-1"),
    "offset deltas -1 0": odd(record(offset=-1) + record(), 2, "0 0", "-1"),
    "a timestamp beyond all": odd(record() + record(LARGEST - 1, 1), 2, "32 1"),
    "a length below the fields": odd(record(size=3), 1, "87", "0 0"),
    "a length above the fields": odd(record(size=20), 1, "87", "0 0"),
}

# What only a look at every field can tell.
KAFKA_FIELDS: dict[str, Odd] = {
    "largest timestamp too large": odd(UNEVEN, 2, "0 5", latest=NOW + 1000),
    "a key beyond the end": odd(b"\x10\x00\x00\x00\x40kvv\x00", 1, "87"),
    "a key length of -2": odd(b"\x0c\x00\x00\x00\x03\x01\x00", 1, "0 0"),
    "a value length of -2": odd(b"\x0c\x00\x00\x00\x01\x03\x00", 1, "0 0"),
    "a header count below zero": odd(record(headers=b"\x01"), 1, "87"),
    "a header count beyond the end": odd(record(headers=b"\x7e"), 1, "87"),
    "a header without a key": odd(record(headers=b"\x02\x01\x02v"), 1, "87"),
    "bytes behind the fields": odd(record(tail=b"zz"), 1, "87", "87"),
}

# Where kbroker answers otherwise, and why.
OTHERWISE: dict[str, tuple[str, str]] = {
    "a length of six bytes": ("87", "Kafka fails with an exception of its own, which tells the client nothing"),
    "offset deltas 0 0": ("87", "stored, it stops consumers; compressed, Kafka fails with an exception of its own"),
    "offset deltas 0 5": ("87", "as above"),
    "offset deltas -1 0": ("87", "as above"),
    "a length beyond the end": ("87", "Kafka skips over the content of compressed records, and stores it"),
    "a length below zero": ("87", "as above"),
    "a length below the fields": ("87", "as above"),
    "a length above the fields": ("87", "as above"),
    "a length of zero": ("87", "as above"),
    "a key length of -2": ("87", "-1 says null; nobody writes another, and not every client reads it so"),
    "a value length of -2": ("87", "as above"),
}
