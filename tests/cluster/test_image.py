"""ClusterImage: topics whole or not at all, sharing, comparison."""

from __future__ import annotations

import random

import pytest

from kbroker.cluster.changes.placement import new_partitions
from kbroker.cluster.image import BrokerImage, Changes, ClusterImage, PartitionImage, compared, loaded
from kbroker.cluster.keys import Keys, Stamp, decode, encode, id_bytes, id_text
from kbroker.cluster.store import Entry, Event
from kbroker.turns import at_once
from tests.cluster.tools import cluster

KEYS = Keys("test")
T1, T2 = bytes([1]) * 16, bytes([2]) * 16


def changes(old: ClusterImage, new: ClusterImage) -> Changes:
    return at_once(compared(old, new))


def in_any_order(found: Changes) -> list[list[str]]:
    return [sorted(map(repr, each)) for each in found]


def begun(topic_id: bytes, replicas: list[tuple[int, ...]], first: int = 0) -> tuple[PartitionImage, ...]:
    return at_once(new_partitions(topic_id, replicas, cluster(0, 1, 2), first))


def value(**fields: object) -> bytes:
    return encode(dict(fields), Stamp("0.x", 1))


def partition_event(partition: PartitionImage, revision: int) -> Event:
    return Event(KEYS.partition(partition.topic_id, partition.index), value(**partition.fields()), revision)


def topic_events(name: str, topic_id: bytes, count: int, revision: int, **configs: str) -> list[Event]:
    events = [partition_event(partition, revision) for partition in begun(topic_id, [(0,)] * count)]
    if configs:
        events.append(Event(KEYS.topic_config(name), value(configs=configs), revision))
    return [*events, Event(KEYS.topic(name), value(id=id_text(topic_id), partitions=count), revision)]


def step(image: ClusterImage, *events: Event) -> ClusterImage:
    return at_once(image.applied(events, KEYS.prefix, max(event.mod_revision for event in events)))


def test_ids_are_printed_as_kafka_does() -> None:
    assert id_text(bytes(16)) == "AAAAAAAAAAAAAAAAAAAAAA"
    for _ in range(100):
        topic_id = random.randbytes(16)
        assert id_bytes(id_text(topic_id)) == topic_id


@pytest.mark.parametrize("junk", [b"", b"[1]", b"nonsense", b'"text"'])
def test_a_value_that_is_no_record_is_refused(junk: bytes) -> None:
    with pytest.raises(ValueError):
        decode(junk)


def test_what_is_stored_of_a_partition_comes_back_and_stays_short() -> None:
    plain = PartitionImage(T1, 0, (0, 1, 2), (0, 1), 0, 5, 6)
    assert plain.fields().keys() == {"replicas", "isr", "leader", "leader_epoch", "partition_epoch"}
    full = PartitionImage(T1, 1, (0, 1, 2), (), -1, 5, 6, elr=(1,), last_leader=2, adding=(2,), removing=(0,))
    image = step(ClusterImage(), partition_event(plain, 1), partition_event(full, 1))
    assert image.strays[T1] == {0: plain, 1: full}
    image = step(image, partition_event(full, 2))
    assert image.strays[T1][1].mod_revision == 2


def test_a_broker_that_is_gone_stays_registered() -> None:
    fields = BrokerImage(3, 7, "rack", {"L": ("host", 1)}, "dir", "x", {"f": (0, 1)}).fields()
    live = Event(KEYS.broker(3), value(**fields, leaving=True), 1)
    registered = Event(KEYS.registration(3), value(**fields), 1)
    image = step(ClusterImage(), live, registered, Event(KEYS.secret, value(secret="c2VjcmV0"), 1))
    assert image.brokers[3].leaving and not image.registrations[3].leaving
    assert image.registrations[3].fields() == fields
    assert image.secret == b"secret" and "secret" not in repr(image)
    image = step(image, Event(KEYS.broker(3), None, 2))
    assert not image.brokers and image.registrations.keys() == {3}


def test_a_topic_comes_and_goes() -> None:
    empty = ClusterImage()
    image = step(empty, *topic_events("t", T1, 3, 1, a="b"))
    topic = image.topics["t"]
    assert [p.index for p in topic.partitions] == [0, 1, 2]
    assert (topic.id, dict(topic.configs), topic.internal) == (T1, {"a": "b"}, False)
    assert image.topics_by_id == {T1: topic}
    found = changes(empty, image)
    assert found.topics_created == (topic,)
    assert [p.index for _, p in found.partitions_added] == [0, 1, 2]
    gone = step(image, Event(KEYS.topic("t"), None, 2), Event(KEYS.topic_config("t"), None, 2))
    assert not gone.topics and not gone.topics_by_id
    assert set(gone.strays) == {T1}
    found = changes(image, gone)
    assert found.topics_deleted == (topic,) and len(found.partitions_removed) == 3
    clean = step(gone, *[Event(KEYS.partition(T1, i), None, 3) for i in range(3)])
    assert not clean.strays and changes(gone, clean) == changes(gone, gone)


def test_a_large_topic_is_seen_when_its_key_comes() -> None:
    *partitions, head = topic_events("t", T1, 5, 1)
    image = ClusterImage()
    for number, event in enumerate(partitions, 1):
        image = step(image, event._replace(mod_revision=number))
        assert not image.topics
    image = step(image, head._replace(mod_revision=9))
    assert len(image.topics["t"].partitions) == 5 and not image.strays and not image.unfinished


def test_a_topic_key_that_comes_first_waits_for_the_partitions() -> None:
    *partitions, head = topic_events("t", T1, 2, 1)
    image = step(ClusterImage(), head)
    assert not image.topics and image.unfinished
    image = step(image, *[event._replace(mod_revision=2) for event in partitions])
    assert len(image.topics["t"].partitions) == 2 and not image.unfinished and not image.strays
    waiting = step(ClusterImage(), head)
    assert not step(waiting, Event(KEYS.topic("t"), None, 2)).unfinished


def test_a_topic_grows_when_its_key_says_so() -> None:
    image = step(ClusterImage(), *topic_events("t", T1, 1, 1))
    new = begun(T1, [(0,), (0,)], first=1)
    wider = step(image, *[partition_event(p, 2) for p in new])
    assert len(wider.topics["t"].partitions) == 1 and changes(image, wider) == changes(image, image)
    grown = step(wider, Event(KEYS.topic("t"), value(id=id_text(T1), partitions=3), 3))
    assert [p.index for _, p in changes(wider, grown).partitions_added] == [1, 2]
    assert not grown.strays and not changes(wider, grown).topics_created


def test_a_changed_partition_is_the_only_change() -> None:
    image = step(ClusterImage(), *topic_events("t", T1, 3, 1), *topic_events("u", T2, 1, 1))
    moved = PartitionImage(T1, 1, (0, 1), (0,), 0, 5, 6)
    new = step(image, partition_event(moved, 2))
    found = changes(image, new)
    assert found.partitions_changed == ((new.topics["t"], moved),)
    assert not found.topics_created and not found.partitions_added and not found.topic_configs_changed
    assert new.topics["u"] is image.topics["u"]
    assert new.topics["t"].partitions[1].mod_revision == 2


def test_a_topic_made_anew_is_another_topic() -> None:
    image = step(ClusterImage(), *topic_events("t", T1, 1, 1, a="b"))
    events = [Event(KEYS.topic("t"), None, 2), Event(KEYS.topic_config("t"), None, 2)]
    anew = step(image, *events, *topic_events("t", T2, 1, 3))
    found = changes(image, anew)
    assert [t.id for t in found.topics_deleted] == [T1] and [t.id for t in found.topics_created] == [T2]
    assert not anew.topics["t"].configs and set(anew.topics_by_id) == {T2}
    replaced = step(image, *topic_events("t", T2, 1, 3))  # without a deletion in between
    assert set(replaced.topics_by_id) == {T2}


def test_configs() -> None:
    image = step(ClusterImage(), *topic_events("t", T1, 1, 1))
    set_ = step(image, Event(KEYS.topic_config("t"), value(configs={"retention.ms": "5"}), 2))
    assert [t.configs for t in changes(image, set_).topic_configs_changed] == [{"retention.ms": "5"}]
    unset = step(set_, Event(KEYS.topic_config("t"), None, 3))
    assert [t.configs for t in changes(set_, unset).topic_configs_changed] == [{}]
    default = step(image, Event(KEYS.broker_config(""), value(configs={"a": "1"}), 2))
    own = step(default, Event(KEYS.broker_config("7"), value(configs={"a": "2"}), 3))
    assert own.broker_configs == {"": {"a": "1"}, "7": {"a": "2"}}
    assert changes(default, own).broker_configs_changed == ("7",)
    assert changes(own, step(own, Event(KEYS.broker_config(""), None, 4))).broker_configs_changed == ("",)


def test_brokers_and_controller() -> None:
    fields = {"epoch": 4, "rack": None, "endpoints": {"PLAIN": ["h", 1]}, "directory": "d", "incarnation": "i"}
    events = [
        Event(KEYS.cluster, value(id="cid"), 1),
        Event(KEYS.broker(3), value(**fields), 1),
        Event(KEYS.controller, value(broker=3, epoch=9), 1),
    ]
    image = step(ClusterImage(), *events)
    assert (image.cluster_id, image.controller_id, image.controller_epoch) == ("cid", 3, 9)
    broker = image.brokers[3]
    assert (broker.epoch, broker.endpoints, broker.rack) == (4, {"PLAIN": ("h", 1)}, None)
    again = step(image, Event(KEYS.broker(3), value(**{**fields, "epoch": 5}), 2))
    found = changes(image, again)
    assert [b.epoch for b in found.brokers_added] == [5] and [b.epoch for b in found.brokers_removed] == [4]
    gone = step(again, Event(KEYS.broker(3), None, 3), Event(KEYS.controller, None, 3))
    assert (gone.brokers, gone.controller_id, gone.controller_epoch) == ({}, -1, 9)


def test_what_is_known_is_passed_over() -> None:
    image = step(ClusterImage(), *topic_events("t", T1, 1, 5))
    stale = PartitionImage(T1, 0, (0,), (0,), 0, 99, 99)
    assert step(image, partition_event(stale, 5)).topics["t"].partitions[0].leader_epoch == 0
    assert at_once(image.applied([Event(b"/kb/other/topics/x", b"", 6)], KEYS.prefix, 6)).topics == image.topics


def test_unknown_keys_are_passed_over() -> None:
    image = step(ClusterImage(), Event(KEYS.prefix + b"users/alice", b"{}", 1), Event(KEYS.broker_epochs, b"{}", 1))
    assert image.topics == {} and image.revision == 1


def test_loading_equals_applying() -> None:
    """Random histories: the image built change by change equals the one loaded from what is left."""
    rng = random.Random(7)
    for _ in range(30):
        image, stored, seen = ClusterImage(), dict[bytes, tuple[bytes, int]](), ClusterImage()
        for revision in range(1, 30):
            name, topic_id = rng.choice([("t", T1), ("u", T2)])
            events = topic_events(name, topic_id, rng.randint(1, 4), revision)
            if name in image.topics:
                kind = rng.choice(["delete", "elect", "grow"])
                topic = image.topics[name]
                if kind == "delete":
                    keys = [KEYS.topic(name), *(KEYS.partition(topic_id, p.index) for p in topic.partitions)]
                    events = [Event(key, None, revision) for key in keys]
                elif kind == "elect":
                    part = PartitionImage(topic_id, 0, (0,), (0,), 0, revision, revision)
                    events = [partition_event(part, revision)]
                else:
                    size = len(topic.partitions)
                    grown = begun(topic_id, [(0,)], first=size)
                    head = Event(KEYS.topic(name), value(id=id_text(topic_id), partitions=size + 1), revision)
                    events = [partition_event(grown[0], revision), head]
            image = step(image, *events)
            for event in events:
                if event.value is None:
                    stored.pop(event.key, None)
                else:
                    stored[event.key] = (event.value, event.mod_revision)
            if rng.random() < 0.3:
                assert in_any_order(changes(seen, image)) == in_any_order(changes(seen, _loaded(stored, revision)))
                seen = image
        loaded = _loaded(stored, 29)
        assert loaded.topics == image.topics and loaded.topics_by_id == image.topics_by_id
        assert loaded.strays == image.strays == {}


def _loaded(stored: dict[bytes, tuple[bytes, int]], revision: int) -> ClusterImage:
    return at_once(loaded([Entry(key, *stored[key]) for key in sorted(stored)], KEYS.prefix, revision))
