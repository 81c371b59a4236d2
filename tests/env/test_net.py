"""What every Net does, real (over loopback) or in memory, whatever the operating system lacks."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from kbroker.env import AddressInUse, Disk, FileSlice, Listener, Net, Stream
from tests.env.worlds import NET_WORLDS, make_disk, make_net

LOOPBACK = "127.0.0.1"


class Ends(NamedTuple):
    """Both ends of a connection, its listener, and a disk of the same world."""

    client: Stream
    server: Stream
    listener: Listener
    net: Net
    disk: Disk


@pytest.fixture(params=NET_WORLDS)
async def ends(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ends]:
    net = make_net(request.param)
    listener = await net.listen(LOOPBACK, 0)
    client = await net.connect(*listener.address)
    server = await listener.accept()
    yield Ends(client, server, listener, net, make_disk(request.param, tmp_path / "data"))
    for each in (client, server, listener):
        await each.aclose()


async def receive_exactly(stream: Stream, size: int) -> bytes:
    data = bytearray(size)
    have = 0
    with trio.fail_after(10):
        while have < size:
            received = await stream.receive_into(memoryview(data)[have:])
            assert received, f"the stream ended after {have} of {size} bytes"
            have += received
    return bytes(data)


async def receive_anything(stream: Stream) -> int:
    with trio.fail_after(10):
        return await stream.receive_into(memoryview(bytearray(10)))


async def test_addresses_match(ends: Ends) -> None:
    assert ends.listener.address[0] == LOOPBACK
    assert ends.listener.address[1] > 0
    assert ends.client.peer == ends.server.local == ends.listener.address
    assert ends.client.local == ends.server.peer


async def test_bytes_arrive_both_ways(ends: Ends) -> None:
    await ends.client.send([b"hello ", bytearray(b"there"), memoryview(b"!")])
    assert await receive_exactly(ends.server, 12) == b"hello there!"
    await ends.server.send([b"and back"])
    assert await receive_exactly(ends.client, 8) == b"and back"
    await ends.server.send([])
    await ends.server.send([b""])


@pytest.mark.parametrize("size", [10, 65_536, 65_537, 1_000_000])
async def test_every_mixture_of_parts_arrives_in_order(ends: Ends, size: int) -> None:
    content = random.Random(size).randbytes(size)
    file = ends.disk.open("a", create=True)
    file.append([b"before", content, b"after"])
    whole = FileSlice(file, 6, size)
    parts = [b"head", whole, b"x" * 100, FileSlice(file, 8, 5), content, b"", whole]
    expected = b"head" + content + b"x" * 100 + content[2:7] + content + content
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.server.send, parts)
        assert await receive_exactly(ends.client, len(expected)) == expected


async def test_thousands_of_parts_of_any_size(ends: Ends) -> None:
    choice = random.Random(5)
    parts = [choice.randbytes(choice.choice([0, 1, 50, 3000, 70_000 if n % 200 == 0 else 5])) for n in range(3000)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.client.send, parts)
        assert await receive_exactly(ends.server, sum(map(len, parts))) == b"".join(parts)


async def test_a_sender_waits_for_a_slow_reader(ends: Ends) -> None:
    sent = trio.Event()

    async def send() -> None:
        await ends.client.send([bytes(30_000_000)])
        sent.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not sent.is_set()
        assert await receive_exactly(ends.server, 30_000_000) == bytes(30_000_000)
    assert sent.is_set()


async def test_the_end_of_the_stream_is_zero_bytes(ends: Ends) -> None:
    await ends.client.send([b"last words"])
    await ends.client.aclose()
    await ends.client.aclose()
    assert await receive_exactly(ends.server, 10) == b"last words"
    assert await receive_anything(ends.server) == 0
    assert await receive_anything(ends.server) == 0


async def test_sending_to_one_who_has_gone_breaks(ends: Ends) -> None:
    await ends.client.aclose()
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(10):
        while True:
            await ends.server.send([b"anybody there?"])
            await trio.lowlevel.checkpoint()


async def test_a_closed_stream_refuses(ends: Ends) -> None:
    await ends.client.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await receive_anything(ends.client)
    with pytest.raises(trio.ClosedResourceError):
        await ends.client.send([b"x"])


async def test_closing_wakes_a_waiting_receiver(ends: Ends) -> None:
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await receive_anything(ends.client)

        await trio.testing.wait_all_tasks_blocked()
        await ends.client.aclose()


async def test_a_cancelled_receive_loses_nothing(ends: Ends) -> None:
    with trio.move_on_after(0):
        await receive_anything(ends.client)
    await ends.server.send([b"here"])
    assert await receive_exactly(ends.client, 4) == b"here"


async def test_a_send_cancelled_midway_leaves_the_stream_broken(ends: Ends) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.client.send, [bytes(30_000_000)])
            await trio.testing.wait_all_tasks_blocked(0.01)
            scope.cancel()
    with pytest.raises(trio.BrokenResourceError):
        await ends.client.send([b"this would be read as part of the other"])


@pytest.mark.parametrize("size", [100, 100_000])
async def test_a_slice_that_has_gone_is_the_disks_error_and_breaks_the_stream(ends: Ends, size: int) -> None:
    file = ends.disk.open("a", create=True)
    file.append([bytes(size)])
    part = FileSlice(file, 0, size)
    file.truncate(size // 2)
    with pytest.raises(OSError):
        await ends.client.send([b"head", part])
    with pytest.raises(trio.BrokenResourceError):
        await ends.client.send([b"tail"])


async def test_a_busy_stream_lets_others_have_their_turn(ends: Ends) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        for _ in range(500):
            await ends.client.send([b"x"])
            await receive_exactly(ends.server, 1)
        nursery.cancel_scope.cancel()
    assert turns >= 500 // 64


class Watcher:
    """What a watched stream's step has seen."""

    def __init__(self, stream: Stream, nursery: trio.Nursery) -> None:
        self.stream = stream
        self.received = b""
        self.calls = 0
        self.again = 0  # how often to ask for another call first
        self.pauses = False  # after each step
        self.ended = False
        stream.watch(self.step, nursery)

    def step(self) -> bool:
        """Receive some bytes, or ask to be called again."""
        self.calls += 1
        if self.again:
            self.again -= 1
            return True
        view = memoryview(bytearray(7))
        received = self.stream.receive_now(view)
        self.received += view[: received or 0]
        self.ended = received == 0
        if self.ended or self.pauses:
            self.stream.pause()
        return False

    async def wait(self, condition: Callable[[Watcher], object]) -> None:
        """Until the condition holds."""
        with trio.fail_after(10):
            while not condition(self):
                await trio.lowlevel.checkpoint()


async def quiet() -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_watched_stream_calls_for_all_that_arrives(ends: Ends, nursery: trio.Nursery) -> None:
    await ends.client.send([b"before it was watched, "])
    watcher = Watcher(ends.server, nursery)
    await watcher.wait(lambda it: it.received == b"before it was watched, ")
    for n in range(5):
        await ends.client.send([b"%d" % n])
        await watcher.wait(lambda it, n=n: it.received.endswith(b"%d" % n))  # type: ignore[misc]
    await quiet()
    assert watcher.calls < 40


async def test_a_step_that_has_more_to_do_is_called_again(ends: Ends, nursery: trio.Nursery) -> None:
    watcher = Watcher(ends.server, nursery)
    watcher.again = 100
    await ends.client.send([b"x"])
    await watcher.wait(lambda it: it.received == b"x")
    assert watcher.calls >= 101


async def test_what_follows_a_step_says_whether_to_call_again(ends: Ends, nursery: trio.Nursery) -> None:
    order: list[str] = []

    def step() -> bool:
        order.append("step")
        ends.server.receive_now(memoryview(bytearray(10)))
        return True

    def then() -> bool:
        order.append("then")
        return len(order) < 100

    ends.server.watch(step, nursery, then)
    await ends.client.send([b"x"])
    with trio.fail_after(10):
        while len(order) < 100:
            await trio.lowlevel.checkpoint()
    await quiet()
    assert order[::2] == ["step"] * (len(order) // 2) and order[1::2] == ["then"] * (len(order) // 2)
    assert len(order) <= 104, "not without end"


async def test_a_watched_stream_tells_its_end(ends: Ends, nursery: trio.Nursery) -> None:
    watcher = Watcher(ends.server, nursery)
    await ends.client.send([b"last words"])
    await ends.client.aclose()
    await watcher.wait(lambda it: it.ended)
    assert watcher.received == b"last words"
    await quiet()  # once


async def test_a_paused_stream_knows_that_its_peer_has_hung_up(ends: Ends, nursery: trio.Nursery) -> None:
    Watcher(ends.server, nursery)
    ends.server.pause()
    await ends.client.send([b"unread"])
    await quiet()
    assert not ends.server.has_hung_up()
    await ends.client.aclose()
    await quiet()
    assert ends.server.has_hung_up()


async def test_a_paused_stream_is_left_alone_and_goes_on_when_resumed(ends: Ends, nursery: trio.Nursery) -> None:
    watcher = Watcher(ends.server, nursery)
    await quiet()
    ends.server.pause()
    before = watcher.calls
    await ends.client.send([b"x" * 100])
    await quiet()
    assert watcher.calls == before
    ends.server.resume(again=False)
    await watcher.wait(lambda it: it.received == b"x" * 100)
    await quiet()
    before = watcher.calls
    ends.server.pause()
    ends.server.resume(again=True)
    await watcher.wait(lambda it: it.calls > before)  # though nothing has arrived


async def test_a_step_may_pause_and_another_task_resume(ends: Ends, nursery: trio.Nursery) -> None:
    watcher = Watcher(ends.server, nursery)
    watcher.pauses = True
    await ends.client.send([bytes(70)])
    with trio.fail_after(10):
        while len(watcher.received) < 70:
            await trio.lowlevel.checkpoint()
            ends.server.resume(again=False)


async def test_closing_ends_the_watching(ends: Ends, nursery: trio.Nursery) -> None:
    watcher = Watcher(ends.server, nursery)
    ends.server.close()
    ends.server.close()
    before = watcher.calls
    with suppress(trio.BrokenResourceError):
        await ends.client.send([b"x"])
    await quiet()
    assert watcher.calls == before


async def test_a_step_may_close_its_stream(ends: Ends, nursery: trio.Nursery) -> None:
    def step() -> bool:
        ends.server.receive_now(memoryview(bytearray(100)))
        ends.server.close()
        return False

    ends.server.watch(step, nursery)
    await ends.client.send([b"x"])
    with trio.fail_after(10), suppress(trio.BrokenResourceError):
        while await ends.client.receive_into(memoryview(bytearray(10))):
            pass
    await quiet()


async def test_sent_grows_as_the_peer_reads(ends: Ends) -> None:
    assert not ends.client.send_now([b"12345"]) and ends.client.sent == 5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.client.send, [bytes(30_000_000)])
        await trio.testing.wait_all_tasks_blocked(0.01)
        stuck = ends.client.sent
        assert 5 < stuck < 30_000_005
        await receive_exactly(ends.server, 5_000_000)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert stuck < ends.client.sent < 30_000_005
        await receive_exactly(ends.server, 25_000_005)
    assert ends.client.sent == 30_000_005


async def test_a_port_has_one_listener(ends: Ends) -> None:
    host, port = ends.listener.address
    with pytest.raises(AddressInUse) as refusal:
        await ends.net.listen(host, port)
    assert refusal.value.port == port
    await ends.listener.aclose()
    again = await ends.net.listen(host, port)
    assert again.address == (host, port)
    await again.aclose()


async def test_nobody_listening_refuses(ends: Ends) -> None:
    await ends.listener.aclose()
    with pytest.raises(ConnectionRefusedError):
        await ends.net.connect(*ends.listener.address)


async def test_a_closed_listener_wakes_its_acceptor(ends: Ends) -> None:
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def accept() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ends.listener.accept()

        await trio.testing.wait_all_tasks_blocked()
        await ends.listener.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await ends.listener.accept()


@pytest.mark.parametrize("host", ["", "localhost", "0.0.0.0", "::"])
async def test_hosts_are_resolved(ends: Ends, host: str) -> None:
    listener = await ends.net.listen(host, 0)
    client = await ends.net.connect(LOOPBACK, listener.address[1])
    server = await listener.accept()
    assert server.peer == client.local
    assert server.peer[0] == LOOPBACK
    for each in (client, server, listener):
        await each.aclose()


async def test_what_send_now_leaves_is_the_rest(ends: Ends) -> None:
    content = random.Random(7).randbytes(400_000)
    file = ends.disk.open("a", create=True)
    file.append([content])
    parts = [b"head", FileSlice(file, 1000, 300_000), b"tail"]
    whole = b"head" + content[1000:301_000] + b"tail"
    rest, count = ends.client.send_now(parts), 1
    while not rest and count < 200:  # as far as the buffers of both ends go
        rest, count = ends.client.send_now(parts), count + 1
    assert rest, "what has no room must be left"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.client.send, rest)
        assert await receive_exactly(ends.server, count * len(whole)) == count * whole
    assert ends.client.sent == count * len(whole)
