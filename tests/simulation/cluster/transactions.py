"""Transactions and groups over a cluster: the clients of `simulation/transactions`, three brokers, all their faults.

    trace = simulate(7, cluster_transactions)

Coordinators move with the partitions of their topics; markers go from one broker to another, and so does the question
whether a transaction is under way (KIP-890). What the ledger says must be what is there, in the end and at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import trio

from kbroker.testing.world import World
from tests.simulation.clients import Client
from tests.simulation.cluster.history import ClusterChecker
from tests.simulation.cluster.macros import AimingNemesis
from tests.simulation.cluster.nodes import Cluster
from tests.simulation.cluster.routing import routing
from tests.simulation.cluster.scenario import START_SECONDS, converge, judged_log
from tests.simulation.cluster.watch import Watch
from tests.simulation.single_broker import must_end
from tests.simulation.transactions.ledger import Ledger, Promise, StableHistory
from tests.simulation.transactions.scenario import SETTINGS, TOPICS, Play, prepare

FAULT_SECONDS = 10.0
CLIENTS = ("tx-0", "tx-1a", "tx-1b", "copier-0", "copier-1", "copier-0-member", "reader-0", "idempotent-0")


class ReplicatedStable(StableHistory):
    """A partition whose leaders change: a new one may for a moment know of less than was told (KIP-207)."""

    def saw_bounds(self, log_start: int, high_watermark: int, asked: tuple[int, int, int]) -> None:
        super().saw_bounds(log_start, max(high_watermark, self.floor), asked)

    def saw_stable(self, last_stable_offset: int, high_watermark: int, asked: Promise) -> None:
        super().saw_stable(last_stable_offset, high_watermark, (*asked[:3], 0))


class ClusterLedger(Ledger, ClusterChecker):
    """What transactional clients of a cluster asked and were told."""

    def partition(self, topic: str, index: int, *, durable: bool = True) -> StableHistory:  # type: ignore[override]
        """The history of a new partition."""
        history = ReplicatedStable(self, topic, index, durable=durable)
        self.histories.append(history)
        return history


class TransactionNemesis(AimingNemesis):
    """What a play of transactions asks of its nemesis."""

    level: int  # transaction.version
    replica = True  # acks=1 promises nothing here


async def cluster_transactions(
    world: World,
    *,
    seconds: float = FAULT_SECONDS,
    faults: Sequence[str] | None = None,
    version: int | None = None,
    copies: bool = True,
) -> None:
    """Faults for so many seconds, then healing, then judgement. Raises Violation. What is None the seed decides."""
    version = world.random("rules").choice([0, 2, 2]) if version is None else version
    ledger = ClusterLedger()
    with ExitStack() as stack:
        stack.enter_context(judged_log(world, ledger))
        nodes = Cluster(world, 3, SETTINGS)
        watch = Watch(nodes, ledger)
        stack.enter_context(watch.installed())
        stack.enter_context(routing(nodes.names))
        world.trace("rules", version)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.raise_when_broken)
            nursery.start_soon(nodes.keep_up)
            nodes.start()
            with must_end("the cluster does not come up", START_SECONDS):
                while not nodes.is_whole:
                    await trio.sleep(0.1)
                await prepare(Client(world, "first", ledger), version)
            for topic, count in TOPICS.items():
                for index in range(count):
                    ledger.partition(topic, index)
            nemesis = TransactionNemesis(nodes, ledger, CLIENTS, faults)
            nemesis.level = version
            await Play(world, ledger, nemesis, copies).run(seconds)
            await converge(watch)
            nursery.cancel_scope.cancel()
        states = [transaction.state.name for transaction in ledger.transactions.values()]
        world.trace("done", ledger.acks, ledger.reads, {name: states.count(name) for name in sorted(set(states))})
