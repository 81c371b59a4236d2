"""A whole broker in the simulated world: clients that keep a record of what they were told, and a nemesis.

    trace = simulate(7, single_broker)        # raises Violation when the broker broke a promise

    topic     partitions
    durable   2     flush.messages=1: what is acknowledged survives a power failure
    cached    2     Kafka's defaults: it survives kill -9
    short     1     small retention: the oldest records go
    compacted 1     small segments become larger ones, all the time
    temp            created, filled, read and deleted again and again under one name

First faults for some seconds, a random selection of kinds for each seed; then everything heals, and all clients have
to get through. Segments and index intervals are tiny, and the broker's duties run every second or so, so rolls,
flushes, checkpoints, snapshots, retention and compaction happen all the time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from kbroker.log.errors import LogOffline
from kbroker.testing.world import World
from tests.simulation.broker_node import Cluster, judging_each_opened_log
from tests.simulation.checker import (
    Checker,
    Violation,
)
from tests.simulation.clients import TEMP, TOPICS, Admin, Client, Consumer, IdempotentProducer, PlainProducer
from tests.simulation.nemesis import Nemesis

FAULT_SECONDS = 12.0
HEAL_SECONDS = 60.0  # by then every client must have got through


class Failures(logging.Handler):
    """Exceptions the broker did not expect: it logs them and goes on, we do not.

    Of a disk that is sound none is expected, not even one that is told in a line.
    """

    def __init__(self, checker: Checker) -> None:
        super().__init__(logging.ERROR)
        self.checker = checker
        self.found: list[BaseException] = []
        self.on_found: Callable[[BaseException], None] = lambda error: None

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        found = [] if error is None else list(_leaves(error))
        if self.checker.disk_is_sound:
            found += [each for each in record.args or () if isinstance(each, OSError)]
        else:
            found = [each for each in found if not isinstance(each, OSError | LogOffline)]
        self.found += found
        for each in found:
            self.on_found(each)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


@contextmanager
def watched_log(checker: Checker) -> Iterator[Failures]:
    """Gather the broker's own failures while the block runs; print nothing."""
    logger, failures = logging.getLogger("kbroker"), Failures(checker)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(failures)
    try:
        yield failures
    finally:
        logger.removeHandler(failures)
        logger.propagate = propagate


async def single_broker(world: World, *, seconds: float = FAULT_SECONDS, faults: Sequence[str] | None = None) -> None:
    """Faults for so many seconds, then healing, then judgement. Raises Violation.

    faults: kinds of the nemesis; a random selection, if not given.
    """
    checker = Checker()
    with watched_log(checker) as failures:
        cluster = Cluster(world, checker)
        with judging_each_opened_log(cluster):
            cluster.start()
            await Admin(world, "first", checker).create_topics()
            for topic, (partitions, _) in TOPICS.items():
                for index in range(partitions):
                    checker.history(topic, index, durable=topic == "durable", shrinks=topic == "short")
            await _contend(world, cluster, checker, seconds, faults)
        if failures.found:
            raise Violation(f"the broker failed inside: {failures.found[0]!r}") from failures.found[0]
        world.trace("done", checker.acks, checker.reads)


async def _contend(
    world: World, cluster: Cluster, checker: Checker, seconds: float, faults: Sequence[str] | None
) -> None:
    producers = [IdempotentProducer(world, f"idempotent-{n}", checker) for n in range(2)]
    plain, admin = PlainProducer(world, "plain", checker), Admin(world, "admin", checker)
    consumers = [Consumer(world, f"consumer-{n}", checker, sessions=n == 0) for n in range(2)]
    writers: list[Client] = [*producers, plain, admin]
    async with trio.open_nursery() as reading:
        async with trio.open_nursery() as writing:
            for writer in writers:
                writing.start_soon(writer.run)
            for consumer in consumers:
                reading.start_soon(consumer.run)
            await Nemesis(cluster, faults).rage(seconds)
            with must_end("the writers are not served"):
                for writer in writers:
                    writer.finishing = True
                while writing.child_tasks:
                    await trio.sleep(0.1)
        for consumer in consumers:
            consumer.finishing = True
        with must_end("the consumers are not served"):
            while reading.child_tasks:
                await trio.sleep(0.1)
    judge = Consumer(world, "judge", checker, sessions=False)
    with must_end("the judge is not served"):
        for history in checker.histories:
            if history.topic != TEMP:
                await judge.read_all(history)


@contextmanager
def must_end(what: str | Callable[[], str], seconds: float = HEAL_SECONDS) -> Iterator[None]:
    """What the block waits for has to come in time. what: what is wrong otherwise."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        told = what if isinstance(what, str) else what()
        raise Violation(f"no convergence: {told} {seconds:g} s after everything healed") from None
