"""Views as the cluster knows them: made of a topic, shown with its partitions, and in nobody's way."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.changes.config_changes import ConfigChange, ConfigOp
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.changes.reassignments import elections, reassignments
from kbroker.cluster.changes.views import VIEWS_MAX
from kbroker.cluster.elections import Rules, decide, disown, leave, take_up
from kbroker.cluster.image import ClusterImage, compared, loaded
from kbroker.cluster.keys import CLUSTER, Keys
from kbroker.cluster.registration import Registration
from kbroker.cluster.store import Entry, Event, load
from kbroker.config import BrokerConfig, ViewSpec
from kbroker.config.keys import Scope
from kbroker.turns import at_once
from tests.cluster.test_admin import only, refusal
from tests.cluster.test_image import KEYS, T1, T2, in_any_order, partition_event, step, topic_events, value
from tests.cluster.tools import FaultyStore, HandClock, RunClock, Watcher, make_registration, running

T3 = bytes([3]) * 16


def view(name: str = "v", source: str = "t", **configs: str) -> NewTopic:
    own = {f"kbroker.view.{key}": text for key, text in configs.items()}
    return NewTopic(name, configs={"kbroker.view.source": source, **own})


def view_events(name: str, topic_id: bytes, revision: int, **configs: str) -> list[Event]:
    return topic_events(name, topic_id, 0, revision, **{f"kbroker.view.{key}": text for key, text in configs.items()})


async def make(broker: Registration, *wishes: NewTopic) -> None:
    for wish in wishes:
        only(await broker.admin.create_topics([wish]))


# -- the image --------------------------------------------------------------------------------------------------------


def test_a_view_is_shown_with_the_partitions_of_its_source() -> None:
    image = step(ClusterImage(), *topic_events("t", T1, 3, 1))
    seen = step(image, *view_events("v", T2, 2, source="t", tags="eu"))
    shown = seen.topics["v"]
    assert shown is seen.topics_by_id[T2] and shown.view is not None and shown.view.source == "t"
    assert all(one is other for one, other in zip(shown.partitions, seen.topics["t"].partitions, strict=True))
    assert shown.own_partitions == () and shown.kept_as == "t"
    assert seen.views == {"t": ("v",)} and not seen.strays
    found = at_once(compared(image, seen))
    assert found.topics_created == (shown,) and not found.partitions_added and not found.partitions_changed


def test_a_view_follows_its_source() -> None:
    image = step(ClusterImage(), *topic_events("t", T1, 2, 1), *view_events("v", T2, 1, source="t"))
    new_leader = step(image, partition_event(image.topics["t"].partitions[1], 2))
    assert new_leader.topics["v"].partitions == new_leader.topics["t"].partitions
    assert new_leader.topics["v"].partitions[1].mod_revision == 2 and "v" in new_leader.touched
    grown = step(new_leader, *topic_events("t", T1, 4, 3))
    assert len(grown.topics["v"].partitions) == 4 and not grown.strays
    found = at_once(compared(new_leader, grown))
    assert [(topic.name, partition.index) for topic, partition in found.partitions_added] == [("t", 2), ("t", 3)]


def test_configs_of_a_view_may_change() -> None:
    image = step(ClusterImage(), *topic_events("t", T1, 1, 1), *view_events("v", T2, 1, source="t"))
    before = image.topics["v"].view
    other = step(image, partition_event(image.topics["t"].partitions[0], 2))
    assert other.topics["v"].view is before  # parsed once
    configs = {"kbroker.view.source": "t", "kbroker.view.lag.ms": "5"}
    late = step(other, Event(KEYS.topic_config("v"), value(configs=configs), 3))
    assert late.topics["v"].view == ViewSpec("t", lag_ms=5) and len(late.topics["v"].partitions) == 1
    assert at_once(compared(other, late)).topic_configs_changed == (late.topics["v"],)


def test_a_view_goes_without_a_trace() -> None:
    image = step(ClusterImage(), *topic_events("t", T1, 2, 1), *view_events("v", T2, 1, source="t"))
    gone = step(image, Event(KEYS.topic_config("v"), None, 2), Event(KEYS.topic("v"), None, 2))
    assert gone.topics.keys() == {"t"} and not gone.views and not gone.strays and T2 not in gone.topics_by_id
    found = at_once(compared(image, gone))
    assert [topic.name for topic in found.topics_deleted] == ["v"] and not found.partitions_removed


def test_a_topic_in_the_place_of_a_view_and_the_other_way_round() -> None:
    image = step(ClusterImage(), *topic_events("t", T1, 2, 1), *view_events("v", T2, 1, source="t"))
    away = [Event(KEYS.topic_config("v"), None, 2), Event(KEYS.topic("v"), None, 2)]
    topic = step(image, *away, *topic_events("v", T3, 1, 3))
    assert topic.topics["v"].view is None and len(topic.topics["v"].own_partitions) == 1 and not topic.views
    away = [Event(KEYS.topic("v"), None, 4), Event(KEYS.partition(T3, 0), None, 4)]
    again = step(topic, *away, *view_events("v", T2, 5, source="t"))
    assert again.topics["v"].view is not None and again.views == {"t": ("v",)} and not again.strays


@pytest.mark.parametrize("configs", [{"source": "gone"}, {"source": "t", "filter": "in another language"}])
def test_what_cannot_be_shown_shows_nothing(configs: dict[str, str]) -> None:
    image = step(ClusterImage(), *topic_events("t", T1, 2, 1), *view_events("v", T2, 1, **configs))
    assert image.topics["v"].partitions == () and image.topics["v"].view is not None


def test_loading_views_equals_applying_their_events() -> None:
    steps = [view_events("v", T2, 1, source="t"), topic_events("t", T1, 2, 2), view_events("w", T3, 3, source="t")]
    image = ClusterImage()
    for events in steps:
        image = step(image, *events)
    entries = [Entry(event.key, event.value or b"", event.mod_revision) for events in steps for event in events]
    assert in_any_order(at_once(compared(image, at_once(loaded(entries, KEYS.prefix, 3))))) == in_any_order(
        at_once(compared(image, image))
    )
    assert image.views == {"t": ("v", "w")}


def test_nobody_elects_or_moves_a_view() -> None:
    broker = value(epoch=1, rack=None, endpoints={}, directory="d", incarnation="x")
    alive = [Event(KEYS.broker(1), broker, 1), Event(KEYS.registration(1), broker, 1)]
    image = step(ClusterImage(), *alive, *topic_events("t", T1, 2, 1), *view_events("v", T2, 1, source="t"))
    rules = Rules(image, BrokerConfig())
    assert at_once(decide(image, ["t"], rules)) and not at_once(decide(image, ["v"], rules))  # broker 0 is gone
    assert len(at_once(take_up(image, 0, rules))) == 2  # and not four
    for found in (leave(image, 0, rules), disown(image, 0, rules)):
        assert all(partition.topic_id == T1 for partition in at_once(found))
    moved = at_once(reassignments([("v", 0, (1,))], image, rules, allow_replication_factor_change=True))
    for (error,) in (moved, at_once(elections([("v", 0)], image, rules, unclean=False))):
        assert isinstance(error, KafkaError) and error.code is ErrorCode.INVALID_TOPIC_EXCEPTION
        assert error.message == "v is a read-only view of t"


# -- made, changed, deleted -------------------------------------------------------------------------------------------


async def test_a_view_is_made_and_deleted(store: Any, clock: HandClock) -> None:
    watcher = Watcher()
    async with running(make_registration(store, clock, watcher)) as broker:
        await make(broker, NewTopic("t", 3, 1))
        made = only(await broker.admin.create_topics([view(tags="eu,vip", **{"lag.ms": "5"})]))
        assert broker.image.topics["v"] is made and len(made.partitions) == 3
        assert made.id != broker.image.topics["t"].id and made.view is not None and made.view.lag_ms == 5
        stored = await load(store, Keys(CLUSTER).prefix + b"p/")
        assert len(stored.entries) == 3
        (gone,) = await broker.admin.delete_topics(["v"])
        assert not isinstance(gone, KafkaError) and broker.image.topics.keys() == {"t"}
        assert len((await load(store, Keys(CLUSTER).prefix + b"p/")).entries) == 3
        assert not (await load(store, Keys(CLUSTER).prefix + b"config/topics/")).entries


async def test_numbers_are_the_sources(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as broker:
        await make(broker, NewTopic("t", 3, 1))
        for wish, code in (
            (NewTopic("v", 2, configs=view().configs), ErrorCode.INVALID_PARTITIONS),
            (NewTopic("v", 3, 2, configs=view().configs), ErrorCode.INVALID_REPLICATION_FACTOR),
            (NewTopic("v", assignments=[(0, [0])], configs=view().configs), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ):
            error = await refusal(broker.admin.create_topics([wish]))
            assert error.code is code and "its source t" in error.message, error
        await make(broker, NewTopic("v", 3, 1, configs=view().configs))


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (view(source="x"), "kbroker.view.source: there is no topic x."),
        (view(source="w"), "kbroker.view.source: w is a view itself, of t, and has no views."),
        (view(source="v"), "kbroker.view.source: a view cannot be its own source."),
        (view(source="__consumer_offsets"), "__consumer_offsets is a topic of the broker's own, and has no views."),
        (view("__consumer_offsets"), "__consumer_offsets is a topic of the broker's own, and cannot be a view."),
        (
            view(filter="tags has"),
            "kbroker.view.filter: filter, position 9: expected a string in quotes, found the end",
        ),
        (view(tags="a,b", filter='key = "1"'), "kbroker.view.tags and kbroker.view.filter are both set"),
    ],
)
async def test_no_such_views(store: Any, clock: HandClock, wish: NewTopic, message: str) -> None:
    async with running(make_registration(store, clock)) as broker:
        await make(broker, NewTopic("t"), view("w"))
        error = await refusal(broker.admin.create_topics([wish]))
        assert error.code is ErrorCode.INVALID_CONFIG and message in error.message, error.message
        assert broker.image.topics.keys() == {"t", "w"}


async def test_a_source_has_so_many_views_at_most(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as broker:
        await make(broker, NewTopic("t"))
        many = [view(f"v{number}") for number in range(VIEWS_MAX)]
        assert not [each for each in await broker.admin.create_topics(many) if isinstance(each, KafkaError)]
        error = await refusal(broker.admin.create_topics([view("more")]))
        assert (error.code, error.message) == (ErrorCode.POLICY_VIOLATION, "t has 100 views: a topic has no more.")


async def test_a_source_is_not_deleted_under_its_views(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as broker:
        await make(broker, NewTopic("t"), view("w"), view("v"))
        (error,) = await broker.admin.delete_topics(["t"])
        assert isinstance(error, KafkaError) and error.code is ErrorCode.POLICY_VIOLATION
        assert error.message == "Topic t has views, which are to be deleted before it: v, w."
        results = await broker.admin.delete_topics(["t", broker.image.topics["v"].id, "w", "x"])
        assert [isinstance(each, KafkaError) for each in results] == [False, False, False, True]
        assert not broker.image.topics and not broker.image.views


async def test_of_a_view_that_comes_and_its_source_that_goes_the_later_is_refused(
    autojump_clock: MockClock,
) -> None:
    store = FaultyStore(RunClock())
    async with running(make_registration(store, RunClock())) as broker:
        await make(broker, NewTopic("t"), NewTopic("u"))

        async def create() -> None:
            await make(broker, view())

        async def delete() -> None:
            only(await broker.admin.delete_topics(["u"]))

        store.before_txn = create
        assert (await refusal(broker.admin.delete_topics(["t"]))).code is ErrorCode.POLICY_VIOLATION
        store.before_txn = delete
        error = await refusal(broker.admin.create_topics([view("w", "u")]))
        assert error.message == "kbroker.view.source: there is no topic u."
        assert broker.image.topics.keys() == {"t", "v"}


async def test_growing_a_view_is_refused_and_growing_its_source_grows_it(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as broker:
        await make(broker, NewTopic("t", 1), view())
        with pytest.raises(KafkaError, match="v is a read-only view of t"):
            await broker.admin.create_partitions("v", 3)
        await broker.admin.create_partitions("t", 3)
        assert len(broker.image.topics["v"].partitions) == 3


async def test_what_may_be_altered_of_a_view(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as broker:
        await make(broker, NewTopic("t"), NewTopic("u"), view(tags="eu"))

        async def alter(topic: str, *ops: tuple[ConfigOp, str, str | None], replace: bool = False) -> str:
            change = ConfigChange(Scope.TOPIC, topic, ops, replace)
            (error,) = await broker.admin.alter_configs([change])
            return "" if error is None else f"{error.code.name}: {error.message}"

        add, put = ConfigOp.APPEND, ConfigOp.SET
        assert not await alter("v", (add, "kbroker.view.tags", "vip"), (put, "kbroker.view.lag.ms", "7"))
        spec = broker.image.topics["v"].view
        assert spec is not None and spec.lag_ms == 7
        assert spec.expression is not None and spec.expression.tags() == {b"eu", b"vip"}
        assert not await alter("v", (put, "kbroker.view.source", "t"), replace=True)
        assert broker.image.topics["v"].view == ViewSpec("t")
        source = "INVALID_CONFIG: kbroker.view.source: "
        changed = source + "the source of a view cannot be changed: it is t"
        assert (await alter("v", (put, "kbroker.view.source", "u"))).startswith(changed)
        assert (await alter("v", (ConfigOp.DELETE, "kbroker.view.source", None))).startswith(changed)
        assert (await alter("v", replace=True)).startswith(changed)
        assert (await alter("u", (put, "kbroker.view.source", "t"))).startswith(source + "a topic is made a view when")
        assert "is not for views" in await alter("v", (put, "retention.ms", "1"))
        assert "is for views" in await alter("t", (put, "kbroker.view.lag.ms", "1"))
        assert "position 1" in await alter("v", (put, "kbroker.view.filter", ")"))


@pytest.mark.parametrize("fault", ["lose_replies", "lose_requests", "refuse"])
async def test_lost_replies_make_one_view(autojump_clock: MockClock, fault: str) -> None:
    store = FaultyStore(RunClock())
    async with running(make_registration(store, RunClock())) as broker:
        await make(broker, NewTopic("t"))
        for lost in (1, 3):
            setattr(store, fault, lost)
            made = only(await broker.admin.create_topics([view()]))
            assert broker.image.topics["v"] is made
            setattr(store, fault, lost)
            assert only(await broker.admin.delete_topics(["v"])).id == made.id
            assert not broker.image.strays
