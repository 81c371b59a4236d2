"""Answers that are awaited: served where it rings, a few at a time, and when their time has come; no task waits."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import MockClock

from kbroker.env.features import Features
from kbroker.server.connection import SEND_MAX
from kbroker.server.porter import ALARMS_A_TURN, SERVED_A_TURN, Porter
from kbroker.testing.net import MemoryNetwork
from tests.env.worlds import MEMORY, REAL, make_net
from tests.server.connection_tools import Handlers, heartbeat, metadata
from tests.server.test_driver import HOST, WORLDS, TestTasks, house, ids, is_hung_up_on


@pytest.mark.parametrize("world", WORLDS)
async def test_answers_that_are_awaited_keep_their_order_among_all_others(world: str) -> None:
    handlers = Handlers()
    async with house(make_net(world), handlers.apis(overlaps=True)) as home:
        client = await home.client()
        groups = ["now", "await0", "now", "await2", "wait", "await1", "now"]
        await client.stream.send([b"".join(heartbeat(n, group) for n, group in enumerate(groups))])
        assert await ids(client, 1) == [0]
        await home.settle()
        handlers.tide.advance(1)
        assert await ids(client, 2) == [1, 2]
        handlers.tide.advance(3)
        assert await ids(client, 1) == [3]
        await home.settle()
        handlers.bells[0].set()
        assert await ids(client, 2) == [4, 5]
        assert await ids(client, 1) == [6]
        await client.stream.send([heartbeat(7, "await5")])
        await home.settle()
        handlers.tide.advance(6)
        assert await ids(client, 1) == [7]


@pytest.mark.parametrize("world", WORLDS)
async def test_one_request_rings_for_many(world: str) -> None:
    handlers, waiting = Handlers(), 5 * SERVED_A_TURN
    async with house(make_net(world), handlers.apis()) as home:
        clients = [await home.client() for _ in range(waiting)]
        for client in clients:
            await client.stream.send([heartbeat(1, "await0")])
        await home.settle()
        handlers.on_handle = lambda: handlers.tide.advance(1)
        ringer = await home.client()
        await ringer.stream.send([heartbeat(2)])
        for client in clients:
            assert await ids(client, 1) == [1]
        assert await ids(ringer, 1) == [2]
        assert max(each.looks for each in handlers.awaited) == 2
        await home.settle()
        assert handlers.tide._bells is None


async def test_its_time_comes(autojump_clock: MockClock) -> None:
    handlers = Handlers()
    async with house(make_net(MEMORY), handlers.apis()) as home:
        client, other = await home.client(), await home.client()
        began = trio.current_time()
        await client.stream.send([heartbeat(1, "await-1")])
        await trio.sleep(0.5)
        await other.stream.send([heartbeat(2, "await-1") + heartbeat(3, "await-1")])
        assert await ids(client, 1) == [1]
        assert trio.current_time() - began == pytest.approx(1.0)
        assert await ids(other, 1) == [2]
        assert trio.current_time() - began == pytest.approx(1.5)
        assert await ids(other, 1) == [3]
        assert trio.current_time() - began == pytest.approx(2.5)


@pytest.mark.parametrize("world", WORLDS)
async def test_a_look_that_fails_costs_its_own_connection(world: str, caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    async with house(make_net(world), handlers.apis()) as home:
        client, good = await home.client(), await home.client()
        await client.stream.send([heartbeat(1, "await0")])
        await home.settle()
        await good.stream.send([heartbeat(2, "await0")])
        await home.settle()
        handlers.awaited[0].failure = ZeroDivisionError("a bug in a look")
        handlers.tide.advance(1)
        assert await is_hung_up_on(client)
        assert await ids(good, 1) == [2]
    assert "a bug in a look" in caplog.text


@pytest.mark.parametrize("world", WORLDS)
async def test_a_connection_that_is_gone_is_not_rung_for(world: str) -> None:
    handlers = Handlers()
    async with house(make_net(world), handlers.apis()) as home:
        client, stays = await home.client(), await home.client()
        for each in (client, stays):
            await each.stream.send([heartbeat(1, "await0")])
        await home.settle()
        driver = next(iter(home.server.drivers))
        driver.close()
        handlers.tide.advance(1)
        assert await ids(stays, 1) == [1]
        assert handlers.awaited[0].looks <= 2 and handlers.awaited[0].bell is None
    assert handlers.tide._bells is None


async def test_who_has_said_its_last_word_still_gets_what_it_awaits() -> None:
    handlers = Handlers()
    async with house(make_net(REAL), handlers.apis()) as home:
        with socket.create_connection(home.server.listener.address) as client:
            client.sendall(heartbeat(1, "await0"))
            await home.settle()
            client.shutdown(socket.SHUT_WR)
            await home.settle()
            handlers.tide.advance(1)
            await home.settle()
            client.settimeout(10)
            assert int.from_bytes(client.recv(100)[4:8], "big") == 1
            assert client.recv(100) == b""


@pytest.mark.skipif(not Features.detect().epoll, reason="without epoll each connection has a task")
async def test_no_task_waits() -> None:
    handlers = Handlers()
    async with house(make_net(REAL), handlers.apis(overlaps=True)) as home:
        clients = [await home.client() for _ in range(20)]
        for client in clients:
            await client.stream.send([heartbeat(1, "await0") + heartbeat(2, "await0")])
        await home.settle()
        assert TestTasks().tasks(home) == 1, "the reaper"
        handlers.tide.advance(1)
        for client in clients:
            assert await ids(client, 2) == [1, 2]


async def test_one_that_heads_the_line_without_a_look_is_looked_at() -> None:
    """What stood before it was as much as is sent at a time."""
    handlers, network = Handlers(answer_size=SEND_MAX - 70), MemoryNetwork(seed=1, buffer_size=2 * SEND_MAX)
    async with house(network.host(HOST), handlers.apis(overlaps=True)) as home:
        client = await home.client()
        await client.stream.send([heartbeat(0, "await0") + metadata(1) + heartbeat(2, "await1") + heartbeat(3)])
        await home.settle()
        assert handlers.handled == ["await0", "metadata", "await1", "now"]
        handlers.tide.advance(1)
        assert await ids(client, 2) == [0, 1]
        await home.settle()
        assert handlers.awaited[1].looks == 1
        handlers.tide.advance(2)
        assert await ids(client, 2) == [2, 3]


class Guest:
    def __init__(self) -> None:
        self.due, self.served = float("inf"), 0

    def due_s(self) -> float:
        return self.due

    def serve(self) -> None:
        self.served += 1
        self.due = float("inf")


async def test_the_step_that_rings_serves_a_few_and_the_porter_the_others(autojump_clock: MockClock) -> None:
    porter, guests = Porter(), [Guest() for _ in range(3 * SERVED_A_TURN)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(porter.run)
        await trio.sleep(1)
        porter.come()
        for guest in guests:
            porter.ring(guest)
        assert not any(guest.served for guest in guests), "whoever rings is in the midst of something"
        porter.serve()
        assert sum(guest.served for guest in guests) == SERVED_A_TURN
        await trio.sleep(1)
        assert all(guest.served == 1 for guest in guests)
        porter.ring(guests[0])  # not within a step
        await trio.sleep(1)
        assert guests[0].served == 2
        nursery.cancel_scope.cancel()


async def test_one_alarm_each_however_often_they_wait(autojump_clock: MockClock) -> None:
    porter, guests = Porter(), [Guest() for _ in range(3 * ALARMS_A_TURN)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(porter.run)
        await trio.sleep(1)
        for round in range(10):
            for guest in guests:
                guest.due = 10.0 + round
                porter.expect(guest, guest.due)
        assert len(porter._alarms) == len(guests)
        await trio.sleep_until(18.9)
        assert not any(guest.served for guest in guests)
        await trio.sleep_until(19.1)
        assert all(guest.served == 1 for guest in guests)
        await trio.sleep_until(50)
        assert not porter._alarms and not porter._alarm_of
        guests[0].due = 60.0
        porter.expect(guests[0], 60.0)
        guests[0].due = 55.0
        porter.expect(guests[0], 55.0)
        await trio.sleep_until(56)
        assert guests[0].served == 2
        porter.expect(guests[1], 1000.0)
        porter.forget(guests[1])
        assert not porter._alarm_of and not porter._alarms[0][2], "nothing holds it"
        nursery.cancel_scope.cancel()
