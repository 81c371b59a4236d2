"""Connections as they are driven: by the pump, by a task each, in memory. Fairness, bounds, last words, idleness."""

from __future__ import annotations

import gc
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kbroker.api.registry import Api
from kbroker.env import Net
from kbroker.env.features import Features
from kbroker.server.complaints import COMPLAINTS_MAX
from kbroker.server.connection import FRAMES_MAX, SEND_MAX
from kbroker.server.driver import LAST_WORDS_S, UNREAD_MAX_S, Driver
from kbroker.server.listener import REAPER_INTERVAL_S, Server
from kbroker.server.memory import HELD_MAX_S, AnswerMemory, RequestMemory
from kbroker.server.porter import Porter
from kbroker.testing.client import BareClient
from kbroker.testing.net import MemoryNetwork
from tests.env.worlds import BARE, MEMORY, REAL, make_net
from tests.server.connection_tools import SERVICES, Handlers, answered, framed, heartbeat, metadata, receive

WORLDS = [MEMORY, REAL, BARE]  # a task each, the pump, a task each
GONE = (trio.EndOfChannel, trio.BrokenResourceError)
HOST = "127.0.0.1"


class House:
    """A served listener and its clients."""

    def __init__(self, net: Net, server: Server, nursery: trio.Nursery) -> None:
        self.net = net
        self.server = server
        self.nursery = nursery
        self.clients: list[BareClient] = []

    async def client(self) -> BareClient:
        client = BareClient(await self.net.connect(*self.server.listener.address))
        self.clients.append(client)
        return client

    async def settle(self) -> None:
        """Until nothing moves any more; through the kernel that takes a moment."""
        await wait_all_tasks_blocked(0.0 if isinstance(trio.lowlevel.current_clock(), MockClock) else 0.02)


@asynccontextmanager
async def house(
    net: Net, apis: dict[int, Api], *, requests_max: int = 1 << 30, answers_max: int = 1 << 30
) -> AsyncIterator[House]:
    listener = await net.listen(HOST, 0)
    porter = Porter()
    server = Server(
        "PLAINTEXT", listener, SERVICES, apis, RequestMemory(requests_max), AnswerMemory(answers_max), porter
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(porter.run)
        nursery.start_soon(server.run)
        made = House(net, server, nursery)
        yield made
        for client in made.clients:
            await client.stream.aclose()
        nursery.cancel_scope.cancel()
    assert not server.drivers
    assert server.requests.bytes_held == server.answers.bytes_held == 0


async def ids(client: BareClient, count: int) -> list[int]:
    """The correlation ids of the next answers."""
    with trio.fail_after(30):
        return [int.from_bytes((await client.receive_frame())[:4], "big") for _ in range(count)]


async def is_hung_up_on(client: BareClient) -> bool:
    with trio.fail_after(10_000):
        try:
            await client.receive_frame()
        except GONE:
            return True
    return False


@pytest.mark.parametrize("world", WORLDS)
async def test_a_listener_that_ends_serves_nobody_while_something_still_has_to_end(world: str) -> None:
    handlers, may_end = Handlers(), trio.Event()

    async def shielded() -> None:
        with trio.CancelScope(shield=True):
            await may_end.wait()

    async with house(make_net(world), handlers.apis()) as home:
        slow, other = await home.client(), await home.client()
        handlers._wait = shielded  # type: ignore[assignment,method-assign]
        await slow.stream.send([heartbeat(1, "wait")])
        await home.settle()
        home.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), trio.move_on_after(5) as patience:
            await home.settle()
            with suppress(*GONE):
                await other.stream.send([heartbeat(2, "now")])
            assert await is_hung_up_on(other)
        may_end.set()
    assert not patience.cancelled_caught
    assert handlers.handled == ["wait"]


@pytest.mark.parametrize("world", WORLDS)
async def test_who_asks_a_little_is_answered_before_who_asks_much(world: str) -> None:
    handlers = Handlers(answer_size=20_000)
    async with house(make_net(world), handlers.apis()) as home:
        greedy, good = await home.client(), await home.client()
        await home.settle()
        greedy.stream.send_now([b"".join(metadata(n) for n in range(2000))])
        good.stream.send_now([heartbeat(7)])
        assert await ids(good, 1) == [7]
        assert len(handlers.handled) <= 3 * FRAMES_MAX
        for _ in range(20):  # and so it goes on
            before = len(handlers.handled)
            await good.stream.send([heartbeat(8)])
            assert await ids(good, 1) == [8]
            assert len(handlers.handled) - before <= 3 * FRAMES_MAX


@pytest.mark.parametrize("world", WORLDS)
async def test_B5_a_connection_whose_answers_are_not_read_is_not_read_from(world: str) -> None:
    handlers, asked = Handlers(answer_size=200_000), 200
    async with house(make_net(world), handlers.apis()) as home:
        greedy, good = await home.client(), await home.client()
        await greedy.stream.send([b"".join(metadata(n) for n in range(asked))])
        await home.settle()
        handled = len(handlers.handled)
        assert handled < asked
        assert 0 < home.server.answers.bytes_held <= SEND_MAX + handlers.answer_size + 100
        await good.stream.send([heartbeat(7)])
        assert await ids(good, 1) == [7]
        assert len(handlers.handled) == handled + 1
        assert await ids(greedy, asked) == list(range(asked)), "all is there once it reads"
        await home.settle()
        assert home.server.answers.bytes_held == 0


@pytest.mark.parametrize("world", WORLDS)
async def test_a_look_that_finds_nothing_leaves_a_frame_that_has_begun_as_it_is(world: str) -> None:
    """All connections receive into the same memory, one after the other."""
    handlers = Handlers()
    async with house(make_net(world), handlers.apis()) as home:
        first, second = await home.client(), await home.client()
        frame = heartbeat(1, "a" * 1000)
        await first.stream.send([frame[:700]])
        await home.settle()
        for driver in home.server.drivers:
            driver.step()
        await second.stream.send([heartbeat(2, "b" * 1000)])
        assert await ids(second, 1) == [2]
        await first.stream.send([frame[700:]])
        assert await ids(first, 1) == [1]
        assert handlers.handled == ["b" * 1000, "a" * 1000]


async def test_what_waits_behind_an_answer_that_comes_before_the_others_are_sent_is_handled() -> None:
    handlers = Handlers()
    async with house(make_net(MEMORY), handlers.apis()) as home:
        client = await home.client()
        await home.settle()
        (driver,) = home.server.drivers
        receive(driver.core, heartbeat(5, "await1") + heartbeat(6, "last"))
        driver._more = True
        driver.step()
        handlers.tide.advance(5)  # in the step of another connection
        driver.answer()
        assert await ids(client, 2) == [5, 6]


async def test_one_that_is_closed_or_served_before_it_is_answered() -> None:
    """Other connections' steps come between a step and its answer."""
    handlers = Handlers()
    async with house(make_net(MEMORY), handlers.apis()) as home:
        clients = [await home.client() for _ in range(2)]
        await home.settle()
        closed, served = home.server.drivers
        for driver in (closed, served):
            receive(driver.core, heartbeat(1))
            driver._more = True
            driver.step()
        closed.close()
        served.set()
        home.server.porter.serve()
        for driver in (closed, served):
            assert not driver.answer()
        assert await ids(clients[1], 1) == [1]
        assert list(home.server.drivers) == [served]


@pytest.mark.parametrize("world", WORLDS)
async def test_B5_of_many_who_do_not_read_some_are_hung_up_on(world: str) -> None:
    handlers = Handlers(answer_size=10_000_000)  # more than any kernel buffers
    bound = 2 * handlers.answer_size + 1000
    async with house(make_net(world), handlers.apis(), answers_max=bound) as home:
        greedy = [await home.client() for _ in range(5)]
        for client in greedy:
            await client.stream.send([metadata(1)])
            await home.settle()
            assert home.server.answers.bytes_held <= bound
        assert len(home.server.drivers) < 5
        for client in greedy[:2]:
            with pytest.raises(GONE):
                await ids(client, 1)
        assert await ids(greedy[-1], 1) == [1]


@pytest.mark.parametrize("world", WORLDS)
async def test_B1_what_was_earned_is_answered_before_a_broken_frame_ends_the_connection(world: str) -> None:
    handlers = Handlers()
    async with house(make_net(world), handlers.apis()) as home:
        client, good = await home.client(), await home.client()
        await client.stream.send([heartbeat(1) + heartbeat(2) + framed(b"no request") + heartbeat(3) * 5000])
        assert await ids(client, 2) == [1, 2]
        assert await is_hung_up_on(client)
        await good.stream.send([heartbeat(7)])
        assert await ids(good, 1) == [7]


@pytest.mark.parametrize("world", WORLDS)
async def test_B1_and_so_is_what_is_still_to_come(world: str) -> None:
    handlers = Handlers()
    async with house(make_net(world), handlers.apis(overlaps=True)) as home:
        client = await home.client()
        await client.stream.send([heartbeat(1, "wait") + heartbeat(2, "wait") + heartbeat(3) + framed(b"")])
        await home.settle()
        assert len(home.server.drivers) == 1
        while len(handlers.bells) < 2:  # the second begins to wait when the first is answered
            for bell in handlers.bells:
                bell.set()
            await home.settle()
        handlers.bells[1].set()
        assert await ids(client, 3) == [1, 2, 3]
        assert await is_hung_up_on(client)


async def test_B5_last_words_are_waited_for_so_long(autojump_clock: MockClock) -> None:
    handlers = Handlers()
    async with house(make_net(MEMORY), handlers.apis(overlaps=True)) as home:
        client = await home.client()
        await client.stream.send([heartbeat(1, "wait") + framed(b"")])
        assert await is_hung_up_on(client)
        assert LAST_WORDS_S <= trio.current_time() <= LAST_WORDS_S + 1


@pytest.mark.parametrize("world", WORLDS)
async def test_a_client_that_stops_sending_gets_its_answers(world: str) -> None:
    handlers = Handlers()
    async with house(make_net(world), handlers.apis(overlaps=True)) as home:
        client = await home.client()
        await client.stream.send([heartbeat(1, "wait")])
        await home.settle()
        assert len(home.server.drivers) == 1
        await client.stream.aclose()
        handlers.bells[0].set()
        await home.settle()
        assert not home.server.drivers


@pytest.mark.parametrize("world", [REAL, BARE])
async def test_nor_does_it_lose_those_to_what_was_not_handled_yet(world: str) -> None:
    async with house(make_net(world), Handlers().apis()) as home:
        with socket.create_connection(home.server.listener.address) as client:
            client.sendall(b"".join(heartbeat(n) for n in range(20 * FRAMES_MAX)))
            client.shutdown(socket.SHUT_WR)
            client.setblocking(False)
            received = b""
            with trio.fail_after(30):
                while home.server.drivers or not received:
                    await trio.lowlevel.checkpoint()
                    with suppress(BlockingIOError):
                        received += client.recv(1 << 20)
            with suppress(BlockingIOError):
                received += client.recv(1 << 20)
            assert answered([received]) == list(range(20 * FRAMES_MAX))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("group", ["fail", "wait"])
async def test_a_failure_of_our_own_costs_one_connection(
    world: str, group: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = Handlers()

    async def fail() -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(handlers, "_wait", fail)
    async with house(make_net(world), handlers.apis()) as home:
        client, good = await home.client(), await home.client()
        await client.stream.send([heartbeat(1) + heartbeat(2, group) + heartbeat(3)])
        assert await ids(client, 1) == [1]
        assert await is_hung_up_on(client)
        await good.stream.send([heartbeat(7)])
        assert await ids(good, 1) == [7]
    assert "a bug" in caplog.text


async def test_no_crowd_of_mistaken_clients_hides_a_failure_of_our_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with house(make_net(MEMORY), Handlers().apis()) as home:
        for last in (*[framed(b"bad")] * 3 * COMPLAINTS_MAX, heartbeat(1, "fail")):
            client = await home.client()
            await client.stream.send([last])
            assert await is_hung_up_on(client)
    told = [record for record in caplog.records if record.name == "kbroker.listener"]
    assert len(told) == COMPLAINTS_MAX + 1
    assert told[-1].levelname == "ERROR" and told[-1].exc_info is not None


@pytest.mark.parametrize("world", WORLDS)
async def test_an_http_client_is_told_that_this_is_no_http_server(world: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with house(make_net(world), Handlers().apis()) as home:
        client = await home.client()
        await client.stream.send([heartbeat(1) + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 3000])
        said = b""
        with trio.fail_after(10), suppress(*GONE):
            space = memoryview(bytearray(4096))
            while size := await client.stream.receive_into(space):
                said += space[:size]
        earned, _, rest = said.partition(b"HTTP/1.1 400 Bad Request\r\n")
        assert earned[4:8] == b"\0\0\0\1" and rest.endswith(b"it does not speak HTTP.\n")
    assert "it sent an HTTP request (GET / HTTP/1.1), and this is a port for Kafka" in caplog.text


async def test_what_a_software_cannot_have_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    sasl, sasl_authenticate, metadata_99 = (struct.pack(">hhih", *each, 1, -1) for each in ((17, 1), (36, 0), (3, 99)))
    async with house(make_net(MEMORY), Handlers().apis()) as home:
        for request in (sasl, sasl, sasl_authenticate, metadata_99, metadata_99):
            client = await home.client()
            await client.stream.send([framed(request)])
            assert await is_hung_up_on(client)
    told = [record.getMessage().partition(" asks for ")[2] for record in caplog.records]
    assert told == [
        "SaslHandshake version 1, which is not supported: there is no security yet, set security.protocol=PLAINTEXT",
        "SaslAuthenticate version 0, which is not supported: there is no security yet, set security.protocol=PLAINTEXT",
        "Metadata version 99, which is not supported: versions 0 to 13 are",
    ]


@pytest.mark.parametrize("world", [MEMORY, REAL])  # without epoll, trio's own exceptions go round in circles
@pytest.mark.parametrize("last", [b"", framed(b"bad"), heartbeat(1, "wait"), heartbeat(1)[:-1]], ids=str)
async def test_B5_a_closed_connection_leaves_no_memory_for_a_garbage_collection(world: str, last: bytes) -> None:
    handlers = Handlers()
    async with house(make_net(world), handlers.apis(overlaps=True)) as home:
        client = await home.client()
        await client.stream.send([heartbeat(0)])
        assert await ids(client, 1) == [0]
        gc.collect()
        gc.disable()
        try:
            assert living() == 1
            await client.stream.send([last])
            await home.settle()
            for bell in handlers.bells:
                bell.set()
            await client.stream.aclose()
            await home.settle()
            assert not home.server.drivers
            assert living() == 0
        finally:
            gc.enable()


def living() -> int:
    """How many connections are in memory, closed or not."""
    return sum(isinstance(each, Driver) for each in gc.get_objects())


@pytest.mark.parametrize("world", WORLDS)
async def test_nor_does_a_bug_in_the_driver_cost_more(
    world: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Driver._send

    def fail(self: Driver) -> None:
        if "fail" in handlers.handled:
            handlers.handled.clear()
            raise ZeroDivisionError("a bug in the driver")
        send(self)

    handlers = Handlers()
    monkeypatch.setattr(Driver, "_send", fail)
    async with house(make_net(world), handlers.apis()) as home:
        client, good = await home.client(), await home.client()
        await client.stream.send([heartbeat(1, "fail")])
        assert await is_hung_up_on(client)
        await good.stream.send([heartbeat(7)])
        assert await ids(good, 1) == [7]
        assert len(home.server.drivers) == 1
    assert "a bug in the driver" in caplog.text


@pytest.mark.parametrize("world", WORLDS)
async def test_a_cancelled_server_forgets_what_is_still_to_come(world: str) -> None:
    handlers = Handlers()
    async with house(make_net(world), handlers.apis(overlaps=True)) as home:
        client = await home.client()
        await client.stream.send([heartbeat(1, "wait") + heartbeat(2, "wait")])
        await home.settle()


class TestTasks:
    """A connection that waits for its client has no task."""

    @pytest.mark.skipif(not Features.detect().epoll, reason="without epoll each connection has a task")
    async def test_B5_none_until_there_is_something_to_wait_for_and_none_some_time_after(self) -> None:
        handlers = Handlers()
        async with house(make_net(REAL), handlers.apis()) as home:
            clients = [await home.client() for _ in range(20)]
            for client in clients:
                await client.stream.send([heartbeat(1)])
                assert await ids(client, 1) == [1]
            assert self.tasks(home) == 1, "the reaper"
            await clients[0].stream.send([heartbeat(1, "wait")])
            await home.settle()
            assert self.tasks(home) == 2
            handlers.bells[0].set()
            assert await ids(clients[0], 1) == [1]
            await home.settle()
            assert self.tasks(home) == 2, "it stays for the next time"
            for _ in range(2):
                home.server.look_round(REAPER_INTERVAL_S)
            await home.settle()
            assert self.tasks(home) == 1
            await clients[0].stream.send([heartbeat(2, "wait") + heartbeat(3)])
            await home.settle()
            handlers.bells[1].set()
            assert await ids(clients[0], 2) == [2, 3]

    @pytest.mark.slow
    @pytest.mark.skipif(not Features.detect().epoll, reason="without epoll each connection has a task")
    async def test_B5_nor_much_memory(self) -> None:
        """8 KB were allowed; it is some 2 KB, and less would be no use, as the kernel takes more."""
        async with house(make_net(REAL), Handlers().apis()) as home:
            clients = [socket.create_connection(home.server.listener.address) for _ in range(100)]
            await home.settle()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            tasks, count = self.tasks(home), 1_000
            for _ in range(count // 50):  # no more than the backlog
                clients += [socket.create_connection(home.server.listener.address) for _ in range(50)]
                await home.settle()
            for client in clients:
                client.sendall(heartbeat(1) + heartbeat(2))
            await home.settle()
            assert len(home.server.drivers) == count + 100 and self.tasks(home) == tasks
            for client in clients:
                assert len(client.recv(1000)) > 8
            used = (tracemalloc.get_traced_memory()[0] - before) / count
            tracemalloc.stop()
            for client in clients:
                client.close()
            assert used < 5000

    def tasks(self, home: House) -> int:
        """How many the server has below its own."""
        nurseries = [nursery for task in home.nursery.child_tasks for nursery in task.child_nurseries]
        return sum(len(nursery.child_tasks) for nursery in nurseries)

    async def test_one_that_is_dismissed_just_as_it_is_needed_stays(self) -> None:
        handlers = Handlers()
        async with house(make_net(MEMORY), handlers.apis()) as home:
            client = await home.client()
            await client.stream.send([heartbeat(1, "wait")])
            await home.settle()
            handlers.bells[0].set()
            await home.settle()
            (driver,) = home.server.drivers
            home.server.look_round(REAPER_INTERVAL_S)
            home.server.look_round(REAPER_INTERVAL_S)
            receive(driver.core, heartbeat(2, "wait"))
            driver._more = True
            driver.step()
            driver.answer()  # before the task has noticed
            await home.settle()
            handlers.bells[1].set()
            assert await ids(client, 2) == [1, 2]


class TestReaper:
    """B5: who makes no progress in what it is its turn to do is hung up on."""

    async def test_who_waits_for_our_answer_is_not_idle(self, autojump_clock: MockClock) -> None:
        """A long poll with a request pipelined behind it, longer than any limit."""
        handlers = Handlers()
        async with house(make_net(MEMORY), handlers.apis()) as home:
            client = await home.client()
            await client.stream.send([heartbeat(1, "wait") + heartbeat(2) + heartbeat(3)[:5]])
            await trio.sleep(3600)
            handlers.bells[0].set()
            assert await ids(client, 2) == [1, 2]
            assert await is_hung_up_on(client), "now it is about the third, of which the rest does not come"
            assert 3630 <= trio.current_time() <= 3660

    @pytest.mark.parametrize("world", WORLDS)
    async def test_who_has_hung_up_while_it_waited_for_our_answer(self, world: str) -> None:
        """A long poll may last for days; it is given up some time after its client has."""
        handlers = Handlers()
        async with house(make_net(world), handlers.apis()) as home:
            client, waiting = await home.client(), await home.client()
            for each in (client, waiting):
                await each.stream.send([heartbeat(1, "wait") + heartbeat(2)])
            await home.settle()
            await client.stream.aclose()
            await home.settle()
            home.server.look_round(LAST_WORDS_S)  # sees what has changed
            home.server.look_round(LAST_WORDS_S - 1)
            assert len(home.server.drivers) == 2
            home.server.look_round(1)
            assert [driver.core.peer.address for driver in home.server.drivers] == [waiting.stream.local]

    async def test_who_does_not_read_its_answers(self, autojump_clock: MockClock) -> None:
        handlers = Handlers(answer_size=1_000_000)
        async with house(make_net(MEMORY), handlers.apis()) as home:
            client, slow = await home.client(), await home.client()
            await client.stream.send([metadata(1)])
            await slow.stream.send([metadata(1)])
            for _ in range(9):  # a slow reader goes on for as long as it reads
                await trio.sleep(REAPER_INTERVAL_S + 1)
                await slow.stream.receive_into(memoryview(bytearray(100_000)))
            assert trio.current_time() > UNREAD_MAX_S + 2 * REAPER_INTERVAL_S
            assert [driver.core.peer.address for driver in home.server.drivers] == [slow.stream.local]

    async def test_who_waits_for_memory_is_not_idle_and_who_keeps_it_is_hung_up_on(
        self, autojump_clock: MockClock
    ) -> None:
        """A byte now and then is progress, but not while others wait for the memory it goes to."""
        async with house(make_net(MEMORY), Handlers().apis(), requests_max=300_000) as home:
            first, second = await home.client(), await home.client()
            begun = (1_000_000).to_bytes(4, "big")
            await first.stream.send([begun + bytes(200_000)])
            for _ in range(20):
                await trio.sleep(20)
                await first.stream.send([b"x"])
            assert len(home.server.drivers) == 2
            await second.stream.send([begun + bytes(200_000)])
            await trio.sleep(REAPER_INTERVAL_S + 1)
            assert [driver.core.peer.address for driver in home.server.drivers] == [second.stream.local]
            third = await home.client()
            await third.stream.send([begun + bytes(200_000)])
            await second.stream.send([b"x"])
            await trio.sleep(HELD_MAX_S / 2)
            assert len(home.server.drivers) == 2
            await trio.sleep(REAPER_INTERVAL_S)
            assert [driver.core.peer.address for driver in home.server.drivers] == [third.stream.local]


async def test_a_crowd_in_memory_is_the_same_crowd(autojump_clock: MockClock) -> None:
    """Pieces of any size, latency none, hundreds of requests that wait or not: each is answered, in order."""
    handlers = Handlers()
    network = MemoryNetwork(seed=3, buffer_size=3000)
    async with house(network.host(HOST), handlers.apis(overlaps=True)) as home:

        async def ring() -> None:
            while True:
                await trio.sleep(0.01)
                for bell in handlers.bells:
                    bell.set()
                handlers.bells.clear()
                handlers.tide.advance(handlers.tide.value + 1)

        async def ask(client: BareClient) -> None:
            groups = ("now", "wait", "await", "wait", "await", "await")
            requests = b"".join(
                heartbeat(n, f"await{n}" if group == "await" else group)
                for n, group in zip(range(300), cycle(groups), strict=False)
            )
            async with trio.open_nursery() as both:
                both.start_soon(client.stream.send, [requests])
                assert await ids(client, 300) == list(range(300))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ring)
            async with trio.open_nursery() as asking:
                for _ in range(8):
                    asking.start_soon(ask, await home.client())
            nursery.cancel_scope.cancel()
