"""What transactional clients asked and were told, and whether all of it can be true at once. After jepsen.tests.kafka.

Pure: clients tell it, it raises Violation. A transaction is known by its name, as its producer called it:

    OPEN ──asks to commit──▶ ASKED ──▶ COMMITTED          OPEN, ABORTED: nobody may ever see it committed
      └───────────────────────┴──────▶ ABORTED            ASKED: all of it or nothing, seen by all alike, for ever

    aborted read        a reader of committed records was given something of a transaction that is OPEN or ABORTED
    lost write          something of a COMMITTED transaction, or acknowledged outside of one, is not there at the end
    torn transaction    a part of an ASKED one is there at the end, a part is not
    duplicate           a value is there twice, at any time
    reordered           a producer's values in a partition are not in the order in which it sent them
    hanging             long after everything healed the last stable offset is not the end
    unstable            a last stable offset went back, was read beyond, or was ahead of what was decided
    offsets             a group was shown an offset of a transaction that is OPEN or ABORTED; or an older one than it
                        was promised
    processed           of what a group read, transformed and wrote: an input is there twice, not at all, or apart from
                        the offset that tells of it

A timeout is no failure: what was asked for happened, or will, or not. Only an answer decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from tests.simulation.checker import Checker, PartitionHistory, Records, Value, Violation
from tests.simulation.transactions.batches import NEVER, Batch, committed, decided, undecided

Promise = tuple[int, int, int, int]  # losses; the least high watermark, log start, last stable offset


class State(Enum):
    """Of a transaction, as far as its producer knows."""

    OPEN = "open"
    ASKED = "asked to commit"
    COMMITTED = "committed"
    ABORTED = "aborted"


class Transaction:
    """One transaction of one producer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.OPEN
        self.writes: dict[bytes, str] = {}  # value -> partition
        self.offsets: dict[tuple[str, str], int] = {}  # (group, partition) -> what it commits

    def __str__(self) -> str:
        return f"transaction {self.name}"


class Fetched(NamedTuple):
    """What a fetch of one partition was answered. aborted: (producer id, first offset); None: of any isolation."""

    batches: Sequence[Batch]
    high_watermark: int
    last_stable_offset: int
    log_start: int = 0
    aborted: Sequence[tuple[int, int]] | None = None

    @property
    def end(self) -> int | None:
        """The offset to go on with; None: there was nothing."""
        return self.batches[-1].last + 1 if self.batches else None


class StableHistory(PartitionHistory):
    """One partition with transactions in it, as its clients know it. Nothing is ever deleted from it."""

    ledger: Ledger

    def __init__(self, ledger: Ledger, topic: str, index: int, *, durable: bool) -> None:
        super().__init__(ledger, topic, index, durable=durable, shrinks=False)
        self.ledger = ledger
        self.stable = 0  # the least that any later last stable offset may be
        self.told: dict[int, int] = {}  # high watermark -> the highest last stable offset that was told with it
        self.cuts: dict[int, int] = {}  # losses -> where the log ended after that power failure
        self.batches: dict[int, tuple[int, int, int, bool | None]] = {}  # base offset -> identity

    def promised(self) -> Promise:
        """What holds from now on."""
        return *self.promise(), self.stable

    def fetched(self, position: int, answer: Fetched, asked: Promise) -> Records:
        """A fetch from position was answered; what its consumer delivers. asked: `promised()` when it was sent."""
        if asked[0] != self.losses:
            return []
        self.saw_bounds(answer.log_start, answer.high_watermark, asked[:3])
        self.saw_stable(answer.last_stable_offset, answer.high_watermark, asked)
        is_bound_stable = answer.aborted is not None
        self._check_batches(position, answer, is_bound_stable)
        for batch in answer.batches:
            known = self.batches.setdefault(batch.base, batch.identity)
            if known != batch.identity:
                raise self.broken(f"the batch at offset {batch.base} is {batch.identity}, and was {known}")
            for offset, value in batch.records:
                self._expose(offset, value)
        if answer.aborted is None:
            return [record for batch in answer.batches for record in batch.records if record[0] >= position]
        delivered = committed(answer.batches, answer.aborted, position)
        for offset, value in delivered:
            self.ledger.saw_committed(self, offset, value)
        return delivered

    def cut_since(self, losses: int) -> int:
        """What is below has not been lost since there were so many losses."""
        return min((end for number, end in self.cuts.items() if number > losses), default=NEVER)

    def _check_batches(self, position: int, answer: Fetched, is_bound_stable: bool) -> None:
        bound = answer.last_stable_offset if is_bound_stable else answer.high_watermark
        what = "last stable offset" if is_bound_stable else "high watermark"
        expected = position
        for batch in answer.batches:
            if not batch.base <= expected <= batch.last:
                raise self.broken(f"read {batch.base} to {batch.last} for {expected}: skipped or out of order")
            if batch.last >= bound:
                raise self.broken(f"read {batch.last}, the {what} is {bound}")
            expected = batch.last + 1

    def saw_stable(self, last_stable_offset: int, high_watermark: int, asked: Promise) -> None:
        """The last stable offset was told."""
        if asked[0] != self.losses:
            return
        if last_stable_offset > high_watermark:
            raise self.broken(f"the last stable offset is {last_stable_offset}, the high watermark {high_watermark}")
        if last_stable_offset < asked[3]:
            raise self.broken(f"last stable offset {last_stable_offset} after {asked[3]}")
        self.stable = max(self.stable, last_stable_offset)
        self.told[high_watermark] = max(last_stable_offset, self.told.get(high_watermark, 0))

    def judge_stable(self, batches: Sequence[Batch]) -> None:
        """By the whole log: nothing was told to be stable before the marker that decides it was committed itself."""
        spans = undecided(batches)
        for high_watermark, stable in sorted(self.told.items()):
            for first, marker in spans:
                if first < high_watermark <= marker and first < stable:
                    what = f"the last stable offset was told as {stable} with high watermark {high_watermark}"
                    raise self.broken(f"{what}, yet what began at {first} was decided at {marker}")

    def recovered(self, end: int) -> None:
        """After a power failure the log ends here."""
        super().recovered(end)
        self.batches = {base: batch for base, batch in self.batches.items() if batch[0] < end}
        self.cuts[self.losses] = end
        self.stable = 0  # markers that were committed may have to be written again
        self.told = {high_watermark: told for high_watermark, told in self.told.items() if high_watermark <= end}


class Ledger(Checker):
    """Everything that was told, in all partitions and groups."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions: dict[str, Transaction] = {}
        self.writer: dict[bytes, Transaction] = {}  # of a value
        self.seen: dict[bytes, str] = {}  # value -> the partition in which a reader of committed records saw it
        self.promised_offsets: dict[tuple[str, str], int] = {}  # (group, partition) -> the least to be shown

    def partition(self, topic: str, index: int, *, durable: bool) -> StableHistory:
        """The history of a new partition."""
        history = StableHistory(self, topic, index, durable=durable)
        self.histories.append(history)
        return history

    # -- producers

    def begin(self, name: str) -> Transaction:
        """A producer begins a transaction."""
        assert name not in self.transactions
        transaction = self.transactions[name] = Transaction(name)
        return transaction

    def write(self, transaction: Transaction, history: PartitionHistory, values: Iterable[bytes]) -> None:
        """Values are about to be sent."""
        assert transaction.state is State.OPEN
        for value in values:
            self.sent[value] = history.topic
            self.writer[value] = transaction
            transaction.writes[value] = str(history)

    def commit_offset(self, transaction: Transaction, group: str, partition: str, offset: int) -> None:
        """An offset is about to be sent, with the transaction's name as its metadata."""
        assert transaction.state is State.OPEN
        transaction.offsets[group, partition] = offset

    def ask(self, transaction: Transaction) -> None:
        """The commit is about to be asked for: everything was acknowledged."""
        assert transaction.state is State.OPEN
        transaction.state = State.ASKED

    def committed(self, transaction: Transaction) -> None:
        """The commit was answered."""
        assert transaction.state is State.ASKED
        transaction.state = State.COMMITTED
        for place, offset in transaction.offsets.items():
            self.promised_offsets[place] = max(offset, self.promised_offsets.get(place, -1))

    def aborted(self, transaction: Transaction) -> None:
        """It certainly never was, and never will be, committed."""
        transaction.state = State.ABORTED
        for value in transaction.writes:
            if value in self.seen:
                raise Violation(f"{self.seen[value]}: aborted read: {value!r} of {transaction}")

    # -- readers

    def saw_committed(self, history: PartitionHistory, offset: int, value: bytes) -> None:
        """A reader of committed records was given a value."""
        transaction = self.writer.get(value)
        if transaction is not None:
            self.seen[value] = str(history)
            if transaction.state in (State.OPEN, State.ABORTED):
                what = (
                    f"aborted read: {value!r} at offset {offset} of {transaction}, which is {transaction.state.value}"
                )
                raise history.broken(what)

    def saw_offset(self, group: str, partition: str, offset: int, metadata: str, least: int | None) -> None:
        """A group's committed offset was told; -1: none. least: promised when a stable one was asked for, else None."""
        where = f"group {group}, {partition}"
        if offset >= 0:
            transaction = self.transactions.get(metadata)
            if transaction is None or transaction.offsets.get((group, partition)) != offset:
                raise Violation(f"{where}: offset {offset} of {metadata!r}: nobody committed that")
            if transaction.state in (State.OPEN, State.ABORTED):
                raise Violation(f"{where}: offset {offset} of {transaction}, which is {transaction.state.value}")
        if least is not None:
            if offset < least:
                raise Violation(f"{where}: offset {offset} after {least}")
            self.promised_offsets[group, partition] = max(offset, self.promised_offsets.get((group, partition), -1))

    def promised_offset(self, group: str, partition: str) -> int:
        """The least offset that may be told from now on, where a stable one is asked for."""
        return self.promised_offsets.get((group, partition), -1)

    # -- the end

    def judge(self, logs: dict[str, tuple[Sequence[Batch], Records]]) -> None:
        """All of each partition, as a reader of any isolation and one of committed records found it in the end."""
        fates: dict[bytes, bool] = {}
        for history in self.histories:
            assert isinstance(history, StableHistory)
            batches, delivered = logs[str(history)]
            history.judge_stable(batches)
            fates |= _judge_log(history, batches, delivered)
        for transaction in self.transactions.values():
            self._judge_transaction(transaction, fates)

    def _judge_transaction(self, transaction: Transaction, fates: dict[bytes, bool]) -> None:
        missing = [value for value in transaction.writes if not fates.get(value, False)]
        there = len(transaction.writes) - len(missing)
        state = transaction.state
        if state is State.COMMITTED and missing:
            raise Violation(f"{transaction} is committed, and lost: {_places(transaction, missing)}")
        if state in (State.OPEN, State.ABORTED) and there:
            found = [value for value in transaction.writes if value not in missing]
            raise Violation(f"{transaction} is {state.value}, and there: {_places(transaction, found)}")
        if state is State.ASKED and missing and there:
            raise Violation(f"{transaction} is torn, {there} are there, not: {_places(transaction, missing)}")

    def compare(self, reader: str, partition: str, view: Records, everything: Records) -> None:
        """What a reader of committed records was given on its way, beside what there is in the end."""
        if view != everything[: len(view)]:
            wrong = next(pair for pair in zip(view, everything, strict=False) if pair[0] != pair[1])
            raise Violation(f"{partition}: {reader} was given {wrong[0]}, where there is {wrong[1]}")

    def judge_copies(self, group: str, sources: dict[str, Records], targets: dict[str, Records]) -> None:
        """What a group read, transformed and wrote.

        sources, targets: by partition, everything committed. A value of a target names its source, see `source_of`.
        """
        copied: dict[tuple[str, int], bytes] = {}
        for target, records in targets.items():
            latest: dict[str, int] = {}
            for _, value in records:
                source, offset = source_of(value)
                if (source, offset) in copied:
                    raise Violation(f"{target}: {source} at {offset} was processed twice: {value!r} and "
                                    f"{copied[source, offset]!r}")  # fmt: skip
                if offset <= latest.get(source, -1):
                    raise Violation(f"{target}: {source} at {offset} was processed after {latest[source]}")
                latest[source], copied[source, offset] = offset, value
        for source, records in sources.items():
            self._judge_source(group, source, {offset for offset, _ in records}, copied)

    def _judge_source(self, group: str, source: str, there: set[int], copied: dict[tuple[str, int], bytes]) -> None:
        committed_offset = self.promised_offset(group, source)
        mine = {offset for name, offset in copied if name == source}
        if unknown := sorted(mine - there):
            raise Violation(f"group {group}: {source} at {unknown} was processed, and never was committed")
        before = {offset for offset in there if offset < committed_offset}
        if never := sorted(before - mine):
            raise Violation(f"group {group}: {source} at {never} was never processed; committed is {committed_offset}")
        if ahead := sorted(mine - before):
            raise Violation(f"group {group}: {source} at {ahead} was processed, yet committed is {committed_offset}")
        if there - before:
            raise Violation(f"group {group}: {source} is not processed beyond {committed_offset}")


def _judge_log(history: PartitionHistory, batches: Sequence[Batch], delivered: Records) -> dict[bytes, bool]:
    """Whether each value of a partition is committed."""
    everything = [record for batch in batches for record in batch.records]
    history.complete(0, everything)
    fates = decided(batches)
    if hanging := sorted(offset for offset, fate in fates.items() if fate is None):
        raise history.broken(f"hanging: the transaction at {hanging} never ended")
    expected = [(offset, value) for offset, value in everything if fates[offset]]
    if delivered != expected:
        wrong = sorted(set(delivered) ^ set(expected))
        raise history.broken(f"a reader of committed records, and the markers, do not agree about {wrong}")
    return {value: bool(fates[offset]) for offset, value in everything}


def _places(transaction: Transaction, values: Iterable[bytes]) -> str:
    return ", ".join(f"{value[:40]!r} in {transaction.writes[value]}" for value in values)


def copy_of(author: str, number: int, source: str, offset: int) -> bytes:
    """The value that a copier makes of what it read at an offset of a source partition."""
    return b"%s/%d/%s@%d" % (author.encode(), number, source.encode(), offset)


def source_of(value: bytes) -> tuple[str, int]:
    """What a value is a copy of: partition and offset."""
    Value.parse(value)
    source, _, offset = value.split(b"/", 2)[2].decode().partition("@")
    return source, int(offset)
