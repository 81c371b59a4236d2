"""A member of a consumer group and its journal; the loop that Python clients share.

A member reads by itself, as an application does. Whatever happens to it stands in its journal, in order:

    assigned, revoked, lost    a partition, as the client's rebalance callbacks tell (a client without them tells less)
    took                       a record
    committed                  an offset that the coordinator acknowledged: all records before it are done
    refused                    an error in Kafka's words (`topic`), from reading or committing

`at` is milliseconds of the machine's monotonic clock, the same in all processes.

Owns: one thread per `Pumped` member, the only one that touches its consumer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple

from common import Refused

CALL_SECONDS_MAX = 30.0

Place = tuple[str, int]  # topic, partition


class Entry(NamedTuple):
    at: int
    kind: str
    topic: str
    partition: int = -1
    offset: int = -1


class Member:
    """Subscribed with `Client.member`; `leave` tells the coordinator, ending its process does not."""

    def journal(self) -> list[Entry]:
        raise NotImplementedError

    def owned(self) -> set[Place]:
        """The partitions it reads now."""
        raise NotImplementedError

    def commit(self, offsets: dict[Place, int], wait: bool = True) -> None:
        """Synchronously or, without `wait`, by the client's asynchronous call."""
        raise NotImplementedError

    def committed(self, place: Place) -> int | None:
        """By the consumer's own call."""
        raise NotImplementedError

    def seek(self, place: Place, offset: int) -> None:
        raise NotImplementedError

    def leave(self) -> None:
        raise NotImplementedError


class Pumped(Member):
    """A member whose consumer is polled by a thread of its own. An adapter fills in the `do_` methods."""

    poll_seconds = 0.1

    def __init__(self, commits: bool) -> None:
        """`commits`: each poll's records are committed, synchronously, before the next poll."""
        self.commits = commits
        self.entries: list[Entry] = []
        self.jobs: queue.Queue[tuple[Future[Any], Callable[[], Any]]] = queue.Queue()
        self.over = threading.Event()
        self.holding: set[Place] = set()
        self.thread = threading.Thread(target=self._pump, daemon=True)
        self.thread.start()

    def do_open(self) -> None:
        """Make the consumer and subscribe."""
        raise NotImplementedError

    def do_poll(self, seconds: float) -> Iterable[tuple[str, int, int]]:
        """Topic, partition and offset of what came."""
        raise NotImplementedError

    def do_owned(self) -> set[Place]:
        raise NotImplementedError

    def do_commit(self, offsets: dict[Place, int], wait: bool) -> None:
        raise NotImplementedError

    def do_committed(self, place: Place) -> int | None:
        raise NotImplementedError

    def do_seek(self, place: Place, offset: int) -> None:
        raise NotImplementedError

    def do_close(self) -> None:
        raise NotImplementedError

    def note(self, kind: str, topic: str, partition: int = -1, offset: int = -1) -> None:
        self.entries.append(Entry(now(), kind, topic, partition, offset))

    def note_all(self, kind: str, places: Iterable[Any]) -> None:
        for place in places:
            self.note(kind, place.topic, place.partition)

    def journal(self) -> list[Entry]:
        return list(self.entries)

    def owned(self) -> set[Place]:
        return set(self.holding)

    def commit(self, offsets: dict[Place, int], wait: bool = True) -> None:
        self._in_pump(lambda: self.do_commit(offsets, wait))

    def committed(self, place: Place) -> int | None:
        found: int | None = self._in_pump(lambda: self.do_committed(place))
        return found

    def seek(self, place: Place, offset: int) -> None:
        self._in_pump(lambda: self.do_seek(place, offset))

    def leave(self) -> None:
        self.over.set()
        self.thread.join(CALL_SECONDS_MAX)

    def _in_pump(self, work: Callable[[], Any]) -> Any:
        answer: Future[Any] = Future()
        self.jobs.put((answer, work))
        return answer.result(CALL_SECONDS_MAX)

    def _pump(self) -> None:
        while not self.over.is_set() and not self._open():
            self.over.wait(self.poll_seconds)  # the broker is away: an application would be started again
        try:
            while not self.over.is_set():
                while not self.jobs.empty():
                    settle(*self.jobs.get())
                self._turn()
        except Exception as error:
            self.note("refused", repr(error))
            raise
        finally:
            self.holding = set()
            self.do_close()

    def _open(self) -> bool:
        try:
            self.do_open()
        except Refused as error:
            self.note("refused", error.name)
            return False
        return True

    def _turn(self) -> None:
        """One poll, and what follows from it."""
        try:
            offsets: dict[Place, int] = {}
            for topic, partition, offset in self.do_poll(self.poll_seconds):
                self.note("took", topic, partition, offset)
                offsets[topic, partition] = offset + 1
            self.holding = self.do_owned()
            if offsets and self.commits:
                self.do_commit(offsets, True)
                for (topic, partition), offset in offsets.items():
                    self.note("committed", topic, partition, offset)
        except Refused as error:
            self.note("refused", error.name)
            self.over.wait(self.poll_seconds)


def settle(answer: Future[Any], work: Callable[[], Any]) -> None:
    try:
        answer.set_result(work())
    except Exception as error:
        answer.set_exception(error)


def now() -> int:
    return int(time.monotonic() * 1000)
