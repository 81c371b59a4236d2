"""Faults one after the other, aimed at what chance alone hardly ever meets. Each looks at one partition.

last_standing   followers are cut off until the leader is alone in sync; it loses power; all come back (R10, KIP-966)
rejoin          a follower comes back into the ISR, and loses power while that is being written (KIP-903)
lag_join        a follower is behind, and the others forget where the high watermark was (K-7128)
lost_shrink     the leader drops a follower from the ISR, and does not hear whether that was written (R5)
deposed         a leader is cut off until it has a successor, and some clients know no other than it (R14)
old_fetch       a follower's fetch is on its way while it restarts (KIP-903), or its leader does (R8)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

import trio

from kbroker.testing.store_server import STORE
from tests.simulation.cluster.clients import Routed
from tests.simulation.cluster.nemesis import ClusterNemesis
from tests.simulation.cluster.nodes import BrokerNode, Place, Stored

AIM_SECONDS = 6.0


class AimingNemesis(ClusterNemesis):
    """With these kinds, too."""

    naive: Sequence[Routed] = ()  # clients that may be told of one broker only
    lasting: Mapping[Place, str] = MappingProxyType({})  # partitions of topics that nobody deletes, by name; else all

    def choose(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """The kinds there are, by name."""
        return {**super().choose(), **self.macros()}

    def macros(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Those that are aimed."""
        return {
            "last_standing": self.last_standing,
            "rejoin": self.rejoin,
            "lag_join": self.lag_join,
            "lost_shrink": self.lost_shrink,
            "deposed": self.deposed,
            "old_fetch": self.old_fetch,
        }

    def select(self, names: list[str]) -> list[str]:
        """At random, with something aimed among it."""
        aimed = list(self.macros())
        plain = [name for name in names if name not in aimed]
        return [*super().select(plain), *self.random.sample(aimed, self.random.randint(1, 2))]

    # -- helpers

    def target(self) -> tuple[Place, BrokerNode, list[BrokerNode]] | None:
        """A partition, its leader that runs, its followers in any order; None: there is none."""
        partitions = self.cluster.partitions
        places = [place for place in self.lasting or partitions if len(partitions[place].replicas) > 2]
        if not places:
            return None
        place = self.random.choice(places)
        stored, leader = partitions[place], self.cluster.leader_of(place)
        if leader is None or not leader.node.running:
            return None
        followers = [self.cluster.nodes[n] for n in stored.replicas if n != leader.id]
        self.random.shuffle(followers)
        return place, leader, followers

    async def wait_until(self, place: Place, holds: Callable[[Stored], bool], seconds: float = AIM_SECONDS) -> bool:
        """Until the store has a partition so; whether it came to that."""
        with trio.move_on_after(seconds):
            while place in self.cluster.partitions:
                if holds(self.cluster.partitions[place]):
                    return True
                await trio.sleep(0.02)
        return False

    def cut_both(self, one: str, other: str) -> None:
        """Both ways."""
        self.network.cut(one, other)
        self.network.cut(other, one)

    async def pause_for(self, seconds: float) -> None:
        """Up to so long."""
        await trio.sleep(self.random.random() * seconds)

    def start_most(self) -> None:
        """Those that are down, most of them."""
        for node in self.cluster.nodes.values():
            if not node.node.running and self.random.random() < 0.8:
                node.start()

    # -- macros

    async def last_standing(self) -> None:
        target = self.target()
        if target is None:
            return
        place, leader, followers = target
        for follower in followers:
            self.network.cut(follower.name, leader.name)
        alone = await self.wait_until(place, lambda stored: stored.isr == (leader.id,))
        self.world.trace("aimed", "last_standing", alone)
        await self.pause_for(1.5)
        self.crash(leader, power=True)
        if self.random.random() < 0.5:
            self.network.heal()
        await self.pause_for(3)
        self.network.heal()
        leader.start()
        await self.pause_for(3)
        self.start_most()

    async def rejoin(self) -> None:
        target = self.target()
        if target is None:
            return
        place, leader, (follower, *_) = target
        self.network.cut(follower.name, leader.name)
        await self.wait_until(place, lambda stored: follower.id not in stored.isr)
        self.network.heal()
        self.network.slow(leader.name, STORE, self.random.uniform(0.2, 0.8))
        await trio.sleep(self.random.uniform(0.05, 0.6))
        if follower.node.running:
            self.network.slow(leader.name, follower.name, self.random.uniform(0.2, 0.8))  # what it lost comes slowly
            self.crash(follower, power=True)
            follower.start()
        joined = await self.wait_until(place, lambda stored: follower.id in stored.isr, 2.0)
        self.world.trace("aimed", "rejoin", joined)
        if self.random.random() < 0.6:
            self.crash(leader, power=False)
        await self.pause_for(1)
        self.network.heal()
        self.start_most()

    async def lag_join(self) -> None:
        target = self.target()
        if target is None:
            return
        place, leader, (late, other, *_) = target
        for host in (leader.name, other.name):
            self.cut_both(late.name, host)
        shrunk = await self.wait_until(place, lambda stored: late.id not in stored.isr and len(stored.isr) > 1)
        self.world.trace("aimed", "lag_join", shrunk)
        await self.pause_for(0.5)
        self.crash(leader, power=False)
        self.crash(other, power=False)
        self.network.heal()
        self.cut_both(other.name, leader.name)
        (leader if self.random.random() < 0.7 else other).start()
        await self.pause_for(4)
        self.network.heal()
        leader.start()
        other.start()
        await self.pause_for(2)

    async def lost_shrink(self) -> None:
        target = self.target()
        if target is None:
            return
        place, leader, (follower, *_) = target
        if self.random.random() < 0.5:
            self.network.cut(STORE, leader.name)
        if self.random.random() < 0.7:
            self.network.cut(leader.name, STORE)
        self.network.cut(follower.name, leader.name)
        await trio.sleep(1 + self.random.random() * 5)
        if self.random.random() < 0.4:
            self.crash(leader, power=False)
        self.network.heal()
        self.start_most()

    async def deposed(self) -> None:
        target = self.target()
        if target is None:
            return
        place, leader, followers = target
        by_pause = self.random.random() < 0.4
        if by_pause:
            leader.node.pause()
        for host in (STORE, *(follower.name for follower in followers)):
            self.cut_both(leader.name, host)
        elected = await self.wait_until(place, lambda stored: stored.leader not in (-1, leader.id))
        self.world.trace("aimed", "deposed", elected)
        await trio.sleep(self.random.uniform(1, 3))  # they write to its successor
        for client in self.naive:
            client.misled = leader.name
        leader.node.resume()
        await trio.sleep(self.random.uniform(1, 4))
        if self.random.random() < 0.5:
            self.network.heal()
            await self.pause_for(0.5)
        for client in self.naive:
            client.misled = ""
        self.network.heal()

    async def old_fetch(self) -> None:
        target = self.target()
        if target is None:
            return
        place, leader, (follower, *_) = target
        self.network.slow(follower.name, leader.name, self.random.uniform(0.3, 1.5))
        await self.pause_for(1)
        victim = self.random.choice([follower, leader])
        self.crash(victim, power=self.random.random() < 0.6)
        await self.pause_for(0.2)
        victim.start()
        await self.pause_for(2)
        self.network.heal()

    def heal(self) -> None:
        for client in self.naive:
            client.misled = ""
        super().heal()
