"""Machines: what outlives the process of an embedded broker, on real sockets and in real time.

    MemoryMachine       for a broker in a thread: disk and coordination store are in memory. A kill breaks its
                        connections and leaves its page cache, and a power loss leaves what was synced.
    DirectoryMachine    for a broker that is a process: a directory, and the coordination store in it. The system does
                        the killing.

Both have a SteeredClock that starts at the real time, and a port that is theirs.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from kbroker.cluster.store import CoordinationStore
from kbroker.cluster.stores.memory import MemoryStore
from kbroker.env import Env, Net
from kbroker.env.features import Features
from kbroker.env.real import real_env
from kbroker.testing.broker import Life, Machine
from kbroker.testing.clock import SteeredClock
from kbroker.testing.embedded.net import LifeNet

FEATURES = Features.detect()


def real_time() -> SteeredClock:
    """A clock that shows the time of day, until it is steered. Any thread may read it."""
    return SteeredClock(epoch_ms=time.time_ns() // 1_000_000, now=time.perf_counter)


class MemoryMachine(Machine):
    """A machine in memory, with the system's network. Made and used in the loop.

    store: shared with other machines; a new one if not given. It lives on a clock that nobody steers: no session of a
    broker ends because a test moves time.
    """

    def __init__(self, name: str = "broker", store: MemoryStore | None = None) -> None:
        super().__init__(secrets.randbits(64), name=name, store=store or MemoryStore(real_time()), clock=real_time())
        self._nets: list[LifeNet] = []

    def new_net(self, alive: Callable[[], None]) -> Net:
        """The system's network, as long as the life that begins."""
        self._nets = [LifeNet(FEATURES, alive)]
        return self._nets[0]

    def hang_up(self) -> None:
        """Close every connection, and stop listening."""
        for net in self._nets:
            net.abort()


class DirectoryMachine:
    """A directory of the file system, for the one process that uses it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.clock = real_time()
        self.store: CoordinationStore | None = None  # the one that the configuration names
        self.life = Life()

    def kill(self) -> None:
        """End what runs in this process, which takes a moment."""
        self.life.end()

    def env(self) -> Env:
        """The world, with a clock to be steered."""
        return replace(real_env(self.directory, features=FEATURES), clock=self.clock)
