"""Links to other brokers: whom they cost what when the other end is slow, silent, wrong, gone or somebody else."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kafka_wire.api import ApiKey
from kafka_wire.codegen import decode, encode
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.frames import read_request_header
from kafka_wire.messages.internal import IntroduceRequest, IntroduceResponse
from kafka_wire.messages.metadata import (
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
)
from kafka_wire.messages.produce_fetch import (
    FetchableTopicResponse,
    FetchPartitionData,
    FetchRequest,
    FetchResponse,
)
from kbroker.cluster.image import BrokerImage, ClusterImage
from kbroker.cluster.peers.introductions import ASKED, ASKING, NONCE_BYTES, Meeting
from kbroker.cluster.peers.links import IDLE_S, IN_FLIGHT_MAX, LOOK_ROUND_S, PAUSE_S_MAX, WAITING_MAX, Links
from kbroker.config import BrokerConfig
from kbroker.env import Env
from kbroker.testing.broker import inline
from kbroker.testing.clock import SteeredClock
from kbroker.testing.disk import MemoryDisk
from kbroker.testing.net import MemoryNetwork, MemoryStream
from kbroker.testing.workers import InlineHelper
from kbroker.testing.world import SeededRng
from tests.server.loop_meter import LINES_MAX, LoopMeter

Answer = Callable[["Other", int, int, int], "bytes | None"]  # (other, correlation id, key, version) to a frame's body
TEN_MB = 10 << 20
SECRET = b"s" * 32
CLUSTER = "cluster"


def cluster_id(text: str) -> Answer:
    """Answers DescribeCluster with that as the cluster's id."""

    def answer(other: Other, correlation_id: int, key: int, version: int) -> bytes:
        response = DescribeClusterResponse(cluster_id=text, controller_id=1, brokers=[])
        return struct.pack(">ix", correlation_id) + encode(response, version)

    return answer


class Other:
    """A broker's other end: counts connections and requests, and answers as it is told."""

    def __init__(self, network: MemoryNetwork, name: str = "b2", port: int = 9092) -> None:
        self.net = network.host(name)
        self.port = port
        self.answer: Answer = cluster_id("theirs")
        self.connections = 0
        self.requests = 0
        self.waiting: deque[tuple[MemoryStream, int, int, int]] = deque()
        self.is_silent = False
        self.streams: list[MemoryStream] = []
        self.secret = SECRET
        self.registered = (2, 2)  # id and epoch
        self.met: list[tuple[int, int]] = []  # who has proven to be a broker

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listener = await self.net.listen("", self.port)
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    stream = await listener.accept()
                    self.connections += 1
                    self.streams.append(stream)
                    nursery.start_soon(self._serve, stream)
        finally:
            with trio.CancelScope(shield=True):
                await listener.aclose()

    async def _serve(self, stream: MemoryStream) -> None:
        received = bytearray()
        chunk = memoryview(bytearray(65536))
        try:
            while count := await stream.receive_into(chunk):
                received += chunk[:count]
                while len(received) >= 4 and len(received) >= 4 + (size := struct.unpack_from(">i", received)[0]):
                    frame = bytes(received[4 : 4 + size])
                    header = read_request_header(frame)
                    del received[: 4 + size]
                    if header.key == ApiKey.INTRODUCE:
                        await self._introduce(stream, header.correlation_id, frame[header.body :])
                        continue
                    self.requests += 1
                    self.waiting.append((stream, header.correlation_id, header.key, header.version))
                    if not self.is_silent:
                        await self.answer_next()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            stream.close()

    async def _introduce(self, stream: MemoryStream, correlation_id: int, body: bytes) -> None:
        said = decode(IntroduceRequest, 0, body)
        if said.proof:
            assert self.meeting.is_proven(ASKING, self.secret, said.proof)
            self.met.append((self.meeting.broker_id, self.meeting.broker_epoch))
            answer = IntroduceResponse()
        else:
            claim = said.broker_id, said.broker_epoch
            self.meeting = Meeting(CLUSTER, *claim, *self.registered, bytes(said.nonce), b"n" * NONCE_BYTES)
            answer = IntroduceResponse(nonce=self.meeting.asked_nonce, proof=self.meeting.proof(ASKED, self.secret))
        frame = struct.pack(">ix", correlation_id) + encode(answer, 0)
        await stream.send([struct.pack(">i", len(frame)) + frame])

    async def answer_next(self) -> None:
        stream, *question = self.waiting.popleft()
        body = self.answer(self, *question)
        if body is not None:
            await stream.send([struct.pack(">i", len(body)) + body])


def broker(id: int, epoch: int, host: str = "b2", port: int = 9092) -> BrokerImage:
    return BrokerImage(id, epoch, None, {"PLAINTEXT": (host, port)}, f"dir{id}", "")


class Us:
    """This broker, number 1, and its links."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        image = ClusterImage(CLUSTER, brokers={1: broker(1, 1, "b1"), 2: broker(2, 2)}, secret=SECRET)
        self.registration: Any = SimpleNamespace(image=image, broker=SimpleNamespace(id=1), broker_epoch=1)
        disk = MemoryDisk()
        env = Env(
            SteeredClock(), disk, network.host("b1"), SeededRng(Random(0)), inline, InlineHelper(disk, inline)
        )  # fmt: skip
        self.links = Links(env, self.registration, lambda: BrokerConfig())

    def see(self, *brokers: BrokerImage) -> None:
        """A new image, with these brokers."""
        old = self.registration.image
        new = self.registration.image = replace(old, brokers={each.id: each for each in brokers})
        self.registration.broker_epoch = new.brokers[1].epoch
        self.links.on_image(old, new)

    async def ask(self, timeout_s: float = 5.0, broker_id: int = 2) -> str:
        answer = await self.links.ask(broker_id, DescribeClusterRequest(), 1, timeout_s)
        assert isinstance(answer, DescribeClusterResponse)
        return answer.cluster_id

    async def refusal(self, timeout_s: float = 5.0, broker_id: int = 2) -> ErrorCode:
        with pytest.raises(KafkaError) as refused:
            await self.ask(timeout_s, broker_id)
        return refused.value.code


@asynccontextmanager
async def linked(network: MemoryNetwork | None = None) -> AsyncIterator[tuple[Us, Other]]:
    network = network or MemoryNetwork()
    us, other = Us(network), Other(network)
    async with trio.open_nursery() as nursery:
        await nursery.start(other.run)
        await nursery.start(us.links.run)
        yield us, other
        nursery.cancel_scope.cancel()


async def test_a_broker_is_asked_on_one_connection(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        assert [await us.ask(), await us.ask()] == ["theirs", "theirs"]
        assert (other.connections, other.requests) == (1, 2)


async def test_questions_do_not_wait_for_the_answers_before_them(autojump_clock: MockClock) -> None:
    async with linked() as (us, other), trio.open_nursery() as nursery:
        other.is_silent = True
        told: list[str] = []

        async def ask() -> None:
            told.append(await us.ask())

        for _ in range(3):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        assert (other.requests, other.connections) == (3, 1)
        for name in "abc":
            other.answer = cluster_id(name)
            await other.answer_next()
            await wait_all_tasks_blocked()
        assert told == ["a", "b", "c"]


async def test_nothing_waits_behind_another_api(autojump_clock: MockClock) -> None:
    async with linked() as (us, other), trio.open_nursery() as nursery:
        other.is_silent = True
        nursery.start_soon(us.links.ask, 2, FetchRequest(topics=[], max_wait_ms=500), 13, 60)
        await wait_all_tasks_blocked()
        other.is_silent, fetch = False, other.waiting.popleft()
        assert fetch[2] == 1
        assert await us.ask() == "theirs"
        assert other.connections == 2
        nursery.cancel_scope.cancel()


async def test_a_broker_nobody_knows_is_not_available(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        assert await us.refusal(broker_id=3) is ErrorCode.BROKER_NOT_AVAILABLE
        us.see(broker(1, 1, "b1"))
        assert await us.refusal() is ErrorCode.BROKER_NOT_AVAILABLE
        assert other.connections == 0


async def test_before_and_after_its_run_nobody_is_asked() -> None:
    us = Us(MemoryNetwork())
    assert await us.refusal() is ErrorCode.BROKER_NOT_AVAILABLE


async def test_silence_costs_who_asks_its_timeout_and_the_connection(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        assert await us.ask() == "theirs"
        other.is_silent = True
        before = trio.current_time()
        assert await us.refusal(timeout_s=3) is ErrorCode.REQUEST_TIMED_OUT
        assert trio.current_time() - before == pytest.approx(3, abs=0.1)
        other.waiting.clear()
        other.is_silent = False
        assert await us.ask() == "theirs"  # on a connection that is not behind the unanswered
        assert other.connections == 2


async def test_silence_of_one_broker_costs_another_nothing(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with linked(network) as (us, other), trio.open_nursery() as nursery:
        third = Other(network, "b3")
        third.registered = (3, 3)
        await nursery.start(third.run)
        us.see(*us.registration.image.brokers.values(), broker(3, 3, "b3"))
        other.is_silent = True
        for _ in range(100):
            nursery.start_soon(us.refusal)
        await wait_all_tasks_blocked()
        before = trio.current_time()
        assert await us.ask(broker_id=3) == "theirs"
        assert trio.current_time() == before
        nursery.cancel_scope.cancel()


async def test_a_late_answer_is_nobody_elses(autojump_clock: MockClock) -> None:
    async with linked() as (us, other), trio.open_nursery() as nursery:
        other.is_silent = True
        nursery.start_soon(us.ask, 10)
        await wait_all_tasks_blocked()
        await trio.sleep(1)
        with trio.move_on_after(1):
            await us.ask()  # given up by who asks: neither answered nor timed out
        await other.answer_next()
        await wait_all_tasks_blocked()
        other.answer = cluster_id("late")
        await other.answer_next()
        other.answer, other.is_silent = cluster_id("fresh"), False
        assert await us.ask() == "fresh"
        assert other.connections == 1


async def test_silence_costs_the_connection_though_whoever_asked_has_given_up(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        other.is_silent = True
        for _ in range(IN_FLIGHT_MAX):
            with trio.move_on_after(0.01):
                await us.ask(20)
        assert other.requests == IN_FLIGHT_MAX
        await trio.sleep(20 + LOOK_ROUND_S)
        other.waiting.clear()
        other.is_silent = False
        assert await us.ask() == "theirs"
        assert other.connections == 2


async def test_one_slow_answer_does_not_close_a_connection_on_which_others_come(autojump_clock: MockClock) -> None:
    async with linked() as (us, other), trio.open_nursery() as nursery:
        other.is_silent = True
        nursery.start_soon(us.ask)
        await wait_all_tasks_blocked()
        nursery.start_soon(us.refusal, 1)
        await wait_all_tasks_blocked()
        await other.answer_next()
        await trio.sleep(2)
        other.is_silent = False
        await other.answer_next()
        assert await us.ask() == "theirs"
        assert other.connections == 1


def _wrong_correlation(other: Other, correlation_id: int, key: int, version: int) -> bytes:
    return cluster_id("theirs")(other, correlation_id + 1, key, version) or b""


def _malformed(other: Other, correlation_id: int, key: int, version: int) -> bytes:
    return struct.pack(">ix", correlation_id) + b"\0"


def _no_header(other: Other, correlation_id: int, key: int, version: int) -> bytes:
    return struct.pack(">i", correlation_id)


def _nothing(other: Other, correlation_id: int, key: int, version: int) -> bytes:
    return b""


@pytest.mark.parametrize("wrong", [_wrong_correlation, _malformed, _no_header, _nothing])
async def test_an_answer_that_is_none_ends_the_connection(wrong: Answer, autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        other.answer = wrong
        assert await us.refusal() is ErrorCode.NETWORK_EXCEPTION
        other.answer = cluster_id("theirs")
        assert await us.ask() == "theirs"
        assert other.connections == 2


async def test_a_look_that_finds_nothing_leaves_an_answer_that_has_begun_as_it_is(autojump_clock: MockClock) -> None:
    """All links receive into the same memory, one after the other."""
    network = MemoryNetwork()
    async with linked(network) as (us, other), trio.open_nursery() as nursery:
        third = Other(network, "b3")
        third.registered, third.answer = (3, 3), cluster_id("x" * 500)
        await nursery.start(third.run)
        us.see(*us.registration.image.brokers.values(), broker(3, 3, "b3"))
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await us.ask())

        other.is_silent = True
        async with trio.open_nursery() as asking:
            asking.start_soon(ask)
            await wait_all_tasks_blocked()
            stream, *question = other.waiting.popleft()
            body = cluster_id("y" * 500)(other, *question) or b""
            frame = struct.pack(">i", len(body)) + body
            await stream.send([frame[:300]])
            await wait_all_tasks_blocked()
            for ours in us.links.env.net.streams:
                ours.resume(True)
            await wait_all_tasks_blocked()
            assert await us.ask(broker_id=3) == "x" * 500
            await stream.send([frame[300:]])
        assert answers == ["y" * 500]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [-1, 1 << 30])
async def test_an_answer_of_impossible_size_ends_the_connection(size: int, autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        other.is_silent = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(us.refusal)
            await wait_all_tasks_blocked()
            await other.streams[0].send([struct.pack(">i", size)])
        other.waiting.clear()
        other.is_silent = False
        assert await us.ask() == "theirs"


async def test_an_answer_nobody_asked_for_ends_the_connection(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        assert await us.ask() == "theirs"
        await other.streams[0].send([struct.pack(">iix", 5, 7)])
        await wait_all_tasks_blocked()
        assert await us.ask() == "theirs"
        assert other.connections == 2


async def test_a_connection_that_breaks_fails_what_is_in_flight(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        other.is_silent = True
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(us.refusal)
            await wait_all_tasks_blocked()
            us.network.reset("b1", "b2")
        assert other.requests == 3
        other.waiting.clear()
        other.is_silent = False
        assert await us.ask() == "theirs"


async def test_a_broker_that_cannot_be_reached_is_tried_less_and_less_often(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kbroker.links")
    us = Us(MemoryNetwork())
    us.network.host("b2")
    async with trio.open_nursery() as nursery:
        await nursery.start(us.links.run)
        at = list[float]()
        for _ in range(9):
            assert await us.refusal() is ErrorCode.NETWORK_EXCEPTION
            at.append(trio.current_time())
        waits = [round(after - before, 2) for before, after in zip(at, at[1:], strict=False)]
        assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, PAUSE_S_MAX, PAUSE_S_MAX, PAUSE_S_MAX]
        assert len(caplog.records) == 1, "people are told once"
        other = Other(us.network)
        await nursery.start(other.run)
        assert await us.ask() == "theirs"
        nursery.cancel_scope.cancel()


async def test_a_way_that_is_cut_costs_no_more_than_the_timeout(autojump_clock: MockClock) -> None:
    async with linked() as (us, _):
        us.network.cut("b1", "b2")
        assert await us.refusal(timeout_s=2) is ErrorCode.REQUEST_TIMED_OUT
        us.network.heal()
        assert await us.ask() == "theirs"


async def test_a_broker_that_registers_anew_is_another_one(autojump_clock: MockClock) -> None:
    async with linked() as (us, other), trio.open_nursery() as nursery:
        anew = Other(us.network, "b2", 9093)
        anew.answer, anew.registered = cluster_id("anew"), (2, 5)
        await nursery.start(anew.run)
        other.is_silent = True
        async with trio.open_nursery() as asking:
            asking.start_soon(us.refusal, 60)
            await wait_all_tasks_blocked()
            us.see(broker(1, 1, "b1"), broker(2, 5, port=9093))
        assert trio.current_time() < 60
        assert await us.ask() == "anew"
        nursery.cancel_scope.cancel()


async def test_what_is_in_flight_to_a_broker_that_is_gone_fails(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        other.is_silent = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(us.refusal, 60)
            await wait_all_tasks_blocked()
            us.see(broker(1, 1, "b1"))
        assert trio.current_time() < 60


async def test_a_broker_that_goes_while_it_is_connected_to_is_given_up(autojump_clock: MockClock) -> None:
    async with linked() as (us, _):
        us.network.cut("b1", "b2")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(us.refusal, 60)
            await wait_all_tasks_blocked()
            us.see(broker(1, 1, "b1"))
        assert trio.current_time() < 5


async def test_in_a_new_registration_of_ours_all_connections_are_new(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        assert await us.ask() == "theirs"
        us.see(broker(1, 9, "b1"), broker(2, 2))
        assert await us.ask() == "theirs"
        assert other.connections == 2


async def test_other_changes_of_the_image_leave_links_alone(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        assert await us.ask() == "theirs"
        us.see(broker(1, 1, "b1"), broker(2, 2), broker(3, 3))
        assert await us.ask() == "theirs"
        assert other.connections == 1


async def test_a_connection_that_nobody_uses_is_closed(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        assert await us.ask() == "theirs"
        await trio.sleep(IDLE_S - 2 * LOOK_ROUND_S)
        assert not other.streams[0].has_hung_up()
        await trio.sleep(4 * LOOK_ROUND_S)
        assert other.streams[0].has_hung_up()
        assert await us.ask() == "theirs"


async def test_a_connection_on_which_an_answer_is_awaited_is_not_idle(autojump_clock: MockClock) -> None:
    async with linked() as (us, other), trio.open_nursery() as nursery:
        other.is_silent = True
        nursery.start_soon(us.ask, 10 * IDLE_S)
        await trio.sleep(3 * IDLE_S)
        await other.answer_next()


async def test_what_is_in_flight_is_bounded(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        other.is_silent = True
        async with trio.open_nursery() as nursery:
            for _ in range(IN_FLIGHT_MAX + 10):
                nursery.start_soon(us.ask)
            await wait_all_tasks_blocked()
            assert other.requests == IN_FLIGHT_MAX
            for _ in range(5):
                await other.answer_next()
            await wait_all_tasks_blocked()
            assert other.requests == IN_FLIGHT_MAX + 5
            while other.waiting:
                await other.answer_next()
                await wait_all_tasks_blocked()
        assert other.requests == IN_FLIGHT_MAX + 10


async def test_who_waits_for_a_place_is_bounded(autojump_clock: MockClock) -> None:
    async with linked() as (us, other), trio.open_nursery() as nursery:
        other.is_silent = True
        for _ in range(IN_FLIGHT_MAX + WAITING_MAX):
            nursery.start_soon(us.ask)
        await wait_all_tasks_blocked()
        before = trio.current_time()
        assert await us.refusal() is ErrorCode.NETWORK_EXCEPTION
        assert trio.current_time() == before
        nursery.cancel_scope.cancel()


async def test_a_long_answer_is_views_of_one_buffer(autojump_clock: MockClock) -> None:
    def answer(other: Other, correlation_id: int, key: int, version: int) -> bytes:
        rows = [FetchPartitionData(partition_index=n, high_watermark=1, records=bytes([n]) * TEN_MB) for n in (1, 2)]
        topics = [FetchableTopicResponse(topic_id=bytes(16), partitions=rows)]
        return struct.pack(">ix", correlation_id) + encode(FetchResponse(responses=topics), version)

    async with linked(MemoryNetwork(buffer_size=1 << 20)) as (us, other):
        other.answer = answer
        response = await us.links.ask(2, FetchRequest(topics=[], max_wait_ms=500), 13, 30)
        first, second = (row.records for row in response.responses[0].partitions)
        assert (bytes(first[-1:]), bytes(second[:1]), len(first), len(second)) == (b"\1", b"\2", TEN_MB, TEN_MB)
        assert first.obj is second.obj


async def test_requests_are_sent_one_after_the_other_however_slowly_they_are_read(autojump_clock: MockClock) -> None:
    """What does not go at once is sent by a task; nothing that is asked meanwhile gets in between."""
    async with linked(MemoryNetwork(buffer_size=16)) as (us, other):
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(us.ask)
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
        assert (other.requests, other.connections) == (30, 1)


async def test_brokers_introduce_themselves_before_anything_is_asked(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        assert await us.ask() == "theirs"
        assert other.met == [(1, 1)]
        us.see(broker(1, 9, "b1"), broker(2, 2))
        assert await us.ask() == "theirs"
        assert other.met == [(1, 1), (1, 9)]


@pytest.mark.parametrize("registered", [(2, 1), (2, 3), (3, 2)])
async def test_who_proves_to_be_somebody_else_is_asked_nothing(
    registered: tuple[int, int], autojump_clock: MockClock
) -> None:
    async with linked() as (us, other):
        other.registered = registered
        assert await us.refusal() is ErrorCode.NETWORK_EXCEPTION
        assert (other.met, other.requests) == ([], 0)


async def test_who_does_not_know_the_secret_is_asked_nothing(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        other.secret = b"x" * 32
        assert await us.refusal() is ErrorCode.NETWORK_EXCEPTION
        assert (other.met, other.requests) == ([], 0)


async def test_who_is_not_registered_introduces_itself_to_nobody(autojump_clock: MockClock) -> None:
    async with linked() as (us, other):
        us.registration.broker_epoch = -1
        assert await us.refusal() is ErrorCode.NETWORK_EXCEPTION
        assert (other.met, other.requests) == ([], 0)


async def test_long_requests_and_answers_hold_nobody_up() -> None:
    brokers = [DescribeClusterBroker(broker_id=n, host="h", port=1, rack=None) for n in range(20_000)]
    told = encode(DescribeClusterResponse(cluster_id="c", controller_id=1, brokers=brokers), 1)
    request = MetadataRequest(topics=[MetadataRequestTopic(name=f"topic {n}") for n in range(20_000)])
    empty = encode(MetadataResponse(brokers=[], topics=[], cluster_id=None), 12)
    async with linked() as (us, other):
        other.answer = lambda other, id, key, version: struct.pack(">ix", id) + (told if key == 60 else empty)
        meter = LoopMeter()
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await us.links.ask(2, DescribeClusterRequest(), 1, 60))
            answers.append(await us.links.ask(2, request, 12, 60))

        with meter.running(), trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
        assert len(answers[0].brokers) == 20_000
        assert meter.lines > 4 * LINES_MAX, "there was much to do"
        assert meter.worst <= LINES_MAX, meter.report()
