"""Delays: the delayers of a broker's partitions. Owns which there are.

There is one for every partition that is held here, led or followed, whose topic has kbroker.delay.enable, or had it: as
long as anything lay hidden in its log. The ReplicaManager tells of all roles, again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from kbroker.env import Env
from kbroker.log.log import PartitionLog
from kbroker.replication.partition import Partition

if TYPE_CHECKING:
    from kbroker.delay.delayer import Delayer

LOOK_S = 0.25  # between two looks at the clocks
JUMP_S = 0.1  # the data clock has jumped when it went by so much more, or less, than the other

Key = tuple[str, int]


class Delays:
    """The delayers of one broker."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self._delayers: dict[Key, tuple[Delayer, trio.CancelScope]] = {}
        self._nursery: trio.Nursery | None = None  # None: not running
        self._has_any = trio.Event()

    def of(self, topic: str, index: int) -> Delayer | None:
        """The delayer of a partition; None: nothing is delayed there."""
        found = self._delayers.get((topic, index))
        return found[0] if found is not None else None

    def assume(self, partition: Partition) -> None:
        """A partition is held here, in whatever role. To be told when that, or its topic's configs, have changed."""
        key = partition.topic, partition.index
        found = self._delayers.get(key)
        if found is not None and found[0].partition is partition:
            found[0].wake()
            return
        if found is not None:
            self.leave(*key)
        if partition.log.rules.delays or partition.log.has_hidden:
            from kbroker.delay.delayer import Delayer  # here: most brokers start faster without it

            self._has_any.set()
            delayer, scope = self._delayers[key] = Delayer(partition, self.env), trio.CancelScope()
            if self._nursery is not None:
                self._nursery.start_soon(self._live, delayer, scope)

    async def carry(self, starts: Mapping[PartitionLog, int]) -> None:
        """Wait until nothing that is pending lies below where these logs are to start: a replica that comes later would
        not get it. The caller bounds the wait."""
        held = {each for each, offset in starts.items() if each.held_from < offset}
        if held:
            for delayer, _ in tuple(self._delayers.values()):
                if delayer.log in held:
                    await delayer.carry_to(starts[delayer.log])

    def leave(self, topic: str, index: int) -> None:
        """A partition is not held here any more."""
        found = self._delayers.pop((topic, index), None)
        if found is not None:
            found[1].cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for delayer, scope in self._delayers.values():
                nursery.start_soon(self._live, delayer, scope)
            task_status.started()
            try:
                await self._watch_clock()
            finally:
                self._nursery = None

    async def _live(self, delayer: Delayer, scope: trio.CancelScope) -> None:
        with scope:
            await delayer.run()

    async def _watch_clock(self) -> None:
        """Who waits for what is due waits for some time; when the data clock is set, that is not the right one."""
        await self._has_any.wait()
        clock = self.env.clock
        ahead_s = clock.data_ms() / 1000 - clock.liveness()
        while True:
            await clock.sleep(LOOK_S)
            before, ahead_s = ahead_s, clock.data_ms() / 1000 - clock.liveness()
            if abs(ahead_s - before) > JUMP_S:
                for delayer, _ in self._delayers.values():
                    delayer.wake()
