"""Machines: what outlives the process of an embedded broker, on real sockets and in real time.

    MemoryMachine       for a broker in a thread: disk and coordination store are in memory. A kill breaks its
                        connections and leaves its page cache, and a power loss leaves what was synced.
    MemberMachine       the same for one of several, in one loop
    DirectoryMachine    for a broker that is a process: a directory, and the coordination store in it. The system does
                        the killing.

Each has a SteeredClock that starts at the real time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

from kbroker.cluster.store import CoordinationStore
from kbroker.cluster.stores.memory import MemoryStore
from kbroker.env import Env, Net
from kbroker.env.features import Features
from kbroker.env.real import RealClock, real_env
from kbroker.testing.broker import Life, Machine
from kbroker.testing.clock import SteeredClock
from kbroker.testing.embedded.net import LifeNet
from kbroker.testing.store import ProcessStore
from kbroker.testing.world import ProcessClock

FEATURES = Features.detect()


def real_time() -> SteeredClock:
    """A clock that shows the time of day, until it is steered. Any thread may read it.

    Its liveness is that of the machine: processes that share a store in a file have to agree on it.
    """
    real = RealClock()
    return SteeredClock(epoch_ms=real.data_ms() - int(real.liveness() * 1000), origin=0.0, now=real.liveness)


class MemoryMachine(Machine):
    """A machine in memory, with the system's network. Made and used in the loop.

    store: shared with other machines; a new one if not given. It lives on a clock that nobody steers: no session of a
    broker ends because a test moves time.
    """

    def __init__(self, name: str = "broker", store: MemoryStore | None = None) -> None:
        super().__init__(secrets.randbits(64), name=name, store=store or MemoryStore(real_time()), clock=real_time())
        self.way: CoordinationStore | None = self.store
        self._nets: list[LifeNet] = []

    def new_net(self, alive: Callable[[], None]) -> Net:
        """The system's network, as long as the life that begins."""
        self._nets = [LifeNet(FEATURES, alive)]
        return self._nets[0]

    async def forget(self) -> None:
        """Nothing: nobody else has the store."""

    def hang_up(self) -> None:
        """Close every connection, and stop listening."""
        for net in self._nets:
            net.abort()


class MemberMachine(MemoryMachine):
    """One of several that share a coordination store. A death is known to the others at once: no test is to wait until
    a session has timed out."""

    def __init__(self, name: str, store: MemoryStore, store_clock: SteeredClock) -> None:
        super().__init__(name, store)
        self._store_clock = store_clock
        self._way: _Way | None = None

    def env(self) -> Env:
        """The world of a new process, and its way to the store."""
        env, alive = super().env(), self.life.check
        self.way = self._way = _Way(self.store, ProcessClock(self._store_clock, alive), alive)
        return env

    async def forget(self) -> None:
        """Its process is dead: so are its sessions."""
        if self._way is not None:
            await self._way.end_sessions()


class _Way(ProcessStore):
    """A process's way to the store, which knows the sessions that the process has had."""

    def __init__(self, store: MemoryStore, clock: ProcessClock, alive: Callable[[], None]) -> None:
        super().__init__(store, clock, alive)
        self._leases: list[int] = []

    async def grant(self, ttl_s: float) -> int:
        """See session.Lessor."""
        lease = await super().grant(ttl_s)
        self._leases.append(lease)
        return lease

    async def end_sessions(self) -> None:
        """End them in the store."""
        for lease in self._leases:
            await self._store.revoke(lease)


class DirectoryMachine:
    """A directory of the file system, for the one process that uses it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.clock = real_time()
        self.way: CoordinationStore | None = None  # to the store that the configuration names
        self.life = Life()

    def kill(self) -> None:
        """End what runs in this process, which takes a moment."""
        self.life.end()

    async def forget(self) -> None:
        """Nothing: it has given back what it had."""

    def env(self) -> Env:
        """The world, with a clock to be steered."""
        return replace(real_env(self.directory, features=FEATURES), clock=self.clock)
