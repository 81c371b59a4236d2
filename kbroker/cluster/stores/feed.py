"""Recent changes in order, and the watchers that follow them. Shared by the engines that keep their own history.

A Feed holds the events of the latest revisions, contiguous: first .. last. Who is older than first asks the engine's
history (`Past`), or is told Compacted. Appending rings every watcher.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeAlias

import trio

from kbroker.cluster.store import HEARTBEAT_S, Batch, Compacted, Event

REVISIONS_MAX = 1_000  # looked at in one step
EVENTS_MAX = 2_000  # when a batch is full; its last revision still goes in whole

Changes: TypeAlias = "list[tuple[int, tuple[Event, ...]]]"  # (revision, its events), ascending
Past: TypeAlias = Callable[[int], Awaitable["Changes"]]  # from a revision on, some; raises Compacted
Tick: TypeAlias = Callable[[], Awaitable[float]]  # looks for changes; answers in how many seconds to look again


class Feed:
    """The newest revisions, bounded by their number."""

    __slots__ = ("last", "_changes", "_revisions_max", "_bell")

    def __init__(self, last: int, revisions_max: int) -> None:
        self.last = last
        self._changes: deque[tuple[int, tuple[Event, ...]]] = deque()
        self._revisions_max = revisions_max
        self._bell = trio.Event()

    def append(self, revision: int, events: tuple[Event, ...]) -> None:
        """Take in the next revision; one that is known already changes nothing."""
        if revision <= self.last:
            return
        assert revision == self.last + 1, f"revision {revision} after {self.last}"
        self._changes.append((revision, events))
        self.last = revision
        if len(self._changes) > self._revisions_max:
            self._changes.popleft()
        self._bell.set()
        self._bell = trio.Event()

    def skip_to(self, revision: int) -> None:
        """Go on from this revision, of which nothing is known, nor of those before."""
        self._changes.clear()
        self.last = revision
        self._bell.set()
        self._bell = trio.Event()

    def forget(self, before_revision: int) -> None:
        """Drop what is older."""
        while self._changes and self._changes[0][0] < before_revision:
            self._changes.popleft()

    @property
    def first(self) -> int:
        """The oldest revision held; last + 1 when none is."""
        return self._changes[0][0] if self._changes else self.last + 1

    def since(self, revision: int) -> Changes | None:
        """Changes from revision on, not all if many; None when they begin before the oldest held."""
        first = self.first
        if revision < first:
            return None
        start = revision - first
        return [self._changes[i] for i in range(start, min(start + REVISIONS_MAX, len(self._changes)))]

    async def wait(self, seconds: float) -> bool:
        """Until something is appended, at most seconds; whether something was."""
        bell = self._bell
        with trio.move_on_after(seconds):
            await bell.wait()
        return bell.is_set()


async def follow(feed: Feed, prefix: bytes, from_revision: int, past: Past, tick: Tick) -> AsyncGenerator[Batch, None]:
    """The batches of one watch; see CoordinationStore.watch. A revision of the future is another history: Compacted."""
    cursor = from_revision
    silent_s = 0.0
    pause_s = await tick()
    if cursor > feed.last + 1:
        raise Compacted(feed.last)
    while True:
        changes = feed.since(cursor)
        if changes is None:
            changes = await past(cursor)
        events: list[Event] = []
        for revision, revision_events in changes:
            events += [event for event in revision_events if event.key.startswith(prefix)]
            cursor = revision + 1
            if len(events) >= EVENTS_MAX:
                break
        if changes or silent_s >= HEARTBEAT_S:
            silent_s = 0.0
            yield Batch(cursor - 1, tuple(events))
        else:
            pause_s = min(pause_s, HEARTBEAT_S - silent_s)
            if not await feed.wait(pause_s):
                silent_s += pause_s
                pause_s = await tick()
