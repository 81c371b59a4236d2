"""Offsets that are committed with a transaction: appended, pending, settled by the marker, whatever happens between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import CoroutineType
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode
from kbroker.groups import offset_requests, transaction_requests
from kbroker.groups.group import Committer
from kbroker.groups.offsets import Changes
from kbroker.groups.shard import GroupShard
from kbroker.groups.transaction_requests import Writer
from kbroker.log.derived.transactions import Marker
from kbroker.replication.partition import Partition
from kbroker.testing.broker import Machine
from kbroker.testing.workers import InlineHelper
from kbroker.turns import finish
from tests.groups.offset_log import LOGS, Event, read
from tests.groups.offset_log import Marker as Ended
from tests.groups.tools import Change, Rig, change, of, rig, topic
from tests.server.loop_meter import LINES_MAX, LoopMeter

ANYBODY = Committer("", None, -1, 3, transactional=True)


def pend(made: Rig, producer_id: int, group: str, *changes: Change, verify: Any = None, epoch: int = 0) -> Any:
    """TxnOffsetCommit; the error, or a coroutine of it."""
    writer = Writer(producer_id, epoch, verify)
    return transaction_requests.commit(made.coordinator, group, ANYBODY, of(changes), writer)


def mark(made: Rig, producer_id: int, is_commit: bool = True, *, epoch: int = 0, coordinator_epoch: int = 0) -> Any:
    """The marker of a transaction; the error, or a coroutine of it."""
    return made.coordinator.write_marker(0, Marker(producer_id, epoch, coordinator_epoch, is_commit))


def stable(made: Rig, group: str, index: int = 0) -> int:
    """The committed offset that an OffsetFetch with require_stable tells; -88 while it is unstable."""
    ((_, rows),) = offset_requests.fetch(made.coordinator, group, [("t", [index])], require_stable=True)
    (row,) = rows
    if row.error:
        assert row.error == ErrorCode.UNSTABLE_OFFSET_COMMIT
        return -int(row.error)
    return -1 if row.value is None else row.value.offset


def shown(made: Rig, group: str, index: int = 0) -> int:
    """The committed offset as anybody is told."""
    ((_, rows),) = offset_requests.fetch(made.coordinator, group, [("t", [index])], require_stable=False)
    (row,) = rows
    return -1 if row.value is None else row.value.offset


UNSTABLE = -int(ErrorCode.UNSTABLE_OFFSET_COMMIT)


async def test_T6_offsets_count_from_the_marker_on_and_not_before() -> None:
    async with rig() as made:
        assert made.commit("g", change("g", 5)) == 0
        assert pend(made, 1, "g", change("g", 8), change("g", 9, 1)) == 0
        assert (shown(made, "g"), shown(made, "g", 1)) == (5, -1)
        assert (stable(made, "g"), stable(made, "g", 1)) == (UNSTABLE, UNSTABLE)
        assert mark(made, 1) == 0
        assert (stable(made, "g"), stable(made, "g", 1)) == (8, 9)


async def test_T6_offsets_of_an_aborted_transaction_never_count() -> None:
    async with rig() as made:
        made.commit("g", change("g", 5))
        assert pend(made, 1, "g", change("g", 8)) == 0
        assert mark(made, 1, False) == 0
        assert stable(made, "g") == 5
        assert pend(made, 1, "new", change("new", 8)) == 0 == mark(made, 1, False)
        assert stable(made, "new") == -1


async def test_K15784_the_later_record_wins_whichever_is_committed_first() -> None:
    async with rig() as made:
        assert pend(made, 1, "g", change("g", 10)) == 0
        assert made.commit("g", change("g", 3)) == 0
        assert pend(made, 2, "h", change("h", 10)) == pend(made, 3, "h", change("h", 11)) == 0
        assert stable(made, "g") == UNSTABLE, "as long as the transaction is open"
        assert [mark(made, each) for each in (1, 3, 2)] == [0, 0, 0]
        assert (stable(made, "g"), stable(made, "h")) == (3, 11)


async def test_T6_an_offset_waits_for_its_marker_to_be_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig() as made:
        made.commit("g", change("g", 5))
        high = made.partition.high_watermark.value
        monkeypatch.setattr(Partition, "follow_log", lambda self: None)  # a follower is behind
        answers = [pend(made, 1, "g", change("g", 8)), mark(made, 1), made.commit("g", change("g", 9))]
        assert stable(made, "g") == UNSTABLE, "from the append on: whoever takes over must not begin below"
        results: list[int] = []

        async def wait(answer: Any) -> None:
            results.append(await answer)

        async with trio.open_nursery() as nursery:
            for answer in answers:
                nursery.start_soon(wait, answer)
            await wait_all_tasks_blocked()
            for n, expected in ((1, UNSTABLE), (2, 8), (3, 9)):
                made.partition.high_watermark.advance(high + n)
                await wait_all_tasks_blocked()
                assert stable(made, "g") == expected
                assert results == [0] * n


@pytest.mark.parametrize("is_commit", [True, False])
@pytest.mark.parametrize("moment", ["before the offsets", "before the marker", "after the marker"])
async def test_T3_a_restart_amid_a_transaction_changes_nothing(moment: str, is_commit: bool) -> None:
    machine = Machine()
    steps: list[Callable[[Rig], Any]] = [
        lambda made: pend(made, 1, "g", change("g", 8), change("g", 9, 1)),
        lambda made: mark(made, 1, is_commit),
    ]
    killed_after = ["before the offsets", "before the marker", "after the marker"].index(moment)
    async with rig(machine) as made:
        assert made.commit("g", change("g", 5)) == 0
        for step in steps[:killed_after]:
            assert step(made) == 0
    async with rig(machine, epoch=2) as made:
        await made.loaded()
        assert shown(made, "g") == (8 if killed_after == 2 and is_commit else 5)
        assert stable(made, "g") == (UNSTABLE if killed_after == 1 else shown(made, "g"))
        for step in steps[killed_after:]:
            assert step(made) == 0
        assert (stable(made, "g"), stable(made, "g", 1)) == ((8, 9) if is_commit else (5, -1))


async def test_a_group_that_has_only_pending_offsets_outlives_a_restart() -> None:
    machine = Machine()
    async with rig(machine) as made:
        assert pend(made, 1, "new", change("new", 8)) == 0
        assert "new" in made.shard.groups
    async with rig(machine, epoch=2) as made:
        assert "new" in (await made.loaded()).groups
        assert mark(made, 1) == 0
        assert stable(made, "new") == 8


async def compacted(made: Rig) -> None:
    """Have the log compacted, as when it has grown."""
    before = made.partition.log.segments[-1].base_offset
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kbroker.coordinators.shard.REPLAY_RECORDS_MIN", 0)
        made.shard.kept = 0
        made.coordinator.runtime.note_growth(made.shard)
    await while_compacting(made)
    assert made.partition.log.segments[-1].base_offset > before


async def while_compacting(made: Rig) -> None:
    assert made.shard.is_compacting
    with trio.fail_after(60):
        while made.shard.is_compacting:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("is_commit", [True, False])
async def test_K15784_a_log_is_compacted_amid_open_transactions(is_commit: bool) -> None:
    machine = Machine()
    async with rig(machine) as made:
        for n in range(3):
            assert made.commit("g", change("g", n, n)) == 0
        assert pend(made, 1, "g", change("g", 10), change("g", 11, 1)) == 0
        assert pend(made, 2, "g", change("g", 20)) == 0
        assert made.commit("g", change("g", 7, 1)) == 0, "outdoes the first"
        await compacted(made)
        assert [stable(made, "g", n) for n in range(3)] == [UNSTABLE, UNSTABLE, 2]
    async with rig(machine, epoch=2) as made:
        await made.loaded()
        assert stable(made, "g") == UNSTABLE
        assert mark(made, 2, is_commit) == mark(made, 1) == 0
        assert [stable(made, "g", n) for n in range(3)] == [20 if is_commit else 10, 7, 2]
        await compacted(made)
    async with rig(machine, epoch=3) as made:
        shard = await made.loaded()
        assert [stable(made, "g", n) for n in range(3)] == [20 if is_commit else 10, 7, 2]
        assert (shard.logged, shard.offsets.count) == (5, 3), "and the markers"
        assert made.partition.last_stable_offset == made.partition.log.end.value


async def test_L9_an_open_transaction_is_known_from_what_compaction_leaves() -> None:
    machine = Machine()
    async with rig(machine) as made:
        for n in range(100):
            assert made.commit("g", change("g", n, 1 + n % 2)) == 0
        assert pend(made, 1, "g", change("g", 10)) == 0
        for n in range(100, 300):
            assert made.commit("g", change("g", n, 1 + n % 2)) == 0
        await compacted(made)
        assert made.partition.log.start_offset == 0 and made.shard.logged == 301, "none of it is stable"
        made.partition.log.roll()
    async with rig(machine, epoch=2) as made:
        await made.loaded()
        assert (stable(made, "g"), stable(made, "g", 2)) == (UNSTABLE, 299)
        assert made.partition.last_stable_offset < made.partition.log.end.value
        assert pend(made, 1, "g", change("g", 11, 3), verify=lambda _: ErrorCode.INVALID_TXN_STATE) == 0
        assert mark(made, 1) == 0
        assert (stable(made, "g"), stable(made, "g", 3)) == (10, 11)
        assert made.partition.last_stable_offset == made.partition.log.end.value
        await compacted(made)
        assert made.shard.logged == 5, "as many as there are offsets, and the marker"
    async with rig(machine, epoch=3) as made:
        await made.loaded()
        assert made.shard.logged == 5
        assert [stable(made, "g", n) for n in range(4)] == [10, 298, 299, 11]


async def test_a_log_of_pending_offsets_is_not_written_anew_over_and_over() -> None:
    async with rig() as made:
        for n in range(3_000):
            assert pend(made, 1, f"g{n}", change("g", n)) == 0
        assert not made.shard.is_bloated
        for n in range(9_100):
            assert pend(made, 1, f"g{n % 10}", change("g", n)) == 0
            made.coordinator.runtime.note_growth(made.shard)
        await while_compacting(made)
        assert not made.shard.is_bloated


async def test_a_transaction_of_many_offsets_is_settled_in_turns() -> None:
    async with rig() as made:
        changes = [change("g", n, n) for n in range(3_000)]
        assert await pend(made, 1, "g", *changes) == 0
        assert mark(made, 1) == 0
        seen = [stable(made, "g", n) for n in range(3_000)]
        assert 0 < seen.count(UNSTABLE) < 3_000, "some are left for other turns"
        assert all(each in (UNSTABLE, n) for n, each in enumerate(seen)), "T6: none is as before, and stable"
        assert made.commit("g", change("g", 9_999, 2_999)) == 0
        await wait_all_tasks_blocked()
        assert [stable(made, "g", n) for n in range(3_000)] == [*range(2_999), 9_999]


async def test_B1_a_hundred_thousand_offsets_of_a_transaction_hold_nobody_up() -> None:
    meter = LoopMeter()

    class MeteredMachine(Machine):
        def env(self) -> Any:
            made = super().env()
            return replace(made, offload=meter.offload, helper=InlineHelper(made.disk, meter.offload))

    async with rig(MeteredMachine()) as made, trio.open_nursery() as nursery:
        results: list[int] = []

        requests = [of([change("g", n, n) for n in range(count)]) for count in (100_000, 12_000)]

        async def commit_and_end(changes: Changes) -> None:
            result: Any = transaction_requests.commit(made.coordinator, "g", ANYBODY, changes, Writer(1, 0, None))
            results.append(await result if isinstance(result, CoroutineType) else result)
            mark(made, 1)

        with meter.running():
            for changes in requests:  # too many, and nearly as many as go into a batch
                nursery.start_soon(commit_and_end, changes)
                await wait_all_tasks_blocked()
            while any(stable(made, "g", n) == UNSTABLE for n in range(0, 12_000, 100)):
                await trio.lowlevel.checkpoint()
        assert results == [ErrorCode.UNKNOWN_SERVER_ERROR, 0]
        assert made.shard.offsets.count == 12_000
    assert meter.worst <= LINES_MAX, meter.report()


# -- whose transaction ------------------------------------------------------------------------------------------------


async def test_T4_offsets_are_verified_once_a_transaction() -> None:
    asked: list[int] = []

    def verify(partition: Partition) -> ErrorCode:
        asked.append(partition.index)
        return ErrorCode.NONE

    async with rig() as made:
        for offset in (8, 9):
            assert pend(made, 1, "g", change("g", offset), verify=verify) == 0
        assert asked == [0]
        assert mark(made, 1) == 0
        assert pend(made, 1, "g", change("g", 10), verify=verify) == 0
        assert asked == [0, 0]


async def test_T4_offsets_that_are_not_of_the_transaction_are_refused() -> None:
    async with rig() as made:
        for told, code in (
            (ErrorCode.INVALID_TXN_STATE, ErrorCode.INVALID_TXN_STATE),
            (ErrorCode.NETWORK_EXCEPTION, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS),
            (ErrorCode.CONCURRENT_TRANSACTIONS, ErrorCode.CONCURRENT_TRANSACTIONS),
        ):
            assert pend(made, 1, "g", change("g", 8), verify=lambda _, told=told: told) == code
        assert stable(made, "g") == -1 and "g" not in made.shard.groups


async def test_T4_an_abort_while_offsets_are_verified_keeps_them_out() -> None:
    async with rig() as made:
        told = trio.Event()

        async def verify(partition: Partition) -> ErrorCode:
            await told.wait()
            return ErrorCode.NONE

        results: list[int] = []

        async def wait(answer: Any) -> None:
            results.append(await answer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, pend(made, 1, "g", change("g", 8), verify=verify))
            await wait_all_tasks_blocked()
            assert mark(made, 1, False) == 0
            told.set()
        assert results == [ErrorCode.INVALID_TXN_STATE]
        assert stable(made, "g") == -1


async def test_P3_a_fenced_producer_commits_nothing_and_a_fenced_coordinator_ends_nothing() -> None:
    async with rig() as made:
        assert pend(made, 1, "g", change("g", 8), epoch=5) == 0
        assert pend(made, 1, "g", change("g", 9), epoch=4) == ErrorCode.INVALID_PRODUCER_EPOCH
        assert mark(made, 1, epoch=4) == ErrorCode.INVALID_PRODUCER_EPOCH
        assert stable(made, "g") == UNSTABLE
        assert mark(made, 1, epoch=5, coordinator_epoch=3) == 0
        assert pend(made, 1, "g", change("g", 10), epoch=5) == 0
        assert mark(made, 1, epoch=5, coordinator_epoch=2) == ErrorCode.TRANSACTION_COORDINATOR_FENCED
        assert stable(made, "g") == UNSTABLE and shown(made, "g") == 8


async def test_a_marker_reaches_whoever_leads_the_partition_and_has_loaded_it() -> None:
    machine = Machine()
    async with rig(machine) as made:
        assert made.coordinator.write_marker(1, Marker(1, 0, 0, True)) == ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert mark(made, 1) == 0, "also where nothing is pending"
        assert pend(made, 1, "g", change("g", 8)) == 0
    async with rig(machine, epoch=2) as made:
        assert mark(made, 1) == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        await made.loaded()
        assert mark(made, 1) == 0
        assert stable(made, "g") == 8


# -- deleted and expired ----------------------------------------------------------------------------------------------


async def test_what_is_deleted_is_not_brought_back_by_a_marker() -> None:
    async with rig() as made:
        assert made.commit("g", change("g", 5)) == 0
        assert pend(made, 1, "g", change("g", 8), change("g", 9, 1)) == 0
        deleted = await finish(offset_requests.delete_offsets(made.coordinator, "g", [("t", [1])]))
        assert deleted == 0
        assert (stable(made, "g"), stable(made, "g", 1)) == (UNSTABLE, -1)
        await finish(offset_requests.delete_group(made.coordinator, "g"))
        assert "g" not in made.shard.groups
        assert mark(made, 1) == 0
        assert (stable(made, "g"), stable(made, "g", 1)) == (-1, -1)


async def test_G5_nothing_expires_that_a_transaction_may_change() -> None:
    async with rig(config={"offsets.retention.minutes": "1"}) as made:
        shard: GroupShard = made.shard
        assert made.commit("g", change("g", 5), change("g", 6, 1)) == 0
        assert pend(made, 1, "g", change("g", 8)) == pend(made, 1, "new", change("new", 8)) == 0
        made.machine.clock.jump_data(600_000)
        await finish(made.coordinator.housekeeping.expire(shard))
        assert (shown(made, "g"), shown(made, "g", 1)) == (5, -1)
        assert {"g", "new"} <= shard.groups.keys()
        assert mark(made, 1, False) == 0
        await finish(made.coordinator.housekeeping.expire(shard))
        assert shown(made, "g") == -1 and not shard.groups


async def test_offsets_of_a_deleted_topic_are_not_settled() -> None:
    async with rig() as made:
        assert pend(made, 1, "g", change("g", 8)) == 0
        made.image.topics.pop("t")  # type: ignore[attr-defined]
        await finish(made.coordinator.housekeeping.forget_topics(made.shard, ["t"]))
        assert mark(made, 1) == 0
        assert not made.shard.offsets.logged("g", "t", 0).is_anything


# -- all of it, held against a naive reading of the log ---------------------------------------------------------------

PLACES = [(group, topic, n) for group in "gh" for topic in "tu" for n in range(2)]
# Of each: events, and whether the log is compacted in the middle of them, and at their end.
LIVES = st.lists(st.tuples(LOGS, st.booleans(), st.booleans()), min_size=1, max_size=3)


async def happen(made: Rig, event: Event) -> None:
    if isinstance(event, Ended):
        assert mark(made, event.producer_id, event.is_commit) == 0
        return
    changes = [(*place, found) for place, found in event.values.items()]
    if event.producer_id >= 0:
        assert pend(made, event.producer_id, event.group, *changes) == 0
    else:
        made.shard.change_offsets(event.group, of(changes))
        made.shard.keep(made.shard.groups.get(event.group) or made.shard.new_group(event.group))


def check(made: Rig, log: list[Event]) -> None:
    said, offsets = read(log), made.shard.offsets
    for place in PLACES:
        logged = offsets.logged(*place)
        assert offsets.get(*place) == logged.value == said.values.get(place)
        found = [(each.producer_id, value) for each, _, value in logged.open]
        assert found == [(producer_id, value) for _, producer_id, value in said.open_at(place)]
        assert offsets.is_unstable(*place) or not found, "T6"


@settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))
@given(LIVES)
async def test_T3_T6_offsets_are_what_the_log_says_through_restarts_and_compactions(
    lives: list[tuple[list[Event], bool, bool]],
) -> None:
    machine, log = Machine(), list[Event]()
    for epoch, (events, in_the_middle, at_the_end) in enumerate(lives, 1):
        async with rig(machine, epoch=epoch) as made:
            made.image.topics["u"] = topic("u", b"u" * 16)  # type: ignore[index]
            await made.loaded()
            check(made, log)
            for number, event in enumerate([*events, None]):
                is_wanted = in_the_middle and number == len(events) // 2 or at_the_end and event is None
                if is_wanted and made.partition.log.active.size:
                    await compacted(made)
                    check(made, log)
                if event is not None:
                    await happen(made, event)
                    log.append(event)
                    check(made, log)
