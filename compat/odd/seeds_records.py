"""Probes written by hand: produce, fetch, offsets, producer ids.

To add one, yield it: `single` for one request in some versions, followed by what its API looks at afterwards
(`sensible.py`), `Probe` for any steps. Then `python compat/odd/run.py --kafka` takes down what Apache Kafka answers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any
from zlib import crc32

from sensible import SENSIBLE, look_at_offsets, look_at_records, single
from stage import BATCHES, TIME
from steps import Probe, Step, id_of

from kafka_wire.api import ApiKey
from kafka_wire.messages import offsets as lo
from kafka_wire.messages import produce_fetch as pf
from kafka_wire.messages import transactions as x
from kafka_wire.primitives import crc32c
from kafka_wire.records import RecordLike, build_batch

NO_ID = bytes(16)
UNKNOWN_ID = b"\x22" * 16


def probes() -> Iterator[Probe]:
    """All of them."""
    yield from _produce()
    yield from _sequences()
    yield from _fetch()
    yield from _offsets()
    yield from _producer_ids()


def batch(records: list[RecordLike] | None = None, behind: bytes = b"", **header: Any) -> bytes:
    """A batch with true records and what is asked for in its header, its length and CRC made true again."""
    builds = {
        key: header.pop(key) for key in ("compression", "transactional", "control", "producer_id") if key in header
    }
    some: list[RecordLike] = records or [(TIME + n, b"key", b"value") for n in range(3)]
    made = bytearray(build_batch(some, **builds)) + behind
    struct.pack_into(">i", made, 8, len(made) - 12)
    places = {
        "base_offset": (">q", 0), "leader_epoch": (">i", 12), "magic": (">b", 16), "attributes": (">h", 21),
        "last_offset_delta": (">i", 23), "base_timestamp": (">q", 27), "max_timestamp": (">q", 35),
        "producer_epoch": (">h", 51), "base_sequence": (">i", 53), "count": (">i", 57), "length": (">i", 8),
    }  # fmt: skip
    for name, value in header.items():
        struct.pack_into(places[name][0], made, places[name][1], value)
    struct.pack_into(">I", made, 17, crc32c(memoryview(made)[21:]))
    return bytes(made)


ODD_BATCHES = {
    "max_timestamp -1": batch(max_timestamp=-1),
    "max_timestamp 0": batch(max_timestamp=0),
    "max_timestamp below the base": batch(max_timestamp=TIME - 1),
    "max_timestamp between the records'": batch(max_timestamp=TIME + 1),
    "max_timestamp above the records'": batch(max_timestamp=TIME + 1000),
    "base_timestamp -1": batch(base_timestamp=-1),
    "times -1": batch([(-1, b"k", b"v"), (-1, b"k", b"v")]),
    "a time below -1": batch([(-5, b"k", b"v")]),
    "time 0": batch([(0, b"k", b"v")]),
    "a time out of order": batch([(TIME + 5, b"k", b"v"), (TIME, b"k", b"v")]),
    "max_timestamp -1, gzip": batch(compression=1, max_timestamp=-1),
    "count 2 of 3": batch(count=2),
    "count 4 of 3": batch(count=4),
    "count 0": batch(count=0),
    "count -1": batch(count=-1),
    "last_offset_delta 1 of 2": batch(last_offset_delta=1),
    "last_offset_delta 5 of 2": batch(last_offset_delta=5),
    "last_offset_delta -1": batch(last_offset_delta=-1),
    "count and delta 2 of 3": batch(count=2, last_offset_delta=1),
    "count and delta 4 of 3": batch(count=4, last_offset_delta=3),
    "bytes behind its records": batch(behind=b"\x00\x01\x02"),
    "a zero byte behind its records": batch(behind=b"\x00"),
    "gzip that is no gzip": batch(attributes=1),
    "snappy that is no snappy": batch(attributes=2),
    "lz4 that is no lz4": batch(attributes=3),
    "zstd that is no zstd": batch(attributes=4),
    "plain that is gzip": batch(compression=1, attributes=0),
    "gzip with bytes behind": batch(compression=1, behind=b"more"),
    "gzip count 2 of 3": batch(compression=1, count=2, last_offset_delta=1),
    "gzip count 4 of 3": batch(compression=1, count=4, last_offset_delta=3),
    "codec 5": batch(attributes=5),
    "codec 7": batch(attributes=7),
    "the log append time flag": batch(attributes=8),
    "unknown attributes": batch(attributes=0x100),
    "a delete horizon": batch(attributes=0x40),
    "a control batch": batch(attributes=0x20),
    "a transactional batch": batch(attributes=0x10),
    "magic 1": batch(magic=1),
    "magic 0": batch(magic=0),
    "magic 3": batch(magic=3),
    "magic -1": batch(magic=-1),
    "a wrong crc": batch()[:17] + bytes(4) + batch()[21:],
    "base offset 7": batch(base_offset=7),
    "base offset -1": batch(base_offset=-1),
    "leader epoch 7": batch(leader_epoch=7),
    "a length too small": batch(length=20),
    "a length too large": batch(length=10_000),
    "a length of -1": batch(length=-1),
    "a producer without a sequence": batch(producer_id=5, producer_epoch=0, base_sequence=-1),
    "a producer without an epoch": batch(producer_id=5, producer_epoch=-1, base_sequence=0),
    "a producer that begins at 5": batch(producer_id=5, producer_epoch=0, base_sequence=5),
    "a producer as it should be": batch(producer_id=5, producer_epoch=0, base_sequence=0),
    "a sequence without a producer": batch(base_sequence=4),
    "a header without a key": batch([(TIME, b"k", b"v", [("", b"x")])]),
    "a record of nothing": batch([(TIME, None, None)]),
    "a payload of zeros": batch()[:61] + bytes(len(batch()) - 61),
}


def _produced(
    records: Any, topic: str = "own-@", partition: int = 0, acks: int = -1, **fields: Any
) -> pf.ProduceRequest:
    data = [pf.PartitionProduceData(index=partition, records=records)]
    wanted = [pf.TopicProduceData(name=topic, partition_data=data)]
    return pf.ProduceRequest(acks=acks, timeout_ms=5000, topic_data=wanted, **fields)


def _produce() -> Iterator[Probe]:
    for label, data in ODD_BATCHES.items():
        yield from single(label, _produced(data), 11)
    for label in ("count 4 of 3", "max_timestamp -1", "gzip that is no gzip", "magic 1", "a control batch"):
        yield from single(label, _produced(ODD_BATCHES[label]), 3, 7, 8)
        yield from single(f"{label}, acks 0", _produced(ODD_BATCHES[label], acks=0), 9)
        yield from single(f"{label}, acks 1", _produced(ODD_BATCHES[label], acks=1), 9)
    for topic in ("compact-@", "stamped-@", "fresh-@"):
        looks = (look_at_records(topic), *look_at_offsets(topic, -1, -3))
        keyless: list[RecordLike] = [(TIME, b"k", b"v"), (TIME, None, b"v"), (TIME, b"k", b"v"), (TIME, None, b"v")]
        for label, data in {
            "null keys": batch(keyless),
            "null keys, gzip": batch(keyless, compression=1),
            "max_timestamp -1": batch(max_timestamp=-1),
            "times -1": batch([(-1, b"k", b"v")]),
            "one time out of bounds": batch([(4 * TIME, b"k", b"v"), (TIME, b"k", b"v")]),
            "the log append time flag": batch(attributes=8),
            "as it should be": batch(),
        }.items():
            yield from single(f"{topic} {label}", _produced(data, topic), 9, after=looks)
    future: list[RecordLike] = [(TIME, b"k", b"v"), (4 * TIME, b"k", b"v")]
    yield from single("a time in the far future", _produced(batch(future)), 9)
    yield from single("a time in the far future, gzip", _produced(batch(future, compression=1)), 9)
    for acks in (-2, 2, 3, 32767):
        yield from single(f"acks {acks} to an unknown topic", _produced(BATCHES[0], "unknown-@", acks=acks), 9)
    yield from single("acks 0 to an unknown topic", _produced(BATCHES[0], "unknown-@", acks=0), 9)
    yield from single("acks 0", _produced(BATCHES[0], acks=0), 3, 9)
    yield from single("a transactional id", _produced(BATCHES[0], transactional_id="odd"), 9)
    yield from single("to partition 7", _produced(BATCHES[0], partition=7), 3, 9)
    yield from single("to partition -1", _produced(BATCHES[0], partition=-1), 9)
    yield from single("an old message set", _produced(_old_message_set(1)), 3, 9)
    yield from single("an older message set", _produced(_old_message_set(0)), 3, 9)
    parts = [pf.PartitionProduceData(index=0, records=BATCHES[0]), pf.PartitionProduceData(index=1, records=b"x" * 80)]
    mixed = pf.ProduceRequest(
        acks=-1, timeout_ms=5000, topic_data=[pf.TopicProduceData(name="own-@", partition_data=parts)]
    )
    yield from single("a bad partition beside a good one", mixed, 3, 9)
    none = pf.ProduceRequest(
        acks=-1, timeout_ms=5000, topic_data=[pf.TopicProduceData(name="own-@", partition_data=[])]
    )
    yield from single("no partitions", none, 9)
    yield from single("no topics", pf.ProduceRequest(acks=-1, timeout_ms=5000, topic_data=[]), 3, 9)


def _old_message_set(magic: int) -> bytes:
    """One message of the formats before 0.11, its CRC true."""
    content = struct.pack(">bb", magic, 0) + (struct.pack(">q", TIME) if magic else b"")
    content += struct.pack(">i", 3) + b"key" + struct.pack(">i", 5) + b"value"
    message = struct.pack(">I", crc32(content)) + content
    return struct.pack(">qi", 0, len(message)) + message


def _sequences() -> Iterator[Probe]:
    """Two batches of one producer, the second odd."""

    def numbered(sequence: int, epoch: int = 0, size: int = 3) -> Step:
        some: list[RecordLike] = [(TIME + n, b"key", b"value") for n in range(size)]
        return Step(_produced(batch(some, producer_id=77, producer_epoch=epoch, base_sequence=sequence)), 9)

    for label, second in {
        "again": numbered(0),
        "next": numbered(3),
        "a gap": numbered(9),
        "back": numbered(1),
        "in the middle of it": numbered(1, size=2),
        "a new epoch": numbered(0, 1),
        "a new epoch that begins at 3": numbered(3, 1),
        "an old epoch": numbered(3, -1),
    }.items():
        looks = SENSIBLE[ApiKey.PRODUCE].after
        yield Probe(f"Produce v9: a producer's second batch: {label}", (numbered(0), second, *looks))
    later = (numbered(0, 5), numbered(3, 4), numbered(0, 4))
    yield Probe("Produce v9: a producer's older epoch", later)


# -- fetch and offsets -------------------------------------------------------------------------------------------------


def _fetch() -> Iterator[Probe]:
    def fetched(*partitions: tuple[int, int], topic: str = "three", **fields: Any) -> pf.FetchRequest:
        limits = {"partition_max_bytes": fields.pop("partition_max_bytes", 1 << 20)}
        limits |= {key: fields.pop(key) for key in ("current_leader_epoch", "last_fetched_epoch") if key in fields}
        parts = [pf.FetchPartition(partition=index, fetch_offset=offset, **limits) for index, offset in partitions]
        wanted = [pf.FetchTopic(topic=topic, topic_id=fields.pop("topic_id", id_of(topic)), partitions=parts)]
        return pf.FetchRequest(max_wait_ms=50, min_bytes=1, topics=wanted, **fields)

    for offset in (-2, -1, 0, 3, 4, 5, 8, 9, 10, 11, 2**63 - 1):
        yield from single(f"from {offset}", fetched((0, offset)), 4, 12, 17)
    yield from single("a partition twice", fetched((0, 4), (0, 9)), 4, 12, 17)
    yield from single("partitions good, unknown and out of range", fetched((0, 4), (9, 0), (1, 7)), 4, 12, 17)
    yield from single("an unknown ID", fetched((0, 0), topic_id=UNKNOWN_ID), 13, 17)
    yield from single("no ID", fetched((0, 0), topic_id=NO_ID), 13, 17)
    for limit in (-1, 0, 1, 100):
        yield from single(f"partition_max_bytes {limit}", fetched((0, 4), (1, 0), partition_max_bytes=limit), 4, 12)
        yield from single(f"max_bytes {limit}", fetched((0, 4), (1, 0), max_bytes=limit), 4, 12)
    for epoch in (-2, 0, 1, 7):
        yield from single(f"current leader epoch {epoch}", fetched((0, 4), current_leader_epoch=epoch), 11, 12)
        yield from single(f"last fetched epoch {epoch}", fetched((0, 5), last_fetched_epoch=epoch), 12, 17)
        yield from single(f"last fetched epoch {epoch} at the end", fetched((0, 10), last_fetched_epoch=epoch), 12)
    for level in (-1, 1, 2):
        yield from single(f"isolation level {level}", fetched((0, 4), isolation_level=level), 4, 12)
    for replica in (-3, -2, 0, 1, 5):
        yield from single(f"replica {replica}", fetched((0, 4), replica_id=replica), 4, 12)
    state = pf.ReplicaState(replica_id=5, replica_epoch=1)
    yield from single("replica 5 with an epoch", fetched((0, 4), replica_state=state), 15, 17)
    yield from single("a rack", fetched((0, 4), rack_id="r1"), 11, 12)
    yield from single("another cluster's id", fetched((0, 4), cluster_id="other"), 12)
    for session, epoch in ((0, 1), (1, 0), (1, 1), (1, -1), (7, 5), (0, 0), (-1, 0), (-1, 1), (0, -2)):
        yield from single(
            f"session {session} epoch {epoch}", fetched((0, 4), session_id=session, session_epoch=epoch), 7, 12
        )
    yield from single("no topics", pf.FetchRequest(max_wait_ms=20, min_bytes=0, topics=[]), 4, 12, 17)
    forgotten = [pf.ForgottenTopic(topic="three", topic_id=id_of("three"), partitions=[0])]
    yield from single(
        "a forgotten partition without a session", fetched((0, 4), forgotten_topics_data=forgotten), 7, 13
    )


def _offsets() -> Iterator[Probe]:
    def listed(*partitions: tuple[int, int], topic: str = "three", **fields: Any) -> lo.ListOffsetsRequest:
        epoch = fields.pop("current_leader_epoch", -1)
        parts = [
            lo.ListOffsetsPartition(partition_index=index, timestamp=time, current_leader_epoch=epoch)
            for index, time in partitions
        ]
        wanted = [lo.ListOffsetsTopic(name=topic, partitions=parts)]
        return lo.ListOffsetsRequest(replica_id=fields.pop("replica_id", -1), topics=wanted, timeout_ms=5000, **fields)

    for time in (-1, -2, -3, -4, -5, -6, -7, -100):
        yield from single(f"timestamp {time}", listed((0, time)), 1, 5, 6, 7, 8, 9, 10)
    for after in (-10_000, -1, 0, 1, 500, 3999, 4000, 4001, 8999, 9000, 9001):
        yield from single(f"timestamp {after:+} ms", listed((0, TIME + after)), 1, 7)
    for time in (0, 1, 2**63 - 1, -(2**63)):
        yield from single(f"timestamp {time}", listed((0, time), (1, time), (2, time)), 1, 10)
    yield from single("an empty partition", listed((2, -1), (2, -2)), 7)
    yield from single("an empty partition's last time", listed((2, -3)), 7)
    yield from single("a partition twice", listed((0, -1), (0, -2)), 1, 7)
    yield from single("a partition twice beside a good one", listed((0, -1), (0, -2), (1, -1)), 7)
    yield from single("unknown partitions", listed((0, -1), (9, -1), (-1, -1)), 1, 7)
    yield from single("an unknown topic", listed((0, -1), topic="unknown"), 1, 7)
    for epoch in (-2, 0, 1, 9):
        yield from single(f"current leader epoch {epoch}", listed((0, -1), current_leader_epoch=epoch), 4, 7)
    for replica in (-3, -2, 0, 1, 5):
        yield from single(f"replica {replica}", listed((0, -1), (0, TIME), replica_id=replica), 1, 7)
        yield from single(f"one partition for replica {replica}", listed((1, -1), replica_id=replica), 7)
    for level in (-1, 1, 2):
        yield from single(f"isolation level {level}", listed((0, -1), isolation_level=level), 2, 7)

    def epochs(*partitions: tuple[int, int, int], topic: str = "three", replica: int = -1) -> Any:
        parts = [
            lo.OffsetForLeaderPartition(partition=index, current_leader_epoch=current, leader_epoch=epoch)
            for index, current, epoch in partitions
        ]
        wanted = [lo.OffsetForLeaderTopic(topic=topic, partitions=parts)]
        return lo.OffsetForLeaderEpochRequest(replica_id=replica, topics=wanted)

    for current in (-1, 0, 1):
        for epoch in (-2, -1, 0, 1, 9, 2**31 - 1):
            yield from single(f"epoch {epoch} current {current}", epochs((0, current, epoch)), 2, 4)
    yield from single("an empty partition", epochs((2, -1, 0), (2, 0, 5)), 4)
    yield from single("a partition twice", epochs((0, -1, 0), (0, -1, 3)), 4)
    yield from single("unknown partitions", epochs((9, -1, 0), (-1, -1, 0), (0, -1, 0)), 4)
    yield from single("an unknown topic", epochs((0, -1, 0), topic="unknown"), 4)
    for replica in (-3, -2, 0, 5):
        yield from single(f"replica {replica}", epochs((0, -1, 0), replica=replica), 3, 4)


def _producer_ids() -> Iterator[Probe]:
    for producer, epoch in ((-1, -1), (-1, 0), (0, -1), (5, 0), (5, 32767), (-2, -2), (2**63 - 1, 0)):
        request = x.InitProducerIdRequest(
            transactional_id=None, transaction_timeout_ms=60_000, producer_id=producer, producer_epoch=epoch
        )
        yield from single(f"producer {producer} epoch {epoch}", request, 3, 5)
    for timeout in (-1, 0, 2**31 - 1):
        request = x.InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=timeout)
        yield from single(f"timeout {timeout}", request, 0, 5)
