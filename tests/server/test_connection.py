"""The core of a connection by itself: order, budgets, what is earned before what is judged. No sockets, no tasks."""

from __future__ import annotations

import struct

import pytest

from kafka_wire.api import ApiKey
from kafka_wire.codegen import decode, encode
from kafka_wire.errors import ErrorCode, ProtocolError
from kafka_wire.frames import request_header
from kafka_wire.messages.group_admin import DeleteGroupsRequest, DeleteGroupsResponse
from kafka_wire.messages.groups import HeartbeatResponse
from kafka_wire.messages.metadata import ApiVersionsResponse
from kbroker.api.registry import Api, CloseConnection, Routes
from kbroker.server.connection import FRAMES_MAX, LINE_MAX, QUEUED_MAX, SEND_MAX, STEP_S, Connection
from tests.server.connection_tools import (
    Handlers,
    answered,
    core,
    framed,
    heartbeat,
    metadata,
    receive,
    result_of,
)


def everything(connection: Connection) -> list[int]:
    """Handle and take until nothing is left; the correlation ids answered."""
    ids = []
    while connection.handle() or connection.frames.held:
        ids += answered(connection.take())
    return ids + answered(connection.take())


def arrive(connection: Connection) -> None:
    """The answer at the head of the line, which need not wait any more, is there."""
    waiting = connection.next_waiting()
    assert waiting is not None
    connection.arrived(result_of(waiting.parts()))


def open_bells(handlers: Handlers) -> Handlers:
    """From now on nothing waits for long: its coroutine returns at once."""

    async def at_once() -> HeartbeatResponse:
        return HeartbeatResponse(error_code=0)

    handlers._wait = at_once  # type: ignore[method-assign]
    return handlers


class TestOrder:
    """Requests are answered in the order in which they came."""

    def test_many_in_one_read(self) -> None:
        connection = core(Handlers())
        receive(connection, b"".join(heartbeat(n) for n in range(10)))
        assert not connection.handle()
        assert answered(connection.take()) == list(range(10))
        assert connection.frames.held == 0

    def test_one_in_many_reads(self) -> None:
        connection, ids = core(Handlers()), []
        for byte in heartbeat(1) + heartbeat(2):
            receive(connection, bytes([byte]))
            assert not connection.handle()
            ids += answered(connection.take())
        assert ids == [1, 2]

    def test_an_answer_to_come_holds_up_what_is_behind_it(self) -> None:
        handlers = open_bells(Handlers())
        connection = core(handlers)
        receive(connection, heartbeat(1) + heartbeat(2, "wait") + heartbeat(3))
        assert not connection.handle()
        assert answered(connection.take()) == [1]
        assert handlers.handled == ["now", "wait"] and connection.blocked and not connection.may_handle()
        assert not connection.handle() and not connection.take()
        arrive(connection)
        assert answered(connection.take()) == [2]
        assert not connection.handle()
        assert answered(connection.take()) == [3]

    def test_where_it_may_requests_behind_it_are_handled_and_their_answers_wait(self) -> None:
        handlers = open_bells(Handlers())
        connection = core(handlers, overlaps=True)
        receive(connection, heartbeat(1) + heartbeat(2, "wait") + heartbeat(3) + heartbeat(4, "wait") + heartbeat(5))
        assert not connection.handle()
        assert len(handlers.handled) == 5 and not connection.blocked
        assert answered(connection.take()) == [1] and not connection.take()
        assert connection.queued > 0
        arrive(connection)
        assert answered(connection.take()) == [2, 3] and not connection.take()
        arrive(connection)
        assert answered(connection.take()) == [4, 5]
        assert not connection.line and connection.queued == 0

    def test_a_broker_asks_for_many_and_none_waits_for_another(self) -> None:
        handlers = open_bells(Handlers())
        connection = core(handlers)
        receive(connection, heartbeat(1))
        connection.handle()
        connection.peer.introduce(2, 7)
        receive(connection, heartbeat(2, "wait") + heartbeat(3, "wait") + heartbeat(4))
        assert not connection.handle()
        assert len(handlers.handled) == 4 and not connection.blocked
        assert answered(connection.take()) == [1]
        arrive(connection)
        assert answered(connection.take()) == [2]
        arrive(connection)
        assert answered(connection.take()) == [3, 4]

    def test_a_request_without_an_answer(self) -> None:
        connection = core(Handlers())
        receive(connection, heartbeat(1) + heartbeat(2, "none") + heartbeat(3))
        connection.handle()
        assert answered(connection.take()) == [1, 3]

    def test_one_that_waits_may_turn_out_to_have_no_answer(self) -> None:
        connection = core(open_bells(Handlers()), overlaps=True)
        receive(connection, heartbeat(1, "wait") + heartbeat(2))
        connection.handle()
        assert connection.next_waiting() is not None
        connection.line[0].answer.close()  # type: ignore[union-attr]
        connection.arrived(None)
        assert answered(connection.take()) == [2]


class TestBudget:
    """A step does so much; the rest is for the next one."""

    def test_of_frames(self) -> None:
        handlers = Handlers()
        connection = core(handlers)
        receive(connection, b"".join(heartbeat(n) for n in range(3 * FRAMES_MAX)))
        for step in range(1, 4):
            assert connection.handle() == (step < 3)
            assert len(handlers.handled) == step * FRAMES_MAX
        assert answered(connection.take()) == list(range(3 * FRAMES_MAX))

    def test_of_bytes_made(self) -> None:
        handlers = Handlers(answer_size=20_000)
        connection = core(handlers)
        receive(connection, b"".join(metadata(n) for n in range(20)))
        assert connection.handle()
        assert len(handlers.handled) == 4
        assert SEND_MAX <= sum(map(len, connection.take())) < SEND_MAX + 20_100
        assert everything(connection) == list(range(4, 20))

    def test_of_time(self) -> None:
        now = 0.0
        handlers = Handlers()

        def take_time() -> None:
            nonlocal now
            now += STEP_S / 4

        handlers.on_handle = take_time
        connection = core(handlers, now=lambda: now)
        receive(connection, b"".join(heartbeat(n) for n in range(20)))
        assert connection.handle()
        assert len(handlers.handled) == 1 + 4
        assert connection.handle()
        assert len(handlers.handled) == 2 * (1 + 4)

    def test_a_single_frame_costs_no_look_at_the_clock(self) -> None:
        looks = []
        connection = core(Handlers(), now=lambda: looks.append(1) or 0.0)  # type: ignore[func-returns-value]
        receive(connection, heartbeat(1))
        assert not connection.handle() and not looks

    def test_B5_the_line_is_bounded(self) -> None:
        handlers = open_bells(Handlers())
        connection = core(handlers, overlaps=True)
        receive(connection, b"".join(heartbeat(n, "wait") for n in range(2 * LINE_MAX)))
        while connection.handle():
            pass
        assert len(handlers.handled) == len(connection.line) == LINE_MAX
        arrive(connection)
        assert answered(connection.take()) == [0]
        connection.handle()
        assert len(handlers.handled) == LINE_MAX + 1
        connection.abandon()

    def test_B5_what_waits_behind_an_answer_to_come_is_bounded(self) -> None:
        handlers = open_bells(Handlers(answer_size=40_000))
        connection = core(handlers, overlaps=True)
        receive(connection, heartbeat(0, "wait") + b"".join(metadata(n) for n in range(1, 20)))
        while connection.handle():
            pass
        assert handlers.handled == ["wait", "metadata", "metadata"]
        assert QUEUED_MAX < connection.queued < QUEUED_MAX + 40_100
        arrive(connection)
        assert answered(connection.take()) == [0, 1, 2]
        assert everything(connection) == list(range(3, 20))

    def test_a_long_request_is_decoded_in_turns(self) -> None:
        groups = [f"g{n}" for n in range(100_000)]
        seen: list[list[str]] = []

        def handle(request: DeleteGroupsRequest, context: object) -> DeleteGroupsResponse:
            seen.append(request.groups_names)
            return DeleteGroupsResponse(results=[])

        connection = core(Handlers())
        connection._routes = Routes({ApiKey.DELETE_GROUPS: Api(ApiKey.DELETE_GROUPS, 0, 1, 0, handle, True)})
        data = framed(request_header(42, 1, 9, "c") + encode(DeleteGroupsRequest(groups_names=groups), 1))
        behind = framed(request_header(42, 1, 10, "c") + encode(DeleteGroupsRequest(groups_names=[]), 1))
        for pos in range(0, len(data), 60_000):
            receive(connection, data[pos : pos + 60_000])
            assert not connection.handle()
        receive(connection, behind)
        assert not connection.handle()
        assert not seen and connection.blocked, "nor may a request behind it overtake, though this API overlaps"
        connection.abandon()


class TestFailure:
    """What a client has earned is sent before what follows is judged."""

    @pytest.mark.parametrize(
        "bad",
        [
            struct.pack(">i", -1),
            framed(b""),
            framed(b"\xff" * 10),
            framed(request_header(ApiKey.HEARTBEAT, 3, 1, "c")),
            framed(request_header(ApiKey.HEARTBEAT, 99, 1, "c")),
        ],
    )
    def test_B1_a_broken_frame_does_not_swallow_the_answers_before_it(self, bad: bytes) -> None:
        handlers = Handlers()
        connection = core(handlers)
        receive(connection, heartbeat(1) + heartbeat(2) + bad + heartbeat(3))
        assert not connection.handle()
        assert isinstance(connection.failure, ProtocolError)
        assert answered(connection.take()) == [1, 2]
        assert not connection.handle() and len(handlers.handled) == 2

    @pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), CloseConnection("acks=0 failed")])
    def test_nor_does_a_handler_that_fails(self, error: Exception) -> None:
        handlers = Handlers()
        connection = core(handlers)

        def fail() -> None:
            if len(handlers.handled) == 2:
                raise error

        handlers.on_handle = fail
        receive(connection, heartbeat(1) + heartbeat(2) + heartbeat(3))
        assert not connection.handle()
        assert connection.failure is error
        assert answered(connection.take()) == [1]
        assert len(handlers.handled) == 2

    def test_B1_answers_still_to_come_are_sent_first_too(self) -> None:
        connection = core(open_bells(Handlers()), overlaps=True)
        receive(connection, heartbeat(1, "wait") + heartbeat(2) + framed(b""))
        assert not connection.handle() and connection.failure is not None
        arrive(connection)
        assert answered(connection.take()) == [1, 2]


def test_an_unknown_version_of_api_versions_is_answered_in_version_0() -> None:
    connection = core(Handlers())
    receive(connection, framed(request_header(ApiKey.API_VERSIONS, 99, 5, "c") + b"\0"))
    connection.handle()
    (part,) = connection.take()
    assert decode(ApiVersionsResponse, 0, part, 8).error_code == ErrorCode.UNSUPPORTED_VERSION


def test_the_context_is_made_anew_only_for_another_version_or_client_id() -> None:
    handlers = Handlers()
    connection = core(handlers)
    receive(connection, heartbeat(1) + heartbeat(2) + heartbeat(3, version=2) + heartbeat(4, version=2, client_id="d"))
    connection.handle()
    one, two, three, four = handlers.contexts
    assert one is two
    assert [(each.version, each.client_id) for each in (one, three, four)] == [(3, "c"), (2, "c"), (2, "d")]
