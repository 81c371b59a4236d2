"""A broker, transactional clients of all kinds, and a nemesis.

    trace = simulate(7, transactions)         # raises Violation when the broker broke a promise

    input    2    transactional producers, several of which share an id
    output   2    what two copiers, members of one group, make of `input`
    mixed    2    the same producers, an idempotent one, and a plain one

A seed decides by which rules transactions run (transaction.version), whether everything is flushed before it is
acknowledged (then power may fail), whether the high watermark lags behind (then the broker may be replaced), whether
it takes a while to ask a coordinator or a leader, and which faults there are. After some seconds everything heals.
Then every transaction has to end, the last stable offset has to reach the end of the log, every input has to be
copied; and what the ledger says must be what is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import trio

from kafka_wire.messages.admin import FeatureUpdateKey, UpdateFeaturesRequest
from kafka_wire.messages.topics import CreateTopicsRequest
from kbroker.cluster.changes.features import INITIAL, TRANSACTION, UpgradeType
from kbroker.testing.world import World
from tests.simulation.broker_node import CONFIG, Cluster, judging_each_opened_log
from tests.simulation.checker import Violation
from tests.simulation.clients import SMALL, Client, Doubt, IdempotentProducer, PlainProducer, creatable
from tests.simulation.single_broker import must_end, watched_log
from tests.simulation.transactions.copiers import Copier, offset_fetch, offset_of
from tests.simulation.transactions.ledger import Ledger, StableHistory
from tests.simulation.transactions.mixers import Mixer
from tests.simulation.transactions.nemesis import TransactionNemesis, aiming
from tests.simulation.transactions.others import Replica, distant, lagging
from tests.simulation.transactions.producers import Rules, TransactionalClient, TransactionalProducer
from tests.simulation.transactions.readers import READ_COMMITTED, READ_UNCOMMITTED, Reader, read_all

FAULT_SECONDS = 12.0
GROUP, COPIERS = "copiers", 2
TOPICS = {"input": 2, "output": 2, "mixed": 2}
SETTINGS = {
    "transaction.state.log.num.partitions": "2",
    "offsets.topic.num.partitions": "2",
    "group.min.session.timeout.ms": "1000",
    "request.timeout.ms": "2000",
}
FLUSHED = {"log.flush.interval.messages": "1"}


async def transactions(
    world: World,
    *,
    seconds: float = FAULT_SECONDS,
    faults: Sequence[str] | None = None,
    version: int | None = None,
    durable: bool | None = None,
    lags: bool | None = None,
    is_distant: bool | None = None,
    copies: bool = True,
) -> None:
    """Faults for so many seconds, then healing, then judgement. Raises Violation. What is None the seed decides."""
    random = world.random("rules")
    choices = random.choice([0, 2, 2]), *[random.random() < 0.5 for _ in range(3)]
    version = choices[0] if version is None else version
    durable = choices[1] if durable is None else durable
    lags = choices[2] if lags is None else lags
    is_distant = choices[3] if is_distant is None else is_distant
    ledger = Ledger()
    config = CONFIG.with_values({**SETTINGS, **(FLUSHED if durable else {})})
    with ExitStack() as stack:
        failures = stack.enter_context(watched_log(ledger))
        cluster = Cluster(world, ledger, config)
        stack.enter_context(judging_each_opened_log(cluster))
        replica = Replica(world) if lags else None
        if replica is not None:
            stack.enter_context(lagging(replica))
        if is_distant:
            stack.enter_context(distant(world))
        nemesis = TransactionNemesis(cluster, faults, version, may_lose_power=durable, replica=replica)
        stack.enter_context(aiming(nemesis))
        world.trace("rules", version, durable, lags, is_distant)
        cluster.start()
        await prepare(Client(world, "first", ledger), version)
        for topic, count in TOPICS.items():
            for index in range(count):
                ledger.partition(topic, index, durable=durable)
        await Play(world, ledger, nemesis, copies).run(seconds)
        if failures.found:
            raise Violation(f"the broker failed inside: {failures.found[0]!r}") from failures.found[0]
        states = [transaction.state.name for transaction in ledger.transactions.values()]
        world.trace("done", ledger.acks, ledger.reads, {name: states.count(name) for name in sorted(set(states))})


async def prepare(admin: Client, version: int) -> None:
    """Topics and the transaction version, before the faults begin."""
    topics = [creatable(name, partitions, SMALL) for name, partitions in TOPICS.items()]
    kind = UpgradeType.UPGRADE if version == INITIAL[TRANSACTION] else UpgradeType.SAFE_DOWNGRADE
    update = FeatureUpdateKey(feature=TRANSACTION, max_version_level=version, upgrade_type=kind)
    while True:
        try:
            created = await admin.call(CreateTopicsRequest(topics=topics, timeout_ms=5000), 7)
            assert all(topic.error_code in (0, 36) for topic in created.topics), created
            answer = await admin.call(UpdateFeaturesRequest(timeout_ms=5000, feature_updates=[update]), 1)
            assert answer.error_code == 0, answer
            return
        except Doubt:
            await trio.sleep(0.1)


class Play:
    """The clients, from the first fault to the judgement."""

    def __init__(self, world: World, ledger: Ledger, nemesis: TransactionNemesis, copies: bool) -> None:
        self.world = world
        self.ledger = ledger
        self.nemesis = nemesis
        self.random = world.random("rules")
        self.histories = [each for each in ledger.histories if isinstance(each, StableHistory)]
        self.inputs, self.outputs, self.mixed = (
            [each for each in self.histories if each.topic == topic] for topic in TOPICS
        )
        self.writers: list[Client] = [*self._producers(), *self._others()]
        if copies:
            self.writers.append(Mixer(world, "mixer", ledger, self.mixed[0], *self._rules()))
        self.copiers = [self._copier(n) for n in range(COPIERS if copies else 0)]
        self.readers = [
            Reader(world, f"reader-{n}", ledger, self.histories, isolation=isolation, sessions=n % 2 == 0)
            for n, isolation in enumerate((READ_COMMITTED, READ_COMMITTED, READ_UNCOMMITTED))
        ]

    def _rules(self) -> tuple[Rules, int]:
        """By which rules a producer goes, and the timeout of its transactions."""
        is_modern = self.random.random() < 0.8
        rules = (lambda: self.nemesis.level) if is_modern else (lambda: 0)
        return rules, self.random.choice([1500, 4000, 20000])

    def _producers(self) -> Iterator[Client]:
        for number, rival in (("0", ""), ("1", "a"), ("1", "b")):
            producer = TransactionalProducer(
                self.world, f"tx-{number}{rival}", self.ledger, f"tx-{number}", *self._rules()
            )
            producer.histories = {str(each): each for each in (*self.inputs, *self.mixed)}
            yield producer

    def _others(self) -> Iterator[Client]:
        acks = 1 if self.nemesis.replica is None else -1
        for other in (
            IdempotentProducer(self.world, "idempotent-0", self.ledger),
            PlainProducer(self.world, "plain", self.ledger, acks=acks),
        ):
            other.histories = {str(each): each for each in self.mixed}
            yield other

    def _copier(self, n: int) -> Copier:
        return Copier(self.world, f"copier-{n}", self.ledger, GROUP, self.inputs, self.outputs, *self._rules())

    async def run(self, seconds: float) -> None:
        """Faults for so many seconds, then everything has to end well."""
        async with trio.open_nursery() as background:
            for client in self.writers:
                if isinstance(client, TransactionalClient):
                    client.background = background
            await self._run(seconds)
            background.cancel_scope.cancel()

    async def _run(self, seconds: float) -> None:
        async with trio.open_nursery() as reading, trio.open_nursery() as copying, trio.open_nursery() as writing:
            for nursery, clients in ((reading, self.readers), (copying, self.copiers), (writing, self.writers)):
                for client in clients:
                    nursery.start_soon(client.run)
            await self.nemesis.rage(seconds)
            for client in (*self.writers, *self.copiers):
                client.finishing = True
            await _wait_for(writing, "the producers are not served")
            if self.copiers:
                await self._wait_copied()
            for copier in self.copiers:
                copier.is_done = True
            await _wait_for(copying, "the copiers do not end")
            for reader in self.readers:
                reader.finishing = True
            await _wait_for(reading, "the readers are not served")
        self.nemesis.cluster.kill()  # all of it must be in the logs
        self.nemesis.cluster.start()
        await self._judge()

    async def _wait_copied(self) -> None:
        """Until the group has committed beyond the last committed record of every input."""
        with must_end("the inputs are not stable"):
            reader = await read_all(self.world, self.ledger, self.inputs, READ_COMMITTED)
        with must_end("the inputs are not copied"):
            for history in self.inputs:
                view = reader.views[str(history)]
                while view and self.ledger.promised_offset(GROUP, str(history)) <= view[-1][0]:
                    await trio.sleep(0.1)

    async def _judge(self) -> None:
        with must_end("the last stable offset does not reach the end"):
            stable = await read_all(self.world, self.ledger, self.histories, READ_COMMITTED)
        with must_end("the judge is not served"):
            raw = await read_all(self.world, self.ledger, self.histories, READ_UNCOMMITTED)
        for reader in self.readers:
            if reader.isolation == READ_COMMITTED:
                for name, view in reader.views.items():
                    self.ledger.compare(reader.name, name, view, stable.views[name])
        self.ledger.judge({name: (raw.batches[name], stable.views[name]) for name in stable.views})
        if self.copiers:
            sources = {str(each): stable.views[str(each)] for each in self.inputs}
            targets = {str(each): stable.views[str(each)] for each in self.outputs}
            await self._audit_offsets()
            self.ledger.judge_copies(GROUP, sources, targets)

    async def _audit_offsets(self) -> None:
        """What the group has committed is still there."""
        auditor = Client(self.world, "auditor", self.ledger)
        with must_end("the auditor is not served"):
            for history in self.inputs:
                least, code, found = self.ledger.promised_offset(GROUP, str(history)), -1, None
                while code:
                    try:
                        code, found = offset_of(await auditor.call(offset_fetch(GROUP, history), 7))
                    except Doubt:
                        await trio.sleep(0.1)
                assert found is not None
                self.ledger.saw_offset(GROUP, str(history), found.committed_offset, found.metadata or "", least)


async def _wait_for(nursery: trio.Nursery, otherwise: str) -> None:
    """Until what runs there has ended."""
    with must_end(otherwise):
        while nursery.child_tasks:
            await trio.sleep(0.1)
