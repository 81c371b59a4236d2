"""The seven methods, as requests to etcd.

A transaction is one Txn: compares of mod_revision, puts and deletes. etcd's revisions are as the contract wants them,
but that a transaction which changes nothing (deletes what is absent) makes none, and that others' writes to the same
etcd make some. A session is a lease; its keepalives are calls made by the event loop: a broker that hangs sends none.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any

from kbroker.cluster.store import (
    Batch,
    Compacted,
    Entry,
    Guard,
    Op,
    Page,
    Put,
    Session,
    SessionLost,
    StoreInfo,
    TxnResult,
    check_txn,
    prefix_end,
)
from kbroker.cluster.stores.etcd.client import Client, Cluster
from kbroker.cluster.stores.etcd.messages import (
    COMPACT,
    LEASE_GRANT,
    LEASE_KEEP_ALIVE,
    LEASE_REVOKE,
    MOD,
    RANGE,
    TXN,
    pb,
)
from kbroker.cluster.stores.etcd.watch import follow
from kbroker.cluster.stores.session import hold
from kbroker.env import CallFailed, Clock

PAGE_ENTRIES_MAX = 1_000  # taken apart in one go by the event loop
TO_THE_END = b"\0"  # as the end of a range


class EtcdStore:
    """A CoordinationStore; see store.py for what its methods promise. Made by `opening.open_etcd`."""

    def __init__(self, cluster: Cluster, clock: Clock, version: str) -> None:
        self._cluster = cluster
        self._clock = clock
        self._version = version
        self._requests = Client(cluster, clock)
        self._leases = Client(cluster, clock)

    async def get(self, key: bytes) -> Entry | None:
        """See CoordinationStore."""
        answer = await self._requests.request(RANGE, pb.RangeRequest(key=key))
        return _entry(answer.kvs[0]) if answer.kvs else None

    async def range(
        self, prefix: bytes, *, after: bytes = b"", limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        """See CoordinationStore. Knows the past as far as it is not compacted."""
        request = pb.RangeRequest(
            key=max(prefix, after + b"\0"),
            range_end=prefix_end(prefix) or TO_THE_END,
            limit=min(limit, PAGE_ENTRIES_MAX),
            revision=revision,
            keys_only=keys_only,
        )
        try:
            answer = await self._requests.request(RANGE, request)
        except CallFailed as error:  # compacted, or of the future
            raise Compacted(self._cluster.revision) from error
        return Page([_entry(kv) for kv in answer.kvs], revision or answer.header.revision, answer.more)

    async def txn(self, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        """See CoordinationStore."""
        check_txn(guards, ops)
        request = pb.TxnRequest(
            compare=[pb.Compare(target=MOD, key=key, mod_revision=revision) for key, revision in guards],
            success=[_op(op) for op in ops],
        )
        if not ops:  # of what neither reads nor writes, etcd does not promise that it is current
            look = pb.RequestOp(request_range=pb.RangeRequest(key=self._cluster.prefix, count_only=True))
            request.success.append(look)
            request.failure.append(look)
        try:
            answer = await self._requests.request(TXN, request, is_repeatable=not ops)
        except CallFailed as error:
            leases = {op.lease for op in ops if isinstance(op, Put) and op.lease}
            raise SessionLost(f"session {', '.join(map(str, leases))} has ended") from error
        return TxnResult(answer.succeeded, answer.header.revision)

    @asynccontextmanager
    async def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        """See CoordinationStore."""
        client = Client(self._cluster, self._clock)
        try:
            async with aclosing(follow(client, prefix, from_revision)) as batches:
                yield batches
        finally:
            client.close()

    def session(self, ttl_s: float) -> AbstractAsyncContextManager[Session]:
        """See CoordinationStore."""
        return hold(self, self._clock, ttl_s)

    async def compact(self, before_revision: int) -> None:
        """See CoordinationStore. Keeps one revision more: older servers may lose a deletion of the first one kept."""
        before_revision = min(before_revision, await self._requests.revision() + 1)
        try:
            await self._requests.request(COMPACT, pb.CompactionRequest(revision=before_revision - 1))
        except CallFailed:
            pass  # somebody has compacted further

    async def info(self) -> StoreInfo:
        """See CoordinationStore."""
        revision = await self._requests.revision()
        return StoreInfo(f"{self._cluster.id:016x}", "etcd", self._version, revision)

    async def grant(self, ttl_s: float) -> int:
        """See session.Lessor."""
        answer = await self._leases.request(LEASE_GRANT, pb.LeaseGrantRequest(TTL=math.ceil(ttl_s)))
        lease: int = answer.ID
        return lease

    async def refresh(self, lease: int) -> bool:
        """See session.Lessor. A lease that etcd does not know has no TTL."""
        answer = await self._leases.request(LEASE_KEEP_ALIVE, pb.LeaseKeepAliveRequest(ID=lease))
        is_alive: bool = answer.TTL > 0
        return is_alive

    async def revoke(self, lease: int) -> None:
        """See session.Lessor."""
        try:
            await self._leases.request(LEASE_REVOKE, pb.LeaseRevokeRequest(ID=lease))
        except CallFailed:
            pass  # it had ended

    def close(self) -> None:
        """Disconnect; idempotent."""
        self._requests.close()
        self._leases.close()


def _entry(kv: Any) -> Entry:
    return Entry(kv.key, kv.value, kv.mod_revision, kv.lease)


def _op(op: Op) -> Any:
    if isinstance(op, Put):
        return pb.RequestOp(request_put=pb.PutRequest(key=op.key, value=op.value, lease=op.lease))
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=op.key))
