"""A cluster's metadata moved from one store to another: whole, once, and never while somebody uses it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.joining import Moved
from kbroker.cluster.keys import CLUSTER, Keys, Stamp, encode
from kbroker.cluster.registration import Registration
from kbroker.cluster.store import Ambiguous, CoordinationStore, Entry, Guard, Op, Put, TxnResult, Unavailable, load
from kbroker.cluster.stores.copying import NotCopied, copy
from kbroker.cluster.stores.memory import MemoryStore
from tests.cluster.stores.test_conformance import put
from tests.cluster.tools import HandClock, make_registration, running

KEYS = Keys(CLUSTER)
TO = "etcd://127.0.0.1:2379"


async def fill(store: CoordinationStore, clock: HandClock, seed: int = 0) -> None:
    """A cluster with 300 partitions, whose broker has left."""
    async with running(make_registration(store, clock, seed=seed)) as registration:
        for number in range(3):
            (made,) = await registration.admin.create_topics([NewTopic(f"t{number}", 100)])
            assert not isinstance(made, Exception)


async def content(store: CoordinationStore) -> dict[bytes, bytes]:
    return {entry.key: entry.value for entry in (await load(store, KEYS.prefix)).entries}


async def test_all_there_is_comes_over_and_the_broker_goes_on_there(store: CoordinationStore, clock: HandClock) -> None:
    source = MemoryStore(clock)
    await fill(source, clock)
    before = await content(source)
    assert await copy(source, store, TO, KEYS) == len(before) > 300
    assert await content(store) == before
    async with running(make_registration(store, clock)) as registration:
        assert set(registration.image.topics) == {"t0", "t1", "t2"}
        assert registration.broker_epoch == 2
    with pytest.raises(Moved, match=f"moved to {TO}: start with --coordination {TO}"):
        await start_with(source, clock)


async def start_with(store: CoordinationStore, clock: HandClock) -> None:
    registration: Registration = make_registration(store, clock)
    await registration.run()


async def test_it_comes_from_every_engine(store: CoordinationStore, clock: HandClock) -> None:
    await fill(store, clock)
    before = await content(store)
    target = MemoryStore(clock)
    await copy(store, target, TO, KEYS)
    assert await content(target) == before


async def test_a_source_that_is_used_or_holds_nothing_is_refused(clock: HandClock) -> None:
    source, target = MemoryStore(clock), MemoryStore(clock)
    with pytest.raises(NotCopied, match="the source holds no cluster"):
        await copy(source, target, TO, KEYS)
    await fill(source, clock)
    async with running(make_registration(source, clock)):
        with pytest.raises(NotCopied, match=r"brokers live in the source \(brokers/0, controller\)"):
            await copy(source, target, TO, KEYS)
    assert await content(target) == {} and await source.get(KEYS.moved) is None
    await copy(source, target, TO, KEYS)
    with pytest.raises(NotCopied, match=f"the source was moved to {TO}"):
        await copy(source, MemoryStore(clock), "sqlite:elsewhere", KEYS)


async def test_a_target_that_is_used_is_left_as_it_is(clock: HandClock) -> None:
    source, target = MemoryStore(clock), MemoryStore(clock)
    await fill(source, clock)
    await fill(target, clock, seed=1)
    before = await content(target)
    with pytest.raises(NotCopied, match="the target is not empty: 3.. keys begin with /kb/kbroker/"):
        await copy(source, target, TO, KEYS)
    assert await content(target) == before and await source.get(KEYS.moved) is None


class Interrupted(MemoryStore):
    """Fails, or has a visitor, at its nth transaction."""

    at = 0
    done = 0
    visitor: Op | None = None

    async def txn(self, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        self.done += 1
        if self.done == self.at:
            if self.visitor is None:
                raise KeyboardInterrupt
            op, self.visitor = self.visitor, None
            await super().txn([Guard(op.key, 0)], [op])
        return await super().txn(guards, ops)


@pytest.mark.parametrize("at", [1, 2, 4, 5])
async def test_what_was_interrupted_is_no_cluster_yet_and_goes_on(clock: HandClock, at: int) -> None:
    source, target = MemoryStore(clock), Interrupted(clock)
    await fill(source, clock)
    before = await content(source)
    target.at = at
    with pytest.raises(KeyboardInterrupt):
        await copy(source, target, TO, KEYS)
    assert await target.get(KEYS.cluster) is None
    with pytest.raises(Moved):
        await start_with(source, clock)
    await copy(source, target, TO, KEYS)
    assert await content(target) == before


async def test_who_comes_in_between_spoils_the_copy_and_the_source_is_as_before(clock: HandClock) -> None:
    source, target = MemoryStore(clock), Interrupted(clock)
    await fill(source, clock)
    before = await content(source)
    target.at, target.visitor = 2, Put(KEYS.cluster, encode({"id": "x" * 22}, Stamp("9", 1)))
    with pytest.raises(NotCopied, match="somebody else writes /kb/kbroker/cluster"):
        await copy(source, target, TO, KEYS)
    assert await content(source) == before
    async with running(make_registration(source, clock)):
        pass


class Lossy(MemoryStore):
    """Loses every other reply, and every third request, from some moment on."""

    asked = -1_000_000

    async def txn(self, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        self.asked += 1
        if self.asked < 0:
            return await super().txn(guards, ops)
        if self.asked % 3 == 0:
            raise Unavailable("busy")
        result = await super().txn(guards, ops)
        if self.asked % 2:
            raise Ambiguous("reply lost")
        return result


async def test_lost_replies_do_no_harm(clock: HandClock) -> None:
    source, target = Lossy(clock), Lossy(clock)
    await fill(source, clock)
    source.asked = target.asked = 0
    await copy(source, target, TO, KEYS)
    assert len(await content(target)) == len(await content(source)) - 1


async def test_nobody_registers_while_the_mark_is_there(clock: HandClock) -> None:
    """Nor who had looked before it was made: the registration is guarded by its absence."""
    store = MemoryStore(clock)
    await fill(store, clock)
    looked: list[Entry] = []
    before = store.txn

    async def mark_first(guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        if not looked:
            looked.extend((await load(store, KEYS.prefix)).entries)
            store.txn = before  # type: ignore[method-assign]
            await put(store, KEYS.moved, encode({"to": TO}, Stamp("copy", 0)))
        return await before(guards, ops)

    store.txn = mark_first  # type: ignore[method-assign]
    with pytest.raises(Moved):
        await start_with(store, clock)
    assert looked and await store.get(KEYS.broker(0)) is None
