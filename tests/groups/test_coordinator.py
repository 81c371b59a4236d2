"""The shell: loading, leading and resigning, what happens when the log refuses, and a replay that stays short."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.groups import (
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    LeaveGroupRequest,
    SyncGroupRequest,
)
from kafka_wire.messages.groups import SyncGroupRequestAssignment as Assignment
from kbroker.coordinators.routing import partition_of
from kbroker.groups import membership
from kbroker.groups.classic.group import ClassicGroup
from kbroker.groups.classic.rebalance import GroupState
from kbroker.groups.group import Client
from kbroker.groups.membership import Asker
from kbroker.groups.storage.records import GroupKey, KeyType, encode_key
from kbroker.log.cleaner.cleaner import Cleaner
from kbroker.replication.partition import Partition
from kbroker.testing.broker import Machine
from kbroker.turns import at_once, finish
from tests.groups.tools import Rig, change, of, rig

ASKER = Asker(Client("app", "/1.2.3.4"), 0)


def enter(made: Rig, group_id: str) -> str:
    """One member joins and is assigned; its id."""
    request = JoinGroupRequest(
        group_id=group_id, session_timeout_ms=10_000, rebalance_timeout_ms=10_000, member_id="",
        protocol_type="consumer", protocols=[JoinGroupRequestProtocol(name="range", metadata=b"topics")],
    )  # fmt: skip
    joined: Any = membership.join(made.coordinator, request, ASKER, lambda code: code)
    assert joined.error_code == 0
    assignments = [Assignment(member_id=joined.member_id, assignment=b"all")]
    synced: Any = membership.sync(
        made.coordinator,
        SyncGroupRequest(
            group_id=group_id, generation_id=joined.generation_id, member_id=joined.member_id, assignments=assignments
        ),
        lambda code: code,
    )
    assert synced.error_code == 0
    return str(joined.member_id)


def leave(made: Rig, group_id: str, member_id: str) -> Any:
    """A member leaves; the response, or the error."""
    request = LeaveGroupRequest(group_id=group_id, member_id=member_id)
    return membership.leave(made.coordinator, request, 0, lambda code: code)


@pytest.mark.parametrize(
    ("group_id", "partition"),
    [("", 0), ("g", 3), ("console-consumer-12345", 6), ("test-group", 12), ("grüße", 23), ("\N{GRINNING FACE}x", 39)],
)
def test_groups_are_placed_as_kafka_places_them(group_id: str, partition: int) -> None:
    assert partition_of(group_id, 50) == partition


async def test_G3_leading_is_ordered_by_epoch_and_idempotent() -> None:
    async with rig(epoch=5) as made:
        shard = made.shard
        made.coordinator.lead(made.partition)
        assert made.shard is shard, "the same epoch changes nothing"
        assert made.commit("g", change("g", 7)) == 0
        made.lead(4)
        assert made.shard is shard, "an older epoch changes nothing"
        made.lead(6)
        assert shard.closed == ErrorCode.NOT_COORDINATOR
        with pytest.raises(KafkaError) as refused:
            _ = made.shard
        assert refused.value.code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        await made.loaded()
        assert made.offset("g") == 7
        made.partition.resign()
        made.coordinator.resign(0)
        made.coordinator.resign(0)
        with pytest.raises(KafkaError):
            _ = made.shard


async def test_G3_a_load_that_fails_is_tried_again(autojump_clock: MockClock) -> None:
    machine = Machine()
    async with rig(machine) as made:
        made.commit("g", change("g", 7))
    async with rig(machine, epoch=2, failing_reads=3) as made:
        await trio.sleep(0.5)
        with pytest.raises(KafkaError) as refused:
            _ = made.shard
        assert refused.value.code == ErrorCode.NOT_COORDINATOR
        await trio.sleep(10)
        assert made.offset("g") == 7


async def test_G3_damage_is_told_once_and_a_load_succeeds_when_it_is_deleted(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The line names file and offset. Nobody is told to wait for what will not come."""
    machine = Machine()
    async with rig(machine) as made:
        for n in range(3):
            made.commit("g", change("g", n))
        path, size = made.partition.log.active.path, made.partition.log.size
        made.commit("g", change("g", 7))
    async with rig(machine, epoch=2, flipped=(path, size - 5)) as made:
        for _ in range(10):
            with pytest.raises(KafkaError) as refused:
                await trio.sleep(60)
                _ = made.shard
            assert refused.value.code == ErrorCode.NOT_COORDINATOR
        assert caplog.text.count("cannot be loaded") == 1
        assert f"{path}: the batch at offset 2 cannot be read: wrong CRC" in caplog.text
        await made.logs.move_starts({made.partition.log: 3})
        await trio.sleep(70)
        assert made.offset("g") == 7


async def test_a_partition_whose_log_cannot_be_opened_has_no_coordinator() -> None:
    async with rig() as made:
        made.coordinator.lose(0)
        with pytest.raises(KafkaError) as refused:
            _ = made.shard
        assert refused.value.code == ErrorCode.NOT_COORDINATOR
        assert not made.coordinator.runtime.leading.shards
        made.lead(2)
        assert await made.loaded() is made.shard


async def test_G3_a_load_overtaken_by_a_later_epoch_is_dropped() -> None:
    machine = Machine()
    async with rig(machine) as made:
        for n in range(100):
            made.commit("g", change("g", n, n))
    async with rig(machine, epoch=2) as made:
        for epoch in range(3, 9):
            made.lead(epoch)
            await trio.lowlevel.checkpoint()
        shard = await made.loaded()
        assert (shard.epoch, shard.offsets.count) == (8, 100)


async def test_G7_an_offset_is_shown_when_it_is_committed_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig() as made:
        assert made.commit("g", change("g", 7)) == 0
        high = made.partition.high_watermark.value
        monkeypatch.setattr(Partition, "follow_log", lambda self: None)  # a follower is behind
        answers = [made.commit("g", change("g", 8)), made.commit("g", change("g", 9))]
        assert made.offset("g") == 7
        results: list[int] = []

        async def wait(answer: Any) -> None:
            results.append(await answer)

        async with trio.open_nursery() as nursery:
            for answer in answers:
                nursery.start_soon(wait, answer)
            await wait_all_tasks_blocked()
            assert not results and made.offset("g") == 7
            made.partition.high_watermark.advance(high + 1)
            await wait_all_tasks_blocked()
            assert results == [0] and made.offset("g") == 8
            made.partition.high_watermark.advance(high + 2)
        assert results == [0, 0] and made.offset("g") == 9


async def test_G2_who_waits_for_a_commit_hears_that_the_leadership_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig() as made:
        monkeypatch.setattr(Partition, "follow_log", lambda self: None)
        answer = made.commit("g", change("g", 8))
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                assert await answer == ErrorCode.NOT_COORDINATOR

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            made.partition.resign()
            made.coordinator.resign(0)


async def test_a_commit_that_is_not_replicated_in_time_is_answered(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with rig() as made:
        monkeypatch.setattr(Partition, "follow_log", lambda self: None)
        assert await made.commit("g", change("g", 8)) == ErrorCode.COORDINATOR_NOT_AVAILABLE
        assert trio.current_time() == pytest.approx(5, abs=0.1)


async def test_G2_a_group_that_cannot_be_stored_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig() as made:
        member_id = enter(made, "g")
        assert made.commit("h", change("h", 3)) == 0
        shard = made.shard

        def refuse(*_: object) -> None:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR)

        with monkeypatch.context() as broken:
            broken.setattr(Partition, "write", refuse)
            assert made.commit("h", change("h", 4)) == ErrorCode.NOT_COORDINATOR
            assert made.shard is shard, "an offset that was not written changes nothing"
            assert leave(made, "g", member_id) == ErrorCode.NOT_COORDINATOR
        await made.loaded()
        assert made.shard is not shard
        group = made.shard.groups["g"]
        assert isinstance(group, ClassicGroup)
        assert group.state is GroupState.STABLE, "it never left"
        assert group.heartbeat(member_id, None, 1, made.env.clock.liveness()) == 0
        assert made.offset("h") == 3


async def test_a_group_that_fails_starts_over_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with rig() as made:
        enter(made, "g")
        made.commit("h", change("h", 3))
        shard = made.shard

        def fail(*_: object) -> None:
            raise AssertionError("a bug")

        with monkeypatch.context() as broken:
            broken.setattr(ClassicGroup, "on_alarm", fail)
            await trio.sleep(10.5)
        assert (await made.loaded()) is not shard
        assert made.offset("h") == 3
        group = made.shard.groups["g"]
        assert isinstance(group, ClassicGroup) and group.listing().group_state == "Stable"
        await trio.sleep(11)
        assert group.listing().group_state == "Empty"


async def test_people_are_told_of_members_that_are_out(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level("INFO")
    async with rig() as made:
        member = enter(made, "g")
        await trio.sleep(11)
    told = f"group g: member {member} is out: no heartbeat for 10000 ms: session.timeout.ms"
    (record,) = [record for record in caplog.records if record.getMessage() == told]
    assert record.fields["client_id"] == "app" and record.fields["client"] == "1.2.3.4"  # type: ignore[attr-defined]


async def test_offsets_of_deleted_and_recreated_topics_are_forgotten() -> None:
    machine = Machine()
    async with rig(machine) as made:
        made.commit("g", change("g", 7), ("g", "gone", 0, change("g", 1)[3]))
        made.coordinator.on_topics_changed(["gone"])
        await wait_all_tasks_blocked()
        assert made.shard.offsets.topics("g").keys() == {"t"}
        made.commit("g", ("g", "gone", 0, change("g", 1)[3]))
    async with rig(machine, epoch=2) as made:
        await made.loaded()
        await wait_all_tasks_blocked()
        assert made.shard.offsets.topics("g").keys() == {"t"}, "it was deleted while nobody coordinated"


async def test_G5_offsets_expire_in_groups_without_members_only() -> None:
    async with rig(config={"offsets.retention.minutes": "10"}) as made:
        now_ms = made.env.clock.data_ms()
        for group in ("members", "simple", "stated", "young"):
            value = change(group, 5)[3]
            assert value is not None
            value.commit_timestamp = now_ms
            if group == "stated":
                value.expire_timestamp = now_ms + 60_000
            made.commit(group, (group, "t", 0, value))
        enter(made, "members")
        made.machine.clock.jump_data(5 * 60_000)
        await finish(made.coordinator.housekeeping.expire(made.shard))
        assert [made.offset(g) for g in ("members", "simple", "stated", "young")] == [5, 5, -1, 5]
        made.machine.clock.jump_data(4 * 60_000)
        late = change("young", 6)[3]
        assert late is not None
        late.commit_timestamp = made.env.clock.data_ms()
        made.commit("young", ("young", "t", 0, late))
        made.machine.clock.jump_data(60_000)
        await finish(made.coordinator.housekeeping.expire(made.shard))
        assert [made.offset(g) for g in ("members", "simple", "young")] == [5, -1, 6]
        assert made.shard.groups.keys() == {"members", "young"}


async def test_unknown_records_are_kept_and_do_no_harm() -> None:
    machine = Machine()
    strange = (b"\0\x63future", b"\0\0x")
    broken = (encode_key(KeyType.GROUP_METADATA, GroupKey(group="b")), b"\0\3\xff")
    async with rig(machine) as made:
        made.shard.append([strange, broken])
        made.commit("g", change("g", 7))
    async with rig(machine, epoch=2) as made:
        shard = await made.loaded()
        assert made.offset("g") == 7 and shard.groups.keys() == {"g"}


async def settled(made: Rig) -> None:
    with trio.fail_after(60):
        while made.shard.is_compacting:
            await trio.lowlevel.checkpoint()


async def test_the_replay_stays_short() -> None:
    machine = Machine()
    async with rig(machine) as made:
        member_id = enter(made, "members")
        for n in range(15_000):
            assert made.commit("g", change("g", n, n % 10)) == 0
            if n % 100 == 0:
                await trio.lowlevel.checkpoint()
        made.commit("gone", change("gone", 1))
        at_once(made.shard.forget_offsets("gone", "t", [0], lambda partition: False))
        await settled(made)
        assert made.shard.logged <= 10_000
        assert [made.offset("g", n) for n in range(10)] == list(range(14_990, 15_000))
    async with rig(machine, epoch=2) as made:
        shard = await made.loaded()
        assert shard.logged <= 10_000
        assert [made.offset("g", n) for n in range(10)] == list(range(14_990, 15_000))
        assert made.offset("gone") == -1
        group = shard.groups["members"]
        assert isinstance(group, ClassicGroup)
        assert at_once(group.describe_classic()).members[0].member_id == member_id


@pytest.mark.parametrize("step", range(12))
async def test_G7_a_crash_while_compacting_loses_nothing(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after so many turns of the scheduler, with the compaction anywhere between its beginning and its end."""
    monkeypatch.setattr("kbroker.coordinators.shard.REPLAY_RECORDS_MIN", 2_000)
    machine = Machine(seed=step)
    async with rig(machine) as made:
        for n in range(1_999):
            made.commit("g", change("g", n, n % 1_300))
        for n in range(10):
            made.commit("g", change("g", 10_000 + n, n))
        for n in range(3 * step):
            await trio.lowlevel.checkpoint()
            made.commit("g", change("g", 20_000 + n, n))
        expected = {n: made.offset("g", n) for n in range(1_300)}
    async with rig(machine, epoch=2) as made:
        await made.loaded()
        assert {n: made.offset("g", n) for n in range(1_300)} == expected


async def test_a_compaction_that_fails_gives_nothing_up_and_is_not_tried_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kbroker.coordinators.shard.REPLAY_RECORDS_MIN", 1_000)
    tries = 0

    async def fail(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, "no space left on the disk")

    async with rig() as made:
        with monkeypatch.context() as broken:
            broken.setattr(Cleaner, "compact", fail)
            for n in range(7_000):
                made.commit("g", change("g", n))
                if not n % 10:
                    await trio.lowlevel.checkpoint()
        assert tries == 3, "each time at twice the length"
        assert made.offset("g") == 6_999
        for n in range(7_000, 9_000):
            made.commit("g", change("g", n))
            await trio.lowlevel.checkpoint()
        await settled(made)
        assert made.shard.logged < 2_000


@pytest.mark.slow
async def test_a_million_commits_of_a_hundred_keys_restart_at_once() -> None:
    machine = Machine()
    async with rig(machine) as made:
        for first in range(0, 1_000_000, 500):
            made.shard.change_offsets("g", of(change("g", n, n % 100) for n in range(first, first + 500)))
            made.coordinator.runtime.note(made.shard, "g")
            await trio.lowlevel.checkpoint()
        await settled(made)
        assert made.shard.logged <= 25_000
        assert made.partition.log.size < 2_500_000
    async with rig(machine, epoch=2) as made:
        began = trio.current_time()
        shard = await made.loaded()
        assert shard.logged <= 25_000
        assert [made.offset("g", n) for n in range(100)] == list(range(999_900, 1_000_000))
        assert trio.current_time() - began < 1
