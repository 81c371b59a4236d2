"""Links: connections to the other brokers, one for each broker and API, so that nothing waits behind a long poll.

    ask ─▶ a place ─▶ connected ─▶ sent ─▶ in flight, in order ─▶ the answer, decoded by who asked
           │          │                    └─ broken off, malformed, not the one expected ─▶ NETWORK_EXCEPTION
           │          └─ refused, unreachable ─▶ NETWORK_EXCEPTION, and a pause before the next attempt
           └─ anywhere: the deadline of who asked ─▶ REQUEST_TIMED_OUT

A link belongs to one registration of a broker: one that has registered anew is another one, so what is in flight to the
old one fails. It connects when it is asked, and is closed when the broker is gone or nobody has asked for a while. What
goes over the connection, wire.py sees to.

Who gives up leaves its request in flight, and its place stays taken until the answer is there; a broker from which
nothing at all came until a deadline is taken to be unreachable, and the connection is closed. A long answer is decoded
as views of the memory that it came into, in turns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from types import CoroutineType
from typing import Any

import trio

from kafka_wire.api import response_class
from kafka_wire.codegen import decode, decode_in_slices, encode_in_slices
from kafka_wire.errors import ErrorCode, KafkaError, ProtocolError
from kafka_wire.frames import Scratch, read_response_header
from kafka_wire.schema import layout
from kbroker.cluster.image import BrokerImage, ClusterImage
from kbroker.cluster.peers.introductions import NONCE_BYTES, Ask, Meeting, introduce
from kbroker.cluster.peers.wire import Question, Wire
from kbroker.cluster.registration import Registration
from kbroker.config import BrokerConfig
from kbroker.env import Env, Stream, address_text
from kbroker.turns import answer as in_turns

IN_FLIGHT_MAX = 64  # requests of one link; a broker handles no more of one connection at a time
WAITING_MAX = 1024  # more, that wait for a place
UNSENT_MAX = 1 << 20  # bytes that the connection has not taken yet; the last request may go beyond
CONNECT_S = 5.0  # for connecting and being introduced
PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 1.0  # between two attempts
LOOK_ROUND_S = 10.0
IDLE_S = 240.0
LONG_FRAME = 16384  # bytes; beyond, decoding is done in turns
IDLE = "nobody has used it for a while"
ANSWER_BYTES_MAX = 128 << 20  # of an answer, or as much as two of the largest requests

log = logging.getLogger("kbroker.links")


class Attempt:
    """An attempt to connect, for all who wait for it."""

    __slots__ = ("scope", "over", "failure")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.over = trio.Event()
        self.failure = ""


class Link:
    """One broker, as it has registered, asked for one API."""

    def __init__(self, house: Links, broker: BrokerImage, address: tuple[str, int]) -> None:
        self.broker = broker
        self.used_at = trio.current_time()
        self._house = house
        self._address = address
        self._places = trio.Semaphore(IN_FLIGHT_MAX, max_value=IN_FLIGHT_MAX)
        self._wire: Wire | None = None
        self._attempt: Attempt | None = None
        self._pause_s = 0.0
        self._retry_at = 0.0
        self._retired = ""  # why it is not used any more

    async def ask(self, request: Any, version: int, timeout_s: float) -> Any:
        """The response. Raises KafkaError, see `Brokers.ask`."""
        self.used_at = trio.current_time()
        if self._places.value == 0 and self._places.statistics().tasks_waiting >= WAITING_MAX:
            raise self._unavailable("too much is in flight to it")
        question, wire = Question(timeout_s), None
        with trio.CancelScope(deadline=question.until):
            wire = await self._put(question, request, version)
            return await self._answer(wire, question, key_of(request), version)
        if wire is not None:
            wire.close_if_silent()
        raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, f"broker {self.broker.id} did not answer within {timeout_s:g} s")

    def retire(self, why: str) -> None:
        """Be of no more use: the broker is gone, or we are."""
        self._retired = why
        if self._attempt is not None:
            self._attempt.scope.cancel()
        if self._wire is not None:
            self._wire.close(why)

    def look(self) -> None:
        """Close the connection if nobody has used it for a while, or the other end does not."""
        wire = self._wire
        if wire is not None:
            wire.close_if_silent()
        if wire is not None and wire.is_idle and trio.current_time() - self.used_at >= self._house.idle_s:
            wire.close(IDLE)

    # -- asking -------------------------------------------------------------------------------------------------------

    async def _put(self, question: Question, request: Any, version: int) -> Wire:
        """Send a request as soon as there is a place for it, and a connection."""
        body = await _encoded(request, version)
        await question.take_place(self._places)
        try:
            wire = await self._wait_wire()
        except BaseException:
            question.arrive(None)
            raise
        wire.put(question, key_of(request), version, body)
        return wire

    async def _wait_wire(self) -> Wire:
        """Until there is a connection that takes more."""
        while True:
            wire = self._wire
            if self._retired:
                raise self._unavailable(self._retired)
            if wire is None:
                attempt = self._attempt or self._open_soon()
                await attempt.over.wait()
                if attempt.failure:
                    raise self._unavailable(attempt.failure)
            elif wire.unsent > UNSENT_MAX:
                await wire.drained.park()
            else:
                return wire

    async def _answer(self, wire: Wire, question: Question, key: int, version: int) -> Any:
        await question.arrived.wait()
        frame = question.frame
        if frame is None:
            raise self._unavailable(wire.failure)
        try:
            _, pos = read_response_header(frame, key, version)
            if len(frame) < LONG_FRAME:
                return decode(response_class(key), version, frame, pos)
            made = in_turns(decode_in_slices(response_class(key), version, frame, pos))
            return await made if isinstance(made, CoroutineType) else made
        except ProtocolError as error:
            wire.close(f"it has answered with {error}")
            raise self._unavailable(wire.failure) from error

    def _unavailable(self, why: str) -> KafkaError:
        return KafkaError(ErrorCode.NETWORK_EXCEPTION, f"broker {self.broker.id}: {why}")

    # -- connecting ---------------------------------------------------------------------------------------------------

    def _open_soon(self) -> Attempt:
        attempt = self._attempt = Attempt()
        self._house.nursery.start_soon(self._open, attempt)
        return attempt

    async def _open(self, attempt: Attempt) -> None:
        """Connect, after a pause where the last attempt has failed."""
        attempt.failure = "the connection was given up"
        try:
            with attempt.scope:
                await self._house.env.clock.sleep(max(0.0, self._retry_at - trio.current_time()))
                attempt.failure = await self._connect()
        except Exception:
            log.exception("broker %d could not be connected to", self.broker.id)
            attempt.failure = "a failure of our own"
        finally:
            self._attempt = None
            attempt.over.set()

    async def _connect(self) -> str:
        """Why there is no connection; "" if there is."""
        host, port = self._address
        why, wire = f"{address_text(host, port)} did not answer within {CONNECT_S:g} s", None
        try:
            with trio.move_on_after(CONNECT_S):
                stream = await self._house.env.net.connect(host, port)
                wire = self._house.wire(stream, self._lost)
                await self._house.introduce(self.broker, partial(self._ask_stranger, wire))
                if not wire.failure:
                    wire.trust(self._house.answer_bytes_max)
                    self._house.note_reached(self.broker.id)
                    self._wire, wire = wire, None
                    return ""
                why = wire.failure
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be one of a host
            why = f"{address_text(host, port)} cannot be reached: {error}"
        except KafkaError as error:
            why = error.message
        finally:
            if wire is not None:
                wire.close(why)
        self._note_failure(why)
        return why

    async def _ask_stranger(self, wire: Wire, request: Any, version: int) -> Any:
        """The answer on a connection that is not in use yet."""
        question, body = Question(CONNECT_S), await _encoded(request, version)
        if wire.failure:
            raise self._unavailable(wire.failure)
        wire.put(question, key_of(request), version, body)
        return await self._answer(wire, question, key_of(request), version)

    def _lost(self, wire: Wire) -> None:
        """A connection is closed. One that was of use may be made again at once."""
        if wire is not self._wire:
            return
        self._wire = None
        if wire.answers:
            self._pause_s = 0.0
        if wire.failure != IDLE and not self._retired:
            self._note_failure(wire.failure, is_harmless=not wire.lost)

    def _note_failure(self, why: str, *, is_harmless: bool = False) -> None:
        self._pause_s = min(max(2 * self._pause_s, PAUSE_S_MIN), PAUSE_S_MAX)
        self._retry_at = trio.current_time() + self._pause_s
        self._house.tell_of(self.broker.id, why, is_harmless=is_harmless)


class Links:
    """All links of this broker. `run` first: their tasks live in its nursery."""

    def __init__(self, env: Env, registration: Registration, config: Callable[[], BrokerConfig]) -> None:
        """config: the broker's, as it is now."""
        self.env = env
        self.scratch = Scratch()
        self._registration = registration
        self._config = config
        self._nursery: trio.Nursery | None = None
        self._links: dict[tuple[int, int], Link] = {}  # by broker and API
        self._told_of: set[int] = set()  # brokers of which people know that they cannot be reached

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then nobody is asked any more."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                while True:
                    await self.env.clock.sleep(LOOK_ROUND_S)
                    for link in self._links.values():
                        link.look()
        finally:
            self._nursery = None
            self._retire_all("this broker stops")

    def ask(self, broker_id: int, request: Any, version: int, timeout_s: float) -> Coroutine[Any, Any, Any]:
        """See `Brokers.ask`, for another broker than this one."""
        broker = self._registration.image.brokers.get(broker_id)
        if broker is None or self._nursery is None:
            raise KafkaError(ErrorCode.BROKER_NOT_AVAILABLE, f"there is no broker {broker_id}")
        place = broker_id, key_of(request)
        link = self._links.get(place)
        if link is None:
            link = self._links[place] = Link(self, broker, self._address(broker))
        return link.ask(request, version, timeout_s)

    def on_image(self, old: ClusterImage, new: ClusterImage) -> None:
        """A new picture of the cluster: links to whom it does not show any more, as it was, are of no use."""
        own = self._registration.broker.id
        if old.brokers is new.brokers:
            return
        if _epoch(old, own) != _epoch(new, own):
            self._retire_all("this broker has registered anew")
        for place, link in list(self._links.items()):
            if _epoch(new, link.broker.id) != link.broker.epoch:
                del self._links[place]
                self._told_of.discard(link.broker.id)
                link.retire("it is gone" if link.broker.id not in new.brokers else "it has registered anew")

    # -- for links ----------------------------------------------------------------------------------------------------

    @property
    def nursery(self) -> trio.Nursery:
        """Of the links' tasks."""
        assert self._nursery is not None
        return self._nursery

    @property
    def idle_s(self) -> float:
        """After which a connection is closed, before the other end would."""
        return min(IDLE_S, self._config().get_int("connections.max.idle.ms") / 2000)

    @property
    def answer_bytes_max(self) -> int:
        """How long an answer may be."""
        return max(ANSWER_BYTES_MAX, 2 * self._config().get_int("socket.request.max.bytes"))

    def wire(self, stream: Stream, closed: Callable[[Wire], None]) -> Wire:
        """A new connection. OSError where the system cannot watch one more."""
        try:
            return Wire(stream, self.scratch, f"broker-{self._registration.broker.id}", self.nursery, closed)
        except BaseException:
            stream.close()
            raise

    async def introduce(self, broker: BrokerImage, ask: Ask) -> None:
        """Prove to each other who we are. Raises KafkaError."""
        registration, image = self._registration, self._registration.image
        if registration.broker_epoch < 0 or not image.secret:
            raise KafkaError(ErrorCode.BROKER_NOT_AVAILABLE, "this broker is not registered itself")
        own = registration.broker.id, registration.broker_epoch
        nonce = self.env.rng.token(NONCE_BYTES)
        meeting = Meeting(image.cluster_id, *own, broker.id, broker.epoch, nonce, b"")
        await introduce(ask, meeting, image.secret)

    def note_reached(self, broker_id: int) -> None:
        """A broker has been connected to."""
        self._told_of.discard(broker_id)

    def tell_of(self, broker_id: int, why: str, *, is_harmless: bool) -> None:
        """Tell people once that a broker cannot be reached, however many links there are and often they try.

        is_harmless: nobody lost anything.
        """
        if is_harmless or broker_id in self._told_of:
            log.debug("broker %d: %s", broker_id, why)
        else:
            self._told_of.add(broker_id)
            log.info("broker %d: %s", broker_id, why)

    def _address(self, broker: BrokerImage) -> tuple[str, int]:
        name = self._config().inter_broker_listener(broker.endpoints)
        host, port = broker.endpoints[name]
        return host or "127.0.0.1", port  # nothing advertised for a wildcard address: it can only be on this machine

    def _retire_all(self, why: str) -> None:
        links, self._links = self._links, {}
        for link in links.values():
            link.retire(why)


def key_of(request: Any) -> int:
    """The API that a request is for."""
    key = layout(type(request)).key
    assert key is not None, f"{type(request).__name__} is no request"
    return key


def _epoch(image: ClusterImage, broker_id: int) -> int:
    broker = image.brokers.get(broker_id)
    return broker.epoch if broker is not None else -1


async def _encoded(request: Any, version: int) -> list[Any]:
    made = in_turns(encode_in_slices(request, version))
    body: list[Any] = (await made) if isinstance(made, CoroutineType) else made  # type: ignore[assignment]
    return body
