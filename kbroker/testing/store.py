"""ProcessStore: one process's way to the coordination store that outlives it, to be cut.

    way.failure = Unavailable("cut")      # whatever is asked from now on fails so; the store itself knows nothing of it
    way.failure = None                    # it answers again

A session asked for here is kept alive through here, so it ends with the process, or when the way was cut for too long.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from kbroker.cluster.store import Batch, Entry, Guard, Op, Page, Session, StoreError, StoreInfo, TxnResult
from kbroker.cluster.stores.memory import MemoryStore
from kbroker.cluster.stores.session import hold
from kbroker.env import Clock


class ProcessStore:
    """A CoordinationStore; see cluster/store.py for what its methods promise."""

    def __init__(self, store: MemoryStore, clock: Clock, alive: Callable[[], None] = lambda: None) -> None:
        """clock: the process's. alive: called before and after each call; raises when the process is dead."""
        self.failure: StoreError | None = None
        self._store = store
        self._clock = clock
        self._alive = alive

    def _check(self) -> None:
        self._alive()
        if self.failure is not None:
            raise self.failure

    async def get(self, key: bytes) -> Entry | None:
        """See CoordinationStore."""
        self._check()
        entry = await self._store.get(key)
        self._check()
        return entry

    async def range(
        self, prefix: bytes, *, after: bytes = b"", limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        """See CoordinationStore."""
        self._check()
        page = await self._store.range(prefix, after=after, limit=limit, revision=revision, keys_only=keys_only)
        self._check()
        return page

    async def txn(self, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        """See CoordinationStore."""
        self._check()
        result = await self._store.txn(guards, ops)
        self._alive()
        return result

    @asynccontextmanager
    async def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        """See CoordinationStore."""
        self._check()
        async with self._store.watch(prefix, from_revision) as batches:
            yield self._passed_on(batches)

    async def _passed_on(self, batches: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        async for batch in batches:
            self._check()
            yield batch

    def session(self, ttl_s: float) -> AbstractAsyncContextManager[Session]:
        """See CoordinationStore."""
        return hold(self, self._clock, ttl_s)

    async def compact(self, before_revision: int) -> None:
        """See CoordinationStore."""
        self._check()
        await self._store.compact(before_revision)

    async def info(self) -> StoreInfo:
        """See CoordinationStore."""
        self._check()
        return await self._store.info()

    async def grant(self, ttl_s: float) -> int:
        """See session.Lessor."""
        self._check()
        return await self._store.grant(ttl_s)

    async def refresh(self, lease: int) -> bool:
        """See session.Lessor."""
        self._check()
        return await self._store.refresh(lease)

    async def revoke(self, lease: int) -> None:
        """See session.Lessor."""
        self._check()
        await self._store.revoke(lease)
