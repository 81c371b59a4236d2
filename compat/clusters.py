"""Several brokers that are one cluster, of kbroker or of Apache Kafka: started, stopped, killed as one or one by one.

    cluster = make("kbroker", directory, 3)
    cluster.start()                       # all at once; returns when each knows all
    cluster[2].kill(); cluster[2].start()
    cluster.stop()

Brokers have ids 1, 2, 3 … Each has a listener for clients and one for the other brokers. With a `doors` function others
are told another port than the one that is listened on: this is how a proxy comes between (faults/network.py).

Owns: the processes, and a directory for each; with SQLite the store's file beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import wire
from apache_kafka import ApacheKafka
from kbroker_process import Kbroker, Run

Member: TypeAlias = Kbroker | ApacheKafka
Door = Callable[[str, int, int], int]  # kind, broker id, port listened on -> the port others are told

# What the tests of clusters rest on; Kafka's own defaults are 9 s and 30 s.
SESSION_SECONDS, LAG_SECONDS = 6, 10
REPLICATED = {
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
}
PROTOCOLS = "CLIENT:PLAINTEXT,PEER:PLAINTEXT,CONTROLLER:PLAINTEXT"


def direct(kind: str, broker: int, port: int) -> int:
    """Nothing comes between."""
    return port


class Cluster:
    """The members by id. `bootstrap` is one broker's address for tools that know one, `servers` is all of them."""

    def __init__(self, members: dict[int, Member], told: dict[int, int]) -> None:
        self.members = members
        self.servers = ",".join(f"127.0.0.1:{port}" for port in told.values())
        self.bootstrap = self.servers.partition(",")[0]

    def __getitem__(self, broker: int) -> Member:
        return self.members[broker]

    def __iter__(self) -> Iterator[int]:
        return iter(self.members)

    def start(self, timeout: float = 60.0) -> float:
        """Start all at once, wait until each knows all; the seconds it took."""
        began = time.monotonic()
        self._each(lambda member: member.start(timeout))
        self.wait_whole(timeout)
        return time.monotonic() - began

    def stop(self, timeout: float = 30.0) -> None:
        self._each(lambda member: member.stop(timeout))

    def kill(self) -> None:
        """kill -9 of all, as nearly at once as can be."""
        for member in self.members.values():
            if member.process is not None:
                member.process.kill()
        self._each(lambda member: member.kill())

    def is_in_sync(self) -> bool:
        """Whether every partition has a leader and all its replicas in sync, by everyone's account."""
        try:
            accounts = [wire.partitions(member.bootstrap) for member in self.members.values()]
        except (OSError, IndexError, ValueError):
            return False
        return all(each.leader >= 0 and len(each.isr) == len(each.replicas) for account in accounts for each in account)

    def restart(self, *, kill: bool, timeout: float = 60.0) -> None:
        """One after the other, each when all are in sync again. RuntimeError when that takes too long."""
        for member in self.members.values():
            if kill:
                member.kill()
            else:
                member.stop()
            member.start(timeout)
            end = time.monotonic() + timeout
            while not self.is_in_sync():
                if time.monotonic() > end:
                    raise RuntimeError(f"not in sync {timeout:.0f} s after a broker was started again")
                time.sleep(0.05)

    def wait_whole(self, timeout: float = 60.0) -> None:
        """Until each member names every member. RuntimeError when that takes too long."""
        end = time.monotonic() + timeout
        while lacking := [broker for broker in self if known_to(self[broker]) != sorted(self.members)]:
            if time.monotonic() > end:
                raise RuntimeError(f"after {timeout:.0f} s broker {lacking[0]} knows {known_to(self[lacking[0]])}")
            time.sleep(0.05)

    def _each(self, call: Callable[[Member], object]) -> None:
        with ThreadPoolExecutor(len(self.members)) as pool:
            list(pool.map(call, self.members.values()))


def known_to(member: Member) -> list[int]:
    try:
        return sorted(wire.broker_ids(member.bootstrap))
    except (OSError, IndexError, ValueError):
        return []


def make(
    kind: str,
    directory: Path,
    count: int,
    properties: dict[str, str] | None = None,
    *,
    features: dict[str, int] | None = None,
    store: Callable[[int], str] | None = None,
    doors: Door = direct,
    run: Run | None = None,
) -> Cluster:
    """A cluster that is not started. `store`: what --coordination says to a kbroker; default: SQLite in `directory`."""
    taken: list[int] = []
    told: dict[int, int] = {}

    def port() -> int:
        taken.append(wire.free_port(avoid=tuple(taken)))
        return taken[-1]

    controllers = {broker: port() for broker in range(1, count + 1)} if kind == "kafka" else {}
    members: dict[int, Member] = {}
    for broker in range(1, count + 1):
        clients, peers = port(), port()
        told[broker] = doors("client", broker, clients)
        names = {"CLIENT": (clients, told[broker]), "PEER": (peers, doors("peer", broker, peers))}
        if controllers:
            names["CONTROLLER"] = (controllers[broker], controllers[broker])
        settings = {
            "node.id": str(broker),
            "broker.rack": f"rack-{broker}",
            "listeners": ",".join(f"{name}://127.0.0.1:{bound}" for name, (bound, _) in names.items()),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{shown}" for name, (_, shown) in names.items()),
            "listener.security.protocol.map": PROTOCOLS,
            "inter.broker.listener.name": "PEER",
            "broker.session.timeout.ms": str(1000 * SESSION_SECONDS),
            "replica.lag.time.max.ms": str(1000 * LAG_SECONDS),
            "group.initial.rebalance.delay.ms": "0",
            **(REPLICATED if count >= 3 else {}),
            **(properties or {}),
        }
        first = features if broker == 1 else {}
        if kind == "kafka":
            settings["controller.quorum.voters"] = ",".join(f"{n}@127.0.0.1:{p}" for n, p in controllers.items())
            members[broker] = ApacheKafka(directory / str(broker), clients, settings, features=features)
        else:
            where = store(broker) if store else f"sqlite:{directory / 'cluster.db'}"
            options = ("--coordination", where)
            members[broker] = Kbroker(directory / str(broker), clients, settings, first, options, run)
    return Cluster(members, told)
