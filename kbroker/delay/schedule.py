"""What is pending in one partition, in the order in which it is due. Derived from the partition's log, and owned by
whoever reads that.

    add ──▶ pending ──take──▶ taken ──remove──▶ gone        remove, cancel: gone from wherever it is
                 ▲               │                          hurry: pending, and due at once
                 └────release────┘

What came last is in memory, as rows that are in order. When they are many they are written as a run; MERGED_RUNS runs
of about the same size become one. So ten million are in some thirty files, of each of which one block is in memory;
whatever is asked for is at the head of these, or found by bisection.

What is removed or cancelled is not looked for: it is remembered that it is gone, and left out when its row comes up.
What is hurried is looked for, in one search for all that were asked for together, and gets another row, with a due time
of zero; the first row is gone. When so much is gone that it takes too much memory to remember, all runs are merged
without it, and it is forgotten (but for what a transaction that is open may yet add to).

It is read and changed by one at a time. What is said to block may read and write files, and is for a worker. It may
raise Damaged (throw it away and make it anew from the log: `discard`) and the disk's OSError (all is as it was).
`next_due_ms`, `lowest_offset`, `is_full` and `len` may be read on the loop at any time.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from kbroker.delay.gone import AT_ONCE, Gone
from kbroker.delay.runs import (
    END,
    Cursor,
    Damaged,
    Entry,
    Run,
    RunCursor,
    RunWriter,
    distinct,
    entry_of,
    lowest_offset,
    make_directory,
    merged,
    next_rows,
    pack,
    through,
)
from kbroker.delay.saved import FILE, Position, Saved, SavedRun, decode, encode
from kbroker.env import Disk

__all__ = ["NEVER", "START", "Damaged", "Entry", "Page", "Position", "Schedule"]

NEVER = (1 << 63) - 1  # when nothing is pending; where nothing lies
START = (-1, -1)  # a due time and id before all others
MEMORY_ROWS = 16_384  # that a run is made of
GONE_MAX = 32_768  # ids and keys that are remembered to be gone
MERGED_RUNS = 8  # of one size
RUNS_MAX = 64
FEW_ROWS = 32  # are put in order one by one
SCANNED_MAX = 65_536  # rows that are looked at for one page
BLOCKS_A_STEP = 16  # of a job, for each of which others wait: some ten milliseconds

Job = Generator["OSError | None", None, None]  # pauses, or tells why it cannot go on for now


class Page(NamedTuple):
    """Some of what is pending, in order."""

    entries: list[Entry]
    next: tuple[int, int] | None  # the due time and id behind which the next page begins; None: there is none


class Schedule:
    """What is pending, by due time."""

    def __init__(self, disk: Disk, directory: str) -> None:
        """An empty one. directory: its own, made when there is something to write; what lies there is written over."""
        self.uncommitted_from = NEVER  # set by who reads the log: from which id on something may yet be added
        self.next_due_ms = NEVER  # of what is pending and not taken; it may be too early, never too late
        self._disk = disk
        self._directory = directory
        self._memory = Cursor([])
        self._runs: list[RunCursor] = []
        self._taken: dict[int, bytes] = {}  # by id
        self._lowest_offset = NEVER  # of memory and what is taken
        self._gone = Gone()
        self._kept = 0  # of what is gone, how much had to be remembered when all was merged
        self._asked = Gone()  # to hurry: what the next search is for
        self._job: Job | None = None
        self._is_searching = False
        self._lowest_sought = NEVER  # of what there was when the search began
        self._is_to_tighten = False
        self._passed = b""  # how far, since the merge began that is under way
        self._next_number = 0
        self._named: set[str] = set()  # files that the saved one speaks of
        self._waste: list[str] = []  # files that are not needed
        self._is_directory_synced = False  # its name is durable

    def __len__(self) -> int:
        """How many are pending or taken; about: what is gone counts until its row comes up, what is searched for does
        not until it is found."""
        return len(self._memory) + sum([len(each) for each in self._runs]) + len(self._taken)

    @property
    def lowest_offset(self) -> int:
        """No record of what is pending or taken lies below this; NEVER: nothing is pending.

        It may be lower than need be: what is gone counts until `tighten`.
        """
        return min([self._lowest_offset, self._lowest_sought, *(each.run.lowest_offset for each in self._runs)])

    @property
    def is_full(self) -> bool:
        """Nothing may be added, removed, cancelled or hurried before `settle` was called until this is False."""
        return (
            len(self._memory) > MEMORY_ROWS
            or len(self._gone) > 2 * GONE_MAX + self._kept
            or len(self._runs) > RUNS_MAX
            or self._is_searching
            or len(self._asked) > 0
        )

    def add(self, entries: Iterable[Entry]) -> None:
        """These are pending. One that is pending already has its record elsewhere now, at a larger offset.

        Their due times are above 0. A piece of the log at a time, of some thousands at most. What is committed late may
        have been cancelled or hurried before: it is, then, if it is not below `uncommitted_from`.
        """
        rows = []
        for entry in entries:
            row = pack(*entry)
            if self._gone.has_hurried(row):
                row = _at_once(row)
            if entry.id not in self._taken:
                rows.append(row)
            else:
                self._taken[entry.id] = row
                self._lowest_offset = min(self._lowest_offset, entry.offset)
        self._insert(rows)

    def remove(self, ids: Iterable[int], before: int) -> None:
        """These are not pending any more: delivered, or cancelled by their ids. Blocks.

        Unknown ones are fine; one that is not below an offset, where this was said, is not meant: it is yet to come.
        """
        for each in ids:
            if self._taken.pop(each, None) is None and 0 <= each < before:
                self._gone.removed.add(each.to_bytes(8, "big"))
        self._trim()

    def cancel(self, key: bytes, before: int) -> None:
        """What is pending of this key's digest, and came before an offset (its id is below it), is not any more."""
        self._gone.cancelled_keys[key] = max(before.to_bytes(8, "big"), self._gone.cancelled_keys.get(key, b""))
        for id in [id for id, row in self._taken.items() if row[24:] == key and id < before]:
            del self._taken[id]

    def hurry(self, ids: Iterable[int], before: int) -> None:
        """Have `settle` make these due at once, if they are pending and came before an offset."""
        self._asked.hurried.update(each.to_bytes(8, "big") for each in ids if 0 <= each < before)

    def hurry_key(self, key: bytes, before: int) -> None:
        """The same for what is pending of this key's digest, and came before an offset."""
        self._asked.hurried_keys[key] = max(before.to_bytes(8, "big"), self._asked.hurried_keys.get(key, b""))

    def take(self, now_ms: int, most: int) -> list[Entry]:
        """What is due by now, in order, up to so many: from now on taken, until it is removed or released. Blocks."""
        taken: list[bytes] = []
        while len(taken) < most:
            lacking = most - len(taken)
            try:
                rows = next_rows(self._cursors, self._stride(lacking), pack(now_ms, NEVER, NEVER, END[:8]))
            except OSError:
                if taken:
                    break
                raise
            if not rows:
                break
            live = self._gone.live(distinct(rows))
            self._pass(rows, rows[-1] if len(live) <= lacking else live[lacking - 1])
            taken += live[:lacking]
            self._taken.update((_id(row), row) for row in live[:lacking])
        self._lowest_offset = min(self._lowest_offset, lowest_offset(taken, NEVER))  # a run may be at its end
        self._note()
        return [entry_of(row) for row in taken]

    def release(self) -> None:
        """What was taken is pending again."""
        taken, self._taken = self._taken, {}
        self._insert(list(taken.values()))

    def page(self, after: tuple[int, int], most: int, *, key: bytes | None = None, below: int = NEVER) -> Page:
        """What is pending or taken behind a due time and id, in order: up to so many. Blocks.

        key: only of this digest. below: only what the log has below this offset, and what was not hurried. A page may
        have fewer than most, or none at all, though there is a next.
        """
        bound = through(pack(*after, 0, END[:8])) if after > START else b""
        cursors = self._readers(bound)
        rows: list[bytes] = []
        found: list[bytes] = []
        scanned = 0
        while len(found) <= most and scanned < SCANNED_MAX:
            rows = next_rows(cursors, self._stride(most), END)
            if not rows:
                break
            scanned += len(rows)
            for each in cursors:
                each.pass_by(through(rows[-1]))
            bound = rows[-1]
            live = self._gone.live(distinct(rows))
            found += [row for row in live if _is_asked(row, key, below)]
        if len(found) > most:
            bound, found = found[most - 1], found[:most]
            rows = found
        behind = entry_of(bound) if rows else None
        return Page([entry_of(row) for row in found], behind and (behind.due_ms, behind.id))

    def tighten(self) -> None:
        """Have `settle` go through all there is: `lowest_offset` is exact then, and files hold nothing that is gone."""
        self._is_to_tighten = True

    def settle(self) -> bool:
        """Bring what is too much for memory to the disk, search for what is to be hurried, merge; some ten milliseconds
        of it. True: there may be more to do. Blocks.

        To be called, until it is False, when nothing else is to be done; and as `is_full` says. May raise Damaged,
        OSError: what is to be done is still to be done.
        """
        if len(self._memory) > MEMORY_ROWS:
            self._spill()
        job = self._job = self._job or self._next_job()
        if job is None:
            return False
        self._job = None  # a merge that fails begins anew
        try:
            error = next(job)
        except StopIteration:
            self._note()
            self._remove_waste()
            return True
        self._job = job
        if error is not None:
            raise error
        return True

    def save(self, position: Position) -> None:
        """Have it found by `load` as it is now; taken counts as pending. Blocks. May raise OSError."""
        while self._is_searching or len(self._asked):
            self.settle()
        rows = sorted([*self._memory.rows[self._memory.at :], *self._taken.values()])
        runs = [SavedRun(each.run.number, each.run.count, each.position, each.run.lowest_offset) for each in self._runs]
        content = encode(Saved(position, self._next_number, runs, rows, self._gone))
        make_directory(self._disk, self._directory)
        if not self._is_directory_synced:  # a later start is to know, after a power failure too
            self._disk.sync_dir(self._directory.rpartition("/")[0])
            self._is_directory_synced = True
        self._disk.write_atomic(f"{self._directory}/{FILE}", content)
        self._named = {each.run.path for each in self._runs}
        self._remove_waste()

    @classmethod
    def load(cls, disk: Disk, directory: str) -> tuple[Schedule, Position] | None:
        """What was saved last; None when there is nothing, or it is damaged. Blocks. May raise OSError."""
        try:
            saved = decode(disk.read(f"{directory}/{FILE}"))
            if saved is None:
                return None
            schedule = cls(disk, directory)
            schedule._restore(saved)
        except (FileNotFoundError, Damaged):
            return None
        return schedule, saved.position

    @staticmethod
    def discard(disk: Disk, directory: str) -> None:
        """Remove all files of one. Blocks. May raise OSError."""
        disk.remove_tree(directory)

    @property
    def _cursors(self) -> list[Cursor]:
        return [self._memory, *self._runs]

    def _stride(self, rows: int) -> int:
        """How many rows to take from each cursor when so many are wanted of all."""
        return max(16, 2 * rows // (1 + len(self._runs)))

    def _insert(self, rows: list[bytes]) -> None:
        memory = self._memory
        if not rows:
            return
        if len(rows) <= FEW_ROWS:
            for row in rows:
                insort(memory.rows, row, memory.at)
        else:
            self._memory = Cursor(sorted([*memory.rows[memory.at :], *rows]))
        self.next_due_ms = min(self.next_due_ms, _due_ms(min(rows)))
        self._lowest_offset = min(self._lowest_offset, lowest_offset(rows, NEVER))

    def _pass(self, rows: Sequence[bytes], last: bytes) -> None:
        """Of these rows, which are the next of all, those are behind that are not behind the last."""
        bound = through(last)
        for each in self._cursors:
            each.pass_by(bound)
        self._passed = max(self._passed, bound)
        if not self._is_searching:
            self._gone.forget(rows[: bisect_right(rows, bound)])

    def _trim(self) -> None:
        """Pass what is gone at the head of all rows."""
        while len(self._gone) and (rows := next_rows(self._cursors, 16, END)):
            live = self._gone.live(rows)
            count = len(rows) if not live else rows.index(live[0])
            if not count:
                break
            self._pass(rows, rows[count - 1])
        self._note()

    def _note(self) -> None:
        """Let go of what is passed; see what is next."""
        memory = self._memory
        if memory.at > MEMORY_ROWS // 16 or not memory:
            del memory.rows[: memory.at]
            memory.at = 0
        if not (memory or self._taken):
            self._lowest_offset = NEVER
        self._drop([each for each in self._runs if not each])
        self.next_due_ms = min([_due_ms(each.floor) for each in self._cursors if each], default=NEVER)

    def _drop(self, runs: Sequence[RunCursor]) -> None:
        if runs:
            self._runs = [each for each in self._runs if each not in runs]
            self._waste += [each.run.path for each in runs]

    def _remove_waste(self) -> None:
        """Remove files that are not needed; the saved schedule has to find what it speaks of."""
        if self._job is None:  # a merge reads what it began with
            for path in [each for each in self._waste if each not in self._named]:
                self._waste.remove(path)
                self._disk.remove(path)

    def _readers(self, bound: bytes) -> list[Cursor]:
        """Cursors of all that is pending or taken behind a bound; the schedule's own stay where they are."""
        taken = sorted(self._taken.values())
        memory = self._memory
        readers = [
            Cursor(taken, bisect_right(taken, bound)),
            Cursor(memory.rows, bisect_right(memory.rows, bound, memory.at)),
        ]
        for each in self._runs:
            behind = each.run.position_behind(bound) if bound else 0
            readers.append(RunCursor(each.run, max(each.position, behind)))
        return readers

    @contextmanager
    def _writer(self) -> Iterator[RunWriter]:
        number, self._next_number = self._next_number, self._next_number + 1
        writer = RunWriter(self._disk, self._directory, number)
        try:
            yield writer
        except (OSError, Damaged):  # not when it is given up by a schedule that is: the file may be another's by then
            writer.remove()
            raise
        finally:
            writer.close()

    def _spill(self) -> None:
        """Write what is in memory as a run. May raise OSError: it stays in memory."""
        with self._writer() as writer:
            writer.write(list(self._gone.live(distinct(self._memory.rows[self._memory.at :]))))
            cursor = _cursor_of(writer, b"")
        self._runs += cursor
        self._memory = Cursor([])
        self._lowest_offset = lowest_offset(self._taken.values(), NEVER)
        self._note()

    def _next_job(self) -> Job | None:
        if len(self._asked):
            return self._search()
        if self._is_to_tighten or len(self._gone) > GONE_MAX + self._kept:
            return self._merge_all()
        sizes: dict[int, list[RunCursor]] = {}
        for each in self._runs:
            sizes.setdefault(_size(len(each)), []).append(each)
        alike = min([size for size, runs in sizes.items() if len(runs) >= MERGED_RUNS], default=None)
        return None if alike is None else self._merge(sizes[alike], self._gone)

    def _search(self) -> Job:
        """Give what is to be hurried a row that is due at once. Where the disk fails it goes on when asked again."""
        gone_before, asked = self._gone.copy(), self._asked
        self._lowest_sought = self.lowest_offset
        self._asked, self._is_searching = Gone(), True
        self._gone.add(asked)
        self._taken = {id: _at_once(row) if asked.has_hurried(row) else row for id, row in self._taken.items()}
        cursors = [Cursor(self._memory.rows[self._memory.at :])]
        cursors += [RunCursor(each.run, each.position) for each in self._runs]
        for cursor in cursors:
            blocks = 0
            while cursor:
                try:
                    cursor.fill()
                except OSError as error:
                    yield error
                    continue
                rows, cursor.at = cursor.rows[cursor.at :], len(cursor.rows)
                found = gone_before.live([row for row in rows if asked.has_hurried(row)])
                # of one that was carried forward another row may have been found, and taken
                self._insert([_at_once(row) for row in found if _id(row) not in self._taken])
                blocks += 1
                if not blocks % BLOCKS_A_STEP:
                    yield None
        self._is_searching, self._lowest_sought = False, NEVER

    def _merge_all(self) -> Job:
        """Merge all there is without what is gone, and forget that."""
        if self._runs:
            self._spill()
        else:
            self._memory = Cursor(list(self._gone.live(distinct(self._memory.rows[self._memory.at :]))))
            self._lowest_offset = lowest_offset([*self._memory.rows, *self._taken.values()], NEVER)
        gone = self._gone.copy()
        self._is_to_tighten = False
        try:
            yield from self._merge(list(self._runs), gone)
        except (OSError, Damaged):
            self._is_to_tighten = True
            raise
        self._gone.subtract(gone.below(self.uncommitted_from))
        self._kept = len(self._gone)

    def _merge(self, sources: list[RunCursor], gone: Gone) -> Job:
        """Make one run of some, without what is gone. What is passed meanwhile is passed in that one, too."""
        if not sources:
            return
        self._passed = b""
        with self._writer() as writer:
            cursors: list[Cursor] = [RunCursor(each.run, each.position) for each in sources]
            for step, rows in enumerate(merged(cursors), 1):
                writer.write(list(gone.live(rows)))
                if not step % BLOCKS_A_STEP:
                    yield None
            cursor = _cursor_of(writer, self._passed)
        self._drop([each for each in sources if each in self._runs])
        self._runs += cursor

    def _restore(self, saved: Saved) -> None:
        """Be as it was. May raise Damaged, OSError (among it FileNotFoundError)."""
        self._next_number = saved.next_number
        self._gone = saved.gone
        for number, count, passed, lowest in saved.runs:
            run = Run(self._disk, self._directory, number, count, lowest)
            if self._disk.size(run.path) != run.size:
                raise Damaged(f"{run.path} is not as long as it was")
            cursor = RunCursor(run, passed)
            cursor.fill()
            self._runs.append(cursor)
            self._named.add(run.path)
        self._insert(saved.rows)
        self._lowest_offset = lowest_offset(saved.rows, NEVER)
        for name in self._disk.list_dir(self._directory):
            path = f"{self._directory}/{name}"
            if name != FILE and path not in self._named:
                self._disk.remove(path)
        self._note()


def _cursor_of(writer: RunWriter, passed: bytes) -> list[RunCursor]:
    """A reader of what was written, behind what is passed; none when there is nothing to read."""
    run = writer.finish()
    if run is None:
        writer.remove()
        return []
    cursor = RunCursor(run, run.position_behind(passed) if passed else 0)
    cursor.fill()
    return [cursor]


def _size(rows: int) -> int:
    """In which class of runs one is, by what is left of it."""
    size = 0
    while rows > 2 * MEMORY_ROWS:
        rows //= MERGED_RUNS
        size += 1
    return size


def _due_ms(row: bytes) -> int:
    return int.from_bytes(row[:8], "big")


def _id(row: bytes) -> int:
    return int.from_bytes(row[8:16], "big")


def _at_once(row: bytes) -> bytes:
    return AT_ONCE + row[8:]


def _is_asked(row: bytes, key: bytes | None, below: int) -> bool:
    if below != NEVER and (row[:8] == AT_ONCE or int.from_bytes(row[16:24], "big") >= below):
        return False
    return key is None or row[24:] == key
