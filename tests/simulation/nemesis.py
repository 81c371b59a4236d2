"""The nemesis: kills, cuts power, pauses, breaks links and disks, jumps clocks, ends sessions. Then it heals all."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence

import trio

from tests.simulation.broker_node import Cluster
from tests.simulation.clients import HOST

BREAKABLE = (  # operations of the disk, the likelier ones more than once
    "sync", "sync", "append", "append", "truncate", "write_atomic", "rename",
    "pread", "open", "sync_dir", "size", "list_dir", "read", "remove",
)  # fmt: skip


class Nemesis:
    """Does bad things to the broker, its disk, its clock, its network and its store: a selection of kinds per seed."""

    def __init__(self, cluster: Cluster, allowed: Sequence[str] | None = None) -> None:
        self.cluster = cluster
        self.node = cluster.node
        self.world = cluster.world
        self.random = cluster.world.random("fault")
        kinds = self.choose()
        names = list(kinds) if allowed is None else list(allowed)
        if allowed is None:
            names = self.select(names)
        self.names = names
        self.kinds = [kinds[name] for name in names]

    def select(self, names: list[str]) -> list[str]:
        """Those that a seed has to do with."""
        return self.random.sample(names, self.random.randint(2, 6))

    def choose(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """The kinds there are, by name."""
        return {
            "kill": self.kill,
            "kill_twice": self.kill_twice,
            "restart": self.restart,
            "power_loss": self.power_loss,
            "kill_then_power_loss": self.kill_then_power_loss,
            "pause": self.pause,
            "reset": self.reset,
            "cut": self.cut,
            "slow": self.slow,
            "no_space": self.no_space,
            "disk_error": self.disk_error,
            "jump": self.jump,
            "session": self.session,
            "store": self.store,
        }

    async def rage(self, seconds: float) -> None:
        """One fault after the other for so long; then everything heals."""
        self.world.trace("nemesis", self.names)
        with trio.move_on_after(seconds):
            while True:
                await trio.sleep(self.random.expovariate(1.5))
                await self.random.choice(self.kinds)()
                self.cluster.start()
        await self.heal()

    async def heal(self) -> None:
        """Undo all, and start the broker once more, as a disk that failed asks for."""
        self.world.network.heal()
        self.node.resume()
        self.node.volume.heal()
        self.node.volume.capacity = 1 << 40
        self.cluster.disk_trouble, self.cluster.store_trouble = False, 0.0
        if self.random.random() < 0.5:
            self.cluster.kill()
        else:
            await self.cluster.stop()
        self.cluster.start()

    async def kill(self) -> None:
        self.cluster.kill()
        await trio.sleep(self.random.random() * 0.5)
        self.cluster.start()

    async def kill_twice(self) -> None:
        self.cluster.kill()
        self.cluster.start()
        await trio.sleep(self.random.random() * 0.05)
        await self.kill()

    async def restart(self) -> None:
        with trio.move_on_after(5):
            await self.cluster.stop()
        if self.random.random() < 0.3:
            return
        self.cluster.start()

    async def power_loss(self) -> None:
        self.cluster.power_loss()
        await trio.sleep(self.random.random() * 0.5)
        self.cluster.start()

    async def kill_then_power_loss(self) -> None:
        """What a killed broker left in the page cache is trusted by the next one, and is not durable for that."""
        await self.kill()
        await trio.sleep(self.random.random() * 1.5)
        await self.power_loss()

    async def pause(self) -> None:
        self.node.pause()
        await trio.sleep(self.random.choice([0.2, 1, 8]) * self.random.random())
        self.node.resume()

    async def reset(self) -> None:
        self.world.network.reset(HOST)

    async def cut(self) -> None:
        away, back = self.random.choice([(HOST, "*"), ("*", HOST), (HOST, "consumer-0"), ("idempotent-0", HOST)])
        self.world.network.cut(away, back)
        await trio.sleep(self.random.random() * 4)
        self.world.network.heal()

    async def slow(self) -> None:
        client = self.random.choice(["idempotent-0", "idempotent-1", "consumer-0"])
        self.world.network.slow(HOST, client, self.random.random())
        await trio.sleep(self.random.random() * 3)
        self.world.network.heal()

    async def no_space(self) -> None:
        volume = self.node.volume
        self.cluster.disk_trouble, self.cluster.checker.disk_is_sound = True, False
        volume.capacity = volume.used + self.random.randint(0, 1500)
        await trio.sleep(self.random.random() * 3)
        volume.capacity = 1 << 40
        self.cluster.disk_trouble = bool(volume.faults)

    async def disk_error(self) -> None:
        self.cluster.disk_trouble, self.cluster.checker.disk_is_sound = True, False
        what = self.random.choice(BREAKABLE)
        self.node.volume.fail(what, nth=self.random.randint(1, 8), times=self.random.choice([1, 1, 5]), error=errno.EIO)
        await trio.sleep(self.random.random() * 3)
        self.node.volume.heal()
        self.cluster.disk_trouble = False
        if self.random.random() < 0.7:
            await self.random.choice([self.kill, self.restart])()

    async def jump(self) -> None:
        self.node.clock.jump_data(self.random.choice([-1, 1]) * self.random.randint(0, 120_000))

    async def session(self) -> None:
        self.world.node("store").clock.jump_liveness(10)

    async def store(self) -> None:
        self.cluster.store_trouble = self.random.choice([0.1, 0.5, 1.0])
        await trio.sleep(self.random.random() * 4)
        self.cluster.store_trouble = 0.0
