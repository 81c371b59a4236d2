"""Faults: what a test has happen to requests. Owns which there are, and how often each has hit.

    error            answered by an error, not carried out (of a topic: the rest of the request is)
    delay            carried out, answered later
    lose_request     not carried out, never answered
    lose_response    carried out, never answered
    close            not carried out (or carried out), and hung up on

A request is hit by at most one fault, the first that was set and is not used up. What is never answered is as if the
network lost it: the connection stays, silent, until the client gives up on it. Brokers among themselves are not hit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from copy import copy
from difflib import get_close_matches
from functools import partial
from types import CoroutineType
from typing import Any, ClassVar

import trio

from kafka_wire.api import APIS, OWN_KEY_MIN, ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kbroker.api.context import Context
from kbroker.api.registry import Api, CloseConnection, load
from kbroker.awaited import Awaited
from kbroker.testing.control.answers import error_answer, merge, places, topic_errors
from kbroker.testing.control.asked import topic_name, whole
from kbroker.testing.control.journal import Row
from kbroker.testing.control.topics import can_name_topics, names_topics, split
from kbroker.turns import Later, then

TIMES_MAX = 1_000_000
DELAY_MS_MAX = 600_000
FAULTS_MAX = 10_000
SILENCE_S = 600.0  # then it hangs up; no client waits so long

# Codes of a whole Fetch. All others are a partition's, also where no topic was named: there clients look for them.
FETCH_CODES = {
    ErrorCode.FETCH_SESSION_ID_NOT_FOUND, ErrorCode.INVALID_FETCH_SESSION_EPOCH, ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR,
    ErrorCode.INCONSISTENT_CLUSTER_ID, ErrorCode.UNSUPPORTED_VERSION, ErrorCode.INVALID_REQUEST,
}  # fmt: skip
METADATA_CODES = {ErrorCode.REBOOTSTRAP_REQUIRED}  # of a whole Metadata (KIP-1102); else it would name no brokers


class FaultWords(ABC):
    """How a test says what is to happen. `times`: how many requests it hits, None for every one; `topic`, `client_id`:
    only requests about that topic, of that client.

    All raise ValueError for an API or a code that is not there, for bounds out of range, and where the answers of an
    API have no place for such an error.
    """

    def error(
        self,
        api: str,
        code: str,
        *,
        topic: str | None = None,
        partition: int | None = None,
        times: int | None = 1,
        client_id: str | None = None,
    ) -> None:
        """Answer by an error: `error("Produce", "NOT_LEADER_OR_FOLLOWER", topic="orders", times=2)`.

        Nothing of the request is carried out; with a topic, nothing of that topic, and the rest is served truly. The
        code stands where Apache Kafka puts it. Metadata is answered truly but for the code of each topic, and Fetch but
        for that of each partition, as no client looks for it elsewhere.
        """
        self._add("error", api, code=code, topic=topic, partition=partition, times=times, client_id=client_id)

    def delay(
        self, api: str, ms: int, *, topic: str | None = None, times: int | None = 1, client_id: str | None = None
    ) -> None:
        """Answer so many milliseconds later. What is asked is carried out at once; later requests of the connection are
        answered after it."""
        self._add("delay", api, ms=ms, topic=topic, times=times, client_id=client_id)

    def lose_request(
        self, api: str, *, topic: str | None = None, times: int | None = 1, client_id: str | None = None
    ) -> None:
        """As if it had been lost on its way: it is not carried out, and neither it nor what comes after it on that
        connection is answered. The client notices when its request timeout is over."""
        self._add("lose_request", api, topic=topic, times=times, client_id=client_id)

    def lose_response(
        self, api: str, *, topic: str | None = None, times: int | None = 1, client_id: str | None = None
    ) -> None:
        """Carry it out and lose the answer, as `lose_request` loses requests."""
        self._add("lose_response", api, topic=topic, times=times, client_id=client_id)

    def close(
        self,
        api: str,
        *,
        carried_out: bool = False,
        topic: str | None = None,
        times: int | None = 1,
        client_id: str | None = None,
    ) -> None:
        """Hang up instead of answering; the client notices at once. carried_out: it is, before that."""
        kind = "close_after" if carried_out else "close"
        self._add(kind, api, topic=topic, times=times, client_id=client_id)

    @abstractmethod
    def _add(self, kind: str, api: str, **values: Any) -> None:
        """A fault is set. Raises ValueError."""


class Fault:
    """One fault, checked, and how often it has hit."""

    __slots__ = ("kind", "key", "code", "topic", "partition", "times", "client_id", "ms", "hits", "seen")

    KINDS: ClassVar = ("error", "delay", "lose_request", "lose_response", "close", "close_after")

    def __init__(
        self,
        kind: str,
        api: str,
        *,
        code: str | None = None,
        topic: str | None = None,
        partition: int | None = None,
        times: int | None = 1,
        client_id: str | None = None,
        ms: int = 0,
    ) -> None:
        """Raises ValueError."""
        assert kind in self.KINDS
        self.kind = kind
        self.key = api_key(api)
        self.code = error_code(code) if kind == "error" else ErrorCode.NONE
        self.topic = topic
        self.partition = partition
        self.times = None if times is None else _whole_number("times", times, 1, TIMES_MAX)
        self.client_id = client_id
        self.ms = _whole_number("ms", ms, 0, DELAY_MS_MAX)
        self.hits = 0
        self.seen = 0  # requests of its API that came while it was set
        for name, value in (("topic", topic), ("client_id", client_id)):
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name} is text, not {value!r}")
        if partition is not None:
            _whole_number("partition", partition, 0, 2**31 - 1)
        self._check_place(api)

    def _check_place(self, api: str) -> None:
        if self.partition is not None and self.topic is None:
            raise ValueError("a partition needs its topic: topic=..., partition=...")
        served = load()[self.key]
        versions = range(served.version_min, served.version_max + 1)
        if self.topic is not None and not any(can_name_topics(self.key, each) for each in versions):
            raise ValueError(f"{api} requests name no topics, so none can be hit for the sake of topic={self.topic!r}")
        if self.kind == "error":
            kept = [places(self.key, each) for each in versions]
            level = 2 if self.partition is not None else 1 if self.topic is not None else 0
            if not any(each[level] for each in kept):
                what = ("for an error", "for an error of a topic", "for an error of one partition")[level]
                raise ValueError(f"answers to {api} have no place {what}")

    @property
    def is_armed(self) -> bool:
        """Whether it hits the next request that fits."""
        return self.times is None or self.hits < self.times

    @property
    def is_done(self) -> bool:
        """Whether it has hit what it was to hit; of one for all requests, whether it has hit any."""
        return self.hits >= (self.times or 1)

    def wants(self, context: Context, topic: Any, partition: int | None) -> bool:
        """Whether it is for a topic of a request (name or id), or for a partition of it."""
        if self.topic is not None and topic_name(topic, context.services) != self.topic:
            return False
        return partition is None or self.partition is None or self.partition == partition

    def fits(self, request: Any, context: Context) -> bool:
        """Whether a request of its API is one it hits."""
        if self.client_id is not None and context.client_id != self.client_id:
            return False
        if self.topic is not None:
            is_of_all = self.key is ApiKey.METADATA and not names_topics(request, context.version)
            if is_of_all and self.kind == "error":
                return self.topic in context.services.image.topics and asks_all(request, context.version)
            asked = whole(request, self.key, context)
            return split(asked, context.version, partial(self.wants, context))[1] is not None
        if self.kind != "error" or self.key in (ApiKey.METADATA, ApiKey.FETCH):
            return True
        return error_answer(request, self.key, context.version, self.code) is not None

    def __str__(self) -> str:
        """As the test said it."""
        kind = "close" if self.kind == "close_after" else self.kind
        said = [f'"{APIS[self.key].name}"']
        said += [f'"{self.code.name}"'] if self.kind == "error" else [str(self.ms)] if self.kind == "delay" else []
        said += ["carried_out=True"] if self.kind == "close_after" else []
        said += [f'topic="{self.topic}"'] if self.topic is not None else []
        said += [f"partition={self.partition}"] if self.partition is not None else []
        said += [f"times={self.times}"] if self.times != 1 else []
        said += [f'client_id="{self.client_id}"'] if self.client_id is not None else []
        return f"faults.{kind}({', '.join(said)})"

    def report(self) -> str:
        """What it hit, for people."""
        hits = "no request" if not self.hits else "1 request" if self.hits == 1 else f"{self.hits} requests"
        wished = f" of {self.times}" if self.times is not None and 0 < self.hits < self.times else ""
        name = APIS[self.key].name
        came = f"no {name} request came" if not self.seen else f"of {name} requests there came {self.seen}"
        return f"{self} hit {hits}{wished}: {came}" if not self.is_done else f"{self} hit {hits}"

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "kind": self.kind, "api": APIS[self.key].name, "code": self.code.name if self.kind == "error" else None,
            "topic": self.topic, "partition": self.partition, "times": self.times, "client_id": self.client_id,
            "ms": self.ms, "hits": self.hits, "seen": self.seen,
        }  # fmt: skip


class FaultBook(FaultWords):
    """The faults of one broker, in its loop."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []  # in the order in which they were set
        self._over = trio.Event()  # rings when connections that are silent are to be hung up on

    def _add(self, kind: str, api: str, **values: Any) -> None:
        if len(self.faults) >= FAULTS_MAX:
            raise ValueError(f"there are {FAULTS_MAX} faults already")
        self.faults.append(Fault(kind, api, **values))

    add = _add

    def unfired(self) -> list[str]:
        """Of each fault that has not hit what it was to hit, what it did hit."""
        return [fault.report() for fault in self.faults if not fault.is_done]

    def clear(self) -> None:
        """Forget all faults, and hang up on those whose answers are lost."""
        self.faults.clear()
        over, self._over = self._over, trio.Event()
        over.set()

    def plain(self) -> list[dict[str, Any]]:
        """As plain values, for `restore`."""
        return [fault.plain() for fault in self.faults]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """The faults of another life of this broker."""
        for each in saved:
            values = dict(each)
            hits, seen = values.pop("hits"), values.pop("seen")
            fault = Fault(values.pop("kind"), values.pop("api"), **values)
            fault.hits, fault.seen = hits, seen
            self.faults.append(fault)

    def match(self, key: ApiKey, request: Any, context: Context) -> Fault | None:
        """The fault that hits a request; it counts as hit."""
        found: Fault | None = None
        for fault in self.faults:
            if fault.key is key and fault.is_armed:
                fault.seen += 1
                if found is None and fault.fits(request, context):
                    found = fault
        if found is not None:
            found.hits += 1
        return found

    def carry_out(self, fault: Fault, api: Api, request: Any, context: Context, row: Row) -> Any:
        """Answer a request that a fault hits, as a handler does."""
        match fault.kind:
            case "error":
                row.fate = f"answered {fault.code.name} by a fault"
                return self._accuse(fault, api, request, context, row)
            case "delay":
                row.fate = f"answered {fault.ms} ms late by a fault"
                return after(api.handle(request, context), partial(_late, fault.ms))
            case "lose_request":
                row.fate = "lost by a fault"
                return None if _wants_no_answer(request) else _silence(api, self._over)
            case "lose_response":
                row.fate = "carried out, and the answer lost by a fault"
                over = self._over
                return after(api.handle(request, context), lambda answer: _silence(api, over))
            case "close_after":
                row.fate = "carried out, then hung up by a fault"
                return after(api.handle(request, context), lambda answer: _hang_up(api))
        row.fate = "hung up by a fault"
        return _hang_up(api)

    def _accuse(self, fault: Fault, api: Api, request: Any, context: Context, row: Row) -> Any:
        key, version = fault.key, context.version
        if _wants_no_answer(request):
            raise CloseConnection("a test's fault: the request failed, and nobody waits for its answer")
        if key is ApiKey.FETCH and (fault.topic is not None or fault.code not in FETCH_CODES):
            return self._accuse_fetch(fault, api, request, context, row)
        if key is ApiKey.METADATA and (fault.topic is not None or fault.code not in METADATA_CODES):
            return self._accuse_metadata(fault, api, request, context, row)
        if fault.topic is None:
            return error_answer(request, key, version, fault.code)
        rest, picked = split(request, version, partial(fault.wants, context))
        errors = topic_errors(picked, key, version, fault.code, at_partitions=fault.partition is not None)
        if not names_topics(rest, version):
            return errors
        return after(api.handle(rest, context), lambda answer: _merged(answer, errors, key, version))

    def _accuse_fetch(self, fault: Fault, api: Api, request: Any, context: Context, row: Row) -> Any:
        """Read truly, so that the session goes on, but at once; then put the error in the place of what was read."""
        key, version = fault.key, context.version
        _, picked = split(whole(request, key, context), version, partial(fault.wants, context))
        quick = copy(request)
        quick.max_wait_ms = quick.min_bytes = 0

        def accuse(answer: Any) -> Any:
            if answer.error_code or picked is None:  # there is no such session, or it is empty
                return _spare(fault, row, answer)
            errors = topic_errors(picked, key, version, fault.code, at_partitions=True)
            return _merged(answer, errors, key, version)

        return after(api.handle(quick, context), accuse)

    def _accuse_metadata(self, fault: Fault, api: Api, request: Any, context: Context, row: Row) -> Any:
        """Describe brokers and other topics truly."""
        key, version = fault.key, context.version
        rest, picked = split(request, version, partial(fault.wants, context))

        def accuse(answer: Any) -> Any:
            accused = picked
            if accused is None:
                told = [each for each in answer.topics if fault.wants(context, each.name or each.topic_id, None)]
                named = [MetadataRequestTopic(name=each.name, topic_id=each.topic_id) for each in told]
                accused = MetadataRequest(topics=named)
                if not named:
                    return _spare(fault, row, answer)
            return _merged(answer, topic_errors(accused, key, version, fault.code, at_partitions=False), key, version)

        handled = request if picked is None or (version == 0 and not rest.topics) else rest
        return after(api.handle(handled, context), accuse)


def asks_all(request: Any, version: int) -> bool:
    """Whether a Metadata request is about all topics."""
    return request.topics is None or (version == 0 and not request.topics)


def _spare(fault: Fault, row: Row, answer: Any) -> Any:
    """The answer has no place for the error: the fault waits for the next."""
    fault.hits -= 1
    row.fate = "answered"
    return answer


def _merged(answer: Any, errors: Any, key: ApiKey, version: int) -> Any:
    merge(answer, errors, key, version)
    return answer


def _wants_no_answer(request: Any) -> bool:
    return getattr(request, "acks", None) == 0


def _late(ms: int, answer: Any) -> Coroutine[Any, Any, Any]:
    async def late() -> Any:
        await trio.sleep(ms / 1000)
        return answer

    return late()


async def _silence(api: Api, over: trio.Event) -> None:
    """No answer, and none behind it."""
    with trio.move_on_after(SILENCE_S):
        await over.wait()
    _hang_up(api)


def _hang_up(api: Api) -> Any:
    raise CloseConnection(f"a test's fault: no answer to {APIS[api.key].name}")


def after(answer: Any, step: Callable[[Any], Any]) -> Any:
    """`step(answer)` once what a handler returned is there; it may be no answer (None), which stays none."""
    if isinstance(answer, CoroutineType | Awaited):
        return then(_arrive(Later(answer.wait() if isinstance(answer, Awaited) else answer)), partial(_step, step))
    return _step(step, answer)


def _step(step: Callable[[Any], Any], answer: Any) -> Any:
    return None if answer is None else step(answer)


async def _arrive(later: Later) -> Any:
    answer = await later
    while isinstance(answer, CoroutineType | Awaited):
        answer = await (answer.wait() if isinstance(answer, Awaited) else answer)
    return answer


# -- what tests write -------------------------------------------------------------------------------------------------


def api_key(name: str) -> ApiKey:
    """The API of Kafka's name. Raises ValueError for one that this broker does not answer: "did you mean ...?"."""
    names = {APIS[key].name: ApiKey(key) for key in load() if key < OWN_KEY_MIN}
    if name in names:
        return names[name]
    raise ValueError(f"there is no API {name!r} here{_meant(str(name), names)}")


def error_code(name: Any) -> ErrorCode:
    """The error of Kafka's name. Raises ValueError: "did you mean ...?"."""
    names = [each.name for each in ErrorCode if each is not ErrorCode.NONE]
    if name in names:
        return ErrorCode[name]
    if name == ErrorCode.NONE.name:
        raise ValueError("NONE is no error")
    raise ValueError(f"there is no error code {name!r}{_meant(str(name), names)}")


def _meant(name: str, names: Any) -> str:
    def plain(text: str) -> str:
        return text.replace("_", "").lower()

    known = {plain(each): each for each in names}
    close = get_close_matches(plain(name), known, n=1, cutoff=0.6)
    return f", did you mean {known[close[0]]!r}?" if close else ""


def _whole_number(name: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} is a whole number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} is between {low} and {high}, not {value}")
    return value
