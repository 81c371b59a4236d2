"""What only the SQLite file has to show: several openers, kill -9, another boot, no store at all."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kbroker.cluster.store import Compacted, Delete, Guard, Page, Put, StoreError, Unavailable, Unreachable, load
from kbroker.cluster.stores import sqlite, sqlite_file
from kbroker.cluster.stores.feed import Changes
from kbroker.cluster.stores.heartbeats import Heartbeat
from kbroker.cluster.stores.sqlite import open_sqlite
from kbroker.cluster.stores.sqlite_file import SqliteFile
from kbroker.cluster.stores.sqlite_reader import Reader
from kbroker.env.features import Features
from kbroker.env.real import RealClock
from kbroker.env.real_disk import RealDisk
from tests.cluster.stores.test_conformance import collect, put
from tests.cluster.tools import PATIENCE_S, HandClock, Inline, MortalSqlite, Stuck, eventually, sqlite_at
from tests.volumes import fill_up

T = TypeVar("T")
ROOT = Path(__file__).parents[2]


async def test_the_file_is_private_and_its_content_stays(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "coord.db"
    async with sqlite_at(path, clock) as store:
        revision = await put(store, b"a", b"1")
        store_id = (await store.info()).id
        for file in tmp_path.iterdir():
            assert file.stat().st_mode & 0o777 == 0o600, file
    async with sqlite_at(path, clock) as store:
        info = await store.info()
        assert (info.id, info.revision) == (store_id, revision)
        assert len(await collect(store, b"a", 1, 1)) == 1  # the history too


async def test_no_database_is_an_error(tmp_path: Path, clock: HandClock) -> None:
    (tmp_path / "coord.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(Unavailable):
        async with sqlite_at(tmp_path / "coord.db", clock):
            pass
    (tmp_path / "directory.db").mkdir()
    with pytest.raises(Unavailable):
        async with sqlite_at(tmp_path / "directory.db", clock):
            pass


async def test_another_programs_database_and_another_version_are_left_as_they_are(
    tmp_path: Path, clock: HandClock
) -> None:
    other, later = tmp_path / "other.db", tmp_path / "later.db"
    with sqlite3.connect(other) as db:
        db.execute("create table kv(notes text)")
    async with sqlite_at(later, clock) as store:
        await put(store, b"a", b"1")
    with sqlite3.connect(later) as db:
        db.execute("pragma user_version = 2")
    for path, text in ((other, "another program"), (later, "version 2: another kbroker wrote it")):
        with sqlite3.connect(path) as db:
            before = list(db.iterdump())
        with pytest.raises(Unavailable, match=text):
            async with sqlite_at(path, clock):
                pass
        with sqlite3.connect(path) as db:
            assert list(db.iterdump()) == before


@pytest.mark.parametrize("ends", [b"", b"\0" * 400, b"\xff" * 400, b"\x7f" * 401])
async def test_where_the_ends_of_sessions_are_lost_no_session_lives_on(
    ends: bytes, tmp_path: Path, clock: HandClock
) -> None:
    """0xff is no number at all: it is neither before nor behind any time."""
    path = tmp_path / "coord.db"
    async with sqlite_at(path, clock) as store:
        lease = await store.grant(60.0)
        await store.txn([Guard(b"mine", 0)], [Put(b"mine", b"1", lease)])
        Path(f"{path}-sessions").write_bytes(ends)
        async with sqlite_at(path, clock) as other:
            assert await other.get(b"mine") is None
        assert not await store.refresh(lease)


async def test_damage_anywhere_in_the_file_is_told_or_does_no_harm(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "coord.db"
    async with sqlite_at(path, clock) as store:
        for n in range(200):
            await put(store, b"key/%03d" % n, b"value" * 20)
        whole = await load(store, b"")
    data = path.read_bytes()
    pages = range(0, len(data), 4096)
    damaged = [data[:at] + bytes(4096) + data[at + 4096 :] for at in pages]
    damaged += [data[:at] + data[-at - 1 : -at - 4097 : -1] + data[at + 4096 :] for at in pages]
    damaged += [data[:at] for at in (50, 4096, 4096 * 3, len(data) - 4096, len(data) - 1)]
    told = 0
    for content in damaged:
        for each in tmp_path.iterdir():
            each.unlink()
        path.write_bytes(content)
        try:
            async with sqlite_at(path, clock) as store:
                assert await load(store, b"") == whole
        except Unavailable:
            told += 1
    assert told > 20  # most pages are free: room kept for a full disk


async def test_two_openers_see_each_others_changes(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "coord.db"
    async with sqlite_at(path, clock) as one, sqlite_at(path, clock) as two:
        seen: list[bytes | None] = []

        async def watch() -> None:
            for batch in await collect(two, b"x/", 1, 40):
                seen.extend(event.value for event in batch.events)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for i in range(40):
                store = one if i % 3 else two
                await put(store, b"x/%d" % i, b"%d" % i)
        assert seen == [b"%d" % i for i in range(40)]
        entry = await one.get(b"x/0")
        assert entry is not None
        assert not (await two.txn([Guard(b"x/0", 0)], [Put(b"x/0", b"")])).succeeded
        assert (await two.txn([Guard(b"x/0", entry.mod_revision)], [Put(b"x/0", b"")])).succeeded


async def test_an_openers_dead_session_is_ended_by_another(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "coord.db"
    async with sqlite_at(path, clock) as one, sqlite_at(path, clock) as two:
        lease = await one.grant(6)
        revision = await put(one, b"s", b"x", lease=lease)
        assert await two.get(b"s") is not None
        clock.advance(6)
        (batch,) = await collect(two, b"s", revision + 1, 1)
        assert batch.events[0].value is None


async def test_a_slow_disk_ends_no_session(tmp_path: Path, clock: HandClock) -> None:
    """A transaction hangs in fsync for longer than the TTL; keepalives do not stand behind it."""
    disk = Stuck()
    async with sqlite_at(tmp_path / "coord.db", clock, offload=disk) as store, store.session(6) as session:
        async with trio.open_nursery() as nursery:
            disk.hold()
            nursery.start_soon(put, store, b"s", b"x", 0, session.id)
            for _ in range(10):
                await eventually(lambda: clock.sleepers == 1)
                clock.advance(2)
                await eventually(lambda: session.valid_until == clock.now + 6)
            disk.let_go()
        assert await store.get(b"s") is not None
        assert not session.lost.is_set()


async def test_no_caller_waits_for_ever(tmp_path: Path, clock: HandClock, autojump_clock: MockClock) -> None:
    disk = Stuck()
    async with sqlite_at(tmp_path / "coord.db", clock, offload=disk) as store:
        failures: list[StoreError] = []

        async def note_failure(call: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(StoreError) as raised:
                await call()
            failures.append(raised.value)

        disk.hold()
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note_failure, lambda: put(store, b"a", b"1"))
            await wait_all_tasks_blocked()
            nursery.start_soon(note_failure, lambda: put(store, b"b", b"1"))
            nursery.start_soon(note_failure, lambda: store.get(b"a"))
            for _ in range(3):
                nursery.start_soon(note_failure, lambda: store.range(b"a"))
        assert trio.current_time() - begun == sqlite.CALL_S
        assert sorted(type(error).__name__ for error in failures) == ["Ambiguous", *["Unavailable"] * 5]
        disk.let_go()
        assert await store.get(b"a") is not None  # what had begun has happened
        assert await store.get(b"b") is None


@pytest.mark.parametrize("ended", [False, True])
async def test_a_keepalive_the_disk_delayed_counts_unless_somebody_ended_the_session(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    path = tmp_path / "coord.db"
    async with sqlite_at(path, clock) as one, sqlite_at(path, clock) as two:
        lease = await one.grant(6)
        prolong = Heartbeat.prolong

        def slow(self: Heartbeat, end: float) -> bool:
            clock.now += 10  # the system call takes that long
            assert not one._file._is_over(lease, 6)  # its own process knows that it is on its way
            if ended:
                two._file.poll()
            return prolong(self, end)

        monkeypatch.setattr(Heartbeat, "prolong", slow)
        assert await one.refresh(lease) is not ended


async def test_F10_on_a_full_disk_sessions_live_and_topics_can_be_deleted(small_disk: Path, clock: HandClock) -> None:
    path = small_disk / "coord.db"
    async with sqlite_at(path, clock) as store, store.session(6) as session:
        revisions = [await put(store, b"t/%d" % n, bytes(100), lease=session.id) for n in range(50)]
        fill_up(filler := small_disk / "filler")
        for _ in range(5):
            await eventually(lambda: clock.sleepers == 1)
            clock.advance(2)
            await eventually(lambda: session.valid_until == clock.now + 6)
        for n, revision in enumerate(revisions):
            assert (await store.txn([Guard(b"t/%d" % n, revision)], [Delete(b"t/%d" % n)])).succeeded
        with pytest.raises(Unavailable, match="full"):
            for n in range(20_000):
                await put(store, b"more/%d" % n, bytes(1000))
        assert await store.get(b"more/0") is not None
        filler.unlink()
        await put(store, b"then", b"x", lease=session.id)
        assert not session.lost.is_set()


async def test_a_whole_process_that_is_cancelled_gives_its_session_back(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "coord.db"
    with trio.CancelScope() as scope:
        async with sqlite_at(path, clock) as store, store.session(6) as session:
            await put(store, b"s/mine", b"x", lease=session.id)
            scope.cancel()
            await trio.sleep_forever()
    async with sqlite_at(path, clock) as store:
        assert await store.get(b"s/mine") is None


async def test_a_long_range_is_of_one_moment_and_others_go_on_meanwhile(tmp_path: Path, clock: HandClock) -> None:
    pieces: list[int] = []
    go_on = Reader.go_on

    class Watched(Reader):
        def go_on(self) -> tuple[Page, bool]:
            page, is_last = go_on(self)
            pieces.append(len(page.entries))
            return page, is_last

    async with sqlite_at(tmp_path / "coord.db", clock, offload=Inline()) as store:
        store._reader.__class__ = Watched
        for start in range(0, 1200, 100):
            keys = [b"k/%04d" % number for number in range(start, start + 100)]
            await store.txn([Guard(key, 0) for key in keys], [Put(key, b"old") for key in keys])
        written: list[int] = []

        async def write() -> None:
            for number in range(1199, 0, -100):
                written.append(await put(store, b"k/%04d" % number, b"new", 12 - (1199 - number) // 100))

        page = Page([], 0, False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            page = await store.range(b"k/", limit=1200)
        assert pieces == [500, 500, 200] and len(written) == 12
        assert len(page.entries) == 1200 and not page.more
        assert [entry.value for entry in page.entries].count(b"new") == page.revision - 12 < 12
        page = await store.range(b"k/", limit=500)
        assert pieces[3:] == [500] and page.more and page.revision == 24
        with trio.move_on_after(0) as scope:
            await store.range(b"k/", limit=1200)
        assert scope.cancelled_caught
        assert len((await store.range(b"k/", limit=1200)).entries) == 1200


async def test_another_process_that_rings_is_heard_and_else_no_worker_is_asked(
    tmp_path: Path, clock: HandClock
) -> None:
    asked = 0

    class Counted(Inline):
        async def __call__(self, work: Callable[[], T]) -> T:
            nonlocal asked
            asked += 1
            return await super().__call__(work)

    path = tmp_path / "coord.db"
    async with (
        sqlite_at(path, clock, poll_s=1e6) as one,
        sqlite_at(path, clock, poll_s=1e6, offload=Counted()) as two,
    ):
        await one.grant(6)
        await two._tick()
        assert two._is_shared.is_set() and not one._is_shared.is_set()
        for number in range(1, 20):
            revision = await put(one, b"x/%d" % number, b"")
            await eventually(lambda last=revision: two._feed.last == last)  # type: ignore[misc]
            await wait_all_tasks_blocked(0.01)
            asked = 0
            await put(two, b"y/%d" % number, b"")
            await wait_all_tasks_blocked(0.01)
            assert asked == 1  # to commit; its own ring is no news


async def test_the_same_boot_ends_no_session(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "coord.db"
    async with sqlite_at(path, clock) as store:
        await put(store, b"s", b"x", lease=await store.grant(1e6))
    async with sqlite_at(path, clock) as store:
        assert await store.get(b"s") is not None


@pytest.mark.parametrize("lives", [True, False])
async def test_another_boot_ends_every_session_unless_it_is_another_machine_whose_brokers_live(
    tmp_path: Path, clock: HandClock, lives: bool
) -> None:
    """The clock is another one there: what counts is whether keepalives come."""
    path = tmp_path / "coord.db"
    there, here = HandClock(), clock
    async with trio.open_nursery() as nursery, sqlite_at(path, there) as store:
        lease = await store.grant(6)
        await put(store, b"s", b"x", lease=lease)
        told: list[str] = []

        async def open_here() -> None:
            try:
                async with sqlite_at(path, here, boot_id="boot-7") as mine:
                    assert await mine.get(b"s") is None
                    told.append("opened")
            except Unavailable as error:
                told.append(str(error))

        here.now = 500.0
        nursery.start_soon(open_here)
        await eventually(lambda: here.sleepers == 1)
        if lives:
            there.advance(2)
            assert await store.refresh(lease)
        here.advance(sqlite.STRANGERS_S)
        await eventually(lambda: bool(told))
        assert ("brokers of another machine are using it" in told[0]) == lives
        assert (await store.get(b"s") is not None) == lives


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
async def test_a_file_that_is_taken_away_while_it_is_used_is_changed_no_more(
    how: str, tmp_path: Path, clock: HandClock
) -> None:
    """Else changes would be answered that nobody finds after a restart; what is led is led on meanwhile."""
    path, aside = tmp_path / "coord.db", tmp_path / "aside"
    async with sqlite_at(path, clock) as store:
        revision = await put(store, b"a", b"1")
        async with store.session(6) as session:
            path.rename(aside)
            if how == "replaced":
                path.write_bytes(aside.read_bytes())
            for _ in range(3):
                with pytest.raises(Unavailable, match="was moved, deleted or replaced while it was in use"):
                    await put(store, b"a", b"2")
                clock.advance(2)
                await wait_all_tasks_blocked()
            assert not session.lost.is_set()
            if how == "moved":
                aside.replace(path)
                entry = await store.get(b"a")
                assert entry is not None and (entry.value, entry.mod_revision) == (b"1", revision)
                assert await put(store, b"b", b"2") > revision
                return
            aside.replace(path)  # for a clean end


async def test_a_network_file_system_is_refused(tmp_path: Path, clock: HandClock) -> None:
    disk = RealDisk(str(tmp_path), Features.detect())
    disk.filesystem = lambda: "nfs4"  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match=r"it lies on a network file system \(nfs4\)"):
        async with open_sqlite(disk, "coord.db", clock=clock, offload=Inline()):
            pass
    assert not list(tmp_path.iterdir())


async def test_sessions_of_a_clock_that_began_anew_are_over(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "coord.db"
    async with sqlite_at(path, clock, boot_id="") as store:
        await put(store, b"s", b"x", lease=await store.grant(6))
    clock.now = 1.0
    async with sqlite_at(path, clock, boot_id="") as store:
        assert await store.get(b"s") is None


async def test_old_history_comes_from_the_file(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "RECENT_MAX", 5)
    monkeypatch.setattr(sqlite_file, "RECENT_MAX", 5)
    path = tmp_path / "coord.db"
    async with sqlite_at(path, clock) as one, sqlite_at(path, clock) as two:
        for i in range(30):
            await put(one, b"x/%02d" % i, b"")
        batches = await collect(one, b"x/", 1, 30)
        assert [event.mod_revision for batch in batches for event in batch.events] == list(range(1, 31))
        assert (await two.info()).revision == 30  # fell behind by more than it keeps
        assert sum(len(batch.events) for batch in await collect(two, b"x/", 3, 28)) == 28
        await one.compact(20)
        with pytest.raises(Compacted):
            await collect(two, b"x/", 19, 1)
        assert sum(len(batch.events) for batch in await collect(two, b"x/", 20, 11)) == 11


async def test_a_busy_or_broken_file_is_unavailable(tmp_path: Path, clock: HandClock) -> None:
    async with sqlite_at(tmp_path / "coord.db", clock) as store:
        await put(store, b"a", b"1")
        store._file._db.execute("alter table kv rename to hidden")
        with pytest.raises(Unavailable):
            await put(store, b"b", b"1")
        store._file._db.execute("alter table hidden rename to kv")
        assert (await store.info()).revision == 1
        assert await put(store, b"b", b"1") == 2


def test_who_opens_a_new_file_together_with_another_waits_for_it(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, connect = tmp_path / "coord.db", sqlite3.connect
    path.touch()
    other = connect(path, isolation_level=None)
    other.execute("begin")
    other.execute("select * from sqlite_schema")

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        made = connect(*args, **options)
        made.set_trace_callback(lambda sql: other.execute("rollback") if sql == "begin exclusive" else None)
        return made

    monkeypatch.setattr(sqlite3, "connect", traced)
    file = SqliteFile(str(path), clock, set())
    assert not other.in_transaction
    file.close()
    other.close()


async def test_a_file_that_somebody_holds_as_it_is_opened_may_be_waited_for(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "coord.db"
    async with sqlite_at(path, clock) as store:
        await put(store, b"a", b"1")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("begin exclusive")
    monkeypatch.setattr(sqlite_file, "BUSY_S", 0.01)
    with pytest.raises(Unreachable, match="locked"):
        async with sqlite_at(path, clock):
            pass
    holder.close()
    async with sqlite_at(path, clock) as store:
        assert await store.get(b"a") is not None


async def test_a_full_disk_at_the_opening_may_be_waited_for(small_disk: Path, clock: HandClock) -> None:
    fill_up(filler := small_disk / "filler")
    with pytest.raises(Unreachable, match="full|No space"):
        async with sqlite_at(small_disk / "coord.db", clock):
            pass
    filler.unlink()
    async with sqlite_at(small_disk / "coord.db", clock) as store:
        await put(store, b"a", b"1")


async def test_a_commit_whose_news_cannot_be_read_has_still_happened(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, revision: int, revisions_max: int) -> Changes:
        raise sqlite3.OperationalError("disk I/O error")

    async with sqlite_at(tmp_path / "coord.db", clock) as store:
        with monkeypatch.context() as patch:
            patch.setattr(SqliteFile, "_read_log", broken)
            assert await put(store, b"a", b"1") == 1
        assert await put(store, b"b", b"1") == 2
        assert len(await collect(store, b"", 1, 2)) >= 1


async def test_a_killed_openers_lease_outlives_it(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "coord.db"
    async with sqlite_at(path, clock) as store:
        store.__class__ = MortalSqlite
        async with store.session(6) as session:
            await put(store, b"s", b"x", lease=session.id)
            store.killed = True  # type: ignore[attr-defined]
    async with sqlite_at(path, clock) as store:
        assert await store.get(b"s") is not None
        clock.advance(6)
        async with store.session(6):
            assert await store.get(b"s") is None


HOLDER = """
import sys, trio
from kbroker.cluster.store import Guard, Put
from kbroker.env.real import RealClock
from tests.cluster.tools import sqlite_at

async def main():
    async with sqlite_at(sys.argv[1], RealClock()) as store, store.session(1.0) as session:
        await store.txn([Guard(b"mine", 0)], [Put(b"mine", b"x", session.id)])
        print("held", flush=True)
        await session.lost.wait()
        print("lost", session.valid_until <= RealClock().liveness(), flush=True)

trio.run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_process_that_died_or_hangs_loses_its_session(tmp_path: Path, how: signal.Signals) -> None:
    """And one that lives does not, though the other process looks twenty times a second."""
    path = tmp_path / "coord.db"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protocol'}"}
    async with sqlite_at(path, RealClock()) as store:
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, env=environment, text=True
        ) as holder:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with trio.fail_after(PATIENCE_S):
                with trio.move_on_after(3):
                    await collect(store, b"mine", 2, 1)  # it is alive: nothing happens to its key
                assert await store.get(b"mine") is not None
                holder.send_signal(how)
                (batch,) = await collect(store, b"mine", 2, 1)
                assert batch.events[0].value is None
            if how == signal.SIGSTOP:
                holder.send_signal(signal.SIGCONT)
                assert holder.stdout.readline() == "lost True\n"
            holder.wait(PATIENCE_S)


WRITER = """
import sys, trio
from kbroker.cluster.store import Guard, Put
from tests.cluster.tools import HandClock, sqlite_at

async def main():
    async with sqlite_at(sys.argv[1], HandClock()) as store:
        n = 0
        while True:
            key = b"n/%s%06d" % (sys.argv[2].encode(), n)
            if (await store.txn([Guard(key, 0)], [Put(key, b"x" * 100)])).succeeded:
                print(n, flush=True)
            n += 1

trio.run(main)
"""


class Writing:
    """Processes that write, each keys of its own, and what was acknowledged to each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.processes: dict[str, trio.Process] = {}
        self.acknowledged: dict[str, int] = {}

    async def run(self, name: str, nursery: trio.Nursery) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protocol'}"}
        command = [sys.executable, "-c", WRITER, str(self.path), name]
        process = self.processes[name] = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, env=environment
        )
        self.acknowledged[name] = 0
        nursery.start_soon(self._read, name, process)

    async def _read(self, name: str, process: trio.Process) -> None:
        assert process.stdout is not None
        buffered = b""
        async for chunk in process.stdout:
            *lines, buffered = (buffered + chunk).split(b"\n")
            self.acknowledged[name] += len(lines)
        await process.wait()

    async def wait_more(self, *names: str, more: int = 50) -> None:
        """Until each has so many acknowledgements more."""
        goals = {name: self.acknowledged[name] + more for name in names}
        while any(self.acknowledged[name] < goal for name, goal in goals.items()):
            await trio.sleep(0.01)


@pytest.mark.slow
async def test_F8_nothing_acknowledged_is_lost_by_kill_9_and_the_others_go_on(tmp_path: Path, clock: HandClock) -> None:
    writing = Writing(tmp_path / "coord.db")
    with trio.fail_after(6 * PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for name in ("a", "b", "c"):
                await writing.run(name, nursery)
            await writing.wait_more("a", "b", "c")
            for victim, heir in (("a", "d"), ("b", "e"), ("d", "f")):
                writing.processes[victim].kill()
                await writing.run(heir, nursery)
                await writing.wait_more("c", heir)
            for process in writing.processes.values():
                process.kill()
    async with sqlite_at(writing.path, clock) as store:
        assert store._file._db.execute("pragma integrity_check").fetchone() == ("ok",)
        page = await load(store, b"n/")
        assert sorted(entry.mod_revision for entry in page.entries) == list(range(1, page.revision + 1))
        for name, acknowledged in writing.acknowledged.items():
            written = sum(entry.key.startswith(b"n/" + name.encode()) for entry in page.entries)
            assert acknowledged <= written <= acknowledged + 1


async def test_transactions_that_arrive_together_share_a_commit(tmp_path: Path, clock: HandClock) -> None:
    async with sqlite_at(tmp_path / "coord.db", clock) as store:
        commits: list[str] = []
        store._file._db.set_trace_callback(lambda sql: commits.append(sql) if sql.lower() == "commit" else None)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for i in range(50):
                    nursery.start_soon(put, store, b"x/%d" % i, b"")
        store._file._db.set_trace_callback(None)
        assert (await store.info()).revision == 50
        assert len(commits) <= 3
        assert len({entry.mod_revision for entry in (await store.range(b"x/")).entries}) == 50
        await eventually(lambda: store._feed.last == 50)
