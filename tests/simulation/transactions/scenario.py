"""A broker, transactional clients of all kinds, and a nemesis.

    trace = simulate(7, transactions)         # raises Violation when the broker broke a promise

    input    2    transactional producers, several of which share an id
    output   2    what two copiers, members of one group, make of `input`
    mixed    2    the same producers, an idempotent one, and a plain one

A seed decides by which rules transactions run (transaction.version), whether everything is flushed before it is
acknowledged (then power may fail), whether the high watermark lags behind (then the broker may be replaced), and
which faults there are. After some seconds everything heals. Then every transaction has to end, the last stable offset
has to reach the end of the log, every input has to be copied; and what the ledger says must be what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import trio

from kafka_wire.messages.admin import FeatureUpdateKey, UpdateFeaturesRequest
from kafka_wire.messages.topics import CreateTopicsRequest
from kbroker.cluster.features import TRANSACTION
from kbroker.testing.world import World
from tests.simulation.broker_node import CONFIG, Cluster, judging_each_opened_log
from tests.simulation.checker import Violation
from tests.simulation.clients import SMALL, Client, Doubt, IdempotentProducer, PlainProducer, creatable
from tests.simulation.single_broker import must_end, watched_log
from tests.simulation.transactions.copiers import Copier
from tests.simulation.transactions.ledger import Ledger, StableHistory
from tests.simulation.transactions.nemesis import TransactionNemesis, aiming
from tests.simulation.transactions.producers import NEW_RULES, TransactionalProducer
from tests.simulation.transactions.readers import READ_COMMITTED, READ_UNCOMMITTED, Reader, read_all
from tests.simulation.transactions.replica import Replica, lagging

FAULT_SECONDS = 12.0
GROUP = "copiers"
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
) -> None:
    """Faults for so many seconds, then healing, then judgement. Raises Violation. What is None the seed decides."""
    random = world.random("rules")
    choices = random.choice([0, 2, 2]), random.random() < 0.4, random.random() < 0.5
    version = choices[0] if version is None else version
    durable = choices[1] if durable is None else durable
    lags = choices[2] if lags is None else lags
    ledger = Ledger()
    config = CONFIG.with_values({**SETTINGS, **(FLUSHED if durable else {})})
    with ExitStack() as stack:
        failures = stack.enter_context(watched_log(ledger))
        cluster = Cluster(world, ledger, config)
        stack.enter_context(judging_each_opened_log(cluster))
        replica = Replica(world) if lags else None
        if replica is not None:
            stack.enter_context(lagging(replica))
        nemesis = TransactionNemesis(cluster, faults, may_lose_power=durable, replica=replica)
        stack.enter_context(aiming(nemesis))
        world.trace("rules", version, durable, lags)
        cluster.start()
        await _prepare(Client(world, "first", ledger), version)
        for topic, count in TOPICS.items():
            for index in range(count):
                ledger.partition(topic, index, durable=durable)
        await _contend(world, ledger, nemesis, version, seconds)
        if failures.found:
            raise Violation(f"the broker failed inside: {failures.found[0]!r}") from failures.found[0]
        states = [transaction.state.name for transaction in ledger.transactions.values()]
        world.trace("done", ledger.acks, ledger.reads, {name: states.count(name) for name in sorted(set(states))})


async def _prepare(admin: Client, version: int) -> None:
    """Topics and the transaction version, before the faults begin."""
    topics = [creatable(name, partitions, SMALL) for name, partitions in TOPICS.items()]
    update = FeatureUpdateKey(feature=TRANSACTION, max_version_level=version, upgrade_type=1)
    while True:
        try:
            created = await admin.call(CreateTopicsRequest(topics=topics, timeout_ms=5000), 7)
            assert all(topic.error_code in (0, 36) for topic in created.topics), created
            if version:
                answer = await admin.call(UpdateFeaturesRequest(timeout_ms=5000, feature_updates=[update]), 1)
                assert answer.error_code == 0, answer
            return
        except Doubt:
            await trio.sleep(0.1)


async def _contend(world: World, ledger: Ledger, nemesis: TransactionNemesis, version: int, seconds: float) -> None:
    random = world.random("rules")
    histories = [each for each in ledger.histories if isinstance(each, StableHistory)]
    of = {topic: [each for each in histories if each.topic == topic] for topic in TOPICS}

    def rules() -> dict[str, int]:
        is_new = version >= NEW_RULES and random.random() < 0.8
        return {"version": NEW_RULES if is_new else 0, "timeout_ms": random.choice([1500, 4000, 20000])}

    producers = [
        TransactionalProducer(world, f"tx-{number}{rival}", ledger, f"tx-{number}", **rules())
        for number, rival in (("0", ""), ("1", "a"), ("1", "b"))
    ]
    others: list[Client] = [
        IdempotentProducer(world, "idempotent-0", ledger),
        PlainProducer(world, "plain", ledger, acks=1 if nemesis.replica is None else -1),
    ]
    for producer in producers:
        producer.histories = {str(each): each for each in (*of["input"], *of["mixed"])}
    for other in others:
        other.histories = {str(each): each for each in of["mixed"]}
    copiers = [Copier(world, f"copier-{n}", ledger, GROUP, of["input"], of["output"], **rules()) for n in range(2)]
    readers = [
        Reader(world, f"reader-{n}", ledger, histories, isolation=isolation, sessions=n % 2 == 0)
        for n, isolation in enumerate((READ_COMMITTED, READ_COMMITTED, READ_UNCOMMITTED))
    ]
    async with trio.open_nursery() as reading:
        for reader in readers:
            reading.start_soon(reader.run)
        async with trio.open_nursery() as copying:
            for copier in copiers:
                copying.start_soon(copier.run)
            async with trio.open_nursery() as writing:
                for writer in [*producers, *others]:
                    writing.start_soon(writer.run)
                await nemesis.rage(seconds)
                for client in (*producers, *others, *copiers):
                    client.finishing = True
                await _wait_for(writing, "the producers are not served")
            await _wait_copied(world, ledger, of["input"])
            for copier in copiers:
                copier.is_done = True
            await _wait_for(copying, "the copiers do not end")
        for reader in readers:
            reader.finishing = True
        await _wait_for(reading, "the readers are not served")
    await _judge(world, ledger, readers, of)


async def _wait_for(nursery: trio.Nursery, otherwise: str) -> None:
    with must_end(otherwise):
        while nursery.child_tasks:
            await trio.sleep(0.1)


async def _wait_copied(world: World, ledger: Ledger, inputs: list[StableHistory]) -> None:
    """Until the group has committed beyond the last committed record of every input."""
    with must_end("the inputs are not stable"):
        reader = await read_all(world, ledger, inputs, READ_COMMITTED)
    with must_end("the inputs are not copied"):
        for history in inputs:
            last = max((offset for offset, _ in reader.views[str(history)]), default=-1)
            while ledger.promised_offset(GROUP, str(history)) <= last:
                await trio.sleep(0.1)


async def _judge(world: World, ledger: Ledger, readers: Sequence[Reader], of: dict[str, list[StableHistory]]) -> None:
    histories = [history for each in of.values() for history in each]
    with must_end("the last stable offset does not reach the end"):
        stable = await read_all(world, ledger, histories, READ_COMMITTED)
    with must_end("the judge is not served"):
        raw = await read_all(world, ledger, histories, READ_UNCOMMITTED)
    for reader in readers:
        if reader.isolation == READ_COMMITTED:
            for name, view in reader.views.items():
                ledger.compare(reader.name, name, view, stable.views[name])
    ledger.judge({str(each): (raw.batches[str(each)], stable.views[str(each)]) for each in histories})
    ledger.judge_copies(
        GROUP,
        {str(each): stable.views[str(each)] for each in of["input"]},
        {str(each): stable.views[str(each)] for each in of["output"]},
    )
