"""A cluster of real brokers in the simulated world: clients, faults, healing, judgement.

    trace = simulate(7, cluster)              # raises Violation when the cluster broke a promise

    topic       partitions     replicas 3, min.insync.replicas 2 (or 1)
    orders      2              idempotent writers with acks=all; readers
    mixed       1              the same, and writers with acks=1, so that logs diverge
    temp        1              made, filled, read and deleted again and again under one name

Segments and index intervals are tiny, a session lasts 2 s and a follower may lag 1.2 s, so elections, changes of ISRs,
rolls, flushes and checkpoints happen all the time. Within HEAL_SECONDS after everything healed all writers have to get
through, every replica has to be in sync, and all logs have to be the same to the last byte.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import trio

from kbroker.testing.world import World, current_process
from tests.simulation.clients import KEPT_SHORT, SMALL
from tests.simulation.cluster.admins import Churn, Operator
from tests.simulation.cluster.clients import HastyWriter, Judge, Reader, Routed, Writer, create_topics
from tests.simulation.cluster.history import ClusterChecker
from tests.simulation.cluster.macros import AimingNemesis
from tests.simulation.cluster.nodes import Cluster
from tests.simulation.cluster.watch import Watch
from tests.simulation.single_broker import must_end, watched_log

Script: TypeAlias = Callable[[AimingNemesis], Awaitable[None]]

FAULT_SECONDS = 6.0
HEAL_SECONDS = 40.0
START_SECONDS = 20.0
TOPICS = {"orders": 2, "mixed": 1}  # mixed is compacted, all the time
CLIENTS = ("writer-0", "writer-1", "hasty-0", "churn", "operator", "reader-0", "reader-1", "reader-2")


async def cluster(
    world: World,
    *,
    seconds: float = FAULT_SECONDS,
    faults: Sequence[str] | None = None,
    size: int | None = None,
    operated: bool | None = None,
    min_isr: int | None = None,
    script: Script | None = None,
) -> None:
    """Faults for so many seconds, then healing, then judgement. Raises Violation. What is None the seed decides.

    faults: kinds of the nemesis. size: brokers. operated: somebody moves replicas and leaders around. min_isr: with 1
    no page cache may be lost. script: what is done instead of faults at random.
    """
    random = world.random("rules")
    choices = random.choice([3, 3, 3, 5]), random.random() < 0.4, random.choice([2, 2, 2, 1])
    size = choices[0] if size is None else size
    operated = choices[1] if operated is None else operated
    min_isr = choices[2] if min_isr is None else min_isr
    world.trace("rules", size, operated, min_isr)
    checker = ClusterChecker()
    with judged_log(world, checker):
        nodes = Cluster(world, size, min_isr=min_isr)
        watch = Watch(nodes, checker)
        with watch.installed():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(checker.raise_when_broken)
                nursery.start_soon(nodes.keep_up)
                nodes.start()
                play = Play(world, nodes, watch, checker)
                await play.prepare()
                if operated:
                    play.employ_operator()
                await play.run(seconds, faults, script)
                nursery.cancel_scope.cancel()
        world.trace("done", checker.acks, checker.reads)


class TracedLog(logging.Handler):
    """What brokers say goes into the trace."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self.world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = current_process.get()
        who = process.node.name if process is not None else ""
        error = record.exc_info[1] if record.exc_info else None
        self.world.trace("says", who, record.getMessage(), *([repr(error)] if error is not None else []))


@contextmanager
def judged_log(world: World, checker: ClusterChecker) -> Iterator[None]:
    """While the block runs, brokers' own failures are judged, and what they say is a part of the trace."""
    with watched_log(checker) as failures, traced_log(world):
        failures.on_found = checker.report_failure
        yield


@contextmanager
def traced_log(world: World) -> Iterator[None]:
    """What brokers say is a part of the trace."""
    logger, handler = logging.getLogger("kbroker"), TracedLog(world)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Play:
    """The clients, from the first fault to the judgement."""

    def __init__(self, world: World, nodes: Cluster, watch: Watch, checker: ClusterChecker) -> None:
        self.world = world
        self.nodes = nodes
        self.watch = watch
        self.checker = checker
        self.others: list[Routed] = []  # clients that a seed may have beside

    async def prepare(self) -> None:
        """Topics, before the faults begin."""
        with must_end("the cluster does not come up", START_SECONDS):
            while not all(node.is_ready for node in self.nodes.nodes.values()):
                await trio.sleep(0.1)
            admin = Routed(self.world, "admin", self.checker, self.nodes.names)
            ids = await create_topics(admin, {"orders": TOPICS["orders"]}, SMALL)
            ids |= await create_topics(admin, {"mixed": TOPICS["mixed"]}, {**SMALL, **KEPT_SHORT})
        for topic, partitions in TOPICS.items():
            for index in range(partitions):
                self.watch.histories[ids[topic], index] = self.checker.partition(topic, index)

    def employ_operator(self) -> None:
        """Somebody moves replicas and leaders around, of all but what comes and goes."""
        operator = self._client(Operator, "operator")
        assert isinstance(operator, Operator)
        operator.cluster = self.nodes
        self.others.append(operator)

    async def run(self, seconds: float, faults: Sequence[str] | None, script: Script | None) -> None:
        """Faults for so many seconds, then everything has to end well."""
        writers, readers = [*self._writers(), *self.others], self._readers()
        nemesis = AimingNemesis(self.nodes, self.checker, CLIENTS, faults)
        nemesis.lasting = {place: str(history) for place, history in self.watch.histories.items()}
        nemesis.naive = [client for client in writers if client.is_naive]
        async with trio.open_nursery() as reading:
            async with trio.open_nursery() as writing:
                for client in writers:
                    writing.start_soon(client.run)
                for client in readers:
                    reading.start_soon(client.run)
                if script is None:
                    await nemesis.rage(seconds)
                else:
                    await script(nemesis)
                    nemesis.heal()
                for client in writers:
                    client.finishing = True
                with must_end("the writers are not served", HEAL_SECONDS):
                    while writing.child_tasks:
                        await trio.sleep(0.1)
            for client in readers:
                client.finishing = True
            with must_end("the readers are not served", HEAL_SECONDS):
                while reading.child_tasks:
                    await trio.sleep(0.1)
        await converge(self.watch)
        with must_end("the judge is not served", HEAL_SECONDS):
            await Judge(self.world, "judge", self.checker, self.nodes.names).judge()

    def _writers(self) -> list[Routed]:
        writers = [self._client(Writer, f"writer-{n}") for n in range(2)]
        writers[1].is_naive = True
        hasty = self._client(HastyWriter, "hasty-0", acks=1)
        hasty.histories = {name: history for name, history in hasty.histories.items() if history.topic == "mixed"}
        churn = self._client(Churn, "churn")
        assert isinstance(churn, Churn)
        churn.watch = self.watch
        return [*writers, hasty, churn]

    def _readers(self) -> list[Routed]:
        return [
            self._client(Reader, "reader-0", sessions=True),
            self._client(Reader, "reader-1"),
            self._client(Reader, "reader-2", sessions=True, rack="rack-2"),
        ]

    def _client(self, kind: type[Routed], name: str, **options: object) -> Routed:
        return kind(self.world, name, self.checker, self.nodes.names, **options)


async def converge(watch: Watch) -> None:
    """Until all replicas are in sync, and the same to the last byte."""
    odd = ""
    with must_end(lambda: f"the replicas do not become one: {odd}", HEAL_SECONDS):
        while odd := watch.oddity():
            await trio.sleep(0.25)
