"""Probes written by hand: transactions, of producers and of those who look at them.

Most begin with open-@ (`stage.py`), whose transaction gets a record in partition 0 of own-@, and speak of it in several
requests in a row: what is odd is the order, the epoch, or who speaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sensible import look_at_commits, look_at_transaction
from stage import BATCHES, TIME
from steps import Probe, Ref, Step, id_of, producer_of

from kafka_wire.messages import group_offsets as o
from kafka_wire.messages import internal as i
from kafka_wire.messages import offsets as lo
from kafka_wire.messages import produce_fetch as pf
from kafka_wire.messages import transactions as x
from kafka_wire.records import build_batch

STATE, COMMITS = "__transaction_state", "__consumer_offsets"
PRODUCER: Any = producer_of("open-@")
EPOCH = 0
FIRST_BATCH: Any = Ref("batch 0 of open-@")
NEXT_BATCH: Any = Ref("batch 1 of open-@")
NEW_EPOCH: Any = Ref("epoch of its successor")
NEW_PRODUCER: Any = Ref("producer of its successor")


def probes() -> Iterator[Probe]:
    """All of them."""
    yield from _begin()
    yield from _produce()
    yield from _end()
    yield from _fence()
    yield from _markers()
    yield from _offsets()


# -- what it came to ---------------------------------------------------------------------------------------------------


def look_at_stable(topic: str, partition: int = 0) -> Step:
    """How far committed records may be read."""
    ends = lo.ListOffsetsPartition(partition_index=partition, timestamp=-1)
    topics = [lo.ListOffsetsTopic(name=topic, partitions=[ends])]
    return Step(lo.ListOffsetsRequest(replica_id=-1, isolation_level=1, topics=topics), 7)


def look_at_producers(topic: str, partition: int = 0) -> Step:
    asked = [x.DescribeProducersTopic(name=topic, partition_indexes=[partition])]
    return Step(x.DescribeProducersRequest(topics=asked), 0)


def look_at_stable_commits(name: str = "group-@") -> Step:
    """Of those that a transaction may change: none."""
    asked = [o.OffsetFetchRequestGroup(group_id=name, topics=None)]
    return Step(o.OffsetFetchRequest(groups=asked, require_stable=True), 8)


# -- requests ----------------------------------------------------------------------------------------------------------


def init(name: str | None = "open-@", timeout_ms: int = 60_000, producer: Any = -1, epoch: Any = -1) -> Any:
    return x.InitProducerIdRequest(
        transactional_id=name, transaction_timeout_ms=timeout_ms, producer_id=producer, producer_epoch=epoch
    )


def add(*places: tuple[str, int], producer: Any = PRODUCER, epoch: Any = EPOCH, name: str = "open-@") -> Any:
    topics = [x.AddPartitionsToTxnTopic(name=topic, partitions=[index]) for topic, index in places]
    return x.AddPartitionsToTxnRequest(
        v3_and_below_transactional_id=name, v3_and_below_producer_id=producer, v3_and_below_producer_epoch=epoch,
        v3_and_below_topics=topics,
    )  # fmt: skip


def ask(*places: tuple[str, int], verify: bool, producer: Any = PRODUCER, epoch: Any = EPOCH) -> Any:
    topics = [x.AddPartitionsToTxnTopic(name=topic, partitions=[index]) for topic, index in places]
    wanted = x.AddPartitionsToTxnTransaction(
        transactional_id="open-@", producer_id=producer, producer_epoch=epoch, verify_only=verify, topics=topics
    )
    return x.AddPartitionsToTxnRequest(transactions=[wanted])


def end(commit: bool = True, *, producer: Any = PRODUCER, epoch: Any = EPOCH, name: str = "open-@") -> Any:
    return x.EndTxnRequest(transactional_id=name, producer_id=producer, producer_epoch=epoch, committed=commit)


def produce(records: Any = NEXT_BATCH, partition: int = 0, name: str | None = "open-@", acks: int = -1) -> Any:
    data = [pf.PartitionProduceData(index=partition, records=records)]
    topic = pf.TopicProduceData(name="own-@", topic_id=id_of("own-@"), partition_data=data)
    return pf.ProduceRequest(acks=acks, timeout_ms=5000, transactional_id=name, topic_data=[topic])


def batch(producer: int = 987_654, epoch: int = 0, sequence: int = 0, *, transactional: bool = True) -> bytes:
    """Of a producer that nobody knows."""
    return bytes(
        build_batch(
            [(TIME, b"key", b"value")], transactional=transactional, producer_id=producer, producer_epoch=epoch,
            base_sequence=sequence,
        )
    )  # fmt: skip


def marker(
    *places: tuple[str, int], producer: Any = PRODUCER, epoch: Any = EPOCH, commit: bool = False, coordinator: int = 0,
    version: int = 0,
) -> Any:  # fmt: skip
    topics = [i.WritableTxnMarkerTopic(name=topic, partition_indexes=[index]) for topic, index in places]
    return i.WritableTxnMarker(
        producer_id=producer, producer_epoch=epoch, transaction_result=commit, topics=topics,
        coordinator_epoch=coordinator, transaction_version=version,
    )  # fmt: skip


def write(*markers: Any) -> Any:
    return i.WriteTxnMarkersRequest(markers=list(markers))


OWN = ("own-@", 0)
SUCCESSOR = Step(
    init(), 4, keep={"producer of its successor": "producer_id", "epoch of its successor": "producer_epoch"}
)  # aborts the transaction
LOOKS = (look_at_transaction("open-@"), look_at_stable("own-@"), look_at_producers("own-@"))


# -- probes ------------------------------------------------------------------------------------------------------------


def row(title: str, *steps: Step) -> Probe:
    """A record in the transaction, steps, and a look at what they came to."""
    return Probe(title, (Step(produce(FIRST_BATCH), 11), *steps, *LOOKS))


def _begin() -> Iterator[Probe]:
    """InitProducerId."""
    for title, producer, epoch in (
        ("itself", PRODUCER, EPOCH),
        ("a later epoch", PRODUCER, 7),
        ("an epoch of -1", PRODUCER, -1),
        ("the last epoch", PRODUCER, 32767),
        ("another producer", 987_654, EPOCH),
    ):
        for version in (3, 4, 5):
            yield row(f"InitProducerId v{version}: as {title}, amid a transaction",
                      Step(init("open-@", 60_000, producer, epoch), version))  # fmt: skip
    for version in range(6):
        yield row(f"InitProducerId v{version}: amid a transaction", Step(init(), version), Step(init(), version))


def _produce() -> Iterator[Probe]:
    for version in (3, 9, 10, 11, 12, 13):
        yield row(f"Produce v{version}: in a transaction", Step(produce(), version))
        yield row(f"Produce v{version}: in a transaction, to a partition that was not added",
                  Step(produce(partition=1), version))  # fmt: skip
    for version in (9, 11, 12):
        at = f"Produce v{version}: in a transaction,"
        yield row(f"{at} without a transactional id", Step(produce(name=None), version))
        yield row(f"{at} with an unknown transactional id", Step(produce(partition=1, name="unknown-@"), version))
        yield row(f"{at} with an empty transactional id", Step(produce(partition=1, name=""), version))
        yield row(f"{at} of an unknown producer", Step(produce(batch()), version))
        yield row(f"{at} of an unknown producer, elsewhere", Step(produce(batch(), 1), version))
        yield row(f"{at} to an unknown partition", Step(produce(partition=7), version))
        yield row(f"{at} acks 0", Step(produce(acks=0), version))
        yield row(f"{at} acks 1", Step(produce(acks=1), version))
        yield row(f"{at} acks 5", Step(produce(acks=5), version))
        yield row(f"{at} twice", Step(produce(), version), Step(produce(), version))
        yield row(f"{at} after its end", Step(end(), 3), Step(produce(), version))
        yield row(f"{at} after its abort, and a commit", Step(end(False), 3), Step(produce(), version), Step(end(), 3))
        yield row(f"{at} of its successor", SUCCESSOR, Step(produce(), version))
        yield row(f"Produce v{version}: a plain batch with a transactional id", Step(produce(BATCHES[0]), version))
        two = produce()
        two.topic_data[0].partition_data.append(pf.PartitionProduceData(index=1, records=batch()))
        yield row(f"{at} of two producers", Step(two, version))
        mixed = produce()
        mixed.topic_data[0].partition_data.append(pf.PartitionProduceData(index=1, records=BATCHES[0]))
        yield row(f"{at} beside a plain batch", Step(mixed, version))


def _end() -> Iterator[Probe]:
    for version in range(6):
        at = f"EndTxn v{version}:"
        yield row(f"{at} abort", Step(end(False), version))
        yield row(f"{at} commit, twice", Step(end(), version), Step(end(), version))
        yield row(f"{at} abort, twice", Step(end(False), version), Step(end(False), version))
        yield row(f"{at} commit, then abort", Step(end(), version), Step(end(False), version))
        yield row(f"{at} abort, then commit", Step(end(False), version), Step(end(), version))
        yield row(f"{at} of its successor", SUCCESSOR, Step(end(), version))
        yield row(f"{at} a successor without a transaction", SUCCESSOR,
                  Step(end(producer=NEW_PRODUCER, epoch=NEW_EPOCH), version))  # fmt: skip
        yield row(f"{at} of another epoch", Step(end(epoch=7), version))
        yield row(f"{at} of another producer", Step(end(producer=987_654), version))
    for version in range(4):
        at = f"AddPartitionsToTxn v{version}:"
        yield row(f"{at} after the end", Step(end(), 3), Step(add(OWN), version))
        yield row(f"{at} what is there", Step(add(OWN), version))
        yield row(f"{at} one that is unknown", Step(add(OWN, ("own-@", 1), ("unknown-@", 0)), version))
        yield row(f"{at} of another epoch", Step(add(OWN, epoch=7), version))
        yield row(f"{at} of another producer", Step(add(OWN, producer=987_654), version))
        yield row(f"{at} of its successor", SUCCESSOR, Step(add(OWN), version))
        yield row(f"{at} nothing", Step(add(), version))
        yield row(f"{at} the broker's own", Step(add((COMMITS, 0), (STATE, 0)), version))
    for version in (4, 5):
        for verify in (False, True):
            at = f"AddPartitionsToTxn v{version}, {'verified' if verify else 'added'}:"
            yield row(f"{at} what is there", Step(ask(OWN, verify=verify), version))
            yield row(f"{at} what is not", Step(ask(OWN, ("own-@", 1), verify=verify), version))
            yield row(f"{at} one that is unknown", Step(ask(OWN, ("unknown-@", 0), verify=verify), version))
            yield row(f"{at} after the end", Step(end(), 3), Step(ask(OWN, verify=verify), version))
            yield row(f"{at} of another epoch", Step(ask(OWN, verify=verify, epoch=7), version))
            yield row(f"{at} of another producer", Step(ask(OWN, verify=verify, producer=987_654), version))


def _fence() -> Iterator[Probe]:
    """Whole lives."""
    for version in (11, 12):
        yield row(f"Produce v{version}: the next transaction",
                  Step(end(), 3), Step(add(OWN), 3), Step(produce(), version), Step(end(False), 3))  # fmt: skip
        yield row(f"Produce v{version}: a transaction after one of version 2",
                  Step(end(), 5, keep={"epoch of its successor": "producer_epoch"}), Step(produce(), version),
                  Step(end(epoch=NEW_EPOCH), 5))  # fmt: skip
    yield row("EndTxn v5: retried", Step(end(), 5), Step(end(), 5))
    yield row("EndTxn v5: retried, the other way", Step(end(), 5), Step(end(False), 5))
    yield row("EndTxn v5: an empty transaction, aborted",
              Step(end(), 5, keep={"epoch of its successor": "producer_epoch"}),
              Step(end(False, epoch=NEW_EPOCH), 5))  # fmt: skip


def _markers() -> Iterator[Probe]:
    for version in (1, 2):
        at = f"WriteTxnMarkers v{version}:"
        yield row(f"{at} commit", Step(write(marker(OWN, commit=True)), version))
        yield row(f"{at} abort, then commit", Step(write(marker(OWN)), version), Step(end(), 3))
        yield row(f"{at} an older epoch", Step(write(marker(OWN, epoch=-1)), version))
        yield row(f"{at} a later epoch", Step(write(marker(OWN, epoch=9)), version), Step(produce(), 11))
        yield row(f"{at} an unknown producer", Step(write(marker(OWN, producer=987_654, epoch=3)), version))
        yield row(f"{at} an older coordinator", Step(write(marker(OWN, coordinator=5)), version),
                  Step(write(marker(OWN, coordinator=4)), version))  # fmt: skip
        yield row(f"{at} a coordinator of -1", Step(write(marker(OWN, coordinator=-1)), version))
        yield row(f"{at} unknown places", Step(write(marker(("own-@", 7), ("unknown-@", 0))), version))
        yield row(f"{at} known and unknown places", Step(write(marker(OWN, ("own-@", 7))), version))
        yield row(f"{at} two of one producer",
                  Step(write(marker(OWN), marker(("own-@", 1), commit=True)), version))  # fmt: skip
        yield row(f"{at} nothing", Step(write(), version))
        yield row(f"{at} no places", Step(write(marker()), version))
        yield row(f"{at} of committed offsets", Step(write(marker((COMMITS, 0))), version))
    for level in (1, 2, 3):
        yield row(f"WriteTxnMarkers v2: of transaction version {level}", Step(write(marker(OWN, version=level)), 2))
        yield row(f"WriteTxnMarkers v2: of transaction version {level}, its epoch",
                  Step(write(marker(OWN, epoch=1, version=level)), 2))  # fmt: skip


def _offsets() -> Iterator[Probe]:
    commits = (look_at_commits("group-@"), look_at_stable_commits())
    for version in range(6):
        at = f"TxnOffsetCommit v{version}:"
        yield Probe(f"{at} committed", (Step(commit(), version), *commits, Step(end(), 3), *commits))
        yield Probe(f"{at} aborted", (Step(commit(), version), Step(end(False), 3), *commits))
        yield Probe(f"{at} of another epoch", (Step(commit(epoch=7), version), *commits))
        yield Probe(f"{at} of another producer", (Step(commit(producer=987_654), version), *commits))
        yield Probe(f"{at} of another group", (Step(commit(group="other-@"), version), *commits))
        yield Probe(f"{at} after the end", (Step(end(), 3), Step(commit(), version), *commits))
        yield Probe(f"{at} of its successor", (SUCCESSOR, Step(commit(), version), *commits))
    for version in (3, 4, 5):
        for title, fields in (
            ("a generation that is none", {"generation_id": 3}),
            ("a member that is none", {"generation_id": 1, "member_id": "nobody"}),
            ("an instance that is none", {"generation_id": 1, "member_id": "nobody", "group_instance_id": "none"}),
        ):
            yield Probe(f"TxnOffsetCommit v{version}: {title}", (Step(commit(**fields), version), *commits))


def commit(producer: Any = PRODUCER, epoch: Any = EPOCH, group: str = "group-@", **fields: Any) -> Any:
    part = x.TxnOffsetCommitRequestPartition(partition_index=0, committed_offset=8, committed_metadata="m")
    topics = [x.TxnOffsetCommitRequestTopic(name="one", partitions=[part])]
    return x.TxnOffsetCommitRequest(
        transactional_id="open-@", group_id=group, producer_id=producer, producer_epoch=epoch, topics=topics, **fields
    )
