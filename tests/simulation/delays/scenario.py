"""Senders of all kinds, a broker or three, and a nemesis.

    trace = simulate(7, delays)               # raises Violation when a promise was broken
    trace = simulate(7, cluster_delays)

    later     2    idempotent and transactional producers: batches of records for now, for later, to cancel, to hurry
    brief     1    the same, in a topic that keeps little: what is pending has to be carried forward

After some seconds of faults everything heals. Then everything that waits has to be delivered, however the clocks have
jumped, and the logs, read by a second reader, have to agree with what the senders were told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import trio

from kafka_wire.messages.topics import CreateTopicsRequest
from kbroker.testing.volume import Volume
from kbroker.testing.world import World
from tests.simulation.broker_node import CONFIG, judging_each_opened_log
from tests.simulation.broker_node import Cluster as OneBroker
from tests.simulation.checker import Violation
from tests.simulation.clients import SMALL, Client, Doubt, creatable
from tests.simulation.cluster.history import ClusterChecker
from tests.simulation.cluster.log_files import batches, segments
from tests.simulation.cluster.macros import AimingNemesis
from tests.simulation.cluster.nodes import Cluster
from tests.simulation.cluster.routing import routing
from tests.simulation.cluster.scenario import START_SECONDS, converge, judged_log
from tests.simulation.cluster.watch import Watch
from tests.simulation.delays.ledger import BRIEF, LATER, DelayLedger, all_of
from tests.simulation.delays.senders import Sender, TransactionalSender
from tests.simulation.delays.story import Story
from tests.simulation.delays.watch import watching
from tests.simulation.nemesis import Nemesis
from tests.simulation.single_broker import must_end
from tests.simulation.transactions.scenario import FLUSHED, SETTINGS

FAULT_SECONDS = 8.0
HEAL_SECONDS = 60.0
DRAIN_SECONDS = 400.0  # clocks have jumped, so what was due soon may be due in minutes
DELAYS = {"kbroker.delay.enable": "true"}
TOPICS = {LATER: (2, {**SMALL, **DELAYS}), BRIEF: (1, {**SMALL, **DELAYS, "retention.bytes": "6000"})}
CLIENTS = ("sender-0", "sender-1", "tx-0", "tx-1")


class ClusterDelayLedger(DelayLedger, ClusterChecker):
    """Of a cluster: what is wrong may be noticed anywhere."""


class DelayNemesis(Nemesis):
    """Of a single broker: where everything is flushed, power may fail, too."""

    async def cut(self) -> None:
        client = self.random.choice(CLIENTS)
        self.world.network.cut(*self.random.choice([("broker", client), (client, "broker")]))
        await trio.sleep(self.random.random() * 4)
        self.world.network.heal()


class ClusterNemesis(AimingNemesis):
    """Of a cluster."""


async def delays(world: World, *, seconds: float = FAULT_SECONDS, faults: Sequence[str] | None = None) -> None:
    """One broker: faults for so many seconds, then healing, then judgement. Raises Violation."""
    ledger = ClusterDelayLedger()
    with ExitStack() as stack:
        stack.enter_context(judged_log(world, ledger))
        broker = OneBroker(world, ledger, CONFIG.with_values({**SETTINGS, **FLUSHED}))
        stack.enter_context(judging_each_opened_log(broker))
        stack.enter_context(watching(ledger, ledger.report))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.raise_when_broken)
            broker.start()
            play = Play(world, ledger, lambda: broker.node.volume)
            await play.prepare()
            await play.run(DelayNemesis(broker, faults), seconds)
            await play.drain()
            await play.judge()
            nursery.cancel_scope.cancel()


async def cluster_delays(world: World, *, seconds: float = FAULT_SECONDS, faults: Sequence[str] | None = None) -> None:
    """Three brokers. Raises Violation."""
    ledger = ClusterDelayLedger()
    with ExitStack() as stack:
        stack.enter_context(judged_log(world, ledger))
        nodes = Cluster(world, 3, SETTINGS)
        watch = Watch(nodes, ledger)
        stack.enter_context(watch.installed())
        stack.enter_context(routing(nodes.names))
        stack.enter_context(watching(ledger, ledger.report))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.raise_when_broken)
            nursery.start_soon(nodes.keep_up)
            nodes.start()
            with must_end("the cluster does not come up", START_SECONDS):
                while not nodes.is_whole:
                    await trio.sleep(0.1)
            play = Play(world, ledger, lambda: nodes.nodes[1].node.volume)
            await play.prepare()
            await play.run(ClusterNemesis(nodes, ledger, CLIENTS, faults), seconds)
            await converge(watch)
            await play.drain()
            await converge(watch)
            await play.judge()
            nursery.cancel_scope.cancel()


class Play:
    """The senders, from the first fault to the judgement. volume: where the logs are to be read in the end."""

    def __init__(self, world: World, ledger: DelayLedger, volume: Callable[[], Volume]) -> None:
        self.world = world
        self.ledger = ledger
        self.volume = volume

    async def prepare(self) -> None:
        """Topics, before the faults begin."""
        topics = [creatable(name, count, configs) for name, (count, configs) in TOPICS.items()]
        admin = Client(self.world, "first", self.ledger)
        with must_end("there are no topics"):
            while True:
                try:
                    created = await admin.call(CreateTopicsRequest(topics=topics, timeout_ms=5000), 7)
                except Doubt:
                    await trio.sleep(0.1)
                    continue
                assert all(topic.error_code in (0, 36) for topic in created.topics), created
                break
        for topic, (count, _) in TOPICS.items():
            for index in range(count):
                history = self.ledger.partition(topic, index)
                history.shrinks = topic == BRIEF

    async def run(self, nemesis: Nemesis | AimingNemesis, seconds: float) -> None:
        """Faults for so many seconds, then everybody has to be served."""
        async with trio.open_nursery() as background, trio.open_nursery() as sending:
            senders = [*self._senders(background)]
            for sender in senders:
                sending.start_soon(sender.run)
            await nemesis.rage(seconds)
            for sender in senders:
                sender.finishing = True
            with must_end("the senders are not served", HEAL_SECONDS):
                while sending.child_tasks:
                    await trio.sleep(0.1)
            background.cancel_scope.cancel()

    def _senders(self, background: trio.Nursery) -> Sequence[Client]:
        random = self.world.random("rules")
        version = random.choice([0, 2])
        senders: list[Client] = [Sender(self.world, f"sender-{n}", self.ledger) for n in range(2)]
        for n in range(2):
            rules = lambda: version  # noqa: E731
            sender = TransactionalSender(
                self.world, f"tx-{n}", self.ledger, f"tx-{n}", rules, random.choice([1500, 9000])
            )
            sender.background = background
            senders.append(sender)
        return senders

    def stories(self) -> dict[str, Story]:
        """What the logs say now."""
        volume, told = self.volume(), {}
        for name in all_of(self.ledger):
            start = segments(volume, name)[0][0]
            told[name] = Story(name, start).tell(data for _, data in batches(volume, name))
        return told

    async def drain(self) -> None:
        """Until nothing waits any more."""
        with must_end(self._what_waits, DRAIN_SECONDS):
            while any(story.waits for story in self.stories().values()):
                await trio.sleep(2)

    def _what_waits(self) -> str:
        waiting = {name: dict(list(story.pending.items())[:3]) for name, story in self.stories().items()}
        return f"lost, late, or undecided: {waiting} (D2)"

    async def judge(self) -> None:
        """The logs, beside what the senders know."""
        stories = self.stories()
        self.ledger.judge_delays(stories)
        delivered = sum(story.deliveries for story in stories.values())
        cancelled = sum(len(story.cancelled) for story in stories.values())
        if delivered != sum(self.ledger.delivered.values()) and not self.ledger.delivered:
            raise Violation("what is delivered was delivered by nobody")
        self.world.trace("done", self.ledger.acks, delivered, cancelled)
