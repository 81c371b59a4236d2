"""IsrUpdates: has the in-sync replicas of what is led here written as they should be.

    a follower has caught up ──▶ noted ─┐                         ┌─ WRITTEN, it shrank ─▶ settled
    once a second: all that is led ─────┴▶ wanted_isr? ─▶ proposed ┤
                                                 ▲                └─ it grew; REFUSED; UNKNOWN ─▶ held for a second
                                                 └────────────────────────────────────────────────┘

What is wanted, and what counts meanwhile, is for the partition to say. Here is only when it is asked, and that no more
is under way than one batch. So a partition's ISR grows once a second at most. (Kafka: ReplicaManager.maybeShrinkIsr,
AlterPartitionManager.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from kbroker.cluster.image import ClusterImage, PartitionImage
from kbroker.cluster.isr_changes import IsrChange, IsrOutcome
from kbroker.config import BrokerConfig
from kbroker.env import Clock
from kbroker.replication.partition import Partition

BATCH_MAX = 360  # changes asked for at once: eight transactions
PARTITIONS_A_TURN = 64
LOOK_S, LOOKED_AT_MAX = 1.0, 1000  # between two looks for laggards; partitions looked at each time, if that will do
HOLD_S = 1.0  # a partition whose ISR grew, or did not change as it should, is asked again after that


class IsrUpdates:
    """Made once; `run` once."""

    def __init__(
        self,
        alter_isr: Callable[[Sequence[IsrChange]], Awaitable[list[IsrOutcome]]],
        image: Callable[[], ClusterImage],
        partitions: Callable[[], Iterable[Partition]],
        config: Callable[[], BrokerConfig],
        clock: Clock,
    ) -> None:
        """alter_isr, image: of the Registration. partitions: all that are here. clock: its liveness is asked."""
        self._alter_isr = alter_isr
        self._image = image
        self._partitions = partitions
        self._config = config
        self._clock = clock
        self._news: dict[Partition, None] = {}
        self.shrinks = self.expands = self.failures = 0  # changes that were written, and those that were not
        self._held: dict[Partition, float] = {}  # not to be asked until; each is asked then
        self._bell = trio.Event()

    def note(self, partition: Partition) -> None:
        """A partition's ISR may have to be another one: ask it soon."""
        if partition not in self._held:
            self._news[partition] = None
            self._bell.set()

    async def run(self) -> None:
        """See to it until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_for_laggards)
            while True:
                await self._wait_news()
                await self._update()

    async def _look_for_laggards(self) -> None:
        """Ask all partitions in turn: each once a second, or where there are very many, often enough to find who lags
        not much later than he does.
        """
        while True:
            partitions = tuple(self._partitions())
            rounds = min(-(-len(partitions) // LOOKED_AT_MAX) or 1, max(1, int(self._lag_max_s() / 2 / LOOK_S)))
            size = -(-len(partitions) // rounds)
            for first in range(0, max(len(partitions), 1), max(size, 1)):
                await self._clock.sleep(LOOK_S)
                await self._look_at(partitions[first : first + size])

    async def _look_at(self, partitions: Sequence[Partition]) -> None:
        for number, partition in enumerate(partitions, start=1):
            if partition.leading and partition.followers:
                self.note(partition)
            if not number % PARTITIONS_A_TURN:
                await trio.lowlevel.checkpoint()

    async def _wait_news(self) -> None:
        """Wait until there is somebody to ask."""
        while True:
            now_s = self._clock.liveness()
            for partition in [each for each, due in self._held.items() if due <= now_s]:
                del self._held[partition]
                self._news[partition] = None
            if self._news:
                return
            self._bell = trio.Event()
            with trio.move_on_after(min(self._held.values(), default=float("inf")) - now_s):
                await self._bell.wait()

    async def _update(self) -> None:
        """Ask for one batch of changes."""
        changes = await self._wanted()
        outcomes = await self._alter_isr([change for _, change in changes]) if changes else []
        now_s = self._clock.liveness()
        for (partition, change), outcome in zip(changes, outcomes, strict=True):
            partition.settle(change, outcome, _newest(partition, self._image()))
            self._count(change, outcome)
            if outcome is not IsrOutcome.WRITTEN or change.joining:
                self._held[partition] = now_s + HOLD_S

    def _count(self, change: IsrChange, outcome: IsrOutcome) -> None:
        is_written = outcome is IsrOutcome.WRITTEN
        self.failures += not is_written
        self.expands += is_written and bool(change.joining)
        self.shrinks += is_written and not set(change.partition.isr) <= set(change.isr)

    async def _wanted(self) -> list[tuple[Partition, IsrChange]]:
        """Changes that partitions with news want, proposed."""
        now_s, lag_max_s = self._clock.liveness(), self._lag_max_s()
        changes: list[tuple[Partition, IsrChange]] = []
        for number, partition in enumerate(tuple(self._news), start=1):
            del self._news[partition]
            if partition.log.offline is not None:
                continue  # it is of no use to anybody: its followers have to lead, not to leave
            partition.end_waits(now_s)
            change = partition.wanted_isr(now_s, lag_max_s)
            if change is not None:
                partition.propose(change)
                changes.append((partition, change))
                if len(changes) == BATCH_MAX:
                    break
            if not number % PARTITIONS_A_TURN:
                await trio.lowlevel.checkpoint()
        return changes

    def _lag_max_s(self) -> float:
        return self._config().get_int("replica.lag.time.max.ms") / 1000


def _newest(partition: Partition, image: ClusterImage) -> PartitionImage | None:
    """A partition as the cluster has it; None: it is gone."""
    topic = image.topics_by_id.get(partition.topic_id)
    return topic.partitions[partition.index] if topic is not None and partition.index < len(topic.partitions) else None
