"""FaultWords: how a test says what is to happen to requests. The same in the broker's loop and over a portal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises


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
        self.add("error", api, code=code, topic=topic, partition=partition, times=times, client_id=client_id)

    def delay(
        self, api: str, ms: int, *, topic: str | None = None, times: int | None = 1, client_id: str | None = None
    ) -> None:
        """Answer so many milliseconds later. What is asked is carried out at once; later requests of the connection are
        answered after it."""
        self.add("delay", api, ms=ms, topic=topic, times=times, client_id=client_id)

    def lose_request(
        self, api: str, *, topic: str | None = None, times: int | None = 1, client_id: str | None = None
    ) -> None:
        """As if it had been lost on its way: it is not carried out, and neither it nor what comes after it on that
        connection is answered. The client notices when its request timeout is over."""
        self.add("lose_request", api, topic=topic, times=times, client_id=client_id)

    def lose_response(
        self, api: str, *, topic: str | None = None, times: int | None = 1, client_id: str | None = None
    ) -> None:
        """Carry it out and lose the answer, as `lose_request` loses requests."""
        self.add("lose_response", api, topic=topic, times=times, client_id=client_id)

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
        self.add(kind, api, topic=topic, times=times, client_id=client_id)

    @abstractmethod
    def add(self, kind: str, api: str, **values: Any) -> None:
        """Set a fault of that kind (`Fault`), which is what all of the words above do."""
