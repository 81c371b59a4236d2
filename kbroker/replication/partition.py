"""One partition as this broker holds it: its role, leader epoch, in-sync replicas and high watermark, around a log.

    absent ──lead(epoch 7)──▶ leading epoch 7 ──follow(epoch 8)──▶ following epoch 8 ──resign()──▶ absent
                                   │ every change of epoch closes the old high watermark: its waiters answer
                                   │ NOT_LEADER_OR_FOLLOWER, and nothing of the old epoch is acknowledged any more,
                                   └ unless the same broker leads the very next one: then producers wait on (LedOn)

A partition whose only replica is here has the ISR {self}; its high watermark follows its own log. With followers it is
the smallest log end in the maximal ISR, which has the members agreed on and those of a proposal whose outcome is not
known (R5); it stands still while too few are in sync. A follower's is what its leader tells it, up to its own end.
The log owns bytes and offsets, this class all the rest.

    wanted_isr ──▶ propose ──▶ maximal ISR: agreed and proposed ──an image with another mod_revision──▶ what it says
                      ▲                                 │   └──settle(REFUSED), the image is the same──▶ agreed
                      └─────────────────────────settle(UNKNOWN): again

A broker that the cluster took for dead may have a successor and not know it. What it then appends with acks=all is
never acknowledged, as its followers have gone, and soon it sends its clients away (api/produce.py, api/metadata.py);
but what it says of itself might be false (R14). So what clients act on
for good, a refusal, needs a leadership that is proven: nobody else can have been elected, or each member of the maximal
ISR has followed this leader since (InDoubt; doubt.py has that confirmed). For all else it is enough to be heard: the
session with the cluster is valid, or the followers asked a moment ago. Data flows while the cluster's store is silent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.produce_fetch import AbortedTransaction
from kafka_wire.records import BatchHeader
from kbroker.cluster.image import NO_LEADER, PartitionImage
from kbroker.cluster.isr_changes import IsrChange, IsrOutcome
from kbroker.config.keys import LONG_MAX
from kbroker.env import Buffer, FileSlice
from kbroker.log.content.delayed import Diverted
from kbroker.log.derived.epochs import NO_EPOCH
from kbroker.log.derived.producers import Guard
from kbroker.log.derived.transactions import ALL_STABLE, Marker
from kbroker.log.log import PartitionLog
from kbroker.log.writing import Appended
from kbroker.replication import isr
from kbroker.replication.doubt import DEFINITIVE, InDoubt, LedOn, NotLeader
from kbroker.replication.followers import NEVER, Follower, FollowerSession
from kbroker.replication.reads import NO_SCAN, SCANNED, SCANNED_IN_PART, Reader, ReadResult
from kbroker.replication.stable import StableOffset
from kbroker.replication.traffic import TopicTraffic
from kbroker.replication.visible import Visible
from kbroker.watermark import Watermark

ACKS_ALL = -1
READ_UNCOMMITTED, READ_COMMITTED = 0, 1  # isolation levels
LOG_END = 2  # in place of an isolation level: what a follower sees
HEARD_S = 1.0  # how long the word of the followers holds
JOIN_S = 1.0  # how long the high watermark waits for one that is about to join the ISR
RETRY_S = 1.0  # after a change of the ISR was refused

log = logging.getLogger(__name__)


class Partition:
    """A partition of the local broker. Every method is a `def`: what it changes, it changes at once."""

    __slots__ = (
        "topic", "index", "topic_id", "log", "node_id", "leader_epoch", "leader_id", "leading", "isr", "image",
        "proposal", "followers", "high_watermark", "_epoch_start_offset", "_is_joined", "_alone", "_is_sole",
        "_maximal", "_is_unknown", "_retry_s", "_is_session_proven", "_liveness", "_on_isr_news", "_is_welcome",
        "_stable", "_visible", "traffic",
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        index: int,
        topic_id: bytes,
        log: PartitionLog,
        node_id: int,
        is_session_proven: Callable[[], bool] = lambda: True,
        *,
        liveness: Callable[[], float] = lambda: 0.0,
        on_isr_news: Callable[[Partition], None] | None = None,
        is_welcome: Callable[[int, int], bool] = lambda replica_id, broker_epoch: True,
        high_watermark: int = 0,
        traffic: TopicTraffic | None = None,
    ) -> None:
        """
        Args:
            is_session_proven: whether the cluster certainly still takes this broker for alive (Registration).
            liveness: the liveness clock, in seconds.
            on_isr_news: told when there may be somebody to join the ISR, for `wanted_isr` to be asked soon.
            is_welcome: whether a broker, by id and epoch, may join an ISR: it is registered, and not about to stop.
            high_watermark: as it was kept by an earlier process.
            traffic: the topic's.
        """
        self.topic, self.index, self.topic_id = topic, index, topic_id
        self.log, self.traffic = log, traffic or TopicTraffic()
        self.node_id = node_id
        self.leader_epoch, self.leader_id = -1, NO_LEADER
        self.leading = False
        self.isr: tuple[int, ...] = ()  # as agreed
        self.image: PartitionImage | None = None  # the newest told
        self.proposal: IsrChange | None = None  # its outcome is not known
        self.followers: dict[int, Follower] = {}  # of a leader: all other replicas
        self._epoch_start_offset = 0  # the log's end when the leadership began
        self._is_joined = False  # following, and the leader has found in this epoch that this log is a part of its own
        self._alone = (node_id,)  # the ISR when no other is in it
        self._is_sole = False  # leading, and there is no other replica
        self._maximal = frozenset[int]()  # ISR (R5)
        self._is_unknown = False  # whether the proposal was, or will be, carried out
        self._retry_s = NEVER
        self._is_session_proven, self._liveness = is_session_proven, liveness
        self._on_isr_news, self._is_welcome = on_isr_news, is_welcome
        self.high_watermark = Watermark(max(log.start_offset, min(high_watermark, log.end.value)))
        self._visible: Visible | None = None  # where the log hides something, and somebody reads
        self._stable: StableOffset | None = None  # of this high watermark; None: nobody has asked for it
        log.guard(self.high_watermark)

    # roles

    def lead(self, image: PartitionImage) -> None:
        """Become leader in the image's epoch, or take its news. What is older than what is known changes nothing.

        The log notes the epoch with the first batch of it (KIP-101).
        """
        if not self._is_news(image) or image.leader != self.node_id:
            return
        if image.leader_epoch > self.leader_epoch:
            self._begin_epoch(image)
            self._epoch_start_offset = self.log.end.value
            self.leading = True
            self.log.keep()
        self._take(image)
        self.log.producers.transactions.settle(self.high_watermark.value)

    def follow(self, image: PartitionImage) -> None:
        """Become a follower of the image's leader, in its epoch, or of none if it has none. Older ones change nothing.

        Who has led an epoch and resigned comes back in a later one (R8).
        """
        if not self._is_news(image):
            return
        if image.leader_epoch > self.leader_epoch or (not self.leading and image.leader != self.leader_id):
            self._begin_epoch(image)
        self._take(image)

    def resign(self) -> None:
        """Neither lead nor follow: waiters answer NOT_LEADER_OR_FOLLOWER."""
        self._end_epoch(NotLeader())
        self.leader_id = NO_LEADER

    def _is_news(self, image: PartitionImage) -> bool:
        known = self.image
        return image.leader_epoch >= self.leader_epoch and (known is None or image.mod_revision >= known.mod_revision)

    def _begin_epoch(self, image: PartitionImage) -> None:
        new = Watermark(self.high_watermark.value)
        leads_on = self.leading and image.leader == self.node_id and image.leader_epoch == self.leader_epoch + 1
        self._end_epoch(LedOn(new) if leads_on else NotLeader())
        self.leader_epoch, self.leader_id = image.leader_epoch, image.leader
        self._is_joined = False
        self._replace_high_watermark(new)

    def _end_epoch(self, why: NotLeader) -> None:
        self.leading = self._is_sole = False
        self.proposal = None
        self.followers.clear()
        self.high_watermark.close(why)

    def _replace_high_watermark(self, high_watermark: Watermark) -> None:
        self.high_watermark = high_watermark
        self._stable = None
        self.log.guard(self.high_watermark, is_shared=self.log.is_shared)

    def _take(self, image: PartitionImage) -> None:
        """Have the newest image: it tells what became of a proposal (R5)."""
        if self.image is None or image.mod_revision != self.image.mod_revision or image.isr != self.image.isr:
            self.proposal = None
        self.image, self.isr = image, image.isr
        self.log.guard(self.high_watermark, is_shared=len(image.replicas) > 1)
        if self.leading:
            self._have_followers(image)
            self._count_members()

    def _have_followers(self, image: PartitionImage) -> None:
        others = [id for id in image.replicas if id != self.node_id]
        for gone in [id for id in self.followers if id not in others]:
            del self.followers[gone]
        for id in others:
            if id not in self.followers:
                self.followers[id] = Follower(self._liveness() if id in image.isr else NEVER)

    def _count_members(self) -> None:
        """Who may be in sync has changed."""
        proposed = self.proposal.isr if self.proposal is not None else ()
        self._maximal = isr.maximal(self.isr, proposed)
        self._is_sole = not self.followers and self.isr == self._alone and not proposed
        self._advance()

    # of a leader: what is proven

    @property
    def is_catching_up(self) -> bool:
        """Whether the high watermark may still be below one that the leader before has told (KIP-207).

        It is not once everything of earlier epochs is known to be committed.
        """
        return self.high_watermark.value < self._epoch_start_offset

    @property
    def is_proven(self) -> bool:
        """Whether certainly no other broker leads this partition at this moment, if this one does (R14).

        So it is when nobody else is in sync: only this broker could let another one in (R9).
        """
        return self._is_sole or (self.isr == self._alone and self.proposal is None and self._are_others_barred)

    @property
    def _are_others_barred(self) -> bool:
        """Whether only members of the ISR can be elected: while this broker lives, or if nobody else is eligible."""
        image = self.image
        is_clean = image is not None and not image.elr and not self.log.config.unclean_leader_election_enable
        return is_clean or self._is_session_proven()

    def has_led(self, since_s: float) -> bool:
        """Whether certainly no other broker had led before that moment, if this one still does: all who could have been
        elected have followed it since.
        """
        return self.is_proven or (self._are_followers_heard(since_s) and self._are_others_barred)

    @property
    def is_heard(self) -> bool:
        """Whether probably no other broker has led this partition but in the last moment, if this one does (R14)."""
        return self.is_proven or self._is_session_proven() or self.has_led(self._liveness() - HEARD_S)

    def _are_followers_heard(self, since_s: float) -> bool:
        return all(
            id in self.followers and self.followers[id].proven_s > since_s for id in self._maximal if id != self.node_id
        )

    @property
    def follower_ids(self) -> Iterable[int]:
        """Of a leader: all other replicas."""
        return self.followers.keys()

    def check_leader(self, current_leader_epoch: int = NO_EPOCH) -> None:
        """Raise unless this broker leads, and is heard (R14), in the epoch the client believes in; -1: none.

        Raises KafkaError FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH (KIP-320, R11), NOT_LEADER_OR_FOLLOWER,
        KAFKA_STORAGE_ERROR.
        """
        if current_leader_epoch != NO_EPOCH:
            self._check_epoch(current_leader_epoch)
        if not self.leading or not (self._is_sole or self.is_heard):
            raise NotLeader
        if self.log.offline is not None:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR)

    def doubt(self, refusal: KafkaError | None = None) -> InDoubt | None:
        """What is to be confirmed before something is said for good that was found just now; None: it is certain."""
        return None if self.is_proven else InDoubt(self, refusal, self._liveness())

    def _check_epoch(self, current_leader_epoch: int) -> None:
        if current_leader_epoch not in (self.leader_epoch, NO_EPOCH):
            if current_leader_epoch < self.leader_epoch:
                raise KafkaError(ErrorCode.FENCED_LEADER_EPOCH)
            raise KafkaError(ErrorCode.UNKNOWN_LEADER_EPOCH)

    def _refusal(self, code: ErrorCode) -> KafkaError:
        """A definitive error, to be confirmed if another broker might know better (R14)."""
        refusal = KafkaError(code)
        return self.doubt(refusal) or refusal

    # of a leader: its followers

    def check_follower(self, replica_id: int, current_leader_epoch: int) -> None:
        """Raise unless this broker leads in the epoch that the follower believes in, and that one has a replica.

        A follower that knows the epoch may know more than we do yet. (Kafka: Partition.followerReplicaOrThrow.) Raises
        KafkaError FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH, NOT_LEADER_OR_FOLLOWER, KAFKA_STORAGE_ERROR.
        """
        self._check_reader(current_leader_epoch, is_consumer=False)
        if replica_id not in self.followers:
            is_old = current_leader_epoch == NO_EPOCH
            raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER if is_old else ErrorCode.UNKNOWN_LEADER_EPOCH)

    def note_fetch(
        self, replica_id: int, broker_epoch: int, offset: int, now_s: float, session: FollowerSession, start: int
    ) -> None:
        """Note that a follower has everything below offset: it moves the high watermark, and may bring it into the ISR.

        start: where its log begins.

        To be called after check_follower, and after `parting` has said that its log is a part of this one: who diverges
        must not count (R1). What the session hears from now on it hears for this partition, until note_gone.

        Raises KafkaError NOT_LEADER_OR_FOLLOWER, also for an earlier registration of the follower (KIP-903);
        OFFSET_OUT_OF_RANGE.
        """
        follower = self.followers.get(replica_id)
        if not self.leading or follower is None or broker_epoch < follower.broker_epoch:
            raise NotLeader
        end = self.log.end.value
        if not self.log.start_offset <= offset <= end:
            raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE)
        moved = offset != follower.end
        follower.note(session, broker_epoch, offset, end, now_s)
        follower.start = start
        if replica_id not in self._maximal:
            self._await(follower, now_s, self._is_welcome(replica_id, broker_epoch))
        elif moved:
            self._advance()

    def low_watermark(self, is_alive: Callable[[int], bool]) -> int:
        """Below this no replica has anything, of those on brokers that are alive. -1: of one nobody knows (yet)."""
        return min([self.log.start_offset, *(each.start for id, each in self.followers.items() if is_alive(id))])

    def note_gone(self, replica_id: int) -> None:
        """A follower does not fetch this partition any more, or not through that session."""
        follower = self.followers.get(replica_id)
        if follower is not None:
            follower.leave()

    def _await(self, follower: Follower, now_s: float, is_welcome: bool) -> None:
        """A follower out of the ISR fetches. One that has all there was when it last asked is about to join: were the
        high watermark to run ahead meanwhile, it would never be level with it under load.
        """
        is_near = now_s - follower.caught_up(self.log.end.value) <= JOIN_S
        follower.is_awaited = is_near and is_welcome and now_s >= self._retry_s
        self._advance()
        if self._on_isr_news is not None and (follower.is_awaited or self._may_join(follower)):
            self._on_isr_news(self)

    def read_as_replica(
        self,
        offset: int,
        bytes_max: int,
        current_leader_epoch: int = NO_EPOCH,
        *,
        at_least_one: bool = True,
        now: bool = False,
    ) -> ReadResult:
        """What a follower may have from offset on: everything up to the log's end. See `read`.

        It is served whatever is proven: its leader epoch keeps it from following who was deposed.
        """
        return self.read(offset, bytes_max, current_leader_epoch, isolation=LOG_END, at_least_one=at_least_one, now=now)

    # of a leader: the ISR

    @property
    def has_min_isr(self) -> bool:
        """Whether enough replicas are in sync for acks=all (R6)."""
        image = self.image
        if self._is_sole or image is None:
            return self._is_sole
        return isr.may_acknowledge(
            self.isr, isr.effective_min(self.log.config.min_insync_replicas, len(image.replicas))
        )

    def end_waits(self, now_s: float) -> None:
        """Wait no more for a follower that was about to join the ISR, and did not. To be called now and then."""
        if self.leading and not self._is_sole:
            for follower in self.followers.values():
                follower.is_awaited &= now_s - follower.caught_up(self.log.end.value) <= JOIN_S
            self._advance()

    def wanted_isr(self, now_s: float, lag_max_s: float) -> IsrChange | None:
        """The ISR there should be; None: as it is, or a proposal is under way. One in doubt is to be made again.

        Who has not had all there was for lag_max_s leaves; who has all committed and all of earlier epochs joins (R7).
        """
        if self._is_sole or not self.leading or self.image is None:
            return None
        end = self.log.end.value
        if self.proposal is not None:
            return self.proposal if self._is_unknown else None
        if now_s < self._retry_s:
            return None
        stay = [id for id in self.isr if id == self.node_id or not self._lags(id, end, now_s - lag_max_s)]
        joining = {
            id: follower.broker_epoch
            for id, follower in self.followers.items()
            if id not in self.isr and self._may_join(follower) and follower.is_heard(now_s - lag_max_s)
        }
        if not joining and len(stay) == len(self.isr):
            return None
        return IsrChange(self.image, (*stay, *joining), joining, self.log.config.min_insync_replicas)

    def _lags(self, replica_id: int, end: int, since_s: float) -> bool:
        follower = self.followers.get(replica_id)
        return follower is None or follower.caught_up(end) < since_s

    def _may_join(self, follower: Follower) -> bool:
        """R7, as far as it shows here; that it is registered is a guard of the change."""
        return follower.session is not None and follower.end >= max(self.high_watermark.value, self._epoch_start_offset)

    def propose(self, change: IsrChange) -> None:
        """A change of the ISR is about to be asked for, if it is still `wanted_isr`: count its members, too (R5)."""
        if self.leading and change.partition is self.image:
            self.proposal, self._is_unknown = change, False
            self._count_members()

    def settle(self, change: IsrChange, outcome: IsrOutcome, image: PartitionImage | None) -> None:
        """Learn what became of a proposal. Nothing, if an image has told it already.

        image: the partition as the cluster has it when the outcome is certain, be it told here yet or not; None: it is
        gone.
        """
        if self.proposal is not change:
            return
        if outcome is IsrOutcome.UNKNOWN:
            self._is_unknown = True
        elif image is not None and image.mod_revision != change.partition.mod_revision:
            self.lead(image)  # which tells what there is now; where another leads, that will be told in time
        elif outcome is IsrOutcome.REFUSED:  # because of who was to join
            self.proposal = None
            self._retry_s = self._liveness() + RETRY_S
            for id in change.joining.keys() & self.followers.keys():
                self.followers[id].is_awaited = False
            self._count_members()

    def follow_log(self) -> None:
        """Let the high watermark follow the log, which grew, if no follower can hold it back."""
        if self._is_sole:
            self.high_watermark.advance(self.log.end.value)
        elif self.leading and len(self._maximal) == 1:
            self._advance()

    def _advance(self) -> None:
        """Let the high watermark follow what the replicas have, unless too few are in sync (R6)."""
        if not self.leading or self.high_watermark.value >= self.log.end.value:
            return
        if not self.has_min_isr or (self.image is not None and self.image.elr):
            return
        ends = {id: each.end for id, each in self.followers.items() if id in self._maximal or each.is_awaited}
        ends[self.node_id] = self.log.end.value
        members = self._maximal.union(ends)
        self.high_watermark.advance(isr.high_watermark(members, ends, self.high_watermark.value))

    # of a follower

    @property
    def following(self) -> bool:
        """Whether there is a leader, which is another broker."""
        return not self.leading and self.leader_id not in (NO_LEADER, self.node_id)

    def fetch_position(self) -> tuple[int, int]:
        """What is to be fetched next: the offset, and the epoch of the record before it; -1: there is none."""
        return self.log.end.value, self.log.epochs.latest

    def append_from_leader(
        self,
        records: bytes | bytearray | memoryview,
        leader_epoch: int,
        high_watermark: int,
        log_start: int,
        now_ms: int,
    ) -> None:
        """Take what the leader has behind this log's end: whole batches, as they are.

        Args:
            records: may be empty, and may end with a batch cut short, which is left out.
            leader_epoch: in which it was fetched. Batches of later epochs are left out, too.
            high_watermark, log_start: the leader's.
            now_ms: data time.

        Raises KafkaError NOT_LEADER_OR_FOLLOWER unless still following in that epoch, CORRUPT_MESSAGE (B4), those of
        PartitionLog.append_replicated; LogOffline.
        """
        self._check_following(leader_epoch)
        self._is_joined = True
        log = self.log
        if len(records):
            log.append_replicated(records, leader_epoch=leader_epoch, now_ms=now_ms)
            self.traffic.followed(len(records))
        committed = max(self.high_watermark.value, min(high_watermark, log.end.value))
        if log_start > log.start_offset:  # first: what lies below may never have been the leader's
            log.advance_start(min(log_start, committed))
        self.high_watermark.advance(committed)
        log.producers.transactions.settle(committed)

    def _check_following(self, leader_epoch: int) -> None:
        if not self.following or leader_epoch != self.leader_epoch:
            raise NotLeader

    def diverged(self, leader_epoch: int, epoch: int, end_offset: int) -> None:
        """The leader's history is another: epoch is the last in common, as far as it knows, and ends at end_offset.

        Cuts the log to what may be common (KIP-101, KIP-279, R4). `log.settle` must follow. The next fetch tells
        whether that was all. (Kafka: AbstractFetcherThread.getOffsetTruncationState.)

        Raises NotLeader, also once this log was found to be a part of the leader's in this epoch: then the answer is an
        old one, and what it would cut may be committed by now.
        """
        self._check_following(leader_epoch)
        if self._is_joined:
            raise NotLeader
        end = self.log.end.value
        known_end = self.log.epochs.end_offset_for(epoch, end)[1]
        offset = min(end, end_offset, known_end if known_end >= 0 else end)
        self._lower_high_watermark(offset)
        self.log.truncate_to(offset)

    def start_over(self, leader_epoch: int, offset: int) -> None:
        """The leader's log begins at offset, above the end of this one: begin anew there. `log.settle` must follow."""
        self._check_following(leader_epoch)
        self.log.start_over(offset)

    def _lower_high_watermark(self, offset: int) -> None:
        """The log is to be cut below what was committed: only an unclean election can ask for that."""
        if offset < self.high_watermark.value:
            text = "%s-%d is cut to %d, below its high watermark %d: records that were acknowledged are given up"
            log.warning(text, self.topic, self.index, offset, self.high_watermark.value)
            self.high_watermark.close(NotLeader())
            self._replace_high_watermark(Watermark(offset))

    # appending

    def check_append(self, acks: int) -> None:
        """Raise unless a client may append: those of check_leader, NOT_ENOUGH_REPLICAS.

        acks: -1, 0 or 1; -1 demands min.insync.replicas in the ISR before anything is written (R6). It would not be
        acknowledged by a leader whom nobody hears; but its client had better look for another one than wait.
        """
        if self._is_sole and self.log.offline is None:
            return
        self.check_leader()
        if acks == ACKS_ALL and not self.has_min_isr:
            raise KafkaError(ErrorCode.NOT_ENOUGH_REPLICAS)

    def append(self, batch: bytearray | memoryview, acks: int, now_ms: int) -> Appended:
        """Check and append a batch, patched in place with its offsets and leader epoch.

        See PartitionLog.append for what is checked, check_append for acks. now_ms: data time, for LogAppendTime and the
        timestamp window. Raises KafkaError; LogOffline when the disk failed.
        """
        self.check_append(acks)
        return self.write(batch, None, now_ms)

    def write(
        self,
        batch: bytearray | memoryview,
        header: BatchHeader | None,
        now_ms: int,
        guard: Guard | None = None,
        diverted: Diverted | None = None,
    ) -> Appended:
        """The same after check_append. header: of a batch that the log's rules have let pass already.

        diverted: what they have taken out of it.
        guard: what `verification` gave for a transactional batch. INVALID_TXN_STATE when none is ongoing here, and the
        guard is not the current one any more: a marker came while it was verified (T4).
        """
        try:
            appended = self.log.append(
                batch, header, leader_epoch=self.leader_epoch, now_ms=now_ms, guard=guard, diverted=diverted
            )
        except KafkaError as error:
            self._check_refusal(error)
            raise
        count = header.count if header is not None else appended.last_offset - appended.base_offset + 1
        self.traffic.appended(len(batch), count)
        self.follow_log()
        return appended

    def _check_refusal(self, error: KafkaError) -> None:
        """Raise InDoubt where a refusal is definitive, and another broker might know better (R14)."""
        if error.code in DEFINITIVE and (doubt := self.doubt(error)) is not None:
            raise doubt from error

    def write_hidden(self, batch: bytearray, now_ms: int) -> int:
        """Append a batch of the broker's own that delivers, or carries on, what is delayed. Returns its offset.

        Raises KafkaError: those of check_append with acks=all, KAFKA_STORAGE_ERROR; LogOffline.
        """
        self.check_append(ACKS_ALL)
        offset = self.log.append_hidden(batch, leader_epoch=self.leader_epoch, now_ms=now_ms)
        self.follow_log()
        return offset

    def verification(self, header: BatchHeader, *, begins_at_zero: bool = False) -> Guard | None:
        """What is to be handed to `write`, once the coordinator has said that a batch's transaction has this partition.

        None: there is nothing to ask, as it is ongoing here or the batch is not transactional. begins_at_zero: the
        client raises its epoch with each transaction, so what is unknown here begins with sequence 0 (KIP-890).
        Raises KafkaError INVALID_PRODUCER_EPOCH.
        """
        try:
            return self.log.producers.verification(header, begins_at_zero=begins_at_zero)
        except KafkaError as error:
            self._check_refusal(error)
            raise

    def has_open(self, header: BatchHeader) -> bool:
        """Whether the transaction of a batch is open here: then `verification` would have nothing to ask."""
        producer = self.log.producers.by_id.get(header.producer_id)
        return producer is not None and producer.is_in_transaction and producer.epoch == header.producer_epoch

    def write_marker(self, marker: Marker, now_ms: int) -> Appended:
        """End a producer's transaction. It counts for readers once the high watermark has passed the marker.

        Raises KafkaError: those of check_append with acks=all, INVALID_PRODUCER_EPOCH, TRANSACTION_COORDINATOR_FENCED,
        KAFKA_STORAGE_ERROR; LogOffline.
        """
        self.check_append(ACKS_ALL)
        try:
            appended = self.log.append_marker(marker, leader_epoch=self.leader_epoch, now_ms=now_ms)
        except KafkaError as error:
            self._check_refusal(error)
            raise
        self.follow_log()
        self.log.producers.transactions.settle(self.high_watermark.value)  # nobody else may ever ask
        return appended

    # reading

    @property
    def last_stable_offset(self) -> int:
        """The bound of read_committed readers: what is below it is decided, and committed itself."""
        return self.log.stable_below(self.high_watermark.value)

    def bound(self, isolation: int) -> int:
        """Up to where a reader of that isolation level may see."""
        return self.high_watermark.value if isolation == READ_UNCOMMITTED else self.last_stable_offset

    def watermark(self, isolation: int) -> Watermark:
        """What a reader of that isolation level waits for: it rings when `bound` has moved, if not more often."""
        if isolation == READ_UNCOMMITTED or self.log.producers.transactions.first_unstable == ALL_STABLE:
            return self.high_watermark
        if self._stable is None:
            high_watermark = self.high_watermark
            self._stable = StableOffset(high_watermark, lambda: self.log.stable_below(high_watermark.value))
        return self._stable

    def read(
        self,
        offset: int,
        bytes_max: int,
        current_leader_epoch: int = NO_EPOCH,
        *,
        isolation: int = READ_UNCOMMITTED,
        at_least_one: bool = True,
        now: bool = False,
        only_leader: bool = True,
        through: Reader | None = None,
        below: int = LONG_MAX,
    ) -> ReadResult:
        """What a consumer may see from offset on: whole batches below the bound of its isolation level; nothing beyond.

        Args:
            offset: first offset wanted; the first batch may begin before it.
            bytes_max: stop before exceeding it.
            current_leader_epoch: what the client believes, or -1.
            isolation: READ_UNCOMMITTED, READ_COMMITTED, or LOG_END for a follower.
            at_least_one: let the first batch exceed bytes_max.
            now: raise NotInMemory rather than wait for the disk.
            only_leader: not where another leads (KIP-392).
            through: who picks what is to be had; None: it is all.
            below: where the log seems to end, to who may not see all of it.

        Raises KafkaError OFFSET_OUT_OF_RANGE, KAFKA_STORAGE_ERROR, UNKNOWN_SERVER_ERROR for a negative bytes_max where
        there is something to read (as Kafka), or those of check_leader. A follower, who may be behind, does not know
        of what is above its end: OFFSET_NOT_AVAILABLE.
        """
        if isolation != LOG_END and (only_leader or self.leading):
            self.check_leader(current_leader_epoch)
        else:
            self._check_reader(current_leader_epoch, is_consumer=isolation != LOG_END)
        log, aborted = self.log, None
        end = log.end.value
        if log.hides and through is None and isolation != LOG_END:
            through = self._visible = self._visible or Visible()
        bound = last_stable = high_watermark = self.high_watermark.value
        if log.producers.transactions.first_unstable < high_watermark:
            last_stable = log.stable_below(high_watermark)
        if below < high_watermark:
            bound, high_watermark, last_stable = below, below, min(last_stable, below)
        if isolation == LOG_END:
            bound = end
        elif isolation != READ_UNCOMMITTED:
            bound, aborted = last_stable, list[AbortedTransaction]()
        slices: Sequence[FileSlice | Buffer] = ()
        length, scan = -1, NO_SCAN if through is None else SCANNED
        if not log.start_offset <= offset <= end:
            raise self._out_of_range(offset, isolation)
        if offset < bound:
            assert bound <= end
            if bytes_max < 0:
                raise KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR)
            if bytes_max or at_least_one:
                try:
                    if through is None:
                        slices, end = log.reading.read(offset, bytes_max, bound, at_least_one, now)
                    else:
                        slices, end, length, in_part = through.read(log, offset, bytes_max, bound, at_least_one, now)
                        scan = SCANNED_IN_PART if in_part else SCANNED
                    if aborted is not None:
                        aborted = log.aborted_between(offset, end, now=now)
                except OSError as error:
                    raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, str(error)) from error
        if length < 0:
            length = len(slices[0]) if len(slices) == 1 else sum(map(len, slices))
        return ReadResult(slices, high_watermark, last_stable, log.start_offset, length, aborted, scan)

    def _check_reader(self, current_leader_epoch: int, *, is_consumer: bool) -> None:
        """Raise unless a follower may read here, or a consumer who reads from followers, too."""
        if self.leading and is_consumer:
            self.check_leader(current_leader_epoch)
        self._check_epoch(current_leader_epoch)
        if not self.leading and not (is_consumer and self.following):
            raise NotLeader
        if self.log.offline is not None:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR)

    def _out_of_range(self, offset: int, isolation: int) -> KafkaError:
        if isolation == LOG_END:
            return KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE)
        if self.leading:
            return self._refusal(ErrorCode.OFFSET_OUT_OF_RANGE)
        is_below = offset < self.log.start_offset
        return KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE if is_below else ErrorCode.OFFSET_NOT_AVAILABLE)

    def available(
        self, offset: int, most: int, isolation: int = READ_UNCOMMITTED, *, through: Reader | None = None,
        below: int = LONG_MAX,
    ) -> int:  # fmt: skip
        """About how many bytes read would find, counted up to `most`; from memory. Raises KAFKA_STORAGE_ERROR."""
        bound = min(self.bound(isolation), below)
        if offset >= bound:
            return 0
        try:
            if (reader := through or self._visible) is not None:
                self.log.check_online()
                return reader.available(self.log, offset, bound, most)
            return self.log.bytes_between(offset, bound, most)
        except OSError as error:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, str(error)) from error

    # where histories part

    def parting(
        self,
        offset: int,
        current_leader_epoch: int,
        last_fetched_epoch: int,
        *,
        as_replica: bool = False,
        only_leader: bool = True,
    ) -> tuple[int, int] | None:
        """Where a reader's history leaves this log's: the last common epoch, and where it ends here; None: it does not.

        Args:
            offset: the next the reader wants; the record before it was of last_fetched_epoch.
            current_leader_epoch: what the reader believes, or -1.
            as_replica: a follower asks, who is told whatever is proven.
            only_leader: a consumer who does not read where another leads (KIP-392).

        To a consumer who reads from the leader it is to be said when there is no `doubt`. Raises KafkaError
        OFFSET_OUT_OF_RANGE when the epoch is unknown here or offset is below the log start, or those of check_leader.
        (KIP-595; Kafka: Partition.readRecords.)
        """
        if as_replica or not only_leader:
            self._check_reader(current_leader_epoch, is_consumer=not as_replica)
        else:
            self.check_leader(current_leader_epoch)
        epoch, end_offset = self._epoch_end(last_fetched_epoch)
        if end_offset < 0 or offset < self.log.start_offset:
            raise self._out_of_range(offset, LOG_END if as_replica else READ_UNCOMMITTED)
        is_common = epoch >= last_fetched_epoch and end_offset >= offset
        return None if is_common else (epoch, end_offset)

    def epoch_end(self, epoch: int) -> tuple[int, int]:
        """The last epoch of this log at or before epoch, and where it ends; (-1, -1) when there is none (R4).

        The current epoch ends at the log end. To be said when there is no `doubt`. Raises those of check_leader.
        """
        self.check_leader()
        return self._epoch_end(epoch)

    def _epoch_end(self, epoch: int) -> tuple[int, int]:
        epochs, end = self.log.epochs, self.log.end.value
        if not self.leading:
            return epochs.end_offset_for(epoch, end)
        return epochs.end_offset_while_leading(epoch, end, self.leader_epoch, self._epoch_start_offset)

    def deletable_to(self, offset: int) -> int:
        """Where the log would start if everything below offset (-1: the high watermark) were given up.

        Raises KafkaError OFFSET_OUT_OF_RANGE above the high watermark, POLICY_VIOLATION for a compacted-only topic.
        """
        self.check_leader()
        if "delete" not in self.log.config.cleanup_policy:
            raise KafkaError(ErrorCode.POLICY_VIOLATION)
        bound = self.high_watermark.value
        offset = bound if offset == -1 else offset
        if not 0 <= offset <= bound:
            raise self._refusal(ErrorCode.OFFSET_OUT_OF_RANGE)
        return max(offset, self.log.start_offset)
