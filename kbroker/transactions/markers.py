"""Markers: has every partition of a transaction write how it ended, by asking whoever leads it now.

    add ──▶ Ending ──spread──▶ pieces, one queue a broker ──WriteTxnMarkers──▶ written ──▶ all of them: `complete`
                  ▲                                                      └──▶ not yet ──┐
                  └──────────────────── some time later ◀──────────────────────────────┘

A broker is asked one thing at a time, with all that has queued up meanwhile, as far as it is bounded. A partition
counts as done when its marker is committed, or when there is no such partition (any more). Until then it is asked for
again and again: what was decided comes true, whatever happens in between (T2). What is under way is known in memory
only; a shard that was loaded from its log adds it anew. A marker that is written twice does no harm.
(Kafka: TransactionMarkerChannelManager, TransactionMarkerRequestCompletionHandler.)
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from types import CoroutineType
from typing import NamedTuple, TypeAlias

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.internal import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from kbroker.cluster.image import NO_LEADER, TopicImage
from kbroker.cluster.peers.brokers import Brokers
from kbroker.cluster.registration import Registration
from kbroker.coordinators.runtime import Runtime
from kbroker.transactions.shard import TransactionShard
from kbroker.transactions.states import TransactionState
from kbroker.transactions.transaction import Transaction
from kbroker.turns import Effort, Later, Work, advance, finish

VERSION = 2  # of WriteTxnMarkers
PIECE_MAX = 256  # partitions of a transaction in one request
REQUEST_MAX = 512  # partitions in one request, about
PAUSES_AT_ONCE = 4  # a transaction of more partitions than that allows is spread in turns
RETRY_S_MIN, RETRY_S_MAX = 0.05, 1.0

# The partition has no use for a marker: it has seen a later epoch of this producer, so nothing of the transaction is
# open there; or it holds messages of a format without transactions.
NOT_NEEDED = frozenset(
    {ErrorCode.INVALID_PRODUCER_EPOCH, ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT, ErrorCode.UNSUPPORTED_VERSION}
)

Answer: TypeAlias = "WriteTxnMarkersResponse | Later | None"

log = logging.getLogger("kbroker.transactions")


class Ending:
    """A transaction whose markers are being written."""

    __slots__ = ("shard", "transaction", "entry", "left", "is_over", "is_told_of")

    def __init__(self, shard: TransactionShard, transaction: Transaction) -> None:
        self.shard = shard
        self.transaction = transaction
        self.entry = transaction.entry
        self.left = sum(map(len, self.entry.partitions.values()))  # partitions that are not done
        self.is_over = False  # all are done, or it was given up
        self.is_told_of = False  # the log says that it has to wait

    @property
    def is_wanted(self) -> bool:
        """Whether it is still this shard's to end."""
        return self.shard.closed is None and not self.is_over


class Piece(NamedTuple):
    """Partitions of one transaction that one broker leads."""

    ending: Ending
    topics: dict[str, list[int]]
    size: int


class _Refused(NamedTuple):
    """A partition that has no marker yet, or needs none."""

    ending: Ending
    topic: str
    partition: int
    code: int


class Markers:
    """The queues. Nothing here raises: what fails is tried again."""

    def __init__(
        self,
        runtime: Runtime[TransactionShard],
        registration: Registration,
        brokers: Brokers,
        timeout_s: Callable[[], float],
    ) -> None:
        """timeout_s: how long to wait for a broker's answer."""
        self.runtime = runtime
        self._registration = registration
        self._brokers = brokers
        self._timeout_s = timeout_s
        self._queues: dict[int, deque[Piece]] = {}
        self._asked: set[int] = set()  # brokers that are being asked
        self._silent: set[int] = set()  # brokers that have not answered the last time, as people were told
        self._later: list[Piece] = []
        self._bell = trio.Event()  # there is something in _later

    def add(self, shard: TransactionShard, transaction: Transaction) -> None:
        """A transaction is to end as its entry says: have its markers written, then complete it."""
        ending = Ending(shard, transaction)
        if not ending.left:
            self._complete(ending)
            return
        work = self._spread(ending, ending.entry.partitions)
        if advance(work, PAUSES_AT_ONCE) is None:
            self.runtime.start(finish, work)

    def _spread(self, ending: Ending, partitions: Mapping[str, Collection[int]]) -> Work[None]:
        """Queue partitions up for whoever leads them."""
        by_broker: dict[int, tuple[dict[str, list[int]], int]] = {}
        effort, touched = Effort(), set[int]()
        for topic, indexes in partitions.items():
            image = self._registration.image.topics.get(topic)
            for index in indexes:
                broker = _leader(image, index)
                if broker is None:
                    ending.left -= 1
                else:
                    topics, size = by_broker.get(broker) or ({}, 0)
                    topics.setdefault(topic, []).append(index)
                    by_broker[broker] = topics, size + 1
                    if size + 1 == PIECE_MAX:
                        self._queue(broker, Piece(ending, topics, PIECE_MAX))
                        touched.add(broker)
                        del by_broker[broker]
                if effort.spent(4):
                    yield
        for broker, (topics, size) in by_broker.items():
            self._queue(broker, Piece(ending, topics, size))
            touched.add(broker)
        if not ending.left:
            self._complete(ending)
        for broker in touched:
            self._pump(broker)

    def _queue(self, broker: int, piece: Piece) -> None:
        if broker == NO_LEADER:
            self._try_later(piece)
        else:
            self._queues.setdefault(broker, deque()).append(piece)

    def _try_later(self, piece: Piece) -> None:
        self._later.append(piece)
        self._bell.set()

    # -- asking -------------------------------------------------------------------------------------------------------

    def _pump(self, broker: int) -> None:
        """Ask a broker for what is queued, unless it is being asked. What it does at once is done when this returns."""
        if broker in self._asked:
            return
        pieces = self._take(broker)
        if not pieces:
            return
        self._asked.add(broker)
        answer = self._ask(broker, pieces)
        if isinstance(answer, Later) or self._queues[broker]:
            self.runtime.start(self._go_on, broker, pieces, answer)
        else:
            self._settle(pieces, answer)
            self._asked.discard(broker)

    async def _go_on(self, broker: int, pieces: list[Piece], answer: Answer) -> None:
        """Wait for an answer, and ask for what has queued up, until nothing has."""
        try:
            while True:
                self._settle(pieces, await self._awaited(broker, answer) if isinstance(answer, Later) else answer)
                await trio.lowlevel.checkpoint()
                pieces = self._take(broker)
                if not pieces:
                    return
                answer = self._ask(broker, pieces)
        finally:
            self._asked.discard(broker)

    def _take(self, broker: int) -> list[Piece]:
        """What goes into the next request."""
        queue, taken, size = self._queues.get(broker, _NO_PIECES), list[Piece](), 0
        while queue and (not taken or size + queue[0].size <= REQUEST_MAX):
            piece = queue.popleft()
            if piece.ending.is_wanted:
                taken.append(piece)
                size += piece.size
        return taken

    def _ask(self, broker: int, pieces: list[Piece]) -> Answer:
        """The answer, or one still to come; None: there is none."""
        request = WriteTxnMarkersRequest(markers=[_marker(piece) for piece in pieces])
        try:
            answer = self._brokers.ask(broker, request, VERSION, self._timeout_s())
            if isinstance(answer, CoroutineType):
                return Later(answer)
            assert isinstance(answer, WriteTxnMarkersResponse)
            self._silent.discard(broker)
            return answer
        except KafkaError as error:
            self._note_silence(broker, error)
        except Exception:
            log.exception("broker %d could not be asked for markers", broker)
        return None

    async def _awaited(self, broker: int, later: Later) -> WriteTxnMarkersResponse | None:
        try:
            answer: WriteTxnMarkersResponse = await later
            self._silent.discard(broker)
            return answer
        except KafkaError as error:
            self._note_silence(broker, error)
        except Exception:
            log.exception("broker %d could not answer about markers", broker)
        return None

    def _note_silence(self, broker: int, error: KafkaError) -> None:
        """Tell people once, however often it is asked again."""
        level = logging.DEBUG if broker in self._silent else logging.INFO
        log.log(level, "broker %d did not answer about markers, and will be asked again: %s", broker, error)
        self._silent.add(broker)

    def _settle(self, pieces: list[Piece], answer: WriteTxnMarkersResponse | None) -> None:
        """Take note of what became of each partition."""
        codes, refused = _codes(answer), list[_Refused]()
        for piece in pieces:
            ending, again = piece.ending, dict[str, list[int]]()
            of_producer = codes.get(ending.entry.producer_id, {})
            for topic, indexes in piece.topics.items():
                of_topic = of_producer.get(topic, {})
                for index in indexes:
                    code = of_topic.get(index, ErrorCode.REQUEST_TIMED_OUT)
                    if code != ErrorCode.NONE:
                        refused.append(_Refused(ending, topic, index, code))
                        if code not in NOT_NEEDED:
                            again.setdefault(topic, []).append(index)
            left = sum(map(len, again.values()))
            ending.left -= piece.size - left
            if left:
                self._try_later(Piece(ending, again, left))
            elif not ending.left:
                self._complete(ending)
        if refused:
            _note_refused(refused)

    def _complete(self, ending: Ending) -> None:
        """Every partition is done."""
        shard, transaction = ending.shard, ending.transaction
        if not ending.is_wanted:
            return
        ending.is_over = True
        with self.runtime.contained(shard, transaction.transactional_id):  # a shard that starts over takes it up again
            assert transaction.entry is ending.entry
            effects = transaction.complete(shard.terms, self.runtime.env.clock.data_ms())
            self.runtime.perform(shard, transaction.transactional_id, effects)

    # -- later --------------------------------------------------------------------------------------------------------

    async def retry_forever(self) -> None:
        """Go on with what has failed, until cancelled: soon at first, then less often."""
        delay_s = RETRY_S_MIN
        while True:
            if not self._later:
                delay_s, self._bell = RETRY_S_MIN, trio.Event()
                await self._bell.wait()
            await self.runtime.env.clock.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_S_MAX)
            pieces, self._later = self._later, []
            for piece in pieces:
                if piece.ending.is_wanted:
                    await finish(self._spread(piece.ending, piece.topics))


_NO_PIECES: deque[Piece] = deque(maxlen=0)


def _leader(topic: TopicImage | None, index: int) -> int | None:
    """Who leads a partition, maybe NO_LEADER; None: there is no such partition."""
    if topic is None or index >= len(topic.partitions):
        return None
    return topic.partitions[index].leader


def _marker(piece: Piece) -> WritableTxnMarker:
    entry = piece.ending.entry
    return WritableTxnMarker(
        producer_id=entry.producer_id,
        producer_epoch=entry.producer_epoch,
        transaction_result=entry.state is TransactionState.PREPARE_COMMIT,
        topics=[
            WritableTxnMarkerTopic(name=topic, partition_indexes=indexes) for topic, indexes in piece.topics.items()
        ],
        coordinator_epoch=piece.ending.shard.epoch,
        transaction_version=entry.client_version,
    )


def _note_refused(refused: list[_Refused]) -> None:
    """Tell of what an answer refused, in a line of each kind, however many there are; of those who wait once."""
    unneeded, fenced, waiting = list[_Refused](), list[_Refused](), list[_Refused]()
    for each in refused:
        ending = each.ending
        if each.code in NOT_NEEDED:
            unneeded.append(each)
        elif each.code == ErrorCode.TRANSACTION_COORDINATOR_FENCED:
            fenced.append(each)
            ending.is_over = True  # there is a later coordinator: the end is its
        elif not ending.is_told_of:
            waiting.append(each)
    for each in waiting:
        each.ending.is_told_of = True
    _tell(logging.WARNING, "markers that are not needed", unneeded)
    _tell(logging.WARNING, "a later coordinator has ended a transaction of the producer: its markers", fenced)
    _tell(logging.INFO, "markers that cannot be written yet, and are tried again until they are", waiting)


def _tell(level: int, text: str, some: list[_Refused]) -> None:
    if some:
        ending, topic, index, code = some[0]
        transactional_id = ending.transaction.transactional_id
        log.log(level, "%s: %d, such as %s-%d of %s, error %d", text, len(some), topic, index, transactional_id, code)


def _codes(answer: WriteTxnMarkersResponse | None) -> dict[int, dict[str, dict[int, int]]]:
    """Producer id -> topic -> partition -> code. A producer may be there more than once."""
    codes: dict[int, dict[str, dict[int, int]]] = {}
    for marker in () if answer is None else answer.markers:
        of_producer = codes.setdefault(marker.producer_id, {})
        for topic in marker.topics:
            found = ((each.partition_index, each.error_code) for each in topic.partitions)
            of_producer.setdefault(topic.name, {}).update(found)
    return codes
