"""Partitions of one topic on several brokers without a network: a leader and followers, driven by hand.

What a fetcher and the leader's side of a session do is done here in so many words: `fetch` is one request, its answer
and what the follower makes of it. Either may get lost.
"""

from __future__ import annotations

from typing import Any

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import build_batch
from kbroker.cluster.image import NO_LEADER, PartitionImage
from kbroker.log.log import PartitionLog
from kbroker.replication.partition import ACKS_ALL, Partition
from kbroker.testing.disk import MemoryDisk
from tests.log.tools import NOW, Worker, batches, open_log
from tests.replication.tools import TOPIC_ID

FETCH_BYTES = 1 << 20


class Session:
    """What a follower's fetches come through."""

    def __init__(self) -> None:
        self.heard_s = self.proven_s = self.answered_s = float("-inf")


class Replica:
    """One broker's partition, with its disk; killed and opened anew at will."""

    def __init__(self, node_id: int, cluster: Replicas, **config: Any) -> None:
        self.node_id = node_id
        self.cluster = cluster
        self.config = config
        self.disk = MemoryDisk(seed=node_id)
        self.session_proven = True
        self.broker_epoch = node_id
        self.news: list[Partition] = []
        self.sessions: dict[int, Session] = {}  # by the follower's id
        self.open(0)

    def open(self, high_watermark: int) -> None:
        """As a process that starts for the first time does."""
        self.begin(open_log(self.disk, **self.config), high_watermark)

    def begin(self, log: PartitionLog, high_watermark: int) -> None:
        """Hold a log that was opened."""
        self.partition = Partition(
            "orders", 0, TOPIC_ID, log, self.node_id, lambda: self.session_proven,
            liveness=lambda: self.cluster.now_s, on_isr_news=self.news.append, high_watermark=high_watermark,
        )  # fmt: skip

    @property
    def end(self) -> int:
        return self.partition.log.end.value

    @property
    def high_watermark(self) -> int:
        return self.partition.high_watermark.value

    def append(self, *values: bytes, acks: int = ACKS_ALL, **options: Any) -> int:
        """Produce a batch; its base offset."""
        made = build_batch([(NOW, b"key", value) for value in values], **options)
        return self.partition.append(made, acks, NOW).base_offset

    def records(self, bound: int | None = None) -> list[tuple[int, int, bytes | None]]:
        """(offset, leader epoch, value) of what is in the log, below an offset."""
        log = self.partition.log
        bound = log.end.value if bound is None else bound
        found: list[tuple[int, int, bytes | None]] = []
        offset = log.start_offset
        while offset < bound and (slices := log.read(offset, FETCH_BYTES, bound)):
            for header, records in batches(b"".join(piece.read() for piece in slices)):
                found += [(each.offset, header.leader_epoch, each.value) for each in records]
                offset = header.next_offset
        return found

    def settle(self) -> None:
        """Finish a truncation."""
        trio.run(self.partition.log.settle, Worker())


class Replicas:
    """Some brokers with a replica each. The image is what the cluster has agreed on."""

    def __init__(self, *node_ids: int, **config: Any) -> None:
        self.now_s = 100.0
        self.all = {node_id: Replica(node_id, self, **config) for node_id in node_ids}
        self.image = PartitionImage(TOPIC_ID, 0, node_ids, node_ids, NO_LEADER, -1, 0)

    def __getitem__(self, node_id: int) -> Replica:
        return self.all[node_id]

    def change(self, *, tell: bool = True, **changes: Any) -> None:
        """Let the cluster agree on something else; a change of leader is a new leader epoch."""
        fields = {name: getattr(self.image, name) for name in ("replicas", "isr", "leader", "leader_epoch", "elr")}
        fields |= {"topic_id": TOPIC_ID, "index": 0, "partition_epoch": self.image.partition_epoch + 1}
        fields["mod_revision"] = self.image.mod_revision + 1
        fields["leader_epoch"] += "leader" in changes
        self.image = PartitionImage(**fields | changes)
        for replica in self.all.values() if tell else ():
            self.tell(replica)

    def tell(self, replica: Replica) -> None:
        """Let a broker learn the image, as the replica manager does."""
        if self.image.leader == replica.node_id:
            replica.partition.lead(self.image)
        else:
            replica.partition.follow(self.image)

    def fetch(self, follower: Replica, leader: Replica, *, max_bytes: int = FETCH_BYTES, is_lost: bool = False) -> None:
        """One fetch: a request that arrives, and an answer that may get lost."""
        offset, epoch = follower.partition.fetch_position()
        leader_epoch = follower.partition.leader_epoch
        answer = self.answer(follower, leader, offset, epoch, leader_epoch, max_bytes)
        if not is_lost:
            self.take(follower, leader_epoch, answer)

    def answer(
        self, follower: Replica, leader: Replica, offset: int, epoch: int, leader_epoch: int, max_bytes: int
    ) -> tuple[Any, ...]:
        """The leader's side."""
        partition = leader.partition
        session = leader.sessions.setdefault(follower.node_id, Session())
        partition.check_follower(follower.node_id, leader_epoch)
        try:
            parted = None if epoch < 0 else partition.parting(offset, leader_epoch, epoch, as_replica=True)
            if parted is not None:
                return "diverged", *parted
            partition.read_as_replica(offset, 0, leader_epoch, at_least_one=False)  # for its checks
            session.heard_s, session.proven_s = self.now_s, session.answered_s
            start = follower.partition.log.start_offset
            partition.note_fetch(follower.node_id, follower.broker_epoch, offset, self.now_s, session, start)
        except KafkaError as error:
            if error.code is not ErrorCode.OFFSET_OUT_OF_RANGE:
                raise
            return "out of range", partition.log.start_offset, partition.log.end.value
        found = partition.read_as_replica(offset, max_bytes, leader_epoch)
        session.answered_s = self.now_s
        records = b"".join(piece.read() for piece in found.slices)
        return "records", records, found.high_watermark, found.log_start_offset

    def take(self, follower: Replica, leader_epoch: int, answer: tuple[Any, ...]) -> None:
        """The follower's side."""
        partition = follower.partition
        match answer:
            case "records", records, high_watermark, log_start:
                partition.append_from_leader(records, leader_epoch, high_watermark, log_start, NOW)
            case "diverged", epoch, end_offset:
                partition.diverged(leader_epoch, epoch, end_offset)
            case "out of range", start, end:
                if start > partition.log.end.value:
                    partition.start_over(leader_epoch, start)
                else:
                    partition.diverged(leader_epoch, -1, end)
        follower.settle()

    def sync(self) -> None:
        """All live followers fetch until they have all there is, and know what is committed."""
        leader = self.all[self.image.leader]
        for _ in range(20):
            for replica in self.all.values():
                if replica is not leader:
                    self.fetch(replica, leader)
