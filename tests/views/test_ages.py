"""Ages: no record is ever said to be older than it is, whatever becomes of the log; and few notes suffice."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kbroker.log.derived.epochs import LeaderEpochs
from kbroker.views.ages import NOTES_MAX, Ages, Note, spacing_ms
from kbroker.watermark import Watermark

LATE = 60_000


class ToyLog:
    """What Ages looks at of a log, and when each of its records was appended."""

    def __init__(self) -> None:
        self.end = Watermark()
        self.start_offset = 0
        self.epochs = LeaderEpochs()
        self.appended_ms: list[int] = []

    def append(self, count: int, epoch: int, now_ms: int) -> None:
        self.epochs.assign(epoch, self.end.value)
        self.appended_ms += [now_ms] * count
        self.end.advance(len(self.appended_ms))

    def cut(self, offset: int) -> None:
        del self.appended_ms[offset:]
        self.epochs.truncate_end(offset)
        self.end = Watermark(offset)

    def move_start(self, offset: int) -> None:
        self.start_offset = offset
        self.epochs.truncate_start(offset)


def ages_of(log: ToyLog, *notes: Note) -> Ages:
    return Ages(log, notes)  # type: ignore[arg-type]


def test_what_was_there_by_then() -> None:
    log = ToyLog()
    ages = ages_of(log)
    for now, count in ((0, 5), (1000, 5), (2000, 0), (3000, 5)):
        log.append(count, 0, now)
        ages.note(now, LATE)
    assert [ages.end_by(at) for at in (-1, 0, 999, 1000, 2999, 3000, 10**9)] == [0, 5, 5, 10, 10, 15, 15]
    assert ages.some(NOTES_MAX) == [Note(0, 5, 0), Note(1000, 10, 0), Note(3000, 15, 0)]


def test_notes_are_few_however_much_is_written() -> None:
    log = ToyLog()
    ages = ages_of(log)
    late = 3_600_000
    for now in range(0, 3 * late, 1000):
        log.append(1, 0, now)
        ages.note(now, late)
        assert len(ages) <= NOTES_MAX + 2
    end = ages.end_by(now - late)
    assert log.appended_ms[end - 1] <= now - late
    assert now - late - log.appended_ms[end - 1] <= spacing_ms(late) + 1000  # and not much later than it might be


def test_what_was_cut_and_written_anew_is_new() -> None:
    log = ToyLog()
    ages = ages_of(log)
    log.append(10, 0, 0)
    ages.note(0, LATE)
    log.append(10, 0, 5000)
    ages.note(5000, LATE)
    log.cut(12)
    log.append(20, 3, 9000)
    assert ages.end_by(8000) == 10  # and not the 20 that were once there by then
    ages.note(9000, LATE)
    assert ages.some(NOTES_MAX) == [Note(0, 10, 0), Note(9000, 32, 3)]


def test_notes_of_another_log_of_the_same_records_are_true() -> None:
    log = ToyLog()
    log.append(10, 4, 0)
    notes = [Note(100, 10, 4), Note(200, 20, 4)]
    assert ages_of(log, *notes).end_by(1000) == 10  # it has not the records that the second speaks of
    log.append(10, 5, 0)
    assert ages_of(log, *notes).end_by(1000) == 10  # nor has it now: they are others
    other = ToyLog()
    other.append(25, 4, 0)
    assert ages_of(other, *notes).end_by(1000) == 20


def test_notes_out_of_order_are_left_out_and_a_clock_set_back_makes_nothing_older() -> None:
    log = ToyLog()
    log.append(30, 0, 0)
    ages = ages_of(log, Note(5000, 10, 0), Note(1000, 20, 0), Note(2000, 15, 0))
    assert ages.some(NOTES_MAX) == [Note(5000, 10, 0), Note(5000, 20, 0)]
    ages.note(3000, LATE)
    assert ages.end_by(4999) == 0 and ages.end_by(5000) == 30


def test_what_retention_took_does_not_matter() -> None:
    log = ToyLog()
    log.append(10, 0, 0)
    ages = ages_of(log)
    ages.note(0, LATE)
    log.append(10, 1, 100)
    log.move_start(15)
    assert ages.end_by(50) == 15 and ages.end_by(-1) == 15
    ages.note(1000, LATE)
    assert ages.end_by(1000) == 20


@pytest.mark.parametrize("seed", range(60))
def test_no_record_is_early_whatever_becomes_of_its_log(seed: int) -> None:
    """Appends, cuts with other records in their place, retention, restarts with notes that are old or thinned."""
    chance = random.Random(seed)
    log, now, epoch = ToyLog(), 0, 0
    ages: Any = ages_of(log)
    saved: list[Note] = []
    for _ in range(300):
        now += chance.choice((0, 10, 300, 5000))
        match chance.randrange(8):
            case 0 | 1 | 2:
                log.append(chance.randrange(1, 20), epoch, now)
            case 3 | 4:
                ages.note(now, LATE)
            case 5:
                epoch += 1
                log.cut(chance.randrange(log.start_offset, log.end.value + 1))
            case 6:
                saved = ages.some(NOTES_MAX)[:: chance.randrange(1, 4)] if chance.random() < 0.7 else saved
                if chance.random() < 0.5:
                    ages = ages_of(log, *saved)
            case 7:
                log.move_start(chance.randrange(log.start_offset, log.end.value + 1))
        then = now - chance.randrange(LATE)
        shown = ages.end_by(then)
        assert log.start_offset <= shown <= log.end.value
        assert all(when <= then for when in log.appended_ms[log.start_offset : shown])


def test_some_are_spread_over_all_and_fewer_than_twice_as_many_as_are_asked_for() -> None:
    log = ToyLog()
    ages = Ages(log)  # type: ignore[arg-type]
    for number in range(200):
        ages.add(Note(number, number + 1, 0))
    for most in (1, 7, 64, 199, 200, 1000):
        some = ages.some(most)
        assert min(most, 200) <= len(some) < 2 * most
        assert some[0] == Note(0, 1, 0) and some[-1].time_ms >= 200 - max(1, 200 // most)
