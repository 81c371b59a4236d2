"""The rebalance timeline by itself, and as a classic group writes it for eager and cooperative consumers."""

from __future__ import annotations

import pytest

from kafka_wire.codegen import encode
from kafka_wire.messages.groups import (
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    SyncGroupRequest,
    SyncGroupRequestAssignment,
)
from kafka_wire.messages.internal import (
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
    ConsumerProtocolTopicPartitions,
)
from kbroker.coordinators.effects import Effect, Reply
from kbroker.groups.classic.group import ClassicGroup
from kbroker.groups.consumer_protocol import read_assignment, read_subscription
from kbroker.groups.group import Client
from kbroker.groups.settings import GroupLimits
from kbroker.groups.timeline import MEMBERS_MAX, PARTITIONS_MAX, REBALANCES_MAX, Rebalance, Timeline
from tests.groups.tools import given_by

P0, P1, P2, P3 = (("t", index) for index in range(4))


def test_who_was_waited_for() -> None:
    timeline = Timeline()
    timeline.begin("c joined", ["a", "b", "gone"], 10.0, 5_000)
    timeline.arrived("c", 10.0)
    timeline.arrived("a", 10.25)
    timeline.arrived("a", 11.0)
    timeline.arrived("b", 12.0)
    timeline.joined(["gone"], 70.0)
    timeline.end(7, 70.5)
    assert timeline.under_way is None
    assert list(timeline.rebalances) == [
        Rebalance(
            reason="c joined",
            began_ms=5_000,
            generation=7,
            waits_ms={"a": 250, "b": 2000, "gone": None, "c": 0},
            given_up=["gone"],
            joined_after_ms=60_000,
            ended_after_ms=60_500,
        )
    ]


def test_a_rebalance_may_cut_another_short() -> None:
    timeline = Timeline()
    timeline.begin("first", [], 0.0, 0)
    timeline.begin("second", [], 1.0, 1000)
    timeline.end(2, 3.0)
    assert [(each.reason, each.generation, each.ended_after_ms) for each in timeline.rebalances] == [
        ("first", -1, 1000),
        ("second", 2, 2000),
    ]


def test_what_a_partition_goes_through() -> None:
    timeline = Timeline()
    timeline.taken("a", [P0, P1, P2], 0.0)
    timeline.begin("b joined", ["a"], 1.0, 0)
    timeline.released("a", [P1, P2, P3], 2.0)
    timeline.taken("a", [P2], 2.5)
    timeline.taken("b", [P1], 5.0)
    timeline.taken("b", [P0], 5.0)  # without a gap
    timeline.taken("b", [P3], 5.0)  # never had an owner: not counted
    (rebalance,) = timeline.rebalances
    assert rebalance.unowned_ms == {P2: 500, P1: 3000}
    assert (rebalance.partitions_moved, rebalance.partitions_unowned, rebalance.unowned_ms_max) == (2, 2, 3000)


def test_a_partition_may_be_free_twice() -> None:
    timeline = Timeline()
    timeline.taken("a", [P0], 0.0)
    timeline.begin("r", [], 0.0, 0)
    timeline.released("a", [P0], 1.0)
    timeline.taken("a", [P0], 2.0)
    timeline.released("a", [P0], 3.0)
    timeline.taken("a", [P0], 5.0)
    assert timeline.rebalances[0].unowned_ms == {P0: 3000}
    assert timeline.unowned_s() == {P0: 3.0}


def test_the_total_outlives_the_rebalances_and_names_who_never_waited() -> None:
    timeline = Timeline()
    timeline.taken("a", [P0, P1], 0.0)
    timeline.released("a", [P0], 1.0)
    timeline.taken("b", [P0], 1.25)  # no rebalance is known; counted all the same
    assert timeline.unowned_s() == {P0: 0.25, P1: 0.0}
    for _ in range(REBALANCES_MAX + 1):
        timeline.begin("r", [], 2.0, 0)
    timeline.released("b", [P0], 3.0)
    assert timeline.unowned_s() == {P0: 0.25, P1: 0.0}, "a gap counts when it is over"
    timeline.taken("a", [P0], 4.0)
    assert timeline.unowned_s() == {P0: 1.25, P1: 0.0}


def test_the_totals_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbroker.groups.timeline.TOTALS_MAX", 1)
    timeline = Timeline()
    for since in (0.0, 2.0):
        timeline.taken("a", [P0, P1], since)
        timeline.released("a", [P0, P1], since + 1)
    timeline.taken("a", [P0], 4.0)
    assert timeline.unowned_s() == {P0: 2.0}


def test_a_static_member_keeps_what_it_has_under_its_new_id() -> None:
    timeline = Timeline()
    timeline.taken("a-1", [P0], 0.0)
    timeline.begin("r", [], 1.0, 0)
    timeline.renamed("a-1", "a-2")
    timeline.renamed("nobody", "somebody")
    timeline.assigned({"a-2": {P0}}, 2.0)
    assert timeline.rebalances[0].partitions_moved == 0


def test_it_is_bounded() -> None:
    timeline = Timeline()
    for i in range(REBALANCES_MAX + 3):
        timeline.begin(str(i), (str(n) for n in range(MEMBERS_MAX + 5)), 0.0, 0)
    timeline.arrived("one more", 0.0)
    assert len(timeline.rebalances) == REBALANCES_MAX
    assert timeline.rebalances[0].reason == "3"
    assert len(timeline.rebalances[-1].waits_ms) == MEMBERS_MAX
    many = {("t", index) for index in range(PARTITIONS_MAX + 5)}
    timeline.taken("a", many, 0.0)
    timeline.released("a", many, 1.0)
    timeline.taken("b", many, 2.0)
    last = timeline.rebalances[-1]
    assert (len(last.unowned_ms), last.partitions_unowned) == (PARTITIONS_MAX, PARTITIONS_MAX + 5)


def test_partitions_that_nobody_wants_any_more_are_forgotten() -> None:
    timeline = Timeline()
    timeline.assigned({"a": {P0, P1}}, 0.0)
    timeline.assigned({"a": {P0}}, 1.0)
    timeline.assigned({"a": {P0}}, 2.0)
    assert not timeline._free
    timeline.assigned({"b": {P0}}, 3.0)
    assert set(timeline._owned) == {"b"}


# -- as a classic group writes it


def topics(partitions: set[int]) -> list[ConsumerProtocolTopicPartitions]:
    return [ConsumerProtocolTopicPartitions(topic="t", partitions=sorted(partitions))] if partitions else []


class Consumers:
    """A group of consumers, the first of which leads; everybody is told its partitions in the clear."""

    def __init__(self) -> None:
        self.group = ClassicGroup("g", GroupLimits(), now_ms=0)
        self.now = 0.0
        self.generation = 0

    def join(
        self, name: str, owned: set[int], *, is_new: bool = False, instance_id: str | None = None, token: str = "id"
    ) -> list[Effect]:
        subscription = ConsumerProtocolSubscription(topics=["t"], owned_partitions=topics(owned))
        protocols = [JoinGroupRequestProtocol(name="p", metadata=b"\0\1" + encode(subscription, 1))]
        request = JoinGroupRequest(
            group_id="g",
            session_timeout_ms=6000,
            rebalance_timeout_ms=60_000,
            member_id="" if is_new else f"{name}-id",
            group_instance_id=instance_id,
            protocol_type="consumer",
            protocols=protocols,
        )
        return self.group.join(
            name, request, version=3, client=Client(name, ""), token=token, now=self.now, now_ms=round(self.now * 1000)
        )

    def sync(self, leader: str, **assignments: set[int]) -> None:
        """The leader assigns, and the others have asked for it."""
        for name in [*(each for each in assignments if each != leader), leader]:
            request = SyncGroupRequest(
                group_id="g",
                generation_id=self.group.generation,
                member_id=f"{name}-id",
                assignments=[
                    SyncGroupRequestAssignment(
                        member_id=f"{each}-id",
                        assignment=b"\0\0" + encode(ConsumerProtocolAssignment(assigned_partitions=topics(own)), 0),
                    )
                    for each, own in assignments.items()
                ],
            )
            effects = self.group.sync(name, request, given_by(request), now=self.now, now_ms=round(self.now * 1000))
        assert sum(isinstance(each, Reply) for each in effects) == len(assignments)

    @property
    def last(self) -> Rebalance:
        return self.group.timeline.rebalances[-1]


def test_eager_consumers_stop_for_every_rebalance() -> None:
    consumers = Consumers()
    consumers.join("a", set(), is_new=True)
    consumers.sync("a", a={0, 1})
    assert consumers.last.unowned_ms == {}, "nobody had them before"
    consumers.now = 1.0
    consumers.join("b", set(), is_new=True)
    consumers.now = 2.0
    consumers.join("a", set())  # it has stopped
    consumers.now = 3.0
    consumers.sync("a", a={0}, b={1})
    assert consumers.last == Rebalance(
        reason="b-id joined",
        began_ms=1000,
        generation=2,
        waits_ms={"a-id": 1000},
        joined_after_ms=1000,
        ended_after_ms=2000,
        partitions_moved=1,
        partitions_unowned=2,
        unowned_ms_max=1000,
        unowned_ms={P0: 1000, P1: 1000},
    )


def test_cooperative_consumers_keep_what_they_keep() -> None:
    """What stays with its owner has no unowned time; the rest is handed over in a second rebalance."""
    consumers = Consumers()
    consumers.join("a", set(), is_new=True)
    consumers.sync("a", a={0, 1})
    consumers.now = 1.0
    consumers.join("b", set(), is_new=True)
    consumers.now = 2.0
    consumers.join("a", {0, 1})
    consumers.now = 3.0
    consumers.sync("a", a={0}, b=set())
    assert (consumers.last.unowned_ms, consumers.last.partitions_moved) == ({}, 0)
    consumers.now = 3.5
    consumers.join("a", {0})  # has revoked, and says so
    consumers.join("b", set())
    consumers.now = 4.0
    consumers.sync("a", a={0}, b={1})
    assert (consumers.last.unowned_ms, consumers.last.partitions_moved) == ({P1: 1000}, 1)
    assert consumers.last.reason == "a-id joined again"


def test_the_partitions_of_a_lost_consumer_are_free_from_its_end() -> None:
    consumers = Consumers()
    consumers.join("a", set(), is_new=True)
    consumers.sync("a", a={0})
    consumers.now = 6.0
    consumers.group.on_alarm(6.0, 6000)
    consumers.now = 8.0
    consumers.join("b", set(), is_new=True)
    consumers.sync("b", b={0})
    assert consumers.last.unowned_ms == {P0: 2000}
    assert [each.reason for each in consumers.group.timeline.rebalances] == [
        "a-id joined",
        "a-id fell silent",
        "b-id joined",
    ]


def test_a_static_consumer_comes_back_to_what_it_had() -> None:
    consumers = Consumers()
    consumers.join("a", set(), is_new=True, instance_id="a")
    consumers.sync("a", a={0})
    consumers.now = 1.0
    consumers.join("a", set(), is_new=True, instance_id="a", token="2")
    assert consumers.group.timeline._owner == {P0: "a-2"}


# -- what consumers write


def test_bytes_that_no_consumer_wrote_say_nothing() -> None:
    for junk in (b"\0", b"\xff\xff\0\0", b"\0\0\0", b"\0\0\x7f\xff\xff\xff"):
        assert read_subscription(junk) is None
        assert read_assignment(junk) is None
    assert read_assignment(b"") == frozenset()


def test_a_version_to_come_is_read_as_the_newest_known() -> None:
    subscription = ConsumerProtocolSubscription(topics=["t"], rack_id="r")
    read = read_subscription(b"\0\x09" + encode(subscription, 3) + b"more")
    assert read is not None
    assert (read.topics, read.rack_id) == (["t"], "r")
