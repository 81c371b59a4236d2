"""Clusters of embedded brokers: several in one thread, or each in a process.

    cluster = make_cluster("thread", 3, "127.0.0.1", config)
    cluster.members[1].kill()          the others know at once in a thread; among processes when its session has ended
    cluster.close()

In a thread they share the loop, so one of them cannot stand still alone (pause).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

import trio

from kbroker.cluster.stores.memory import MemoryStore
from kbroker.testing.embedded.backends import Embedded
from kbroker.testing.embedded.host import Host
from kbroker.testing.embedded.lines import Lines, thread_log
from kbroker.testing.embedded.loop import LoopThread
from kbroker.testing.embedded.machines import MemberMachine, real_time
from kbroker.testing.embedded.port import Port
from kbroker.testing.embedded.thread import START_S, InThread
from kbroker.testing.world import only_cause

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises


class Cluster(Protocol):
    """Brokers by id: 1, 2 …"""

    @property
    def members(self) -> Mapping[int, Embedded]:
        """Each of them."""

    def close(self) -> None:
        """End them all for good; idempotent."""


class ThreadCluster:
    """A Cluster whose brokers are in memory, in one thread."""

    def __init__(self, size: int, host: str, config: Mapping[str, str]) -> None:
        """Start them. Raises CannotStart."""
        self._ports = {id: Port(host, 0) for id in range(1, size + 1)}
        self._loop = LoopThread(f"the cluster of {size} brokers")
        lines = Lines()
        thread_log.attach(self._loop.thread_id, lines)
        self._hosts: dict[int, Host] = self._loop.call(self._make_hosts, config)
        self.members: Mapping[int, Embedded] = {
            id: InThread(self._loop, host, lines) for id, host in self._hosts.items()
        }
        try:
            self._loop.call(self._for_all, partial(Host.renew, brokers_min=size), timeout_s=START_S)
            thread_log.attach(self._loop.thread_id, lines)  # there may be new loggers
        except BaseException:
            self.close()
            raise

    def _make_hosts(self, config: Mapping[str, str]) -> dict[int, Host]:
        clock = real_time()
        store = MemoryStore(clock)
        return {
            id: Host(
                self._loop.nursery,
                port,
                {**config, "node.id": str(id)},
                partial(MemberMachine, f"b{id}", store, clock),
            )
            for id, port in self._ports.items()
        }

    async def _for_all(self, do: Callable[[Host], Awaitable[None]]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                for host in self._hosts.values():
                    nursery.start_soon(do, host)
        except* Exception as group:
            raise only_cause(group.exceptions[0]) from None

    def close(self) -> None:
        """End them all at once."""
        if self._loop.is_alive:
            self._loop.call(self._for_all, Host.kill)
        self._loop.close()
        thread_log.detach(self._loop.thread_id)
        for port in self._ports.values():
            port.close()


def make_cluster(backend: str, size: int, host: str, config: Mapping[str, str]) -> Cluster:
    """Start brokers 1 .. size. Raises CannotStart."""
    if backend == "process":
        from kbroker.testing.embedded.process_cluster import ProcessCluster

        return ProcessCluster(size, host, config)
    return ThreadCluster(size, host, config)
