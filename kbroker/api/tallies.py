"""What a broker's connections count, for who tells people of it: requests and how long they took, connections.

Plain numbers, added to once per request or connection. They count since the broker started, and never go back.
"""

from __future__ import annotations

from collections.abc import Callable

TIMES = 28  # classes of times: the last has all from two minutes on


class Tally:
    """The requests of one API in one version that were answered and, where that is measured, how long it took."""

    __slots__ = ("requests", "now", "seconds", "times")

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self.requests = 0
        self.now = now  # a clock, in seconds; None: times are not measured
        self.seconds = 0.0  # in all: from when a request was taken up until its answer was there
        self.times = [0] * TIMES  # requests by the bit length of their microseconds: below 1, 2, 4, 8 ...

    def note(self, began: float) -> None:
        """One more. began: by the clock, or 0 if there was none then."""
        self.requests += 1
        if began:
            assert self.now is not None
            seconds = self.now() - began
            self.seconds += seconds
            self.times[min(int(seconds * 1e6).bit_length(), TIMES - 1)] += 1


class Crowd:
    """The connections of one listener."""

    __slots__ = ("accepted", "closed", "refused")

    def __init__(self) -> None:
        self.accepted = 0  # that were served, or are
        self.closed = 0
        self.refused = 0  # hung up on, as there were too many

    def note_accepted(self) -> None:
        """One more is served."""
        self.accepted += 1

    def note_closed(self) -> None:
        """One of them is gone."""
        self.closed += 1

    def note_refused(self) -> None:
        """One came too many."""
        self.refused += 1


class Tallies:
    """All that a broker's connections have counted. Owns which tallies there are."""

    def __init__(self) -> None:
        self.requests: dict[int, Tally] = {}  # by `key << 16 | version`
        self._now: Callable[[], float] | None = None
        self.listeners: dict[str, Crowd] = {}  # by name

    def of(self, pair: int) -> Tally:
        """Of an API in a version."""
        return self.requests.setdefault(pair, Tally(self._now))

    def measure(self, now: Callable[[], float]) -> None:
        """Measure times, by this clock, from now on: a broker that nobody asks for them is spared the looks at it."""
        self._now = now
        for tally in self.requests.values():
            tally.now = now

    def crowd(self, listener: str) -> Crowd:
        """Of a listener."""
        return self.listeners.setdefault(listener, Crowd())
