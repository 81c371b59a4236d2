"""The contract of the coordination store, held against every engine."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from kbroker.cluster.store import (
    Batch,
    Compacted,
    CoordinationStore,
    Delete,
    Entry,
    Event,
    Guard,
    Op,
    Page,
    Put,
    SessionLost,
    TxnResult,
    check_txn,
    load,
    prefix_end,
)
from kbroker.cluster.stores.etcd.store import EtcdStore
from kbroker.cluster.stores.memory import MemoryStore
from tests.cluster.tools import PATIENCE_S, HandClock, Inline, eventually, sqlite_at


async def put(store: CoordinationStore, key: bytes, value: bytes, mod: int = 0, lease: int = 0) -> int:
    result = await store.txn([Guard(key, mod)], [Put(key, value, lease)])
    assert result.succeeded
    return result.revision


async def collect(store: CoordinationStore, prefix: bytes, start: int, events: int) -> list[Batch]:
    """The batches of a watch until so many events have come; empty ones left out."""
    batches: list[Batch] = []
    with trio.fail_after(PATIENCE_S):
        async with store.watch(prefix, start) as watch:
            async for batch in watch:
                if batch.events:
                    batches.append(batch)
                if sum(len(b.events) for b in batches) >= events:
                    break
    return batches


async def test_a_key_is_absent_then_there_then_gone(store: CoordinationStore) -> None:
    assert await store.get(b"a") is None
    first = await put(store, b"a", b"1")
    assert await store.get(b"a") == Entry(b"a", b"1", first)
    second = await put(store, b"a", b"2", first)
    assert second == first + 1
    assert await store.get(b"a") == Entry(b"a", b"2", second)
    assert (await store.txn([Guard(b"a", second)], [Delete(b"a")])) == TxnResult(True, second + 1)
    assert await store.get(b"a") is None


async def test_a_failed_guard_changes_nothing(store: CoordinationStore) -> None:
    revision = await put(store, b"a", b"1")
    result = await store.txn([Guard(b"b", 0), Guard(b"a", revision + 7)], [Put(b"b", b"x"), Delete(b"a")])
    assert result == TxnResult(False, revision)
    assert await store.get(b"b") is None
    assert (await store.info()).revision == revision


async def test_guards_alone_make_no_revision(store: CoordinationStore) -> None:
    revision = await put(store, b"a", b"1")
    assert await store.txn([Guard(b"a", revision)], []) == TxnResult(True, revision)
    assert await store.txn([Guard(b"a", 0)], []) == TxnResult(False, revision)


async def test_a_transaction_is_one_revision(store: CoordinationStore) -> None:
    keys = [b"k/%02d" % i for i in range(100)]
    result = await store.txn([Guard(key, 0) for key in keys], [Put(key, b"v") for key in keys])
    page = await store.range(b"k/")
    assert {entry.mod_revision for entry in page.entries} == {result.revision}
    assert len(page.entries) == 100


@pytest.mark.parametrize(
    ("guards", "ops"),
    [
        ([], [Put(b"a", b"")]),
        ([Guard(b"b", 0)], [Delete(b"a")]),
        ([Guard(b"a", 0), Guard(b"a", 1)], []),
        ([Guard(b"a", 0)], [Put(b"a", b""), Delete(b"a")]),
        ([Guard(b"%d" % i, 0) for i in range(101)], []),
        ([Guard(b"%d" % i, 0) for i in range(100)], [Put(b"%d" % i, b"") for i in range(101)]),
    ],
)
def test_transactions_against_the_contract_are_refused(guards: list[Guard], ops: list[Op]) -> None:
    with pytest.raises(ValueError):
        check_txn(guards, ops)


async def test_engines_check_the_contract(store: CoordinationStore) -> None:
    with pytest.raises(ValueError):
        await store.txn([], [Put(b"a", b"")])


async def test_a_range_comes_in_pages(store: CoordinationStore) -> None:
    keys = [b"a/%d" % i for i in range(10)]
    for key in [*keys, b"b/0", b"a", b"a0"]:
        await put(store, key, b"v")
    page = await store.range(b"a/", limit=4)
    assert ([entry.key for entry in page.entries], page.more) == (keys[:4], True)
    rest = await store.range(b"a/", after=keys[3], limit=6, revision=page.revision)
    assert ([entry.key for entry in rest.entries], rest.more, rest.revision) == (keys[4:], False, page.revision)
    everything = await store.range(b"")
    assert len(everything.entries) == 13
    assert [entry.key for entry in everything.entries] == sorted(entry.key for entry in everything.entries)
    assert (await store.range(b"c")).entries == []


async def test_a_range_of_keys_only(store: CoordinationStore) -> None:
    revision = await put(store, b"a", b"value")
    assert (await store.range(b"", keys_only=True)).entries == [Entry(b"a", b"", revision)]


async def test_a_range_at_a_past_revision_is_right_or_refused(store: CoordinationStore) -> None:
    pinned = await put(store, b"a/1", b"v")
    await put(store, b"b", b"elsewhere")
    assert [entry.key for entry in (await store.range(b"a/", revision=pinned)).entries] == [b"a/1"]
    await put(store, b"a/2", b"v")
    try:
        page = await store.range(b"a/", revision=pinned)
        assert [entry.key for entry in page.entries] == [b"a/1"] and page.revision == pinned
    except Compacted:
        pass
    with pytest.raises(Compacted):
        await store.range(b"a/", revision=pinned + 1000)
    await store.compact(await put(store, b"a/3", b"v") + 1)
    with pytest.raises(Compacted):
        await store.range(b"a/", revision=pinned)


async def test_loading_takes_all_pages(store: CoordinationStore) -> None:
    for i in range(25):
        await put(store, b"x/%02d" % i, b"v")
    page = await load(store, b"x/", page_entries=10)
    assert ([entry.key for entry in page.entries], page.more) == ([b"x/%02d" % i for i in range(25)], False)


@pytest.mark.parametrize(("prefix", "end"), [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff\xff", None), (b"", None)])
def test_end_of_a_prefix(prefix: bytes, end: bytes | None) -> None:
    assert prefix_end(prefix) == end


async def test_a_range_of_a_prefix_of_high_bytes(store: CoordinationStore) -> None:
    for key in (b"a\xff", b"a\xff\xff", b"b"):
        await put(store, key, b"")
    assert [entry.key for entry in (await store.range(b"a\xff")).entries] == [b"a\xff", b"a\xff\xff"]


async def test_a_watch_replays_whole_revisions_in_order(store: CoordinationStore) -> None:
    first = await put(store, b"w/a", b"1")
    await put(store, b"elsewhere", b"")
    await store.txn([Guard(b"w/b", 0), Guard(b"w/a", first)], [Put(b"w/b", b"2"), Delete(b"w/a")])
    events = [event for batch in await collect(store, b"w/", first, 3) for event in batch.events]
    assert events[0] == Event(b"w/a", b"1", first)
    assert set(events[1:]) == {Event(b"w/b", b"2", first + 2), Event(b"w/a", None, first + 2)}
    (later,) = await collect(store, b"w/", first + 1, 2)
    assert {event.mod_revision for event in later.events} == {first + 2}
    assert later.revision >= first + 2


async def test_a_watch_goes_on_with_what_comes(store: CoordinationStore) -> None:
    start = (await store.info()).revision + 1
    seen: list[Event] = []

    async def watch() -> None:
        for batch in await collect(store, b"w/", start, 200):
            seen.extend(batch.events)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for i in range(200):
                await put(store, b"w/%03d" % i, b"%d" % i)
    assert [event.value for event in seen] == [b"%d" % i for i in range(200)]
    revisions = [event.mod_revision for event in seen]
    assert revisions == sorted(set(revisions))


async def test_watching_what_is_compacted_or_not_yet_is_refused(store: CoordinationStore) -> None:
    revision = 0
    for i in range(6):
        revision = await put(store, b"c/%d" % i, b"")
    await store.compact(revision - 1)
    assert len(await collect(store, b"c/", revision - 1, 2)) >= 1
    for start in (revision - 3, 1, revision + 2):  # an engine may keep one revision more
        with pytest.raises(Compacted):
            await collect(store, b"c/", start, 1)
    await store.compact(revision - 4)  # never back
    await store.compact(revision + 1000)  # never into the future
    await put(store, b"c/new", b"")
    assert len(await collect(store, b"c/", revision + 1, 1)) == 1
    assert len((await store.range(b"c/")).entries) == 7  # compaction is about history only


async def test_a_sessions_keys_go_with_it(store: CoordinationStore, clock: HandClock) -> None:
    async with store.session(6) as session:
        assert session.valid_until == clock.now + 6
        revision = await put(store, b"s/mine", b"x", lease=session.id)
        entry = await store.get(b"s/mine")
        assert entry is not None and entry.lease == session.id
    assert await store.get(b"s/mine") is None
    (batch,) = await collect(store, b"s/", revision + 1, 1)
    assert batch.events == (Event(b"s/mine", None, revision + 1),)


async def test_who_is_cancelled_gives_its_session_back(store: CoordinationStore) -> None:
    with trio.CancelScope() as scope:
        async with store.session(6) as session:
            await put(store, b"s/mine", b"x", lease=session.id)
            scope.cancel()
            await trio.sleep_forever()
    assert await store.get(b"s/mine") is None


async def test_a_key_put_anew_leaves_its_session(store: CoordinationStore) -> None:
    async with store.session(6) as session:
        revision = await put(store, b"s/mine", b"x", lease=session.id)
        async with store.session(6) as heir:
            await put(store, b"s/mine", b"y", revision, lease=heir.id)
            await store.txn([Guard(b"s/free", 0)], [Put(b"s/free", b"z", session.id)])
            free = await store.get(b"s/free")
            assert free is not None
            await put(store, b"s/free", b"z", free.mod_revision)
    assert await store.get(b"s/free") is not None
    assert await store.get(b"s/mine") is None


async def test_keepalives_prolong_a_session(store: CoordinationStore, clock: HandClock) -> None:
    async with store.session(6) as session:
        await put(store, b"s/mine", b"x", lease=session.id)
        for _ in range(6):
            await eventually(lambda: clock.sleepers == 1)
            clock.advance(2)
            await eventually(lambda: session.valid_until == clock.now + 6)
        assert await store.get(b"s/mine") is not None
        assert not session.lost.is_set()


async def test_a_session_nobody_keeps_ends_and_is_told(store: CoordinationStore, clock: HandClock) -> None:
    async with store.session(6) as session:
        revision = await put(store, b"s/mine", b"x", lease=session.id)
        if isinstance(store, EtcdStore):
            await store.revoke(session.id)  # in real time it would take too long
        clock.advance(7)  # this process stood still
        with trio.fail_after(PATIENCE_S):
            await session.lost.wait()
        assert session.valid_until <= clock.now
        (batch,) = await collect(store, b"s/", revision + 1, 1)
        assert batch.events == (Event(b"s/mine", None, revision + 1),)
        with pytest.raises(SessionLost):
            await store.txn([Guard(b"s/mine", 0)], [Put(b"s/mine", b"x", session.id)])
        assert (await store.txn([Guard(b"s/mine", 0)], [Put(b"s/mine", b"x")])).succeeded


async def test_an_error_in_the_block_comes_out_as_it_is(store: CoordinationStore) -> None:
    with pytest.raises(KeyError):
        async with store.session(6) as session:
            await put(store, b"s/mine", b"x", lease=session.id)
            raise KeyError
    assert await store.get(b"s/mine") is None


async def test_no_update_is_lost_among_many(store: CoordinationStore) -> None:
    await put(store, b"n", b"0")

    async def count_up() -> None:
        for _ in range(4):
            while True:
                entry = await store.get(b"n")
                assert entry is not None
                op = Put(b"n", b"%d" % (int(entry.value) + 1))
                if (await store.txn([Guard(b"n", entry.mod_revision)], [op])).succeeded:
                    break

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(count_up)
    entry = await store.get(b"n")
    assert entry is not None and entry.value == b"40"
    events = [event for batch in await collect(store, b"n", 1, 41) for event in batch.events]
    assert [event.value for event in events] == [b"%d" % i for i in range(41)]


async def test_a_cancelled_transaction_leaves_the_store_usable(store: CoordinationStore) -> None:
    async with trio.open_nursery() as nursery:
        for i in range(20):
            nursery.start_soon(put, store, b"x/%d" % i, b"")
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await put(store, b"y", b"")


async def test_info_names_the_store(store: CoordinationStore) -> None:
    info = await store.info()
    assert info.id and info.engine in ("memory", "sqlite", "etcd") and info.guards_max == info.ops_max == 100


async def test_a_silent_watch_shows_that_it_lives(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore(HandClock())
    async with store.watch(b"", 1) as watch:
        with trio.fail_after(5.5):
            assert await anext(watch) == Batch(0, ())


KEYS = st.sampled_from([b"a", b"b/1", b"b/2", b"c"])
STEPS = st.lists(
    st.tuples(
        st.lists(st.tuples(KEYS, st.booleans(), st.booleans()), min_size=1, max_size=3, unique_by=lambda t: t[0]),
        st.sampled_from(["txn", "compact", "lease"]),
    ),
    max_size=25,
)
FILES = itertools.count()


@settings(max_examples=20, deadline=None)
@given(steps=STEPS)
def test_engines_agree(steps: list[tuple[list[tuple[bytes, bool, bool]], str]], tmp_path_factory: object) -> None:
    """Whatever is done, SQLite and memory answer the same: results, ranges, replayed history."""
    path = Path(tmp_path_factory.mktemp("model")) / f"{next(FILES)}.db"  # type: ignore[attr-defined]
    trio.run(_compare, steps, path)


async def _compare(steps: list[tuple[list[tuple[bytes, bool, bool]], str]], path: Path) -> None:
    clock = HandClock()
    memory = MemoryStore(clock)
    async with sqlite_at(path, clock, offload=Inline()) as sqlite:
        lease = await memory.grant(60)
        assert lease == await sqlite.grant(60)
        compacted = 0
        for number, (changes, kind) in enumerate(steps):
            if kind == "compact":
                compacted = (await memory.info()).revision
                await memory.compact(compacted)
                await sqlite.compact(compacted)
            guards: list[Guard] = []
            ops: list[Op] = []
            for key, delete, right in changes:
                entry = await memory.get(key)
                guards.append(Guard(key, (entry.mod_revision if entry else 0) + (0 if right else 1)))
                ops.append(Delete(key) if delete else Put(key, b"%d" % number, lease if kind == "lease" else 0))
            assert await memory.txn(guards, ops) == await sqlite.txn(guards, ops)
            page: Page = await memory.range(b"")
            assert page == await sqlite.range(b"")
        await memory.revoke(lease)
        await sqlite.revoke(lease)
        assert await memory.range(b"b") == await sqlite.range(b"b")
        if count := await _events(memory, compacted):
            ours, theirs = await collect(memory, b"", compacted, count), await collect(sqlite, b"", compacted, count)
            assert [set(b.events) for b in ours] == [set(b.events) for b in theirs]


async def _events(store: MemoryStore, start: int) -> int:
    changes = store._feed.since(start) if start >= store._feed.first else []
    return sum(len(events) for _, events in changes or [])
