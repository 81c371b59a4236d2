"""Groups, however large or hostile, hold the loop for a few milliseconds at a time. Lines are counted, not seconds."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from types import CoroutineType
from typing import Any

import pytest
import trio
import trio.testing

from kafka_wire.codegen import encode
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.consumer_groups import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    ConsumerGroupTopicPartitions,
)
from kafka_wire.messages.groups import (
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    JoinGroupResponse,
    SyncGroupRequest,
    SyncGroupRequestAssignment,
)
from kafka_wire.messages.internal import ConsumerProtocolAssignment, ConsumerProtocolTopicPartitions
from kbroker.cluster.image import ClusterImage
from kbroker.coordinators.effects import StateRecord
from kbroker.groups import membership
from kbroker.groups.consumer.group import ConsumerGroup
from kbroker.groups.coordinator import OFFSETS_TOPIC, GroupCoordinator
from kbroker.groups.group import Client
from kbroker.groups.membership import Asker
from kbroker.groups.storage.snapshots import (
    ConsumerGroupSnapshot,
    ConsumerMemberSnapshot,
    CurrentMemberSnapshot,
    TargetEpochSnapshot,
)
from kbroker.turns import PAUSES_A_TURN, STRIDE
from tests.api.steps import Steps
from tests.groups.consumer.classic_world import said
from tests.groups.tools import Rig, rig, topic
from tests.server.loop_meter import LINES_MAX, LoopMeter

ASKER = Asker(Client("app", "/1.2.3.4"), 1)
OLD = Asker(Client("app", "/1.2.3.4"), 3)
# On a busy machine these tests take a while, and nobody sends heartbeats.
PATIENT = {"group.consumer.max.session.timeout.ms": "3600000", "group.consumer.session.timeout.ms": "3600000"}


def set_topics(made: Rig, **partitions: int) -> None:
    """The cluster has these topics, and no other."""
    topics = {}
    for n, (name, count) in enumerate(partitions.items()):
        image = topic(name, n.to_bytes(16, "big"))
        topics[name] = replace(image, partitions=image.partitions * count)
    topics[OFFSETS_TOPIC] = made.image.topics[OFFSETS_TOPIC]
    made.registration.image = ClusterImage(topics=topics)


async def beat(made: Rig, member_id: str, epoch: int = 0, **fields: Any) -> ConsumerGroupHeartbeatResponse:
    """One ConsumerGroupHeartbeat; joins, unless fields say otherwise."""
    said = {"rebalance_timeout_ms": 60_000, "topic_partitions": []} if epoch == 0 else {}
    request = ConsumerGroupHeartbeatRequest(
        group_id="g",
        member_id=member_id,
        member_epoch=epoch,
        **(said | fields),  # type: ignore[arg-type]
    )
    return await answer(membership.consumer_heartbeat(made.coordinator, request, ASKER, failed))  # type: ignore[no-any-return]


async def answer(waiting: Any | Coroutine[Any, Any, Any]) -> Any:
    return await waiting if isinstance(waiting, CoroutineType) else waiting


def failed(code: ErrorCode, text: str | None = None) -> Any:
    raise AssertionError(code)


async def in_another_task(work: Any) -> None:
    """The meter counts all tasks but its own."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)


HOSTILE = {".*" * 200 + "b": 0, "(.?){200}z": 0, "(.*x){55}.*": 750, "topic-.*1": 1_000}


@pytest.mark.slow
@pytest.mark.parametrize("regex", HOSTILE)
async def test_B1_a_hostile_expression_over_ten_thousand_topics(regex: str) -> None:
    async with rig(config=PATIENT) as made:
        set_topics(made, **{f"topic-{'x' * (n % 60)}-{n}": 1 for n in range(10_000)})
        meter = LoopMeter()

        async def consume() -> None:
            await beat(made, "m1", subscribed_topic_regex=regex)
            with trio.fail_after(300):
                while made.shard.groups["g"].is_computing:  # type: ignore[attr-defined]
                    await trio.lowlevel.checkpoint()
            target = made.shard.groups["g"]._core.targets.get("m1", {})  # type: ignore[attr-defined]
            assert len(target) == pytest.approx(HOSTILE[regex], abs=200)

        with meter.running():
            await in_another_task(consume)
        assert meter.worst <= LINES_MAX, meter.report()


@pytest.mark.slow
@pytest.mark.parametrize("assignor", ["uniform", "range"])
@pytest.mark.parametrize("kinds", [1, 7])
async def test_B1_hundreds_of_members_share_ten_thousand_partitions(assignor: str, kinds: int) -> None:
    """kinds: of subscriptions."""
    async with rig(config=PATIENT) as made:
        set_topics(made, **{f"topic-{n}": 50 for n in range(200)})
        meter = LoopMeter()

        async def consume() -> None:
            epochs = {}
            for n in range(300):
                names = [f"topic-{t}" for t in range(200) if kinds == 1 or t % kinds != n % kinds]
                joined = await beat(made, f"m{n}", subscribed_topic_names=names, server_assignor=assignor)
                epochs[f"m{n}"] = joined.member_epoch
                await trio.lowlevel.checkpoint()
            group: Any = made.shard.groups["g"]
            with trio.fail_after(300):
                made.machine.clock.jump_liveness(2)
                while group._core.target_epoch < group._core.epoch:
                    await trio.sleep(0.01)
            members = group._core.targets
            given = sum(len(numbers) for target in members.values() for numbers in target.values())
            assert given == 10_000 and len(members) == 300

        with meter.running():
            await in_another_task(consume)
        assert meter.worst <= LINES_MAX, meter.report()


async def computed(group: Any) -> None:
    """Until nothing of the group is being computed."""
    with trio.fail_after(300):
        while group.is_computing:
            await trio.lowlevel.checkpoint()


@pytest.mark.slow
async def test_B1_one_member_is_given_ten_thousand_topics_gives_up_half_of_them_and_leaves() -> None:
    async with rig(config=PATIENT) as made:
        names = [f"topic-{n}" for n in range(10_000)]
        set_topics(made, **dict.fromkeys(names, 1))
        joined = await beat(made, "m1", subscribed_topic_names=names)
        group: Any = made.shard.groups["g"]
        meter = LoopMeter()

        async def consume() -> None:
            await computed(group)
            given = await beat(made, "m1", joined.member_epoch)
            assert len(given.assignment.topic_partitions) == 10_000  # type: ignore[union-attr]
            half = await beat(made, "m1", given.member_epoch, subscribed_topic_names=names[:5_000])
            await computed(group)
            half = await beat(made, "m1", half.member_epoch)
            assert len(half.assignment.topic_partitions) == 5_000  # type: ignore[union-attr]
            kept = [
                ConsumerGroupTopicPartitions(topic_id=each.topic_id, partitions=each.partitions)
                for each in half.assignment.topic_partitions  # type: ignore[union-attr]
            ]
            again = await beat(made, "m1", half.member_epoch, topic_partitions=kept)
            assert group._core.unreconciled == set() and again.member_epoch > half.member_epoch
            assert (await beat(made, "m1", -1)).error_code == 0

        with meter.running():
            await in_another_task(consume)
        assert meter.worst <= LINES_MAX, meter.report()
        assert group._core.owners.are_free({n.to_bytes(16, "big"): {0} for n in range(10_000)})


async def test_a_member_that_asks_again_or_leaves_while_it_is_being_moved() -> None:
    async with rig() as made:
        names = [f"topic-{n}" for n in range(3_000)]
        set_topics(made, **dict.fromkeys(names, 1))
        joined = await beat(made, "m1", subscribed_topic_names=names)
        await computed(made.shard.groups["g"])
        request = ConsumerGroupHeartbeatRequest(group_id="g", member_id="m1", member_epoch=joined.member_epoch)
        moved = membership.consumer_heartbeat(made.coordinator, request, ASKER, failed)
        meanwhile = membership.consumer_heartbeat(made.coordinator, request, ASKER, failed)
        assert (meanwhile.member_epoch, meanwhile.assignment) == (joined.member_epoch, None)
        assert (await beat(made, "m1", -1)).error_code == 0
        assert (await moved).error_code == ErrorCode.UNKNOWN_MEMBER_ID
        await computed(made.shard.groups["g"])
        group: Any = made.shard.groups["g"]
        assert group._core.owners.are_free({n.to_bytes(16, "big"): {0} for n in range(3_000)}), "nor does it keep any"


@pytest.mark.slow
async def test_B1_a_thousand_members_share_ten_thousand_partitions() -> None:
    """As stored by another broker; then one of them leaves."""
    async with rig(config=PATIENT) as made:
        names = tuple(f"topic-{n}" for n in range(200))
        set_topics(made, **dict.fromkeys(names, 50))
        stored: list[StateRecord] = [
            ConsumerMemberSnapshot("g", f"m{n}", None, None, "app", "/1.2.3.4", names, None, 60_000, None, None)
            for n in range(1_000)
        ]
        stored += [CurrentMemberSnapshot("g", f"m{n}", 5, 4, 0, (), (), (), ()) for n in range(1_000)]
        stored += [ConsumerGroupSnapshot("g", 5, 0), TargetEpochSnapshot("g", 5, 0)]
        limits, now = made.coordinator.settings_of("g").consumer, made.env.clock.liveness()
        group: Any = ConsumerGroup.restore("g", stored, limits, made.coordinator.topics, now=now)
        made.shard.keep(group)
        meter = LoopMeter()

        async def consume() -> None:
            for member_id, epoch in (("m0", 5), ("m1", -1)):
                assert (await beat(made, member_id, epoch)).error_code == 0
                await computed(group)
                made.machine.clock.jump_liveness(2)
            given = await beat(made, "m2", 5)
            with trio.fail_after(60):
                while not given.assignment:
                    made.machine.clock.jump_liveness(2)
                    await computed(group)
                    given = await beat(made, "m2", given.member_epoch)
            assert sum(len(each.partitions) for each in given.assignment.topic_partitions) >= 10  # type: ignore[union-attr]

        with meter.running():
            await in_another_task(consume)
        assert meter.worst <= LINES_MAX, meter.report()
        targets = group._core.targets.values()
        assert sum(len(numbers) for target in targets for numbers in target.values()) >= 9_990


def assigned(partitions: list[int]) -> bytes:
    value = ConsumerProtocolAssignment(
        assigned_partitions=[ConsumerProtocolTopicPartitions(topic="t", partitions=partitions)]
    )
    return b"\0\1" + encode(value, 1)


async def classic(made: Rig, partitions: int, members: int) -> None:
    """So many members of a classic group join, twice, and are assigned so many partitions."""
    ids = [""] * members
    answers: list[JoinGroupResponse] = []

    async def join(member_id: str, metadata: bytes) -> None:
        request = JoinGroupRequest(
            group_id="c", session_timeout_ms=60_000, rebalance_timeout_ms=60_000, member_id=member_id,
            protocol_type="consumer", protocols=[JoinGroupRequestProtocol(name="range", metadata=metadata)],
        )  # fmt: skip
        answers.append(await answer(membership.join(made.coordinator, request, OLD, failed)))

    for generation in (1, 2):
        answers.clear()
        async with trio.open_nursery() as nursery:
            for member_id in ids:
                nursery.start_soon(join, member_id, said([f"t{generation}"]))
        (last,) = {each.generation_id for each in answers}
        ids = [each.member_id for each in answers]
        leader = answers[0].leader
        given = {member_id: list(range(n, partitions, members)) for n, member_id in enumerate(ids)}
        request = SyncGroupRequest(
            group_id="c", member_id=leader, generation_id=last,
            assignments=[SyncGroupRequestAssignment(member_id=m, assignment=assigned(p)) for m, p in given.items()],
        )  # fmt: skip
        assert (await answer(membership.sync(made.coordinator, request, failed))).error_code == 0


@pytest.mark.slow
async def test_B1_the_timeline_of_a_classic_group_of_nine_thousand_partitions() -> None:
    async with rig(config={"group.initial.rebalance.delay.ms": "1000"}) as made:
        meter = LoopMeter()

        async def consume() -> None:
            await classic(made, 9_000, 100)

        with meter.running():
            await in_another_task(consume)
        assert meter.worst <= LINES_MAX, meter.report()
        timeline = made.shard.groups["c"].timeline
        assert [each.generation for each in timeline.rebalances] == [1, 2]


async def test_B1_very_many_groups_hear_of_a_config_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the broker's configs concerns every group there is."""
    async with rig() as made, trio.open_nursery() as nursery:
        shard, count = made.shard, 4 * STRIDE * PAUSES_A_TURN
        for n in range(count):
            shard.keep(shard.new_group(f"g{n}"))
        steps = Steps(nursery)
        monkeypatch.setattr(GroupCoordinator, "settings_of", steps.counted(GroupCoordinator.settings_of))
        made.config = made.config.with_values({"group.max.size": "7"})
        made.coordinator.on_configs_changed()
        shard.delete("g0")
        with trio.fail_after(60):
            while steps.calls < count - 1:
                await trio.lowlevel.checkpoint()
        assert steps.longest <= 2 * STRIDE * PAUSES_A_TURN
        assert all(group.limits.size_max == 7 for group in shard.groups.values())  # type: ignore[attr-defined]
        nursery.cancel_scope.cancel()
