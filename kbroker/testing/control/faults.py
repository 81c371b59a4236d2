"""Faults: what a test has happen to requests. Owns which there are, and how often each has hit.

    error            answered by an error, not carried out (of a topic: the rest of the request is)
    delay            carried out, answered later
    lose_request     not carried out, never answered
    lose_response    carried out, never answered
    close            not carried out, and hung up on          close_after   carried out, and hung up on

A request is hit by at most one fault, the first that was set and is not used up. How, says striking.py.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import trio

from kafka_wire.api import APIS, OWN_KEY_MIN, ApiKey
from kafka_wire.errors import ErrorCode
from kbroker.api.context import Context
from kbroker.api.registry import load
from kbroker.testing.control.answers import error_answer, places
from kbroker.testing.control.asked import topic_name, whole
from kbroker.testing.control.topics import can_name_topics, names_topics, split
from kbroker.testing.control.words import FaultWords

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

TIMES_MAX = 1_000_000
DELAY_MS_MAX = 600_000
FAULTS_MAX = 10_000


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

    def see(self) -> None:
        """A request of its API has come."""
        self.seen += 1

    def hit(self) -> None:
        """A request is hit."""
        self.hits += 1

    def spare(self) -> None:
        """It was not: the answer had no place for the error, so it waits for the next."""
        self.hits -= 1

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

    def over_again(self, hits: int, seen: int) -> Fault:
        """The same, which has hit so many already."""
        self.hits, self.seen = hits, seen
        return self

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
        self.over = trio.Event()  # rings when connections that are silent are to be hung up on

    def add(self, kind: str, api: str, **values: Any) -> None:
        """Set a fault, behind those that are there."""
        if len(self.faults) >= FAULTS_MAX:
            raise ValueError(f"there are {FAULTS_MAX} faults already")
        self.faults.append(Fault(kind, api, **values))

    def unfired(self) -> list[str]:
        """Of each fault that has not hit what it was to hit, what it did hit."""
        return [fault.report() for fault in self.faults if not fault.is_done]

    def clear(self) -> None:
        """Forget all faults, and hang up on those whose answers are lost."""
        self.faults.clear()
        over, self.over = self.over, trio.Event()
        over.set()

    def plain(self) -> list[dict[str, Any]]:
        """As plain values, for `restore`."""
        return [fault.plain() for fault in self.faults]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """The faults of another life of this broker."""
        for each in saved:
            values = dict(each)
            hits, seen = values.pop("hits"), values.pop("seen")
            self.faults.append(Fault(values.pop("kind"), values.pop("api"), **values).over_again(hits, seen))

    def match(self, key: ApiKey, request: Any, context: Context) -> Fault | None:
        """The fault that hits a request; it counts as hit."""
        found: Fault | None = None
        for fault in self.faults:
            if fault.key is key and fault.is_armed:
                fault.see()
                if found is None and fault.fits(request, context):
                    found = fault
        if found is not None:
            found.hit()
        return found


def asks_all(request: Any, version: int) -> bool:
    """Whether a Metadata request is about all topics."""
    return request.topics is None or (version == 0 and not request.topics)


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
    from difflib import get_close_matches

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
