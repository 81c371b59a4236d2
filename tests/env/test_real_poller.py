"""The pump by itself: edges, hang-ups, closing while ready, fairness, rounds, and a step that fails."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio

from kbroker.env.features import Features
from kbroker.env.real_net import RealStream
from kbroker.env.real_poller import EVENTS_MAX, ROUND_S, SLOW_S, STAY_S, TOGETHER_MAX, Poller, Reader

pytestmark = pytest.mark.skipif(not Features.detect().epoll, reason="there is no epoll here, so there is no pump")


class End:
    """A watched stream, the other end of its connection, and what its step has seen."""

    def __init__(self, nursery: trio.Nursery, *, size: int = 100) -> None:
        self.peer, mine = socket.socketpair()  # both loopback and stream: as TCP for the kernel's readiness
        self.stream = _stream(mine)
        self.received = b""
        self.calls = 0
        self.ended = False
        self.size = size
        self.on_call: Callable[[], bool | None] = lambda: None
        self.stream.watch(self.step, nursery)

    def step(self) -> bool:
        """Receive once, at most size bytes."""
        self.calls += 1
        more = self.on_call()
        if more is not None:
            return more
        view = memoryview(bytearray(self.size))
        received = self.stream.receive_now(view)
        if received == 0:
            self.ended = True
            self.stream.close()
        elif received:
            self.received += view[:received]
        return False

    def close(self) -> None:
        self.stream.close()
        self.peer.close()


def _stream(connected: socket.socket) -> RealStream:
    class Named(socket.socket):
        """A Unix socket that takes TCP's options, of which it needs none."""

        def setsockopt(self, *args: Any) -> None:
            pass

        def getsockname(self) -> tuple[str, int]:
            return "127.0.0.1", 1

    return RealStream(Named(fileno=connected.detach()), ("127.0.0.1", 2), Features.detect())


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)


@pytest.fixture
async def ends(nursery: trio.Nursery) -> AsyncIterator[Callable[..., End]]:
    made: list[End] = []

    def make(**options: Any) -> End:
        made.append(End(nursery, **options))
        return made[-1]

    yield make
    for end in made:
        end.close()


Make = Callable[..., End]


async def test_an_edge_is_told_once_and_the_socket_is_drained(ends: Make) -> None:
    end = ends(size=100)
    end.peer.send(b"x" * 1000)
    await settle()
    assert end.received == b"x" * 1000
    assert end.calls == 11, "ten that filled their view, and one that found nothing"
    end.peer.send(b"y" * 50)
    await settle()
    assert end.calls == 12, "a short receive has emptied it: nothing is asked twice"
    await settle()
    assert end.calls == 12


async def test_what_was_there_before_watching_began_is_told(ends: Make) -> None:
    end = ends()
    end.peer.send(b"early")
    await settle()
    assert end.received == b"early"


async def test_a_hang_up_after_the_last_bytes_is_noticed(ends: Make) -> None:
    """Both come as one edge: a short receive does not mean that there is nothing more to be told."""
    end = ends()
    end.peer.send(b"last")
    end.peer.shutdown(socket.SHUT_WR)
    await settle()
    assert end.received == b"last" and end.ended


async def test_a_connection_closed_while_it_is_ready_is_not_called(ends: Make) -> None:
    one, two = ends(), ends()
    one.on_call = lambda: two.stream.close()
    two.on_call = lambda: one.stream.close()
    one.peer.send(b"x")
    two.peer.send(b"x")
    await settle()
    assert one.calls + two.calls == 1


async def test_a_descriptor_used_again_belongs_to_the_new_connection(ends: Make) -> None:
    for n in range(5):
        end = ends()
        end.peer.send(b"%d" % n)
        await settle()
        assert end.received == b"%d" % n
        end.close()


async def test_who_has_more_to_do_is_called_again_but_others_first(ends: Make) -> None:
    order: list[str] = []
    greedy, good = ends(), ends()

    def much() -> bool | None:
        order.append("greedy")
        if len(order) == 50:
            good.peer.send(b"x")
        return True if len(order) < 500 else None

    greedy.on_call = much
    good.on_call = lambda: order.append("good")
    greedy.peer.send(b"x")
    with trio.fail_after(10):
        while not greedy.received:
            await trio.lowlevel.checkpoint()
    assert order.count("good") == 1
    assert 50 <= order.index("good") < 490, "not when the other is done at last, but in the next round"


async def test_ready_readers_take_turns(nursery: trio.Nursery) -> None:
    """A poller on a clock that stands still: rounds are seen by themselves."""
    order: list[str] = []
    poller = Poller(lambda: 0.0)
    readers = {name: _reader(name, order) for name in "abc"}
    for reader in readers.values():
        poller.call_soon(reader)
    poller._round()
    poller._round()
    assert "".join(order) == "abcabc", "each once a round"
    _forget(poller)


async def test_a_round_ends_when_its_time_is_over_but_one_of_the_greedy_is_called() -> None:
    now, order = 0.0, []
    poller = Poller(lambda: now)

    def reader(name: str) -> Reader:
        def step() -> bool:
            nonlocal now
            order.append(name)
            now += ROUND_S
            return True

        made = Reader(step, lambda: None)
        made.slow = False
        return made

    for name in "abcd":
        poller.call_soon(reader(name))
    rounds = []
    for _ in range(4):
        poller._round()
        rounds.append("".join(order))
        order.clear()
    assert rounds == ["a", "ba", "cb", "da"], "one fresh, and then time was over; and one greedy"
    _forget(poller)


async def test_who_took_long_last_time_waits_behind_those_who_did_not() -> None:
    now, order = 0.0, []
    poller = Poller(lambda: now)

    def reader(name: str, seconds: float) -> Reader:
        def step() -> bool:
            nonlocal now
            order.append(name)
            now += seconds
            return False

        made = Reader(step, lambda: None)
        made.drained = True
        return made

    slow, quick = [reader("slow", SLOW_S) for _ in range(3)], reader("quick", SLOW_S / 2)
    for _ in range(3):
        for each in (*slow, quick):
            poller.call_soon(each)
        poller._round()
    assert order == ["slow"] * 3 + ["quick"] + 2 * (["quick"] + ["slow"] * 3), "at first nobody knows"
    _forget(poller)


async def test_what_follows_comes_after_the_steps_of_a_few_others() -> None:
    order: list[str] = []
    poller = Poller(lambda: 0.0)
    for n in range(TOGETHER_MAX + 2):
        poller.call_soon(_talker(f"{n}", order))
    poller._round()
    first, rest = [f"{n}" for n in range(TOGETHER_MAX)], [f"{n}" for n in range(TOGETHER_MAX, TOGETHER_MAX + 2)]
    assert order == [*first, *[f"{n}!" for n in first], *rest, *[f"{n}!" for n in rest]]
    _forget(poller)


@pytest.mark.parametrize(
    ("part", "at_first"), [("during", ["a", "S", "a!", "S!", "b", "b!"]), ("after", ["a", "S", "b", "a!", "S!", "b!"])]
)
async def test_no_answer_waits_for_one_whose_step_or_what_follows_takes_long(part: str, at_first: list[str]) -> None:
    now, order = 0.0, list[str]()
    poller = Poller(lambda: now)

    def tarry() -> None:
        nonlocal now
        now += SLOW_S

    quick, slow = [_talker(name, order) for name in "ab"], _talker("S", order, **{part: tarry})
    for told in (at_first, ["a", "b", "a!", "b!", "S", "S!"]):  # at first nobody knows
        for each in (quick[0], slow, quick[1]):
            poller.call_soon(each)
        poller._round()
        assert order == told
        order.clear()
    _forget(poller)


async def test_a_stay_tells_whether_its_time_was_over() -> None:
    now = 0.0
    poller = Poller(lambda: now)

    def tarry() -> None:
        nonlocal now
        now += STAY_S

    poller.call_soon(_talker("a", [], tarry))
    assert poller._stay(), "then there is another look before the task sleeps"
    assert not poller._stay()
    _forget(poller)


async def test_what_follows_is_called_though_the_step_failed_or_closed(caplog: pytest.LogCaptureFixture) -> None:
    order: list[str] = []
    poller = Poller(lambda: 0.0)

    def fail() -> None:
        raise ZeroDivisionError("a bug in a step")

    def close() -> None:
        closed.closed = True

    failing, closed = _talker("f", order, fail), _talker("c", order, close)
    for each in (failing, closed):
        poller.call_soon(each)
    poller._round()
    assert order == ["f", "c", "f!", "c!"] and "a bug in a step" in caplog.text
    _forget(poller)


async def test_a_crowd_of_newcomers_waits_behind_who_is_known_to_ask_little(ends: Make) -> None:
    order: list[str] = []
    known = ends()
    known.peer.send(b"x")
    await settle()
    known.on_call = lambda: order.append("known")
    crowd = [ends() for _ in range(EVENTS_MAX - 1)]
    for end in crowd:
        end.on_call = lambda: order.append("new")
        end.peer.send(b"x")
    known.peer.send(b"x")
    await settle()
    assert order == ["known"] + ["new"] * len(crowd)


async def test_more_ready_connections_than_one_look_finds(ends: Make) -> None:
    crowd = [ends() for _ in range(3 * EVENTS_MAX)]
    for end in crowd:
        end.peer.send(b"x")
    await settle()
    assert all(end.received == b"x" for end in crowd)


async def test_others_run_while_a_reader_is_never_done(ends: Make) -> None:
    greedy, turns = ends(), 0
    greedy.on_call = lambda: True
    greedy.peer.send(b"x")
    for _ in range(100):
        await trio.lowlevel.checkpoint()
        turns += 1
    assert turns == 100 and greedy.calls > 10


async def test_a_paused_reader_is_not_called_until_it_is_resumed(ends: Make) -> None:
    end = ends()
    end.stream.pause()
    end.peer.send(b"x")
    await settle()
    assert end.calls == 0
    end.stream.resume(again=False)
    await settle()
    assert end.received == b"x"
    calls = end.calls
    for again in (False, True):
        end.stream.pause()
        end.stream.resume(again)
        await settle()
        assert end.calls == calls + again, "once if asked for, though nothing new has arrived"


async def test_a_step_that_fails_costs_its_connection_and_no_other(
    ends: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = ends(), ends()

    def fail() -> bool:
        raise ZeroDivisionError("a bug in a step")

    bad.on_call = fail
    for end in (bad, good):
        end.peer.send(b"x")
    await settle()
    assert good.received == b"x"
    with pytest.raises(ConnectionResetError):
        bad.peer.recv(10)
    assert "a bug in a step" in caplog.text


async def test_a_failure_of_the_pump_itself_is_logged_and_it_goes_on(
    ends: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = ends()
    look, failures = Poller._look, [ZeroDivisionError("a bug in the pump")]

    def fail_once(self: Poller) -> None:
        if failures:
            raise failures.pop()
        look(self)

    monkeypatch.setattr(Poller, "_look", fail_once)
    end.peer.send(b"x")
    with trio.fail_after(10):
        while not end.received:
            await trio.lowlevel.checkpoint()
    assert "a bug in the pump" in caplog.text


def _reader(name: str, order: list[str]) -> Reader:
    return Reader(lambda: bool(order.append(name) or True), lambda: None)  # type: ignore[func-returns-value]


def _talker(
    name: str, order: list[str], during: Callable[[], None] = lambda: None, after: Callable[[], None] = lambda: None
) -> Reader:
    """One whose step is told as its name, and what follows as `name!`; known to ask little."""

    def step() -> bool:
        order.append(name)
        during()
        return True

    def then() -> bool:
        order.append(f"{name}!")
        after()
        return False

    made = Reader(step, lambda: None, then)
    made.slow, made.drained = False, True
    return made


def _forget(poller: Poller) -> None:
    """Close what a poller that never ran has opened."""
    poller._epoll.close()
    os.close(poller._bell)
