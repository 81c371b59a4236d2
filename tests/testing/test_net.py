"""What the memory network does that loopback does not: latency, cuts, resets, fragments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from kbroker.testing.clock import JumpClock
from kbroker.testing.net import MemoryNetwork, MemoryStream


def run(main: Callable[..., Awaitable[Any]], **options: Any) -> Any:
    """Run main(network) on a clock that jumps."""
    clock = JumpClock()
    return trio.run(main, MemoryNetwork(clock=clock, **options), clock=clock)


async def connected(network: MemoryNetwork) -> tuple[MemoryStream, MemoryStream]:
    """A connection from host a to host b: (a's end, b's end)."""
    listener = await network.host("b").listen("", 9092)
    client = await network.host("a").connect("b", 9092)
    return client, await listener.accept()


async def receive(stream: MemoryStream) -> bytes:
    buffer = bytearray(65536)
    return bytes(buffer[: await stream.receive_into(memoryview(buffer))])


def test_bytes_arrive_after_the_latency() -> None:
    async def main(network: MemoryNetwork) -> None:
        client, server = await connected(network)
        assert trio.current_time() == 2.0
        await client.send([b"x"])
        assert await receive(server) == b"x"
        assert trio.current_time() == 3.0
        network.slow("b", "a", 5.0)
        await server.send([b"y"])
        assert await receive(client) == b"y"
        assert trio.current_time() == 9.0

    run(main, delay=lambda rng: 1.0)


def test_what_is_sent_later_never_arrives_earlier() -> None:
    async def main(network: MemoryNetwork) -> None:
        client, server = await connected(network)
        for n in range(256):
            await client.send([bytes([n])])
        received = b""
        while len(received) < 256:
            received += await receive(server)
        assert received == bytes(range(256))

    run(main, delay=lambda rng: rng.random())


def test_receivers_get_fragments() -> None:
    async def main(network: MemoryNetwork) -> None:
        client, server = await connected(network)
        sizes = []
        for _ in range(100):
            await client.send([bytes(1000)])
            have = 0
            while have < 1000:
                sizes.append(len(await receive(server)))
                have += sizes[-1]
        assert sum(sizes) == 100_000
        assert 110 < len(sizes) < 300

    run(main)


def test_a_cut_holds_one_way_and_healing_delivers() -> None:
    async def main(network: MemoryNetwork) -> None:
        client, server = await connected(network)
        network.cut("a", "b")
        await client.send([b"held"])
        await server.send([b"through"])
        assert await receive(client) == b"through"
        with trio.move_on_after(60) as waiting:
            await receive(server)
        assert waiting.cancelled_caught
        network.heal()
        assert await receive(server) == b"held"

    run(main, delay=lambda rng: 0.001, fragment=False)


def test_an_isolated_host_reaches_itself_only() -> None:
    async def main(network: MemoryNetwork) -> None:
        client, server = await connected(network)
        network.isolate("b")
        await client.send([b"x"])
        with trio.move_on_after(60):
            await receive(server)
            raise AssertionError("not cut")
        there = network.host("b")
        listener = await there.listen("127.0.0.1", 0)
        await there.connect("localhost", listener.address[1])

    run(main)


def test_connecting_waits_for_the_way_to_heal() -> None:
    async def main(network: MemoryNetwork) -> None:
        a, b = network.host("a"), network.host("b")
        await b.listen("", 1)
        network.cut("b", "a")
        with trio.move_on_after(10) as waiting:
            await a.connect("b", 1)
        assert waiting.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.connect, "b", 1)
            await trio.sleep(5)
            network.heal()

    run(main)


def test_unknown_hosts_and_foreign_addresses_are_os_errors() -> None:
    async def main(network: MemoryNetwork) -> None:
        with pytest.raises(OSError):
            await network.host("a").connect("nobody", 1)
        with pytest.raises(OSError):
            await network.host("a").listen("b", 1)

    run(main)


def test_a_reset_breaks_both_ends_and_discards_what_was_unread() -> None:
    async def main(network: MemoryNetwork) -> None:
        client, server = await connected(network)
        await client.send([b"unread"])
        network.reset("a", "b")
        for stream in (client, server):
            with pytest.raises(trio.BrokenResourceError):
                await receive(stream)
            with pytest.raises(trio.BrokenResourceError):
                await stream.send([b"x"])

    run(main)


def test_a_sender_that_waits_learns_of_the_reset() -> None:
    async def main(network: MemoryNetwork) -> None:
        client, server = await connected(network)

        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await client.send([bytes(1_000_000)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            network.reset("b")

    run(main)


def test_a_host_without_power_is_silent_until_it_comes_back() -> None:
    async def main(network: MemoryNetwork) -> None:
        client, _ = await connected(network)
        network.lose_power("b")
        await client.send([b"anybody there?"])
        with trio.move_on_after(600) as waiting:
            await receive(client)
        assert waiting.cancelled_caught
        network.host("b")
        with pytest.raises(trio.BrokenResourceError):
            await receive(client)
        with pytest.raises(ConnectionRefusedError):
            await network.hosts["a"].connect("b", 9092)

    run(main)


def test_the_window_is_bounded_by_both_flight_and_buffer() -> None:
    async def main(network: MemoryNetwork) -> None:
        client, server = await connected(network)
        network.cut("a", "b")
        with trio.move_on_after(1) as waiting:
            await client.send([bytes(1001)])
        assert waiting.cancelled_caught
        network.heal()
        received = 0
        while received < 1000:
            received += len(await receive(server))

    run(main, buffer_size=1000)
