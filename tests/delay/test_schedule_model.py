"""The schedule beside a naive one, whatever is done with it: with limits so small that everything happens at once."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kbroker.delay import runs, schedule
from kbroker.delay.schedule import NEVER, START, Entry, Position, Schedule
from kbroker.testing.disk import MemoryDisk
from tests.delay.naive import Naive

PARTITION = "orders-0"
DIRECTORY = f"{PARTITION}/delay"
KEYS = [bytes([n]) * 8 for n in range(1, 4)]
SMALL = {
    "MEMORY_ROWS": 6,
    "GONE_MAX": 5,
    "MERGED_RUNS": 2,
    "RUNS_MAX": 5,
    "FEW_ROWS": 2,
    "SCANNED_MAX": 7,
    "BLOCKS_A_STEP": 1,
}
keys = st.sampled_from(KEYS)
dues = st.one_of(st.integers(1, 8), st.integers(1, 1000))


class Beside(RuleBasedStateMachine):
    """Both are told the same, and have to tell the same."""

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.disk = MemoryDisk(seed=seed)
        self.disk.make_dirs(PARTITION)
        self.disk.sync_dir("")
        self.real, self.naive = Schedule(self.disk, DIRECTORY), Naive()
        self.saved: Naive | None = None
        self.saved_end = 0
        self.end = 0  # of the log
        self.now_ms = 0
        self.uncommitted: list[Entry] = []  # of an open transaction
        self.asked: list[tuple[bytes, int] | int] = []  # to be hurried by the next search

    def settled(self) -> None:
        """As whoever reads the log has to before it reads on."""
        while self.real.is_full:
            self.real.settle()
        self.hurry_what_was_asked()

    def hurry_what_was_asked(self) -> None:
        for each in self.asked:
            self.naive.hurry([each]) if isinstance(each, int) else self.naive.hurry_key(*each)
        self.asked = []

    @rule(pending=st.lists(st.tuples(dues, keys), max_size=12))
    def add(self, pending: list[tuple[int, bytes]]) -> None:
        self.settled()
        entries = [Entry(self.now_ms + due, self.end + n, self.end + n, key) for n, (due, key) in enumerate(pending)]
        self.end += len(entries)
        self.real.add(entries)
        self.naive.add(entries)

    @rule(pending=st.lists(st.tuples(dues, keys), max_size=3))
    def hide_in_a_transaction(self, pending: list[tuple[int, bytes]]) -> None:
        entries = [Entry(self.now_ms + due, self.end + n, self.end + n, key) for n, (due, key) in enumerate(pending)]
        self.end += len(entries)
        self.uncommitted += entries
        self.note_uncommitted()

    @rule()
    def commit(self) -> None:
        self.settled()
        self.real.add(self.uncommitted)
        self.naive.commit(self.uncommitted)
        self.uncommitted = []
        self.note_uncommitted()

    def note_uncommitted(self) -> None:
        self.real.uncommitted_from = min([each.id for each in self.uncommitted], default=NEVER)

    @rule(choice=st.integers(0), most=st.integers(1, 4))
    def carry_forward(self, choice: int, most: int) -> None:
        self.settled()
        old = [each for each in self.naive.pending.values() if each.due_ms > 0]
        carried = [each._replace(offset=self.end + n) for n, each in enumerate(old[choice % (len(old) or 1) :][:most])]
        self.end += len(carried)
        self.real.add(carried)
        self.naive.add(carried)

    @rule(choices=st.lists(st.integers(0), max_size=4))
    def remove(self, choices: list[int]) -> None:
        self.settled()
        known = [each.id for each in self.naive.all()] or [0]
        ids = [known[each % len(known)] for each in choices]
        self.real.remove(ids, self.end)
        self.naive.remove(ids, self.end)

    @rule(most=st.integers(1, 9))
    def deliver_as_a_follower_sees_it(self, most: int) -> None:
        self.settled()
        ids = [each.id for each in self.naive.all()[:most]]
        self.real.remove(ids, self.end)
        self.naive.remove(ids, self.end)

    @rule(key=keys)
    def cancel(self, key: bytes) -> None:
        self.settled()
        self.real.cancel(key, self.end)
        self.naive.cancel(key, self.end)

    @rule(key=keys)
    def hurry_key(self, key: bytes) -> None:
        self.settled()
        self.real.hurry_key(key, self.end)
        self.asked.append((key, self.end))

    @rule(choice=st.integers(0))
    def hurry(self, choice: int) -> None:
        self.settled()
        if self.naive.pending:
            id = list(self.naive.pending)[choice % len(self.naive.pending)]
            self.real.hurry([id], self.end)
            self.asked.append(id)

    @rule(most=st.integers(1, 12), ms=st.integers(0, 20))
    def take(self, most: int, ms: int) -> None:
        self.now_ms += ms
        if self.asked:
            self.take_in_the_middle_of_a_search(most)
        else:
            assert self.real.take(self.now_ms, most) == self.naive.take(self.now_ms, most)

    def take_in_the_middle_of_a_search(self, most: int) -> None:
        """What is to be hurried comes early or late; nothing else may be taken for it, and nothing twice."""
        self.real.settle()
        taken = self.real.take(self.now_ms, most)
        for each in taken:
            known = self.naive.pending.pop(each.id)
            assert each in (known, known._replace(due_ms=0))
            self.naive.taken[each.id] = each

    @rule()
    def release(self) -> None:
        self.real.release()
        self.naive.release()

    @rule()
    def settle_a_little(self) -> None:
        self.real.settle()

    @rule()
    def settle_all(self) -> None:
        while self.real.settle():
            pass
        self.hurry_what_was_asked()

    @rule()
    def tighten(self) -> None:
        self.settled()
        self.real.tighten()
        self.settle_all()
        assert self.real.lowest_offset == self.naive.lowest_offset
        assert len(self.real) == len(self.naive.all()) or self.naive.taken

    @rule()
    def save(self) -> None:
        self.real.save(Position(self.end, 0))
        self.hurry_what_was_asked()
        self.saved, self.saved_end = self.naive.copy(), self.end
        self.saved_uncommitted = list(self.uncommitted)
        self.saved.release()

    @precondition(lambda self: self.saved is not None)
    @rule(is_power_loss=st.booleans())
    def die(self, is_power_loss: bool) -> None:
        if is_power_loss:
            self.disk.power_loss()
        else:
            self.disk.kill()
        self.disk = MemoryDisk(volume=self.disk.volume)
        loaded = Schedule.load(self.disk, DIRECTORY)
        assert loaded is not None and loaded[1] == Position(self.saved_end, 0)
        assert self.saved is not None
        self.real, self.naive, self.asked, self.end = loaded[0], self.saved.copy(), [], self.saved_end
        self.uncommitted = list(self.saved_uncommitted)
        self.note_uncommitted()

    @rule(nth=st.integers(1, 4), kind=st.sampled_from(["append", "sync", "open", "pread", "remove"]))
    def settle_while_the_disk_fails(self, nth: int, kind: str) -> None:
        self.disk.fail(kind, f"{DIRECTORY}/*", nth=nth)
        try:
            for _ in range(20):
                self.real.settle()
        except OSError:
            pass
        finally:
            self.disk.heal()

    @rule(most=st.integers(1, 5), key=st.one_of(st.none(), keys), part=st.integers(1, 4))
    def look(self, most: int, key: bytes | None, part: int) -> None:
        self.settled()
        below = self.end // part
        after: tuple[int, int] | None = START
        seen: list[Entry] = []
        while after is not None:
            page = self.real.page(after, most, key=key, below=below)
            assert len(page.entries) <= most and (page.next is None or page.next > after)
            seen += page.entries
            after = page.next
        told = [each for each in self.naive.all() if key is None or each.key == key]
        assert seen == [each for each in told if each.due_ms > 0 and each.offset < below]

    @invariant()
    def is_never_late(self) -> None:
        if not self.asked:
            assert self.real.next_due_ms <= self.naive.next_due_ms
            assert self.real.lowest_offset <= self.naive.lowest_offset
            assert len(self.real) >= len(self.naive.all())

    def teardown(self) -> None:
        self.settle_all()
        self.real.release()
        self.naive.release()
        assert self.real.take(self.now_ms + 2000, 10_000) == self.naive.take(self.now_ms + 2000, 10_000)


@pytest.fixture
def small_limits() -> None:
    with mock.patch.multiple(schedule, **SMALL), mock.patch.object(runs, "BLOCK_ROWS", 3):
        yield


@pytest.mark.slow
def test_it_tells_the_same_as_a_naive_one(small_limits: None) -> None:
    few = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Beside, settings=few)
