"""Transaction: the pure core of one transactional id. Events in, effects out.

What it holds is an Entry, as the log has it; every event makes a new one, has it stored, and answers behind that. In
Kafka a request that finds another one being stored is told CONCURRENT_TRANSACTIONS (`pendingState`); here nothing
comes in between, but for transactions so large that their record is made in turns: those are *busy* meanwhile.

The markers of a transaction are ordered behind its PrepareCommit or PrepareAbort, never before that is committed (T2).

Whoever comes with transaction.version 2 (KIP-890) has a new epoch after every transaction: the markers carry it, so
that no batch of an old transaction can join a later one (T5). Epochs end at 32,766; 32,767 is kept to fence whoever
has that one. Then the producer gets another id: by InitProducerId, or (version 2) with the end of its transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple, TypeAlias

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.transactions import EndTxnResponse, InitProducerIdResponse
from kbroker.coordinators.effects import Compute, Effect, Order, Reply, Store, Ticket
from kbroker.transactions.states import ENDED, ENDING, IDLE, PREVIOUS, TransactionState
from kbroker.transactions.storage import (
    NO_EPOCH,
    NO_PRODUCER_ID,
    NO_TIME,
    Entry,
    Partitions,
    encode_key,
    encode_value,
    measured,
)
from kbroker.turns import Effort, Work, at_once

EPOCH_MAX = 32_767
EPOCH_LAST = EPOCH_MAX - 1  # the last one that is given out
EPOCH_BUMP_SINCE = 2  # transaction.version
LONG_BYTES = 16 * 1024  # a record with more partitions than that is made in turns
LOOK_AGAIN_S = 5.0  # when an abort could not be carried out

S = TransactionState

# Why not; or an entry, its record, and what its partitions take in it.
Made: TypeAlias = "ErrorCode | tuple[Entry, bytes, int]"
After: TypeAlias = Callable[[ErrorCode], list[Effect]]
Refuse: TypeAlias = Callable[[ErrorCode], object]


class Producer(NamedTuple):
    """Who asks."""

    id: int
    epoch: int


class Terms(NamedTuple):
    """What holds for every transaction of a broker at this moment."""

    version: int  # transaction.version, as it is finalized
    partitions_bytes_max: int  # of one transaction, and its id, in its record

    @property
    def record_version(self) -> int:
        """Of TransactionLogValue (Kafka: TransactionVersion.highestSupportedTxnLogValueVersion)."""
        return min(self.version, 1)


class Errand(Enum):
    """What a core orders."""

    MARKERS = auto()  # have every partition write how the transaction ended, then `complete`
    PRODUCER_ID = auto()  # a fresh producer id, then `time_out`


class Transaction:
    """One transactional id. deadline: in liveness seconds, when its transaction is aborted; None: there is none."""

    __slots__ = ("transactional_id", "entry", "_size", "_deadline", "_is_busy")

    def __init__(self, transactional_id: str) -> None:
        """An id that is new."""
        self.transactional_id = transactional_id
        self.entry = _NEW
        self._size = 0  # of its partitions in a record, at most
        self._deadline: float | None = None
        self._is_busy = False

    def restore(self, entry: Entry, size: int, *, now: float, now_ms: int) -> None:
        """Take over what a replay found. Time runs from when the transaction was begun, as far as clocks can tell.

        size: of the record.
        """
        self.entry, self._size = entry, size
        if entry.client_version >= EPOCH_BUMP_SINCE and entry.state in ENDED:  # the end gave it a new epoch
            self.entry = entry._replace(last_epoch=entry.producer_epoch - 1 if entry.producer_epoch else EPOCH_LAST)
        if entry.state is S.ONGOING:
            left_ms = entry.timeout_ms - (now_ms - entry.start_ms)
            self._deadline = now + min(max(left_ms, 0), entry.timeout_ms) / 1000

    @property
    def deadline(self) -> float | None:
        """When it is to be woken."""
        return None if self._is_busy else self._deadline

    @property
    def is_ending(self) -> bool:
        """Whether its markers have to be written."""
        return self.entry.state in ENDING

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, so that the id may be forgotten."""
        return self.entry.state in IDLE and not self._is_busy

    @property
    def is_exhausted(self) -> bool:
        """Whether the producer id has no further epoch to give out."""
        return self.entry.producer_epoch >= EPOCH_LAST

    # -- InitProducerId -----------------------------------------------------------------------------------------------

    @property
    def wants_id(self) -> bool:
        """Whether `init`, or the end of its transaction, may need a fresh producer id."""
        return self.entry.producer_id == NO_PRODUCER_ID or self.is_exhausted

    def init(
        self,
        ticket: Ticket,
        expected: Producer | None,
        timeout_ms: int,
        terms: Terms,
        refuse: Refuse,
        *,
        fresh_id: int | None,
        now_ms: int,
    ) -> list[Effect]:
        """A producer begins: with a new epoch, so that whoever had the id before is fenced (KIP-98).

        A transaction that is open is aborted first; the producer is told CONCURRENT_TRANSACTIONS and comes again.

        Args:
            expected: what the producer had before, and wants to go on with (KIP-360).
            fresh_id: an id that nobody has, for `wants_id`.

        Raises KafkaError CONCURRENT_TRANSACTIONS, PRODUCER_FENCED.
        """
        self._check_free()
        entry = self.entry
        if expected is not None and entry.producer_epoch != NO_EPOCH and not self._was(expected):
            raise KafkaError(ErrorCode.PRODUCER_FENCED)
        if entry.state is S.ONGOING:
            if expected is not None and expected.epoch != entry.producer_epoch:
                # Kafka ends the transaction of the other producer first, and fences this one afterwards.
                raise KafkaError(ErrorCode.PRODUCER_FENCED)
            return self._abort(Reply(ticket, refuse(ErrorCode.CONCURRENT_TRANSACTIONS)), terms, fresh_id, now_ms)
        begun = self._begun(expected, fresh_id)._replace(
            state=S.EMPTY, timeout_ms=timeout_ms, partitions={}, start_ms=NO_TIME, updated_ms=now_ms
        )
        answer = InitProducerIdResponse(producer_id=begun.producer_id, producer_epoch=begun.producer_epoch)
        return self._take(_encoded(begun, terms), 0, None, lambda code: [Reply(ticket, answer)])

    def _was(self, expected: Producer) -> bool:
        """Whether a producer has, or just had, this id: a retry after its id was changed comes with the id before."""
        entry = self.entry
        if expected.id == entry.producer_id:
            return True
        return expected.id == entry.previous_producer_id and expected.epoch >= EPOCH_LAST

    def _begun(self, expected: Producer | None, fresh_id: int | None) -> Entry:
        """The entry with the epoch, and if need be the id, that a producer goes on with."""
        entry = self.entry
        if expected is None:
            last = NO_EPOCH
        elif entry.producer_epoch == NO_EPOCH or expected.epoch == entry.producer_epoch:
            last = entry.producer_epoch
        elif expected.epoch == entry.last_epoch:
            return entry  # it asks again, as the answer was lost. Had another begun meanwhile, last_epoch were NO_EPOCH
        else:
            raise KafkaError(ErrorCode.PRODUCER_FENCED)
        if entry.producer_id == NO_PRODUCER_ID or entry.producer_epoch >= EPOCH_LAST:
            assert fresh_id is not None
            producer_id, epoch, previous = fresh_id, 0, entry.producer_id
        else:
            producer_id, epoch, previous = entry.producer_id, entry.producer_epoch + 1, entry.producer_id
        return entry._replace(
            producer_id=producer_id, producer_epoch=epoch, last_epoch=last, previous_producer_id=previous
        )

    # -- partitions ---------------------------------------------------------------------------------------------------

    def add(
        self,
        ticket: Ticket,
        producer: Producer,
        added: Partitions,
        added_size: int,
        client_version: int,
        terms: Terms,
        *,
        now: float,
        now_ms: int,
    ) -> list[Effect]:
        """The transaction will write to these partitions; with the first of them it begins.

        Args:
            added_size: what `measured` says of them.
            client_version: 2 if the producer goes by transaction.version 2.

        Answered with a code: UNKNOWN_SERVER_ERROR if it would have more partitions than a record can hold.
        Raises KafkaError CONCURRENT_TRANSACTIONS, INVALID_PRODUCER_ID_MAPPING, PRODUCER_FENCED.
        """
        self._check_free()
        self._check_producer(producer)
        entry, is_open = self.entry, self.entry.state is S.ONGOING

        def work() -> Work[Made]:
            merged = yield from _merged(entry.partitions, added)
            if merged is entry.partitions and is_open:
                return ErrorCode.NONE
            size = yield from measured(merged)
            if size + len(self.transactional_id.encode()) > terms.partitions_bytes_max:
                return ErrorCode.UNKNOWN_SERVER_ERROR  # what Kafka makes of a record that is too large
            made = entry._replace(
                state=S.ONGOING,
                partitions=merged,
                start_ms=entry.start_ms if is_open else now_ms,
                updated_ms=now_ms,
                client_version=client_version,
            )
            return made, (yield from encode_value(made, terms.record_version)), size

        deadline = self._deadline if is_open else now + entry.timeout_ms / 1000
        return self._take(work(), self._size + added_size, deadline, lambda code: [Reply(ticket, code)])

    def verify(self, ticket: Ticket, producer: Producer) -> list[Effect]:
        """Answered with the partitions that a producer's transaction has (KIP-890). Raises KafkaError like `add`."""
        self._check_producer(producer)
        if self.entry.state in ENDING:
            raise KafkaError(ErrorCode.CONCURRENT_TRANSACTIONS)
        return [Reply(ticket, self.entry.partitions)]

    # -- the end ------------------------------------------------------------------------------------------------------

    def end(
        self,
        ticket: Ticket,
        producer: Producer,
        commit: bool,
        client_version: int,
        terms: Terms,
        *,
        fresh_id: int | None,
        now_ms: int,
    ) -> list[Effect]:
        """Commit or abort. Answered when that is decided, while the markers are yet to be written.

        A producer of version 2 may also abort where nothing has begun: it does not know what of its transaction has
        arrived, and wants another epoch.

        Args:
            client_version: 2 if the producer goes by transaction.version 2.
            fresh_id: an id that nobody has, for `wants_id`.

        Raises KafkaError INVALID_PRODUCER_ID_MAPPING, PRODUCER_FENCED, CONCURRENT_TRANSACTIONS, INVALID_TXN_STATE.
        """
        is_bumped, state = client_version >= EPOCH_BUMP_SINCE, self.entry.state
        if self._has_ended(producer, is_bumped):
            if commit != (state in (S.PREPARE_COMMIT, S.COMPLETE_COMMIT)):
                raise KafkaError(ErrorCode.INVALID_TXN_STATE)
            self._check_free()
            return [Reply(ticket, _told(self.entry, is_bumped))]
        self._check_free()
        if state is not S.ONGOING and (commit or not is_bumped):
            raise KafkaError(ErrorCode.INVALID_TXN_STATE)
        prepared = self._prepared(S.PREPARE_COMMIT if commit else S.PREPARE_ABORT, is_bumped, fresh_id, now_ms)
        return self._end(prepared, terms, Reply(ticket, _told(prepared, is_bumped)))

    def time_out(self, terms: Terms, *, fresh_id: int | None, now: float, now_ms: int) -> list[Effect]:
        """Its time is over: the transaction is aborted, and its producer fenced."""
        assert self.entry.state is S.ONGOING and not self._is_busy
        if terms.version >= EPOCH_BUMP_SINCE and self.is_exhausted and fresh_id is None:
            self._deadline = now + LOOK_AGAIN_S
            return [Order(Errand.PRODUCER_ID)]
        return self._abort(None, terms, fresh_id, now_ms)

    def complete(self, terms: Terms, now_ms: int) -> list[Effect]:
        """Every partition has its marker."""
        entry = self.entry
        completed = entry._replace(
            state=S.COMPLETE_COMMIT if entry.state is S.PREPARE_COMMIT else S.COMPLETE_ABORT,
            previous_producer_id=entry.producer_id,
            next_producer_id=NO_PRODUCER_ID,
            partitions={},
            updated_ms=now_ms,
        )
        if entry.next_producer_id != NO_PRODUCER_ID:
            # last_epoch stays: it is the last that the producer has seen
            completed = completed._replace(producer_id=entry.next_producer_id, producer_epoch=0)
        return self._take(_encoded(completed, terms), 0, None, _nothing)

    def _has_ended(self, producer: Producer, is_bumped: bool) -> bool:
        """Whether a request is about the transaction that was ended last, and not about the next one.

        Without epoch bumps the two look the same, and a producer has to wait for its answer. Where a producer of an old
        version ended it, the epoch before is that of one that was fenced. (In Kafka that one is told the epoch of now,
        and both go on with it.)
        Raises KafkaError like `end`.
        """
        entry = self.entry
        has_ended = entry.state in ENDED
        if has_ended and is_bumped and entry.client_version >= EPOCH_BUMP_SINCE:  # else another one ended it
            if producer == (entry.producer_id, entry.producer_epoch - 1):
                return True
            if producer == (entry.previous_producer_id, EPOCH_LAST) and entry.producer_epoch == 0:
                return True  # its id was changed since
            if entry.next_producer_id != NO_PRODUCER_ID and producer == (entry.next_producer_id, 0):
                return False  # it has been told its next id already
        self._check_producer(producer)
        return has_ended and not is_bumped

    def _prepared(self, state: TransactionState, is_bumped: bool, fresh_id: int | None, now_ms: int) -> Entry:
        """The entry of a transaction that is to end."""
        entry, next_id = self.entry, NO_PRODUCER_ID
        epoch, last = entry.producer_epoch, NO_EPOCH  # who ends a transaction has heard of its epoch
        if is_bumped:
            if self.is_exhausted:
                assert fresh_id is not None
                next_id = fresh_id
            epoch, last = min(epoch + 1, EPOCH_MAX), epoch
        return entry._replace(
            state=state,
            producer_epoch=epoch,
            last_epoch=last,
            next_producer_id=next_id,
            start_ms=entry.start_ms if entry.state is S.ONGOING else now_ms,
            updated_ms=now_ms,
            client_version=EPOCH_BUMP_SINCE if is_bumped else 0,
        )

    def _abort(self, reply: Reply | None, terms: Terms, fresh_id: int | None, now_ms: int) -> list[Effect]:
        """Abort what is open with a higher epoch, so that whoever is at it is fenced (T5)."""
        is_bumped = terms.version >= EPOCH_BUMP_SINCE
        prepared = self._prepared(S.PREPARE_ABORT, is_bumped, fresh_id, now_ms)
        if not is_bumped:
            epoch = min(prepared.producer_epoch + 1, EPOCH_MAX)
            prepared = prepared._replace(producer_epoch=epoch)
        return self._end(prepared, terms, reply)

    def _end(self, prepared: Entry, terms: Terms, reply: Reply | None) -> list[Effect]:
        after: list[Effect] = [Order(Errand.MARKERS)] if reply is None else [reply, Order(Errand.MARKERS)]
        return self._take(_encoded(prepared, terms), self._size, None, lambda code: after)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _check_free(self) -> None:
        if self._is_busy or self.entry.state in ENDING:
            raise KafkaError(ErrorCode.CONCURRENT_TRANSACTIONS)

    def _check_producer(self, producer: Producer) -> None:
        if producer.id != self.entry.producer_id:
            raise KafkaError(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
        if producer.epoch != self.entry.producer_epoch:
            raise KafkaError(ErrorCode.PRODUCER_FENCED)

    def _take(self, work: Work[Made], size: int, deadline: float | None, after: After) -> list[Effect]:
        """Go on to the entry that the work makes, and store it; then what comes after it.

        size: of the partitions that the work has to do with. Very many take turns.
        """
        if size <= LONG_BYTES:
            return self._took(at_once(work), deadline, after)
        self._is_busy = True
        return [Compute(work, lambda made, now, now_ms: self._took(made, deadline, after))]

    def _took(self, made: Made, deadline: float | None, after: After) -> list[Effect]:
        self._is_busy = False
        if isinstance(made, ErrorCode):
            return after(made)
        entry, value, size = made
        assert self.entry.state in PREVIOUS[entry.state], f"{self.entry.state.name} to {entry.state.name}"
        self.entry, self._size, self._deadline = entry, size, deadline
        return [Store(((encode_key(self.transactional_id), value),)), *after(ErrorCode.NONE)]


_NEW = Entry(
    state=S.EMPTY,
    producer_id=NO_PRODUCER_ID,
    producer_epoch=NO_EPOCH,
    last_epoch=NO_EPOCH,
    previous_producer_id=NO_PRODUCER_ID,
    next_producer_id=NO_PRODUCER_ID,
    timeout_ms=0,
    partitions={},
    start_ms=NO_TIME,
    updated_ms=NO_TIME,
    client_version=0,
)


def _nothing(code: ErrorCode) -> list[Effect]:
    return []


def _encoded(entry: Entry, terms: Terms) -> Work[Made]:
    """An entry and its record; what it has of partitions is not measured again."""
    size = yield from measured(entry.partitions)
    return entry, (yield from encode_value(entry, terms.record_version)), size


def _merged(present: Partitions, added: Partitions) -> Work[Partitions]:
    """Both together: a new object, or the present one if there is nothing new."""
    merged, effort, is_new = dict(present), Effort(), False
    for topic, indexes in added.items():
        before = present.get(topic)
        if before is None or not indexes <= before:
            merged[topic] = indexes if before is None else before | indexes
            is_new = True
        if effort.spent(2):
            yield
    return merged if is_new else present


def _told(entry: Entry, is_bumped: bool) -> EndTxnResponse:
    """The answer to EndTxn: what a producer of version 2 goes on with."""
    if not is_bumped:
        return EndTxnResponse()
    if entry.next_producer_id != NO_PRODUCER_ID:
        return EndTxnResponse(producer_id=entry.next_producer_id, producer_epoch=0)
    return EndTxnResponse(producer_id=entry.producer_id, producer_epoch=entry.producer_epoch)
