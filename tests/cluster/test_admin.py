"""Topics, partitions, configurations and producer ids through a broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.changes.config_changes import ConfigChange, ConfigOp
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.image import TopicImage
from kbroker.cluster.registration import Registration
from kbroker.cluster.store import Delete, Guard, Op, TxnResult
from kbroker.config import BrokerConfig
from kbroker.config.keys import Scope
from tests.cluster.tools import FaultyStore, HandClock, RunClock, Watcher, eventually, make_registration, running

SEVEN = BrokerConfig().with_values({"num.partitions": 7})


def only(results: Sequence[Any]) -> TopicImage:
    """The one topic; a refusal is raised."""
    (result,) = results
    if isinstance(result, KafkaError):
        raise result
    assert isinstance(result, TopicImage)
    return result


async def refusal(results: Any) -> KafkaError:
    (result,) = await results
    assert isinstance(result, KafkaError), result
    return result


async def test_a_topic_is_usable_when_create_returns(store: Any, clock: HandClock) -> None:
    watcher = Watcher()
    async with running(make_registration(store, clock, watcher)) as broker:
        topic = only(await broker.admin.create_topics([NewTopic("t", 3, 1, configs={"retention.ms": "5"})]))
        assert broker.image.topics["t"] is topic is broker.image.topics_by_id[topic.id]
        assert topic.configs == {"retention.ms": "5"}
        assert [(p.replicas, p.isr, p.leader, p.leader_epoch, p.partition_epoch) for p in topic.partitions] == [
            ((0,), (0,), 0, 0, 0)
        ] * 3
        assert watcher.changes[-1].topics_created == (topic,)


async def test_a_small_topic_is_one_transaction(clock: HandClock) -> None:
    store = FaultyStore(clock)
    async with running(make_registration(store, clock)) as broker:
        before = store.txns
        only(await broker.admin.create_topics([NewTopic("t", configs={"retention.ms": "5"})]))
        assert store.txns == before + 1


async def test_refusals(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as broker:
        only(await broker.admin.create_topics([NewTopic("a.b")]))
        error = await refusal(broker.admin.create_topics([NewTopic("a.b")]))
        assert (error.code, error.message) == (ErrorCode.TOPIC_ALREADY_EXISTS, "Topic 'a.b' already exists.")
        assert (await refusal(broker.admin.create_topics([NewTopic("a_b")]))).code is ErrorCode.INVALID_TOPIC_EXCEPTION
        wish = NewTopic("x", configs={"no.such": "1"})
        assert (await refusal(broker.admin.create_topics([wish]))).code is ErrorCode.INVALID_CONFIG
        wish = NewTopic("x", replication_factor=2)
        assert (await refusal(broker.admin.create_topics([wish]))).code is ErrorCode.INVALID_REPLICATION_FACTOR
        results = await broker.admin.create_topics([NewTopic(name) for name in ("d", "e", "d", "e_f", "e.f")])
        codes = [r.code if isinstance(r, KafkaError) else None for r in results]
        duplicate, collision = ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_TOPIC_EXCEPTION
        assert codes == [duplicate, None, duplicate, None, collision]
        assert set(broker.image.topics) == {"a.b", "e", "e_f"}


async def test_defaults_are_asked_for(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock, config=lambda: SEVEN)) as broker:
        assert len(only(await broker.admin.create_topics([NewTopic("t")])).partitions) == 7


async def test_validating_only_changes_nothing(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as broker:
        planned = only(await broker.admin.create_topics([NewTopic("t", 3)], validate_only=True))
        assert len(planned.partitions) == 3 and planned.id != bytes(16)  # as if it had been made
        only(await broker.admin.create_topics([NewTopic("t")]))
        assert len((await broker.admin.create_partitions("t", 5, validate_only=True)).partitions) == 5
        change = ConfigChange(Scope.TOPIC, "t", [(ConfigOp.SET, "retention.ms", "5")])
        assert await broker.admin.alter_configs([change], validate_only=True) == [None]
        assert len(broker.image.topics["t"].partitions) == 1 and not broker.image.topics["t"].configs


async def test_a_request_makes_ten_thousand_partitions_at_most(store: Any, clock: HandClock) -> None:
    """Counted over the whole request, all of which is refused (ReplicationControlManager)."""
    async with running(make_registration(store, clock, config=lambda: SEVEN)) as broker:
        for wishes in (
            [NewTopic("t", 10_001)],
            [NewTopic("t", 9_994), NewTopic("u")],
            [NewTopic("t", 9_998), NewTopic("u", assignments={0: [0], 1: [0], 2: [0]}), NewTopic("v", -5)],
        ):
            for refused in await broker.admin.create_topics(wishes, validate_only=True):
                assert isinstance(refused, KafkaError) and refused.code is ErrorCode.POLICY_VIOLATION
                assert refused.message == "Excessively large number of partitions per request."
        results = await broker.admin.create_topics([NewTopic("t", 9_993), NewTopic("u")], validate_only=True)
        assert [len(topic.partitions) for topic in results if isinstance(topic, TopicImage)] == [9_993, 7]


async def test_a_large_topic_is_seen_whole_or_not_at_all(store: Any, clock: HandClock) -> None:
    watcher = Watcher()
    async with running(make_registration(store, clock, watcher)) as broker:
        topic = only(await broker.admin.create_topics([NewTopic("t", 1000, configs={"retention.ms": "5"})]))
        assert [p.index for p in topic.partitions] == list(range(1000))
        assert {len(new.topics["t"].partitions) for _, new in watcher.seen if "t" in new.topics} == {1000}
        assert not broker.image.strays and not broker.image.pending
        assert len((await broker.admin.create_partitions("t", 1300)).partitions) == 1300
        sizes = {len(new.topics["t"].partitions) for _, new in watcher.seen if "t" in new.topics}
        assert sizes == {1000, 1300}
        assert only(await broker.admin.delete_topics(["t"])).id == topic.id
        await eventually(lambda: not broker.image.strays)
        assert (await store.range(b"/kb/kbroker/p/")).entries == []
        assert (await store.range(b"/kb/kbroker/config/topics/")).entries == []


async def test_many_topics_in_one_request(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as broker:
        results = await broker.admin.create_topics([NewTopic(f"t{i}") for i in range(100)])
        assert [r.name for r in results if isinstance(r, TopicImage)] == [f"t{i}" for i in range(100)]
        gone = await broker.admin.delete_topics([f"t{i}" for i in range(100)])
        assert [t.name for t in gone if isinstance(t, TopicImage)] == [f"t{i}" for i in range(100)]
        assert not broker.image.topics


async def test_deleting(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as broker:
        one = only(await broker.admin.create_topics([NewTopic("one", configs={"retention.ms": "5"})]))
        two = only(await broker.admin.create_topics([NewTopic("two")]))
        results = await broker.admin.delete_topics(["one", two.id, "three", bytes([9]) * 16])
        assert results[:2] == [one, two]
        assert [r.code for r in results[2:] if isinstance(r, KafkaError)] == [
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ErrorCode.UNKNOWN_TOPIC_ID,
        ]
        again = only(await broker.admin.create_topics([NewTopic("one")]))
        assert again.id != one.id and not again.configs
        assert (await refusal(broker.admin.delete_topics([one.id]))).code is ErrorCode.UNKNOWN_TOPIC_ID


async def test_growing(store: Any, clock: HandClock) -> None:
    watcher = Watcher()
    async with running(make_registration(store, clock, watcher)) as broker:
        topic = only(await broker.admin.create_topics([NewTopic("t", 2)]))
        assert len((await broker.admin.create_partitions("t", 5)).partitions) == 5
        assert [p.index for _, p in watcher.changes[-1].partitions_added] == [2, 3, 4]
        assert broker.image.topics["t"].id == topic.id
        assert (await broker.admin.create_partitions("t", 6, [[0]])).partitions[5].replicas == (0,)
        for name, total, code in [
            ("t", 6, ErrorCode.INVALID_PARTITIONS),
            ("t", 3, ErrorCode.INVALID_PARTITIONS),
            ("u", 3, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ]:
            with pytest.raises(KafkaError) as raised:
                await broker.admin.create_partitions(name, total)
            assert raised.value.code is code


def change(name: str, *ops: tuple[ConfigOp, str, str | None], scope: Scope = Scope.TOPIC) -> ConfigChange:
    return ConfigChange(scope, name, ops)


async def test_configs(store: Any, clock: HandClock) -> None:
    watcher = Watcher()
    async with running(make_registration(store, clock, watcher)) as broker:
        only(await broker.admin.create_topics([NewTopic("t")]))
        set_ = change("t", (ConfigOp.SET, "retention.ms", "5"))
        assert await broker.admin.alter_configs([set_]) == [None]
        assert broker.image.topics["t"].configs == {"retention.ms": "5"}
        assert [t.name for t in watcher.changes[-1].topic_configs_changed] == ["t"]
        append = change("t", (ConfigOp.APPEND, "cleanup.policy", "compact"))
        broken = change("t", (ConfigOp.SET, "retention.ms", "x"))
        results = await broker.admin.alter_configs([append, broken, change("u", (ConfigOp.SET, "retention.ms", "5"))])
        codes = [r.code if r is not None else None for r in results]
        assert codes == [None, ErrorCode.INVALID_CONFIG, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        assert broker.image.topics["t"].configs == {"retention.ms": "5", "cleanup.policy": "delete,compact"}
        wipe = ConfigChange(Scope.TOPIC, "t", [], replace=True)
        assert await broker.admin.alter_configs([wipe, wipe]) == [None, None]
        assert broker.image.topics["t"].configs == {}
        assert await store.get(b"/kb/kbroker/config/topics/t") is None


async def test_broker_configs(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as broker:
        set_ = (ConfigOp.SET, "log.retention.ms", "5")
        everyone, own = change("", set_, scope=Scope.BROKER), change("0", set_, scope=Scope.BROKER)
        absent, nonsense = change("7", set_, scope=Scope.BROKER), change("x", set_, scope=Scope.BROKER)
        results = await broker.admin.alter_configs([everyone, own, absent, nonsense])
        codes = [r.code if r is not None else None for r in results]
        assert codes == [None, None, ErrorCode.BROKER_ID_NOT_REGISTERED, ErrorCode.INVALID_REQUEST]
        min_isr = {"min.insync.replicas": "1"}  # a new cluster begins with it
        both = {"": {**min_isr, "log.retention.ms": "5"}, "0": {"log.retention.ms": "5"}}
        assert broker.image.broker_configs == both


async def test_P4_producer_ids_are_unique_for_ever(store: Any, clock: HandClock) -> None:
    given: list[int] = []

    async def take(broker: Registration) -> None:
        for _ in range(3):
            given.extend(await broker.admin.allocate_producer_ids(10))

    for start in range(2):
        async with running(make_registration(store, clock, seed=start)) as one:
            async with running(make_registration(store, clock, seed=9, id=1, directory="dir-1")) as two:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(take, one)
                    nursery.start_soon(take, two)
                assert len(await one.admin.allocate_producer_ids()) == 1000
    assert len(given) == len(set(given)) == 120


class Site:
    """A broker on a faulty store, and a second one that gets in its way."""

    def __init__(self) -> None:
        self.store = FaultyStore(RunClock())
        self.broker = make_registration(self.store, RunClock())
        self.rival = make_registration(self.store, RunClock(), seed=1, id=1, directory="dir-1")


@pytest.fixture
def site() -> Site:
    return Site()


FAULTS = ["lose_replies", "lose_requests", "refuse"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("partitions", [1, 250])
async def test_P4_R5_lost_replies_change_no_answer(
    autojump_clock: MockClock, site: Site, fault: str, partitions: int
) -> None:
    async with running(site.broker) as broker:
        for lost in (1, 3):
            setattr(site.store, fault, lost)
            topic = only(await broker.admin.create_topics([NewTopic("t", partitions)]))
            assert len(topic.partitions) == partitions
            setattr(site.store, fault, lost)
            assert len((await broker.admin.create_partitions("t", partitions * 2)).partitions) == partitions * 2
            setattr(site.store, fault, lost)
            set_ = change("t", (ConfigOp.SET, "retention.ms", str(lost)))
            assert await broker.admin.alter_configs([set_]) == [None]
            setattr(site.store, fault, lost)
            first = await broker.admin.allocate_producer_ids(5)
            assert not set(first) & set(await broker.admin.allocate_producer_ids(5))
            setattr(site.store, fault, lost)
            assert only(await broker.admin.delete_topics(["t"])).id == topic.id
            await eventually(lambda: not broker.image.strays and not broker.image.pending)


async def test_a_silent_store_is_answered_as_a_timeout(autojump_clock: MockClock, site: Site) -> None:
    async with running(site.broker) as broker:
        site.store.refuse = 100
        assert (await refusal(broker.admin.create_topics([NewTopic("t")]))).code is ErrorCode.REQUEST_TIMED_OUT
        with pytest.raises(KafkaError) as raised:
            await broker.admin.allocate_producer_ids()
        assert raised.value.code is ErrorCode.REQUEST_TIMED_OUT
        site.store.refuse = 0
        only(await broker.admin.create_topics([NewTopic("t")]))


@pytest.mark.parametrize("partitions", [1, 250])
async def test_who_comes_second_is_told(autojump_clock: MockClock, site: Site, partitions: int) -> None:
    async with running(site.broker) as broker, running(site.rival) as rival:

        async def first() -> None:
            only(await rival.admin.create_topics([NewTopic("t")]))

        site.store.before_txn = first
        error = await refusal(broker.admin.create_topics([NewTopic("t", partitions)]))
        assert error.code is ErrorCode.TOPIC_ALREADY_EXISTS
        assert len(broker.image.topics["t"].partitions) == 1
        await eventually(lambda: not broker.image.strays and not broker.image.pending)

        async def grow() -> None:
            await rival.admin.create_partitions("t", 2)

        site.store.before_txn = grow
        assert len((await broker.admin.create_partitions("t", partitions + 2)).partitions) == partitions + 2

        async def configure() -> None:
            assert await rival.admin.alter_configs([change("t", (ConfigOp.SET, "retention.ms", "5"))]) == [None]

        site.store.before_txn = configure
        set_ = change("t", (ConfigOp.SET, "segment.bytes", "1048576"))
        assert await broker.admin.alter_configs([set_]) == [None]
        assert broker.image.topics["t"].configs == {"retention.ms": "5", "segment.bytes": "1048576"}

        async def configure_again() -> None:
            assert await rival.admin.alter_configs([change("t", (ConfigOp.SET, "retention.ms", "6"))]) == [None]

        site.store.before_txn = configure_again
        assert only(await broker.admin.delete_topics(["t"])).name == "t"
        await eventually(lambda: not broker.image.strays)
        assert (await site.store.range(b"/kb/kbroker/config/topics/")).entries == []


async def test_what_a_dead_broker_left_unfinished_is_reaped(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FaultyStore(clock)
    txn = store.txn

    async def unfinished(guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        if any(isinstance(op, Delete) and b"/pending/" in op.key for op in ops):
            await trio.sleep_forever()
        return await txn(guards, ops)

    async with running(make_registration(store, clock)) as broker:
        only(await broker.admin.create_topics([NewTopic("grown", 2)]))
        with monkeypatch.context() as patch:
            patch.setattr(store, "txn", unfinished)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(broker.admin.create_topics, [NewTopic("t", 500)])
                nursery.start_soon(broker.admin.create_partitions, "grown", 500)
                await eventually(lambda: len(broker.image.pending) == 2)
                nursery.cancel_scope.cancel()
        store.killed = True
    store.killed = False
    async with running(make_registration(store, clock, seed=1)) as broker:
        assert {name: len(topic.partitions) for name, topic in broker.image.topics.items()} == {"grown": 2}
        await eventually(lambda: clock.sleepers == 3)  # keepalive, housekeeping, tick
        assert set(broker.image.strays) == broker.image.pending  # the dead one's session still guards them
        clock.advance(5)
        await eventually(lambda: clock.sleepers == 3)
        clock.advance(5)
        await eventually(lambda: not broker.image.pending)
        await broker.admin.reap_strays()
        await eventually(lambda: not broker.image.strays)
        page = await store.range(b"/kb/kbroker/p/")
        assert len(page.entries) == 2
        assert len((await broker.admin.create_partitions("grown", 300)).partitions) == 300
