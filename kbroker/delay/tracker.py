"""Following a partition's log into a schedule: what its hidden batches, deliveries and markers say is pending.

    hidden, without a transaction ──▶ counts at once                        ─┐
    hidden, of a transaction ──▶ its beginning is remembered                 ├─▶ schedule
        its marker: COMMIT ──▶ read again from there, and counts now        ─┤
                    ABORT  ──▶ forgotten                                     │
    delivery ──▶ what it delivers is not pending any more                   ─┘

A cancel is for all that lies before it in the log, also for what is committed after it (`uncommitted_from`): so that
it does not matter when who reads it, and how often.

Reading the same part of a log twice, from an earlier offset to a later one, leads to the same: that is what makes a
schedule that was saved a while ago as good as one of now. All of it is for a worker, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import NamedTuple

from kafka_wire.records import BatchHeader
from kbroker.delay.reads import Batch
from kbroker.delay.schedule import NEVER, Entry, Position, Schedule
from kbroker.log.content.delayed import (
    Effects,
    Hidden,
    Kind,
    delivered_ids,
    effects_of,
    hidden_records,
    is_delivery,
    is_hidden,
    is_rest_of,
    key_digest,
    needs_rest,
)
from kbroker.log.derived.ahead import joined
from kbroker.log.derived.transactions import read_marker

BATCHES_MAX = 5000  # of one go, whatever they are
RECORDS_MAX = 2000  # hidden or delivered, of one go
AT_ONCE = 1000  # records that the schedule takes between two looks whether it has room
_PENDING = (Kind.DELAYED, Kind.CARRIED)
_ADD = Kind.DELAYED


class Open(NamedTuple):
    """A transaction that has hidden something."""

    before: Position  # where that begins
    effects: Effects


class Step(NamedTuple):
    """How a go at the log ended. One also ends where the schedule is full: it has to settle before the next."""

    is_done: bool  # there was nothing left to read
    committed: int | None = None  # the producer whose transaction has to be read again first


class Tracker:
    """A schedule, and how far the log was read into it."""

    def __init__(self, schedule: Schedule, position: Position) -> None:
        self.schedule = schedule
        self.position = position
        self.open: dict[int, Open] = {}  # by producer id
        self.changes = 0  # so far: records that were hidden or delivered

    @property
    def safe_position(self) -> Position:
        """From where to read on, if nothing but the schedule were known."""
        return min([self.position, *(each.before for each in self.open.values())])

    @property
    def held_from(self) -> int:
        """The offset at and above which the log is still needed."""
        return min(self.schedule.lowest_offset, self.safe_position.offset)

    def follow(self, found: Iterator[Batch], leader_epoch: int, end: int) -> Step:
        """Read on from position.

        leader_epoch: what is appended to the log from now on is of this epoch or a later one. end: of the log.
        Raises Damaged, OSError, CorruptRecords.
        """
        waiting: Batch | None = None  # what counts only with the batch behind it
        stop = self.changes + RECORDS_MAX
        for number, (header, read) in enumerate(found):
            if waiting is not None:
                first, data = waiting
                if is_rest_of(first, header):
                    self._take_hidden(first, data())
                self._pass(first)
                waiting = None
            elif number >= BATCHES_MAX or self.changes >= stop or self.schedule.is_full:
                return Step(False)
            if is_hidden(header) and needs_rest(header):
                waiting = header, _kept(read)
                continue
            if header.is_control and header.producer_id in self.open and not is_hidden(header):
                marker = read_marker(read())
                if marker is not None and marker.is_commit:
                    return Step(False, header.producer_id)
            self._take(header, read)
            self._pass(header)
        if waiting is not None and waiting[0].next_offset == end and waiting[0].leader_epoch < leader_epoch:
            self._pass(waiting[0])  # its rest never came
        return Step(True)

    def _pass(self, header: BatchHeader) -> None:
        self.position = Position(header.next_offset, header.leader_epoch)

    def _take(self, header: BatchHeader, read: Callable[[], bytes]) -> None:
        """Have the schedule, or what is open, follow a batch."""
        if is_hidden(header):
            self._take_hidden(header, read())
        elif is_delivery(header):
            self._room()
            ids = list(delivered_ids(read()))
            self.schedule.remove(ids, header.base_offset)
            self.changes += len(ids)
        elif header.is_control and header.producer_id in self.open and read_marker(read()) is not None:
            self._end(header.producer_id)  # aborted

    def _take_hidden(self, header: BatchHeader, data: bytes) -> None:
        if header.is_transactional:
            self._begin(header.producer_id, hidden_records(data))
        else:
            self._count(hidden_records(data))

    def _count(self, records: Iterable[Hidden]) -> None:
        """Have the schedule follow hidden records, in their order."""
        for what, some in groupby(records, key=lambda each: _ADD if each.kind in _PENDING else each.kind):
            while part := list(islice(some, AT_ONCE)):
                self._room()
                self.changes += len(part)
                if what is _ADD:
                    self.schedule.add([Entry(each.due_ms, each.id, each.offset, key_digest(each.key)) for each in part])
                elif what is Kind.CANCEL:
                    self._name(part, self.schedule.remove, self.schedule.cancel)
                else:
                    self._name(part, self.schedule.hurry, self.schedule.hurry_key)

    def _name(
        self,
        records: Iterable[Hidden],
        by_ids: Callable[[list[int], int], None],
        by_key: Callable[[bytes, int], None],
    ) -> None:
        """Tell the schedule whom records name that cancel, or hurry: ids, or all of their key; of what was before."""
        for each in records:
            if ids := each.ids:
                by_ids(ids, each.offset)
            else:
                by_key(key_digest(each.key), each.offset)

    def _room(self) -> None:
        while self.schedule.is_full:
            self.schedule.settle()

    # transactions

    def commit(self, producer_id: int, found: Iterator[Batch]) -> int | None:
        """A transaction was committed: count what it has hidden, some of it at a time.

        found: from where it began, or where the last go has ended, up to its marker. Returns the offset to go on from;
        None: that was all. Raises Damaged, OSError, CorruptRecords.
        """
        stop = self.changes + RECORDS_MAX
        for number, (header, read, counts) in enumerate(_with_rests(found)):
            if number >= BATCHES_MAX or self.changes >= stop or self.schedule.is_full:
                return header.base_offset
            if counts and is_hidden(header) and header.is_transactional and header.producer_id == producer_id:
                self._count(hidden_records(read()))
        self._end(producer_id)
        return None

    def _begin(self, producer_id: int, records: Iterable[Hidden]) -> None:
        known, effects = self.open.get(producer_id), effects_of(records)
        if known is None:
            self.open[producer_id] = Open(self.position, effects)
        else:
            self.open[producer_id] = Open(known.before, joined(known.effects, effects))
        self._note_open()

    def _end(self, producer_id: int) -> None:
        del self.open[producer_id]
        self._note_open()

    def _note_open(self) -> None:
        self.schedule.uncommitted_from = min([each.before.offset for each in self.open.values()], default=NEVER)


def _kept(read: Callable[[], bytes]) -> Callable[[], bytes]:
    """The batch is read now, as the next one may lie in another file."""
    data = read()
    return lambda: data


def _with_rests(found: Iterator[Batch]) -> Iterator[tuple[BatchHeader, Callable[[], bytes], bool]]:
    """The same batches, and whether each counts."""
    waiting: Batch | None = None
    for header, read in found:
        if waiting is not None:
            yield *waiting, is_rest_of(waiting[0], header)
            waiting = None
        if is_hidden(header) and needs_rest(header):
            waiting = header, _kept(read)
        else:
            yield header, read, True
