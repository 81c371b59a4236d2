"""The leader's side of fetch sessions with followers (KIP-227): what each follower has, and what is news to it.

    named in a request ──▶ Followed ── the log's end moves ──▶ news ── answered ──▶ quiet, until it is named again
                               │
                               └────── the high watermark or the log's start moves ──▶ stale: told with the next answer

There is one session for a follower broker, in its broker epoch. A partition in it hangs one bell on its log's end and
on its high watermark, so a session of ten thousand idle partitions costs a request nothing: what has news has rung. A
follower that has been sent records names the partition again when it has them; all it does not name is as it was. A
high watermark alone wakes no follower that waits (KAFKA-9731), unless consumers read from followers.

A partition that cannot be served leaves the session when the follower has been told why. (Kafka: FetchSession, which
looks at each partition of the session in each request.)

Where a leadership begins, its followers are hurried: they hear of it about now, and one that waits for news of other
partitions could not ask for this one, and have what is appended here acknowledged, before its wait is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.replication.fetcher import EPOCH_MAX, Key
from kbroker.replication.followers import NEVER
from kbroker.replication.partition import Partition
from kbroker.turns import Work
from kbroker.watermark import Bell, Watermark

LEAVES_A_PAUSE = 32
HURRY_S, HURRIED_WAIT_S = 1.0, 0.02  # how long followers are hurried, and may wait meanwhile


class Followed:
    """One partition in a follower's session. A bell: it notes what rings."""

    __slots__ = (
        "key", "partition", "offset", "leader_epoch", "bytes_max", "_session", "_end", "_high_watermark", "told",
        "told_start",
    )  # fmt: skip

    def __init__(self, session: ReplicaSession, key: Key, partition: Partition) -> None:
        self.key = key
        self.partition = partition
        self.offset = 0  # up to where the follower has everything
        self.leader_epoch = -1  # in which it follows
        self.bytes_max = 0  # it wants at once
        self.told = -1  # the high watermark it knows
        self.told_start = -1  # and the log's start
        self._session = session
        self._end: Watermark = partition.log.end
        self._high_watermark: Watermark = partition.high_watermark
        self._end.attach(self)
        self._high_watermark.attach(self)

    def move(self, offset: int, leader_epoch: int, bytes_max: int) -> None:
        """The follower names the partition: it has everything below offset."""
        self.offset, self.leader_epoch, self.bytes_max = offset, leader_epoch, bytes_max
        if self.told != self._high_watermark.value or self.told_start != self.partition.log.start_offset:
            self._session.stale[self] = None
        self.set()

    def set(self) -> None:
        """Something rings: there is more to be read, the high watermark has moved, or this epoch is over."""
        session = self._session
        if self._end.value > self.offset or self._high_watermark.error is not None or self._end.error is not None:
            session.news[self] = None  # where it stands already, if it does
            session.ring()
        else:
            session.stale[self] = None
            if session.wakes_early:
                session.ring()

    def leave(self) -> None:
        """It is in the session no more."""
        self._end.detach(self)
        self._high_watermark.detach(self)


class ReplicaSession:
    """One follower's session: its partitions, and which have news. For the times see `replication.followers`."""

    __slots__ = (
        "id", "epoch", "replica_id", "broker_epoch", "partitions", "news", "stale", "bell", "heard_s", "proven_s",
        "wakes_early", "is_over", "hurried_until_s", "_answered_s",
    )  # fmt: skip

    def __init__(self, session_id: int, replica_id: int, broker_epoch: int) -> None:
        self.id = session_id
        self.epoch = 0  # which the next request has to carry
        self.replica_id = replica_id
        self.broker_epoch = broker_epoch
        self.partitions: dict[Key, Followed] = {}
        self.news: dict[Followed, None] = {}  # longest first: a busy one does not starve those behind it
        self.stale: dict[Followed, None] = {}  # whose high watermark, or start, is to be told
        self.bell: Bell | None = None  # rings for news; hung there by the request that waits for them
        self.heard_s = NEVER
        self.proven_s = NEVER
        self.wakes_early = False  # a high watermark is reason enough to answer
        self.is_over = False  # the follower has another one
        self.hurried_until_s = NEVER  # no request waits for longer than HURRIED_WAIT_S until then
        self._answered_s = NEVER

    def hear(self, now_s: float) -> None:
        """The next request has come."""
        self.epoch = self.epoch % EPOCH_MAX + 1
        self.heard_s = now_s
        self.proven_s = self._answered_s
        self.ring()  # one that still waits is overtaken

    def ring(self) -> None:
        """There are news for the request that waits, if one does."""
        if self.bell is not None:
            self.bell.set()

    def answer(self, now_s: float) -> None:
        """The last request is being answered."""
        self._answered_s = now_s

    def put(self, key: Key, partition: Partition) -> Followed:
        """The place of a partition, a new one where there was none in this leader epoch.

        Raises KafkaError FETCH_SESSION_ID_NOT_FOUND when the session has ended.
        """
        if self.is_over:
            raise KafkaError(ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        followed = self.partitions.get(key)
        if followed is not None:
            if followed.partition is partition and followed._high_watermark is partition.high_watermark:
                return followed
            self._take_out(followed)
        followed = self.partitions[key] = Followed(self, key, partition)
        return followed

    def drop(self, key: Key) -> None:
        """Let a partition go; an unknown one is fine."""
        followed = self.partitions.pop(key, None)
        if followed is not None:
            self._take_out(followed)
            followed.partition.note_gone(self.replica_id)

    def end(self) -> Work[None]:
        """Let all go, for good."""
        self.is_over = True
        self.ring()
        for number, key in enumerate(tuple(self.partitions)):
            if not number % LEAVES_A_PAUSE:
                yield
            self.drop(key)

    def take_stale(self, most: int) -> Iterator[Followed]:
        """Up to so many of those whose high watermark, or start, is to be told; they count as told."""
        for _ in range(min(most, len(self.stale))):
            followed = next(iter(self.stale))
            del self.stale[followed]
            yield followed

    def _take_out(self, followed: Followed) -> None:
        followed.leave()
        self.news.pop(followed, None)
        self.stale.pop(followed, None)


class ReplicaSessions:
    """The sessions of this broker's followers: one for each, so they are as many as there are brokers."""

    __slots__ = ("_sessions", "_next_id")

    def __init__(self, first_id: int) -> None:
        self._sessions: dict[int, ReplicaSession] = {}  # by replica id
        self._next_id = first_id

    def hurry(self, replica_ids: Iterable[int], now_s: float) -> None:
        """Have these followers ask again soon: there is something new to be followed."""
        for replica_id in replica_ids:
            session = self._sessions.get(replica_id)
            if session is not None:
                session.hurried_until_s = now_s + HURRY_S
                session.ring()

    def tell_start(self, replica_ids: Iterable[int], key: Key, now_s: float) -> None:
        """Tell these followers soon where the log of a partition starts, if they fetch it."""
        for replica_id in replica_ids:
            session = self._sessions.get(replica_id)
            if session is not None and (followed := session.partitions.get(key)) is not None:
                session.stale[followed] = None
                session.hurried_until_s = now_s + HURRY_S
                session.ring()

    def drop(self, replica_id: int, broker_epoch: int) -> Work[None]:
        """A registration of a broker is over: so is the session that it began."""
        session = self._sessions.get(replica_id)
        if session is not None and session.broker_epoch <= broker_epoch:
            del self._sessions[replica_id]
            yield from session.end()

    def resume(self, replica_id: int, broker_epoch: int, session_id: int, epoch: int) -> ReplicaSession:
        """The session that an incremental request means.

        Raises KafkaError FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH.
        """
        session = self._sessions.get(replica_id)
        if session is None or session.id != session_id or session.broker_epoch != broker_epoch:
            raise KafkaError(ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        if epoch != session.epoch:
            raise KafkaError(ErrorCode.INVALID_FETCH_SESSION_EPOCH)
        return session

    def open(self, replica_id: int, broker_epoch: int) -> Work[ReplicaSession]:
        """A new session in place of the one the follower had."""
        old = self._sessions.pop(replica_id, None)
        session = self._sessions[replica_id] = ReplicaSession(self._next_id, replica_id, broker_epoch)
        self._next_id = self._next_id % EPOCH_MAX + 1
        if old is not None:
            yield from old.end()
        return session
