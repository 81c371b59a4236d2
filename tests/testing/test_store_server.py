"""The store of a simulated world: what is lost may be done, what is cut off is done later; while down, time stands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio

from kbroker.cluster.store import Ambiguous, CoordinationStore, Guard, Op, Put, TxnResult, Unavailable
from kbroker.env import Env
from kbroker.testing.store_server import STORE, StoreLink, StoreServer
from kbroker.testing.world import Killed, Process, World, current_process, simulate

A = b"/a"
Program = Callable[[CoordinationStore], Awaitable[None]]


def with_store(main: Callable[[World, StoreServer, Callable[[str, Program], None]], Awaitable[None]]) -> None:
    """Run main with a store, and with a way to start programs that use it, each on a node of its own."""

    async def scenario(world: World) -> None:
        server = StoreServer(world)

        def start(name: str, program: Program) -> None:
            async def run(env: Env) -> None:
                process = current_process.get()
                assert process is not None
                await program(server.link(process))

            world.node(name).start(run)

        await main(world, server, start)

    simulate(1, scenario)


def test_a_transaction_whose_answer_is_lost_has_happened_or_not() -> None:
    done: list[bool] = []

    async def main(world: World, server: StoreServer, start: Callable[[str, Program], None]) -> None:
        server.loss = 0.5

        async def program(store: CoordinationStore) -> None:
            for n in range(40):
                key = b"/%d" % n
                try:
                    await store.txn([Guard(key, 0)], [Put(key, b"x")])
                except Ambiguous:
                    done.append(server.engine.peek(key) is not None)

        start("b1", program)
        await trio.sleep(30)

    with_store(main)
    assert set(done) == {True, False}


def test_what_is_cut_off_is_done_when_it_is_healed_even_for_the_dead() -> None:
    commits: list[str] = []

    async def scenario(world: World) -> None:
        def note(process: Process, ops: Sequence[Op], result: TxnResult) -> None:
            commits.append(process.node.name)

        server = StoreServer(world, note)

        async def run(env: Env) -> None:
            process = current_process.get()
            assert process is not None
            with pytest.raises(Ambiguous):
                await server.link(process).txn([Guard(A, 0)], [Put(A, b"x")])
            await trio.sleep_forever()

        world.network.cut("b1", STORE)
        world.node("b1").start(run)
        await trio.sleep(3)
        assert server.engine.peek(A) is None
        world.node("b1").kill()
        world.network.heal()
        await trio.sleep(1)
        assert server.engine.peek(A) is not None

    simulate(1, scenario)
    assert commits == ["b1"]


def test_a_session_ends_while_its_process_is_paused() -> None:
    async def main(world: World, server: StoreServer, start: Callable[[str, Program], None]) -> None:
        lost: list[float] = []

        async def program(store: CoordinationStore) -> None:
            async with store.session(2.0) as session:
                await store.txn([Guard(A, 0)], [Put(A, b"x", session.id)])
                await session.lost.wait()
                lost.append(world.now())

        start("b1", program)
        await trio.sleep(5)
        assert server.engine.peek(A) is not None
        world.node("b1").pause()
        await trio.sleep(3)
        assert server.engine.peek(A) is None
        world.node("b1").resume()
        await trio.sleep(2)
        assert lost

    with_store(main)


def test_no_session_ends_while_the_store_is_down() -> None:
    async def main(world: World, server: StoreServer, start: Callable[[str, Program], None]) -> None:
        async def program(store: CoordinationStore) -> None:
            async with store.session(2.0) as session:
                await store.txn([Guard(A, 0)], [Put(A, b"x", session.id)])
                await session.lost.wait()

        start("b1", program)
        await trio.sleep(1)
        server.stop()
        await trio.sleep(60)
        server.start()
        await trio.sleep(10)
        assert server.engine.peek(A) is not None

    with_store(main)


def test_a_watch_that_is_cut_off_breaks_and_one_that_is_slow_tells_all() -> None:
    told: list[bytes] = []
    broken: list[float] = []

    async def main(world: World, server: StoreServer, start: Callable[[str, Program], None]) -> None:
        async def watcher(store: CoordinationStore) -> None:
            revision = 1
            while True:
                try:
                    async with store.watch(b"/", revision) as batches:
                        async for batch in batches:
                            told.extend(event.key for event in batch.events)
                            revision = batch.revision + 1
                except Unavailable:
                    broken.append(world.now())
                    await trio.sleep(0.5)

        async def writer(store: CoordinationStore) -> None:
            for n in range(20):
                await store.txn([Guard(b"/%d" % n, 0)], [Put(b"/%d" % n, b"")])
                await trio.sleep(1)

        start("b1", watcher)
        start("b2", writer)
        await trio.sleep(3)
        assert not broken
        world.network.cut(STORE, "b1")
        await trio.sleep(10)
        assert broken
        world.network.heal()
        await trio.sleep(20)

    with_store(main)
    assert told == [b"/%d" % n for n in range(20)]


def test_the_dead_ask_nothing() -> None:
    async def main(world: World, server: StoreServer, start: Callable[[str, Program], None]) -> None:
        links: list[CoordinationStore] = []

        async def program(store: CoordinationStore) -> None:
            links.append(store)
            await trio.sleep_forever()

        start("b1", program)
        await trio.sleep(1)
        world.node("b1").kill()
        assert isinstance(links[0], StoreLink)
        with pytest.raises(Killed):
            await links[0].get(A)

    with_store(main)
