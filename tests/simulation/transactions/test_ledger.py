"""The ledger knows each anomaly, and no other: hand-made histories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from kafka_wire.records import ControlType, build_batch, control_batch
from tests.simulation.checker import Records, Violation
from tests.simulation.transactions.batches import Batch, committed, decided, parse
from tests.simulation.transactions.ledger import Fetched, Ledger, StableHistory, Transaction, copy_of, source_of

GROUP = "g"


@contextmanager
def broken(words: str) -> Iterator[None]:
    with pytest.raises(Violation, match=words):
        yield


def batch(base: int, values: Sequence[bytes], producer_id: int = 1, *, transactional: bool = True) -> Batch:
    records = list(enumerate(values, base))
    return Batch(base, base + len(values) - 1, producer_id, 0, transactional, None, records)


def marker(base: int, commits: bool, producer_id: int = 1) -> Batch:
    return Batch(base, base, producer_id, 0, True, commits, [])


class Case:
    """A ledger with two partitions, and a transaction that writes `a` and `b` to the first and `c` to the second."""

    a, b, c = b"p/0/", b"p/1/", b"p/2/"

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.one = self.ledger.partition("t", 0, durable=True)
        self.two = self.ledger.partition("t", 1, durable=True)
        self.transaction = self.ledger.begin("T")
        self.ledger.write(self.transaction, self.one, [self.a, self.b])
        self.ledger.write(self.transaction, self.two, [self.c])
        self.ledger.ordered.add("p")

    def asked(self) -> Case:
        self.ledger.ask(self.transaction)
        return self

    def committed(self) -> Case:
        self.asked().ledger.committed(self.transaction)
        return self

    def aborted(self) -> Case:
        self.ledger.aborted(self.transaction)
        return self

    def read(self, *batches: Batch, aborted: Sequence[tuple[int, int]] | None = (), stable: int = 9) -> Records:
        return self.one.fetched(batches[0].base, Fetched(batches, 9, stable, 0, aborted), self.one.promised())

    def judge(self, one: Sequence[Batch], two: Sequence[Batch]) -> None:
        """With what a good broker shows readers of committed records."""
        logs = {}
        for history, batches in ((self.one, one), (self.two, two)):
            for each in batches:
                for offset, value in each.records:
                    history.values[offset] = value
            fates = decided(batches)
            records = [record for each in batches for record in each.records if fates[record[0]]]
            logs[str(history)] = (batches, records)
        self.ledger.judge(logs)


# -- no anomaly -------------------------------------------------------------------------------------------------------


def test_what_a_good_broker_does_is_good() -> None:
    case = Case().committed()
    log = [batch(0, [case.a, case.b]), marker(2, True)]
    assert case.read(*log) == [(0, case.a), (1, case.b)]
    case.judge(log, [batch(0, [case.c]), marker(1, True)])
    case.ledger.compare("r", "t-0", [(0, case.a)], [(0, case.a), (1, case.b)])


def test_an_aborted_transaction_may_be_there_for_readers_of_everything() -> None:
    case = Case().aborted()
    log = [batch(0, [case.a, case.b]), marker(2, False)]
    assert case.read(*log, aborted=None) == [(0, case.a), (1, case.b)]
    assert case.read(*log, aborted=[(1, 0)]) == []
    case.judge(log, [])


@pytest.mark.parametrize("is_there", [True, False])
def test_a_commit_that_was_not_answered_may_have_come_true_or_not(is_there: bool) -> None:
    case = Case().asked()
    case.judge(
        [batch(0, [case.a, case.b]), marker(2, is_there)],
        [batch(0, [case.c]), marker(1, True)] if is_there else [],
    )


# -- readers ----------------------------------------------------------------------------------------------------------


def test_a_read_of_what_is_open_or_aborted_is_an_aborted_read() -> None:
    log = Case.a, Case.b
    with broken("aborted read: .* of transaction T, which is open"):
        Case().read(batch(0, log), marker(2, True))
    with broken("aborted read: .* of transaction T, which is aborted"):
        Case().aborted().read(batch(0, log), marker(2, False))
    case = Case().asked()
    case.read(batch(0, log), marker(2, True))
    with broken("t-0: aborted read: .* of transaction T"):
        case.ledger.aborted(case.transaction)


def test_a_reader_does_not_see_beyond_the_bound_of_its_level() -> None:
    case = Case().committed()
    log = [batch(0, [case.a, case.b]), marker(2, True)]
    case.read(*log, stable=3)
    with broken("read 2, the last stable offset is 2"):
        Case().committed().read(*log, stable=2)
    with broken("read 9, the high watermark is 9"):
        case.one.fetched(9, Fetched([batch(9, [case.a])], 9, 9), (0, 0, 0, 0))


def test_a_last_stable_offset_never_goes_back() -> None:
    case = Case()
    case.one.fetched(0, Fetched([], 9, 5), case.one.promised())
    with broken("last stable offset 4 after 5"):
        case.one.fetched(0, Fetched([], 9, 4), case.one.promised())
    with broken("the last stable offset is 10, the high watermark 9"):
        case.one.fetched(0, Fetched([], 9, 10), case.one.promised())
    with broken("high watermark 8 after 9"):
        case.one.fetched(0, Fetched([], 8, 5), case.one.promised())


def test_nothing_is_stable_before_its_marker_is_committed() -> None:
    log = [batch(0, [Case.a]), batch(1, [Case.b], 2, transactional=False), marker(2, True)]
    for high_watermark, stable, is_good in ((3, 3, True), (2, 0, True), (2, 2, False), (2, 1, False), (1, 1, False)):
        case = Case()
        case.one.fetched(0, Fetched([], high_watermark, stable), case.one.promised())
        if is_good:
            case.one.judge_stable(log)
        else:
            with broken("what began at 0 was decided at 2"):
                case.one.judge_stable(log)
    with broken("what began at 0 was decided at"):
        case.one.judge_stable(log[:2])


def test_what_was_asked_before_another_answer_may_be_older() -> None:
    case = Case()
    before = case.one.promised()
    case.one.fetched(0, Fetched([], 9, 5), before)
    case.one.fetched(0, Fetched([], 9, 4), before)


def test_a_gap_is_noticed() -> None:
    case = Case().committed()
    with broken("read 2 to 2 for 1: skipped or out of order"):
        case.one.fetched(1, Fetched([marker(2, True)], 9, 9), case.one.promised())


def test_an_offset_holds_the_same_for_all() -> None:
    case = Case().committed()
    case.read(batch(0, [case.a, case.b]), aborted=None)
    with broken("the batch at offset 0 is .*, and was"):
        case.read(batch(0, [case.a, case.b], producer_id=2), aborted=None)
    with broken("holds"):
        case.read(batch(0, [case.b, case.a]), aborted=None)
    case.one.values.clear()
    with broken("duplicate"):
        case.read(batch(3, [case.a]), aborted=None)


def test_readers_of_committed_records_agree() -> None:
    with broken("t-0: r was given .0, b'x'., where there is .1, b'y'."):
        Case().ledger.compare("r", "t-0", [(0, b"x"), (1, b"y")], [(1, b"y"), (2, b"z")])


# -- in the end -------------------------------------------------------------------------------------------------------


def test_a_lost_write_is_noticed() -> None:
    case = Case().committed()
    with broken("transaction T is committed, and lost: b'p/2/' in t-1"):
        case.judge([batch(0, [case.a, case.b]), marker(2, True)], [])


def test_a_write_that_was_acknowledged_alone_is_not_lost() -> None:
    case = Case().aborted()
    case.one.acknowledged(0, [case.a, case.b], 0)
    with broken("offset 0 was acknowledged for b'p/0/' and is lost"):
        case.judge([], [])


def test_a_torn_transaction_is_noticed() -> None:
    case = Case().asked()
    with broken("transaction T is torn, 2 are there, not: b'p/2/' in t-1"):
        case.judge([batch(0, [case.a, case.b]), marker(2, True)], [batch(0, [case.c]), marker(1, False)])


@pytest.mark.parametrize("is_aborted", [True, False])
def test_what_was_never_asked_for_is_never_committed(is_aborted: bool) -> None:
    case = Case().aborted() if is_aborted else Case()
    with broken("transaction T is .*, and there: b'p/0/' in t-0"):
        case.judge([batch(0, [case.a, case.b]), marker(2, True)], [])


def test_a_hanging_transaction_is_noticed() -> None:
    case = Case().aborted()
    with broken("t-1: hanging: the transaction at .0. never ended"):
        case.judge([], [batch(0, [case.c])])


def test_reordering_is_noticed() -> None:
    case = Case().committed()
    with broken("reordered"):
        case.judge([batch(0, [case.b, case.a]), marker(2, True)], [batch(0, [case.c]), marker(1, True)])


def test_what_readers_get_and_what_the_markers_say_agree() -> None:
    case = Case().committed()
    log = [batch(0, [case.a, case.b]), marker(2, True)]
    with broken("a reader of committed records, and the markers, do not agree about"):
        case.ledger.judge({"t-0": (log, []), "t-1": ([], [])})


# -- groups -----------------------------------------------------------------------------------------------------------


def offsets_of(transaction: Transaction, ledger: Ledger, offset: int) -> None:
    ledger.commit_offset(transaction, GROUP, "t-0", offset)


def test_an_offset_is_shown_when_its_transaction_is_committed_not_before() -> None:
    case = Case()
    offsets_of(case.transaction, case.ledger, 3)
    with broken("offset 3 of transaction T, which is open"):
        case.ledger.saw_offset(GROUP, "t-0", 3, "T", -1)
    case.asked()
    case.ledger.saw_offset(GROUP, "t-0", 3, "T", -1)
    with broken("offset 4 of 'T': nobody committed that"):
        case.ledger.saw_offset(GROUP, "t-0", 4, "T", -1)
    with broken("of 'U': nobody committed that"):
        case.ledger.saw_offset(GROUP, "t-0", 3, "U", -1)
    other = Case()
    offsets_of(other.transaction, other.ledger, 3)
    other.aborted()
    with broken("offset 3 of transaction T, which is aborted"):
        other.ledger.saw_offset(GROUP, "t-0", 3, "T", -1)


def test_a_committed_offset_never_goes_back() -> None:
    case = Case()
    offsets_of(case.transaction, case.ledger, 3)
    case.committed()
    least = case.ledger.promised_offset(GROUP, "t-0")
    with broken("group g, t-0: offset -1 after 3"):
        case.ledger.saw_offset(GROUP, "t-0", -1, "", least)
    case.ledger.saw_offset(GROUP, "t-0", -1, "", None)  # an unstable one may be older


def copies(offset: int, *copied: int, committed_in: Sequence[int] = (0, 2)) -> None:
    ledger = Ledger()
    transaction = ledger.begin("T")
    ledger.commit_offset(transaction, GROUP, "in-0", offset)
    ledger.ask(transaction)
    ledger.committed(transaction)
    source = [(at, b"x/%d/" % at) for at in committed_in]
    target = [(n, copy_of("c", n, "in-0", at)) for n, at in enumerate(copied)]
    ledger.judge_copies(GROUP, {"in-0": source}, {"out-0": target})


def test_every_input_is_copied_once_and_its_offset_with_it() -> None:
    copies(3, 0, 2)
    with broken("in-0 at 0 was processed twice"):
        copies(3, 0, 0, 2)
    with broken("in-0 at 0 was processed after 2"):
        copies(3, 2, 0)
    with broken(r"in-0 at \[2\] was never processed; committed is 3"):
        copies(3, 0)
    with broken(r"in-0 at \[2\] was processed, yet committed is 2"):
        copies(2, 0, 2)
    with broken("in-0 is not processed beyond 2"):
        copies(2, 0)
    with broken(r"in-0 at \[1\] was processed, and never was committed"):
        copies(3, 0, 1, 2)


def test_a_copy_names_its_source() -> None:
    assert source_of(copy_of("copier-0.1", 7, "input-1", 12)) == ("input-1", 12)


# -- the consumer's algorithm, and the other way of finding out --------------------------------------------------------


def test_a_consumer_leaves_out_what_was_aborted() -> None:
    log = [
        batch(0, [b"a"], 1),
        batch(1, [b"b"], 2),
        batch(2, [b"c"], 3, transactional=False),
        marker(3, False, 1),
        batch(4, [b"d"], 1),
        marker(5, True, 2),
        marker(6, True, 1),
        batch(7, [b"e"], 2),
    ]
    assert committed(log[:7], [(1, 0)], 0) == [(1, b"b"), (2, b"c"), (4, b"d")]
    assert committed(log[2:7], [(1, 0)], 2) == [(2, b"c"), (4, b"d")]
    assert decided(log) == {0: False, 1: True, 2: True, 4: True, 7: None}


def test_batches_are_read_from_bytes() -> None:
    data = build_batch([(None, b"v")], producer_id=5, producer_epoch=1, base_sequence=0, transactional=True)
    end = control_batch(
        ControlType.ABORT, producer_id=5, producer_epoch=1, coordinator_epoch=0, timestamp=0, base_offset=1
    )
    assert parse(bytes(data + end)) == [
        Batch(0, 0, 5, 1, True, None, [(0, b"v")]),
        Batch(1, 1, 5, 1, True, False, []),
    ]
    with broken("corrupt batch"):
        parse(bytes(data[:-1]) + b"?")
    with broken("behind the last batch"):
        parse(bytes(data) + b"???")


def test_after_a_power_failure_what_was_not_flushed_is_forgotten() -> None:
    case = Case()
    case.read(batch(0, [case.a, case.b]), aborted=None)
    case.one.power_lost()
    case.one.recovered(0)
    assert case.one.stable == case.one.cut_since(0) == 0 < case.one.cut_since(2)
    assert not case.one.batches
    assert isinstance(case.one, StableHistory)
    case.read(batch(0, [case.b]), aborted=None)
