"""The coordination store in one SQLite file: the embedded default, for one broker or several processes of a machine.

The file itself is `sqlite_file.py`. Here is what stands in front of it: a queue. One piece of work at a time runs on a
worker thread (env.offload), never the event loop; who asked waits a bounded time for it. Transactions that arrive
together share one commit and one fsync, each with its own revision.

A keepalive is no transaction and stands in no queue: a few bytes, written by the event loop (heartbeats.py). So neither
a slow disk nor a full one ends a session.

Changes of this process are fed to its watchers directly. Those of other processes are found with the next piece of
work, and when they ring (bell.py), which costs nothing while nobody does. In any case a worker looks twice a second,
and ends the sessions that are over.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any, Generic, TypeVar

import trio

from kbroker.cluster.store import (
    Ambiguous,
    Batch,
    Entry,
    Guard,
    Op,
    Page,
    Session,
    StoreError,
    StoreInfo,
    TxnResult,
    Unavailable,
    Unreachable,
    check_txn,
)
from kbroker.cluster.stores.feed import Changes, Feed, follow
from kbroker.cluster.stores.heartbeats import Heartbeat
from kbroker.cluster.stores.session import alongside, hold
from kbroker.cluster.stores.sqlite_file import RECENT_MAX, SqliteFile, Txn, is_busy, is_full
from kbroker.cluster.stores.sqlite_reader import Reader
from kbroker.env import Clock, Disk, Offload

T = TypeVar("T")
Opened = TypeVar("Opened", SqliteFile, Reader)

POLL_S = 0.5  # how often to look for changes that nobody rang for, and for dead sessions
CALL_S = 8.0  # wait for an answer, at most: what has begun by then goes on, and may still happen
COMMITS_MAX = 64  # transactions that share an fsync
STRANGERS_S = 3.0  # a session of another boot that is kept alive after all, elsewhere, shows it by then (every 2 s)

# File systems between machines (or between a virtual one and its host), as mountinfo names them.
# fmt: off
NOT_LOCAL = frozenset((
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.ceph", "fuse.davfs2", "fuse.gcsfuse",
    "fuse.glusterfs", "fuse.juicefs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs",
))
# fmt: on


@asynccontextmanager
async def open_sqlite(
    disk: Disk, name: str, *, clock: Clock, offload: Offload, poll_s: float = POLL_S
) -> AsyncIterator[SqliteStore]:
    """The store in a file (created with mode 0600 when absent), open while the block runs.

    Args:
        disk: of the directory that the file lies in; the operating system's.
        name: of the file.
        clock: its liveness clock must be the machine's, the same in all processes that share the file.
        offload: a worker thread.
        poll_s: how often, in seconds, to look for changes by other processes that did not ring.

    Raises Unavailable when the file cannot be opened, is not a store, or belongs to another machine.
    """
    if (filesystem := disk.filesystem()) in NOT_LOCAL:
        raise Unavailable(f"it lies on a network file system ({filesystem}), where processes cannot lock it safely")
    path = f"{disk.root}/{name}"
    beating: set[int] = set()
    async with (
        _opened(offload, lambda: SqliteFile(path, clock, beating)) as file,
        _opened(offload, lambda: Reader(path)) as reader,
    ):
        revision = await _take_over(file, disk, clock, offload)
        store = SqliteStore(file, reader, Feed(revision, RECENT_MAX), clock, offload, poll_s, beating)
        async with alongside(store._listen, disk, f"{name}-bell"), alongside(store._work):
            try:
                yield store
            finally:
                store._stop()


@asynccontextmanager
async def _opened(offload: Offload, make: Callable[[], Opened]) -> AsyncIterator[Opened]:
    """What make opens, in a worker; closed there at the end. Raises Unavailable."""
    opened = await offload(lambda: _do(make))
    try:
        yield opened
    finally:
        with trio.CancelScope(shield=True):
            await offload(opened.close)


async def _take_over(file: SqliteFile, disk: Disk, clock: Clock, offload: Offload) -> int:
    """End the sessions of an earlier boot; the revision. Raises Unavailable where that is another machine, alive."""
    before = await offload(lambda: _do(lambda: file.foreign(disk.boot_id)))
    if before:
        await clock.sleep(STRANGERS_S)
        if before != await offload(lambda: _do(lambda: file.foreign(disk.boot_id))):
            raise Unavailable(
                "brokers of another machine are using it: one machine can share a file, several need etcd"
            )
    return await offload(lambda: _do(lambda: file.take_over(disk.boot_id)))


def _do(work: Callable[[], T]) -> T:
    """In a worker: what goes wrong as the file is opened. Raises Unreachable where that may pass by itself."""
    try:
        return work()
    except (sqlite3.Error, OSError) as error:
        kind = Unreachable if is_full(error) or is_busy(error) else Unavailable
        raise kind(str(error)) from error


class _Job(Generic[T]):
    """A piece of work, or a transaction, on its way."""

    __slots__ = ("work", "txn", "is_begun", "is_done", "outcome")

    def __init__(self, work: Callable[[], T] | None, txn: Txn | None = None) -> None:
        """One of both."""
        self.work = work
        self.txn = txn
        self.is_begun = False
        self.is_done = trio.Event()
        self.outcome: T | StoreError


class SqliteStore:
    """A CoordinationStore; see store.py for what its methods promise. Made by `open_sqlite`."""

    def __init__(
        self,
        file: SqliteFile,
        reader: Reader,
        feed: Feed,
        clock: Clock,
        offload: Offload,
        poll_s: float,
        beating: set[int],
    ) -> None:
        self._file = file  # only the worker touches it
        self._reader = reader  # the same
        self._reading = trio.Lock()  # one range at a time: each sees what is there when it begins
        self._clock = clock
        self._offload = offload
        self._poll_s = poll_s
        self._is_shared = trio.Event()  # another process has had a session here
        self._jobs: deque[_Job[Any]] = deque()  # bounded by the callers, each of whom waits for one
        self._bell = trio.Event()
        # Who is cancelled has to give his session back: the work goes on until the store is closed.
        self._working = trio.CancelScope(shield=True)
        self._feed = feed
        self._held: dict[int, tuple[Heartbeat, float]] = {}  # our sessions, with their TTLs
        self._beating = beating  # those whose keepalive is on its way

    async def get(self, key: bytes) -> Entry | None:
        """See CoordinationStore."""
        return await self._call(lambda: self._file.get(key))

    async def range(
        self, prefix: bytes, *, after: bytes = b"", limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        """See CoordinationStore. Knows the past only where the prefix has not changed since."""
        async with self._turn_to_read():
            try:
                begin = partial(self._reader.begin, prefix, after, limit, revision, keys_only)
                page, is_last = await self._call(begin)
                while not is_last:
                    piece, is_last = await self._call(self._reader.go_on)
                    page = Page(page.entries + piece.entries, piece.revision, piece.more)
                return page
            except (StoreError, trio.Cancelled):
                self._jobs.append(_Job(self._reader.end))  # nobody waits for that
                self._bell.set()
                raise

    async def txn(self, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        """See CoordinationStore."""
        check_txn(guards, ops)
        job: _Job[TxnResult] = _Job(None, (guards, ops))
        try:
            return await self._answer(job)
        except Unavailable as error:
            if job.is_begun and not job.is_done.is_set():
                raise Ambiguous(str(error)) from None
            raise

    @asynccontextmanager
    async def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        """See CoordinationStore."""
        async with aclosing(follow(self._feed, prefix, from_revision, self._past, self._tick)) as batches:
            yield batches

    def session(self, ttl_s: float) -> AbstractAsyncContextManager[Session]:
        """See CoordinationStore."""
        return hold(self, self._clock, ttl_s)

    async def compact(self, before_revision: int) -> None:
        """See CoordinationStore."""
        self._feed.forget(await self._call(lambda: self._file.compact(before_revision)))

    async def info(self) -> StoreInfo:
        """See CoordinationStore."""
        return StoreInfo(self._file.id, "sqlite", sqlite3.sqlite_version, await self._call(lambda: self._file.revision))

    async def grant(self, ttl_s: float) -> int:
        """See session.Lessor."""
        lease, heartbeat = await self._call(lambda: self._file.grant(ttl_s))
        self._held[lease] = heartbeat, ttl_s
        return lease

    async def refresh(self, lease: int) -> bool:
        """See session.Lessor."""
        await trio.lowlevel.checkpoint()
        heartbeat, ttl_s = self._held[lease]
        old_end, now = heartbeat.end, self._clock.liveness()
        if now >= old_end:
            return False
        self._beating.add(lease)  # a keepalive that is sent in time counts, however long the disk takes
        try:
            if not heartbeat.prolong(now + ttl_s):
                return False
            if self._clock.liveness() < old_end:
                return True
            return await self._call(lambda: self._file.outlived(lease, heartbeat.end))
        except OSError as error:
            raise Unavailable(str(error)) from error
        finally:
            self._beating.discard(lease)

    async def revoke(self, lease: int) -> None:
        """See session.Lessor."""
        if lease in self._held:
            self._held.pop(lease)[0].close()
        await self._call(lambda: self._file.revoke(lease))

    @asynccontextmanager
    async def _turn_to_read(self) -> AsyncIterator[None]:
        with trio.move_on_after(CALL_S) as scope:
            await self._reading.acquire()
        if scope.cancelled_caught:
            raise Unavailable(f"no turn to read within {CALL_S:g} s")
        try:
            yield
        finally:
            self._reading.release()

    async def _call(self, work: Callable[[], T]) -> T:
        """Have work done on the worker thread when it is our turn. Raises Unavailable when that takes too long."""
        return await self._answer(_Job(work))

    async def _answer(self, job: _Job[T]) -> T:
        self._jobs.append(job)
        self._bell.set()
        try:
            with trio.move_on_after(CALL_S):
                await job.is_done.wait()
        finally:
            if not job.is_begun:
                self._jobs.remove(job)
        if not job.is_done.is_set():
            raise Unavailable(f"no answer within {CALL_S:g} s")
        if isinstance(job.outcome, StoreError):
            raise job.outcome
        return job.outcome

    async def _work(self) -> None:
        """Do what is asked for, one thing after the other, and tell the watchers what is new."""
        with self._working:
            while True:
                await self._bell.wait()
                self._bell = trio.Event()
                while self._jobs:
                    jobs = self._next()
                    with trio.CancelScope(shield=True):  # a thread does not stop half-way
                        changes, last = await self._offload(partial(self._perform, jobs))
                    self._learn(changes, last)
                    for job in jobs:
                        job.is_done.set()

    def _next(self) -> list[_Job[Any]]:
        """The first job, with the transactions behind it when it is one."""
        first = self._jobs[0]
        jobs = [first] if first.txn is None else [job for job in self._jobs if job.txn is not None][:COMMITS_MAX]
        for job in jobs:
            self._jobs.remove(job)
            job.is_begun = True
        return jobs

    def _perform(self, jobs: list[_Job[Any]]) -> tuple[Changes, int]:
        """In the worker: do one piece of work, or transactions; what else is new."""
        txns = [job.txn for job in jobs if job.txn is not None]
        outcomes: Sequence[Any]
        try:
            work = jobs[0].work
            outcomes = self._file.do(lambda: self._file.commit(txns)) if work is None else [self._file.do(work)]
        except StoreError as error:
            outcomes = [error] * len(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.outcome = outcome
        return self._file.news(self._feed.last)

    def _learn(self, changes: Changes, last: int) -> None:
        for revision, events in changes:
            if revision > self._feed.last + 1:
                self._feed.skip_to(revision - 1)
            self._feed.append(revision, events)
        if last > self._feed.last:
            self._feed.skip_to(last)

    async def _tick(self) -> float:
        if await self._call(self._file.poll):
            self._is_shared.set()
        return self._poll_s

    async def _listen(self, disk: Disk, bell_path: str) -> None:
        """Have looked at once for what other processes ring for."""
        await self._is_shared.wait()
        try:
            watch = disk.watch(bell_path)
        except OSError:
            return  # somebody has removed the file: then as if nobody rang
        try:
            while True:
                if self._file.bell.has_rung():
                    with suppress(Unavailable):
                        await self._call(lambda: None)  # with any work come the news
                await watch.wait_written()
        finally:
            watch.close()

    async def _past(self, revision: int) -> Changes:
        return await self._call(lambda: self._file.history(revision))

    def _stop(self) -> None:
        self._working.cancel()
        for heartbeat, _ in self._held.values():
            heartbeat.close()
