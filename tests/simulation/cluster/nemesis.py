"""Faults of a cluster: each seed has a random selection of kinds (a swarm), with something aimed among it.

kill           -9; the page cache stays               power_loss      what was not flushed goes; within the budget
pause          SIGSTOP                                restart         a clean stop, which hands leaderships over
isolate, one_way, slow, reset                         of the network, between brokers, store and clients
store_cut, store_loss, store_down, store_forgets      of the store: out of reach, lost answers, down, compacted
no_space, disk_error, jump                            of one disk; of one broker's clock
"""

from __future__ import annotations

import errno
import random
from collections.abc import Awaitable, Callable, Sequence

import trio

from kbroker.testing.store_server import STORE
from tests.simulation.checker import Checker
from tests.simulation.cluster.nodes import BrokerNode, Cluster
from tests.simulation.nemesis import BREAKABLE

PLENTY = 1 << 40


class ClusterNemesis:
    """Does bad things to brokers, their disks and clocks, the network and the store. Then it heals all."""

    def __init__(
        self, cluster: Cluster, checker: Checker, clients: Sequence[str], allowed: Sequence[str] | None = None
    ) -> None:
        """clients: hosts of some. allowed: kinds of faults; a random selection, if not given."""
        self.cluster = cluster
        self.checker = checker
        self.clients = list(clients)
        self.world = cluster.world
        self.network = cluster.world.network
        self.random: random.Random = cluster.world.random("fault")
        kinds = self.choose()
        self.names = list(allowed) if allowed is not None else self.select(list(kinds))
        self._kinds = [kinds[name] for name in self.names]

    def choose(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """The kinds there are, by name."""
        return {
            "kill": self.kill,
            "kill_all": self.kill_all,
            "power_loss": self.power_loss,
            "pause": self.pause,
            "restart": self.restart,
            "isolate": self.isolate,
            "one_way": self.one_way,
            "slow": self.slow,
            "reset": self.reset,
            "store_cut": self.store_cut,
            "store_loss": self.store_loss,
            "store_down": self.store_down,
            "store_forgets": self.store_forgets,
            "no_space": self.no_space,
            "disk_error": self.disk_error,
            "jump": self.jump,
        }

    def select(self, names: list[str]) -> list[str]:
        """Those that a seed has to do with."""
        return self.random.sample(names, self.random.randint(2, 6))

    async def rage(self, seconds: float) -> None:
        """One fault after the other for so long, some at the same time; then everything heals."""
        self.world.trace("nemesis", self.names)
        with trio.move_on_after(seconds):
            while True:
                await trio.sleep(self.random.expovariate(1.5))
                number = self.random.randrange(len(self._kinds))
                self.world.trace("fault", self.names[number])
                await self._kinds[number]()
                self.start_some()
        self.heal()

    def heal(self) -> None:
        """Undo all; brokers whose disks had failed are started once more, as that asks for."""
        self.world.trace("healing")
        self.network.heal()
        self.cluster.store.loss = 0.0
        self.cluster.store.start()
        for node in self.cluster.nodes.values():
            node.node.resume()
            node.node.volume.heal()
            node.node.volume.capacity = PLENTY
            if node.disk_trouble:
                node.disk_trouble = False
                node.kill()
            node.start()

    def start_some(self) -> None:
        """Of those that are down."""
        for node in self.cluster.nodes.values():
            if not node.node.running and self.random.random() < 0.6:
                node.start()

    # -- victims

    def victim(self) -> BrokerNode:
        """A broker; often one that leads something."""
        nodes = list(self.cluster.nodes.values())
        return self.a_leader() or self.random.choice(nodes) if self.random.random() < 0.5 else self.random.choice(nodes)

    def a_leader(self) -> BrokerNode | None:
        """Who leads some partition, by the store."""
        places = list(self.cluster.partitions)
        return self.cluster.leader_of(self.random.choice(places)) if places else None

    def crash(self, node: BrokerNode, *, power: bool) -> None:
        """End it; without power where the budget allows."""
        if node.node.running:
            if power and self.cluster.may_lose_power(node):
                node.lose_power()
            else:
                node.kill()

    # -- processes

    async def kill(self) -> None:
        node = self.victim()
        self.crash(node, power=False)
        await trio.sleep(self.random.choice([0.1, 1, 5]) * self.random.random())
        if self.random.random() < 0.8:
            node.start()

    async def kill_all(self) -> None:
        for node in self.cluster.nodes.values():
            self.crash(node, power=False)
        await trio.sleep(self.random.random())
        self.cluster.start()

    async def power_loss(self) -> None:
        node = self.victim()
        self.crash(node, power=True)
        await trio.sleep(self.random.choice([0.1, 1, 4]) * self.random.random())
        if self.random.random() < 0.8:
            node.start()

    async def pause(self) -> None:
        node = self.victim().node
        node.pause()
        seconds = self.random.choice([0.3, 2, 6]) * self.random.random()
        self.world.clock.call_at(self.world.now() + seconds, node.resume)
        if self.random.random() < 0.5:
            await trio.sleep(seconds)

    async def restart(self) -> None:
        node = self.victim()
        await node.stop(5.0)
        await trio.sleep(self.random.random())
        node.start()

    # -- the network

    def others(self, node: BrokerNode) -> list[str]:
        """All other hosts a broker talks to."""
        return [*(name for name in self.cluster.names if name != node.name), STORE, *self.clients]

    async def isolate(self) -> None:
        """From some or all."""
        node, share = self.victim(), self.random.choice([0.5, 1.0])
        for host in self.others(node):
            if self.random.random() < share:
                self.network.cut(host, node.name)
                self.network.cut(node.name, host)
        await self._for_a_while(5)

    async def one_way(self) -> None:
        node = self.victim()
        host = self.random.choice(self.others(node))
        self.network.cut(
            *self.random.choice([(host, node.name), (node.name, host), (node.name, "*"), ("*", node.name)])
        )
        await self._for_a_while(5)

    async def slow(self) -> None:
        node = self.victim()
        for host in self.others(node):
            if self.random.random() < 0.6:
                self.network.slow(node.name, host, self.random.uniform(0.02, 0.6))
            if self.random.random() < 0.3:
                self.network.slow(host, node.name, self.random.uniform(0.02, 0.6))
        await self._for_a_while(4)

    async def reset(self) -> None:
        node = self.victim()
        if node.name in self.network.hosts:
            self.network.reset(node.name, self.random.choice(["*", *self.others(node)]))

    async def _for_a_while(self, seconds: float) -> None:
        await trio.sleep(self.random.choice([0.2, 1.0]) * self.random.random() * seconds)
        if self.random.random() < 0.8:  # else it stays, and others come to it
            self.network.heal()

    # -- the store

    async def store_cut(self) -> None:
        """From one broker or all."""
        name = self.random.choice([self.victim().name, self.victim().name, "*"])
        for way in self.random.choice([((name, STORE), (STORE, name)), ((name, STORE),), ((STORE, name),)]):
            self.network.cut(*way)
        await self._for_a_while(5)

    async def store_loss(self) -> None:
        self.cluster.store.loss = self.random.choice([0.1, 0.4, 0.8])
        await trio.sleep(self.random.random() * 4)
        self.cluster.store.loss = 0.0

    async def store_down(self) -> None:
        self.cluster.store.stop()
        await trio.sleep(self.random.random() * self.random.choice([1, 6]))
        self.cluster.store.start()

    async def store_forgets(self) -> None:
        self.cluster.store.forget(self.cluster.store.revision + 1 - self.random.randint(0, 2))
        if self.random.random() < 0.5:
            self.cluster.store.break_watches()

    # -- disks and clocks

    async def no_space(self) -> None:
        node = self.victim()
        node.disk_trouble, self.checker.disk_is_sound = True, False
        volume = node.node.volume
        volume.capacity = volume.used + self.random.randint(0, 1500)
        await trio.sleep(self.random.random() * 3)
        volume.capacity = PLENTY
        if not volume.faults:
            node.disk_trouble = False

    async def disk_error(self) -> None:
        """A disk that fails to keep something is one that loses it, as far as the fault budget is concerned."""
        node = self.victim()
        if not self.cluster.may_lose_power(node):
            return
        self.cluster.lossy.add(node.id)
        node.disk_trouble, self.checker.disk_is_sound = True, False
        volume = node.node.volume
        what = self.random.choice(BREAKABLE)
        volume.fail(what, nth=self.random.randint(1, 8), times=self.random.choice([1, 1, 5]), error=errno.EIO)
        await trio.sleep(self.random.random() * 3)
        volume.heal()
        if self.random.random() < 0.7:
            node.kill()
            await trio.sleep(self.random.random())
            node.disk_trouble = False
            node.start()

    async def jump(self) -> None:
        self.victim().node.clock.jump_data(self.random.choice([-1, 1]) * self.random.randint(0, 120_000))
