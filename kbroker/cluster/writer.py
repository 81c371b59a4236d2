"""Writing to the coordination store: signed values, guarded transactions, lost replies.

    txn ──▶ succeeded, or a guard failed                 known
     └─ Ambiguous ──▶ the same txn again ──▶ succeeded   it had not happened, now it has
                                         └─ a guard failed ──▶ read what we wrote: our very bytes? then it had happened

No two values this broker writes are equal (`keys.Stamp`), which is what makes the last step sound.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import trio

from kbroker.cluster.image import PartitionImage
from kbroker.cluster.keys import Keys, Stamp, encode
from kbroker.cluster.store import Ambiguous, CoordinationStore, Guard, Op, Put, StoreError, TxnResult, Unavailable
from kbroker.env import Clock

ATTEMPTS_MAX = 6
COMMIT_S = 12.0  # after that no further attempt is made; the store bounds each
PAUSE_S = 0.05  # before the second attempt, twice as long before each further one
IN_FLIGHT_MAX = 8  # transactions of one big change
TXN_PARTITIONS = 96  # in a transaction: leaves room for the keys that go with them

Txn = tuple[list[Guard], list[Op]]
T = TypeVar("T")


async def for_each(work: Callable[[int, T], Awaitable[None]], items: Iterable[T], at_once: int) -> None:
    """work(number, item) for all items, so many at a time. An item is taken when there is somebody to work on it."""
    numbered = enumerate(items)

    async def worker() -> None:
        for number, item in numbered:
            await work(number, item)

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(worker)


class Writer:
    """One incarnation of a broker, as the author of values."""

    __slots__ = ("_store", "_clock", "_by", "_seq")

    def __init__(self, store: CoordinationStore, clock: Clock, by: str) -> None:
        self._store = store
        self._clock = clock
        self._by = by
        self._seq = 0

    def put(self, key: bytes, fields: dict[str, Any], lease: int = 0) -> Put:
        """A put of these fields, signed."""
        self._seq += 1
        return Put(key, encode(fields, Stamp(self._by, self._seq)), lease)

    async def commit(self, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        """Do a transaction and learn for certain whether it happened.

        Raises Ambiguous or Unavailable when the store cannot be heard for some seconds, SessionLost.
        """
        doubt = False
        failure: StoreError = Unavailable("not tried")
        begun = self._clock.liveness()
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                if self._clock.liveness() - begun > COMMIT_S:
                    break
                await self._clock.sleep(PAUSE_S * 2 ** (attempt - 1))
            try:
                result = await self._store.txn(guards, ops)
                return await self._resolve(ops, result) if doubt and not result.succeeded else result
            except Ambiguous as error:
                doubt, failure = True, error
            except Unavailable as error:
                failure = error if not doubt else Ambiguous(str(error))
        raise failure

    async def commit_all(self, txns: Iterable[Txn]) -> list[TxnResult]:
        """Do independent transactions, a bounded number at a time, each made when its turn comes.

        Raises what one raised, when all are over.
        """
        results: dict[int, TxnResult] = {}
        failures: list[StoreError] = []

        async def one(number: int, txn: Txn) -> None:
            try:
                results[number] = await self.commit(*txn)
            except StoreError as error:
                failures.append(error)

        await for_each(one, txns, IN_FLIGHT_MAX)
        if failures:
            raise failures[0]
        return [results[number] for number in range(len(results))]

    async def _resolve(self, ops: Sequence[Op], refused: TxnResult) -> TxnResult:
        """A guard failed after a lost reply: it may have been our own transaction that moved the key on."""
        for op in ops:
            if isinstance(op, Put):
                entry = await self._store.get(op.key)
                if entry is not None and entry.value == op.value:
                    return TxnResult(True, entry.mod_revision)
                break
        return refused  # also when our bytes are overwritten by now, or there were only deletes: the caller looks again


class PartitionWriter:
    """Writes partitions, each guarded by what it was decided on."""

    __slots__ = ("_writer", "_keys")

    def __init__(self, writer: Writer, keys: Keys) -> None:
        self._writer = writer
        self._keys = keys

    def txn(self, partitions: Sequence[PartitionImage], *held: Guard) -> Txn:
        """A transaction of these partitions. held: guards of what else must still be so."""
        keys = [self._keys.partition(partition.topic_id, partition.index) for partition in partitions]
        puts = [self._writer.put(key, partition.fields()) for key, partition in zip(keys, partitions, strict=True)]
        guards = [Guard(key, partition.mod_revision) for key, partition in zip(keys, partitions, strict=True)]
        return [*guards, *held], [*puts]

    async def write(
        self, partitions: Sequence[PartitionImage], *held: Guard, txn_partitions: int = TXN_PARTITIONS
    ) -> tuple[int, bool]:
        """Write partitions, so many in a transaction, each by itself. The last revision, and whether all were written.

        Where one did not, somebody was faster: what is to be written has to be decided anew. May raise StoreError.
        """
        chunks = (partitions[i : i + txn_partitions] for i in range(0, len(partitions), txn_partitions))
        results = await self._writer.commit_all(self.txn(chunk, *held) for chunk in chunks)
        return max((result.revision for result in results), default=0), all(result.succeeded for result in results)
