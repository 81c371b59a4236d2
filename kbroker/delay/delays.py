"""Delays: the delayers of a broker's partitions. Owns which there are.

There is one for every partition that is held here, led or followed, whose topic has kbroker.delay.enable, or had it: as
long as anything lay hidden in its log. The ReplicaManager tells of all roles, again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import trio

from kbroker.env import Env
from kbroker.log.log import PartitionLog
from kbroker.replication.partition import Partition

if TYPE_CHECKING:
    from kbroker.delay.delayer import Delayer

LOOK_S = 0.25  # between two looks at the clocks
JUMP_S = 0.1  # the data clock has jumped when it went by so much more, or less, than the other

Key = tuple[str, int]


class Running(NamedTuple):
    """A delayer, and its task."""

    delayer: Delayer
    scope: trio.CancelScope
    ended: trio.Event
    before: trio.Event | None  # rings when the one before it, of a partition of this name, has ended


class Delays:
    """The delayers of one broker."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self._delayers: dict[Key, Running] = {}
        self._ending: dict[Key, trio.Event] = {}  # those that are given up, and may yet write to their schedule
        self._nursery: trio.Nursery | None = None  # None: not running
        self._has_any = trio.Event()

    def of(self, topic: str, index: int) -> Delayer | None:
        """The delayer of a partition; None: nothing is delayed there."""
        found = self._delayers.get((topic, index))
        return found.delayer if found is not None else None

    def delayers(self) -> list[tuple[Key, Delayer]]:
        """All of them, by topic and index."""
        return [(key, running.delayer) for key, running in self._delayers.items()]

    def assume(self, partition: Partition) -> None:
        """A partition is held here, in whatever role. To be told when that, or its topic's configs, have changed."""
        key = partition.topic, partition.index
        found = self._delayers.get(key)
        if found is not None and found.delayer.partition is partition:
            found.delayer.wake()
            return
        if found is not None:
            self.leave(*key)
        if partition.log.rules.delays or partition.log.has_hidden:
            from kbroker.delay.delayer import Delayer  # here: most brokers start faster without it

            self._has_any.set()
            delayer, before = Delayer(partition, self.env), self._ending.get(key)
            running = self._delayers[key] = Running(delayer, trio.CancelScope(), trio.Event(), before)
            if self._nursery is not None:
                self._nursery.start_soon(self._live, key, running)

    async def carry(self, starts: Mapping[PartitionLog, int]) -> None:
        """Wait until nothing that is pending lies below where these logs are to start: a replica that comes later would
        not get it. The caller bounds the wait."""
        held = {each for each, offset in starts.items() if each.held_from < offset}
        if held:
            for delayer in [each.delayer for each in self._delayers.values() if each.delayer.log in held]:
                await delayer.carry_to(starts[delayer.log])

    def leave(self, topic: str, index: int) -> None:
        """A partition is not held here any more."""
        found = self._delayers.pop((topic, index), None)
        if found is not None:
            found.scope.cancel()
            if self._nursery is not None:
                self._ending[topic, index] = found.ended

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for key, running in self._delayers.items():
                nursery.start_soon(self._live, key, running)
            task_status.started()
            try:
                await self._watch_clock()
            finally:
                self._nursery = None

    async def _live(self, key: Key, running: Running) -> None:
        """One at a time: a worker that has begun to write a schedule ends that, whoever has been cancelled."""
        if running.before is not None:
            with trio.CancelScope(shield=True):
                await running.before.wait()
        try:
            with running.scope:
                await running.delayer.run()
        finally:
            running.ended.set()
            if self._ending.get(key) is running.ended:
                del self._ending[key]

    async def _watch_clock(self) -> None:
        """Who waits for what is due waits for some time; when the data clock is set, that is not the right one."""
        await self._has_any.wait()
        clock = self.env.clock
        ahead_s = clock.data_ms() / 1000 - clock.liveness()
        while True:
            is_set = await clock.sleep_data(LOOK_S)
            before, ahead_s = ahead_s, clock.data_ms() / 1000 - clock.liveness()
            if is_set or abs(ahead_s - before) > JUMP_S:
                for each in self._delayers.values():
                    each.delayer.wake()
