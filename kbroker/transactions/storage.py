"""The records of `__transaction_state`, in Kafka's formats: the last of an id is all that is known of it.

    key   = version int16 0 | TransactionLogKey: the transactional id
    value = version int16 0 or 1 | TransactionLogValue, or null: the id is forgotten

Version 1 has tagged fields, for what transaction.version 2 needs; it is written from transaction.version 1 on. The
epoch before the present one is not stored (in Kafka neither): who asks InitProducerId again across a change of the
coordinator is fenced. (Kafka: TransactionLog, transaction-coordinator/src/main/resources/common/message.)
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import NamedTuple, TypeAlias

from kafka_wire.codegen import decode_in_slices, decoder
from kafka_wire.errors import ProtocolError
from kafka_wire.primitives import uvarint
from kafka_wire.schema import array, int8, int16, int32, int64, message, string
from kafka_wire.schema import struct as wire_struct
from kbroker.transactions.states import TransactionState
from kbroker.turns import Effort, Work

Partitions: TypeAlias = dict[str, set[int]]  # by topic; one that somebody else has seen is never changed

NO_PRODUCER_ID = -1
NO_EPOCH = -1
NO_TIME = -1
VERSION_SIZE = 2
VERSION_MAX = 1
NEVER_STORED = (TransactionState.DEAD, TransactionState.PREPARE_EPOCH_FENCE)
TOPIC_BYTES = 11  # what a topic takes in a record besides its name, at most
PARTITION_BYTES = 4
SLICE = 2048  # partitions that are written between two pauses

_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_KEY = struct.Struct(">hh")
_HEAD = struct.Struct(">hqhib")  # version, producer id, epoch, timeout, state
_TIMES = struct.Struct(">qq")
_PREVIOUS_ID, _NEXT_ID, _CLIENT_VERSION = struct.Struct(">BBq"), struct.Struct(">BBq"), struct.Struct(">BBh")


class Entry(NamedTuple):
    """All that is known of a transactional id."""

    state: TransactionState
    producer_id: int
    producer_epoch: int
    last_epoch: int  # that the producer had before, if it may ask for this one again; not stored
    previous_producer_id: int
    next_producer_id: int  # the producer's once the transaction has ended, where its epochs are used up
    timeout_ms: int
    partitions: Partitions
    start_ms: int  # NO_TIME: no transaction has begun
    updated_ms: int
    client_version: int  # 2: the producer goes by transaction.version 2


@message(versions=(0, 0))
class TransactionLogKey:
    """Whose record it is."""

    transactional_id: str = string()


@wire_struct
class PartitionsSchema:
    topic: str = string()
    partition_ids: list[int] = array("int32")


@message(versions=(0, 1), flexible=1)
class TransactionLogValue:
    """An entry, as it is stored."""

    producer_id: int = int64()
    previous_producer_id: int = int64(since=1, tag=0, default=-1)
    next_producer_id: int = int64(since=1, tag=1, default=-1)
    producer_epoch: int = int16()
    transaction_timeout_ms: int = int32()
    transaction_status: int = int8()
    transaction_partitions: list[PartitionsSchema] | None = array(PartitionsSchema, nullable=0)  # null: Empty
    transaction_last_update_timestamp_ms: int = int64()
    transaction_start_timestamp_ms: int = int64()
    client_transaction_version: int = int16(since=1, tag=2, default=0)


# -- keys -------------------------------------------------------------------------------------------------------------


def encode_key(transactional_id: str) -> bytes:
    """The key of an id's records. An id came in a request, so its length fits."""
    encoded = transactional_id.encode()
    return _KEY.pack(0, len(encoded)) + encoded


def decode_key(key: bytes) -> str | None:
    """The id; None for a key of another version, which is passed over, as in Kafka. Raises ProtocolError."""
    if _version(key) != 0:
        return None
    decoded: TransactionLogKey = decoder(TransactionLogKey, 0)(key, VERSION_SIZE)
    return decoded.transactional_id


# -- values -----------------------------------------------------------------------------------------------------------


def encode_value(entry: Entry, version: int) -> Work[bytes]:
    """The value of an entry's record, as work: a transaction may have a hundred thousand partitions."""
    head = _HEAD.pack(version, entry.producer_id, entry.producer_epoch, entry.timeout_ms, entry.state)
    if entry.state is TransactionState.EMPTY:
        partitions = b"\0" if version else _INT32.pack(-1)
    else:
        partitions = yield from (_encode_compact if version else _encode_plain)(entry.partitions)
    return b"".join((head, partitions, _TIMES.pack(entry.updated_ms, entry.start_ms), _tags(entry) if version else b""))


def _encode_compact(partitions: Partitions) -> Work[bytes]:
    parts, effort = [uvarint(len(partitions) + 1)], Effort()
    for topic, indexes in partitions.items():
        name, count = topic.encode(), len(indexes)
        parts += (uvarint(len(name) + 1), name, uvarint(count + 1), (yield from _int32s(indexes)), b"\0")
        if effort.spent(2 + count // 16):
            yield
    return b"".join(parts)


def _encode_plain(partitions: Partitions) -> Work[bytes]:
    parts, effort = [_INT32.pack(len(partitions))], Effort()
    for topic, indexes in partitions.items():
        name, count = topic.encode(), len(indexes)
        parts += (_INT16.pack(len(name)), name, _INT32.pack(count), (yield from _int32s(indexes)))
        if effort.spent(2 + count // 16):
            yield
    return b"".join(parts)


def _int32s(indexes: set[int]) -> Work[bytes]:
    if len(indexes) <= SLICE:
        return struct.pack(f">{len(indexes)}i", *indexes)
    parts, left = [], iter(indexes)
    while some := tuple(islice(left, SLICE)):
        parts.append(struct.pack(f">{len(some)}i", *some))
        yield
    return b"".join(parts)


def _tags(entry: Entry) -> bytes:
    """The tagged fields that do not have their default."""
    tags = []
    if entry.previous_producer_id != NO_PRODUCER_ID:
        tags.append(_PREVIOUS_ID.pack(0, 8, entry.previous_producer_id))
    if entry.next_producer_id != NO_PRODUCER_ID:
        tags.append(_NEXT_ID.pack(1, 8, entry.next_producer_id))
    if entry.client_version:
        tags.append(_CLIENT_VERSION.pack(2, 2, entry.client_version))
    return bytes((len(tags),)) + b"".join(tags)


def decode_value(value: bytes) -> Work[Entry]:
    """What a record says. Raises ProtocolError, also for what cannot be."""
    version = _version(value)
    if not 0 <= version <= VERSION_MAX:
        raise ProtocolError(f"TransactionLogValue has no version {version}")
    found: TransactionLogValue = yield from decode_in_slices(TransactionLogValue, version, value, VERSION_SIZE)
    try:
        state = TransactionState(found.transaction_status)
    except ValueError:
        raise ProtocolError(f"there is no transaction state {found.transaction_status}") from None
    if state in NEVER_STORED or found.producer_id < 0 or found.producer_epoch < 0:
        producer = f"producer id {found.producer_id}, epoch {found.producer_epoch}"
        raise ProtocolError(f"a transaction of {producer} cannot be stored as {state.name}")
    partitions: Partitions = {}
    for each in found.transaction_partitions or ():
        partitions.setdefault(each.topic, set()).update(each.partition_ids)
        yield
    return Entry(
        state=state,
        producer_id=found.producer_id,
        producer_epoch=found.producer_epoch,
        last_epoch=NO_EPOCH,
        previous_producer_id=found.previous_producer_id,
        next_producer_id=found.next_producer_id,
        timeout_ms=found.transaction_timeout_ms,
        partitions=partitions,
        start_ms=found.transaction_start_timestamp_ms,
        updated_ms=found.transaction_last_update_timestamp_ms,
        client_version=found.client_transaction_version,
    )


def _version(data: bytes) -> int:
    return int(_INT16.unpack_from(data)[0]) if len(data) >= VERSION_SIZE else -1


def measured(partitions: Partitions) -> Work[int]:
    """How many bytes they take in a record, at most."""
    size, effort = 0, Effort()
    for topic, indexes in partitions.items():
        size += TOPIC_BYTES + len(topic) + PARTITION_BYTES * len(indexes)
        if effort.spent():
            yield
    return size
