"""What goes on beside a compaction: readers, truncation, retention, a stop: each sees it as it was, or as it is."""

from __future__ import annotations

import itertools

import pytest
import trio

from kafka_wire.errors import KafkaError
from kbroker.config import TopicConfig
from kbroker.log.cold import NotInMemory
from kbroker.log.directory import LogDirectory
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from kbroker.testing.disk import MemoryDisk
from kbroker.turns import do_errands
from tests.log.cleaner.tools import COMPACT, Story, World, all_batches, all_records, compact, orders, put
from tests.log.tools import NOW, answers, apply_retention, contents, open_log, producers_of


def made(seed: int = 1, count: int = 150, **config: object) -> tuple[World, LogDirectory, PartitionLog, Story]:
    world = World()
    directory = world.start()
    log = orders(directory, **config)
    story = Story(log, seed)
    story.write(count)
    story.end_all()
    return world, directory, log, story


async def when_passes(world: World, directory: LogDirectory, log: PartitionLog, happens: int, event: object) -> int:
    """Compact; when so many steps of workers are done, something happens. Returns how many there were."""
    calls = 0
    offload = directory.env.offload

    async def counting(work: object) -> object:
        nonlocal calls
        calls += 1
        if calls == happens:
            event()  # type: ignore[operator]
        return await world.offload(work)  # type: ignore[arg-type]

    steps = directory.env.helper
    object.__setattr__(directory.env, "offload", counting)
    steps._offload = counting  # type: ignore[attr-defined]
    try:
        await compact(directory, log)
    except Exception as error:
        assert log.offline is not None, error
    finally:
        object.__setattr__(directory.env, "offload", offload)
    return calls


def left_over(disk: MemoryDisk) -> list[str]:
    return [name for name in disk.list_dir("orders-0") if name.endswith((".cleaned", ".swap"))]


async def test_slices_of_replaced_segments_can_still_be_read() -> None:
    world, directory, log, story = made()
    before = log.read(0, 1 << 20, log.end.value)
    data = b"".join(piece.read() for piece in before)
    await compact(directory, log)
    for each in log.open_segments():
        log.release(each)
    await directory.retainer.remove_due()
    assert b"".join(piece.read() for piece in before) == data
    assert len(b"".join(piece.read() for piece in log.read(0, 1 << 20, log.end.value))) < len(data)


async def test_what_was_replaced_is_removed_later_each_time() -> None:
    world, directory, log, story = made()
    waiting: set[str] = set()
    for _ in range(3):
        story.write(40)
        story.end_all()
        await compact(directory, log)
        found = {name for name in world.disk.list_dir("orders-0") if name.endswith(".deleted")}
        assert waiting < found, "none took the name of another, which it would have removed at once"
        waiting = found
    world.clock.now_ms += log.config.file_delete_delay_ms
    await directory.retainer.remove_due()
    assert not [name for name in world.disk.list_dir("orders-0") if name.endswith(".deleted")]


async def test_a_read_from_any_offset_goes_on_behind_what_is_gone() -> None:
    world, directory, log, story = made()
    await compact(directory, log)
    ends = [header.next_offset for header, _ in all_batches(log)]
    for offset in range(log.end.value):
        (first, *_) = log.read(offset, 1 << 20, log.end.value)
        base = int.from_bytes(first.read()[:8])
        assert min(end for end in ends if end > offset) == next(
            header.next_offset for header, _ in all_batches(log) if header.base_offset == base
        )


async def test_L5_L9_what_is_derived_of_a_compacted_log_can_be_made_anew() -> None:
    world, directory, log, story = made()
    outcome = await compact(directory, log)
    told = answers(log)
    aborted = committed_offsets(log)
    world.disk.kill()
    kinds = [".index", ".timeindex", ".txnindex", ".snapshot", "checkpoint"]
    for count in range(1, len(kinds) + 1):
        for missing in itertools.combinations(kinds, count):
            disk = MemoryDisk()
            disk.make_dirs("orders-0")
            for name in world.disk.list_dir("orders-0"):
                if not name.endswith(missing):
                    disk.write_atomic(f"orders-0/{name}", world.disk.read(f"orders-0/{name}"))
            again = open_log(disk, Crash.PROCESS, **COMPACT)
            found = answers(again)
            if ".snapshot" in missing:  # of a producer its last batch is left, and earlier ones that hold records
                assert last_batches(found) == last_batches(told)
                found["producers"] = told["producers"]
            assert found == told, missing
            assert committed_offsets(again) == aborted
    assert outcome.records_after < outcome.records_before


def last_batches(found: dict[str, dict[int, tuple[int, tuple[object, ...]]]]) -> dict[int, tuple[int, object]]:
    return {producer: (epoch, seen[-1]) for producer, (epoch, seen) in found["producers"].items()}


def committed_offsets(log: PartitionLog) -> list[list[int]]:
    """What readers of committed records get who begin at some offsets: told which transactions were aborted, they leave
    those out."""
    batches, end = all_batches(log), log.end.value
    found: list[list[int]] = []
    for offset in range(0, end, 7):
        coming = sorted(log.aborted_between(offset, end), key=lambda each: each.first_offset)
        aborted: set[int] = set()
        got: list[int] = []
        for header, records in batches:
            if header.last_offset < offset:
                continue
            while coming and coming[0].first_offset <= header.last_offset:
                aborted.add(coming.pop(0).producer_id)
            if header.is_control:
                aborted.discard(header.producer_id)
            elif not header.is_transactional or header.producer_id not in aborted:
                got += [record.offset for record in records if record.offset >= offset]
        found.append(got)
    return found


async def test_a_pass_that_the_log_is_cut_under_leaves_the_log_as_the_cut_does() -> None:
    for happens in itertools.count(1):
        world, directory, log, story = made(count=60, segment_bytes=800)
        target, active = log.segments[len(log.segments) // 2].base_offset - 1, log.active.base_offset
        total = await when_passes(world, directory, log, happens, lambda log=log, at=target: log.truncate_to(at))
        if total < happens:
            break
        await log.settle(world.offload)
        kept = [row.offset for row in story.expected(active)]
        found = [record.offset for record in all_records(log)]
        assert log.end.value <= target
        assert found == sorted(set(found))
        assert set(found) >= set(kept) & set(range(log.end.value)), happens
        assert not left_over(world.disk), happens
        assert log.cleaned_to <= log.end.value
        put(log, (b"new", b"value"))
        left = contents(log)
        world.disk.kill()
        again = orders(world.start(), segment_bytes=800)
        assert contents(again) == left
    assert happens > 10


@pytest.mark.parametrize("what", ["abandon", "stop", "remove"])
async def test_a_log_that_is_closed_or_deleted_while_it_is_compacted(what: str) -> None:
    for happens in itertools.count(1, 3):
        world, directory, log, story = made(count=60, segment_bytes=800)
        producers, end = producers_of(log), log.end.value
        event = {
            "abandon": log.abandon,
            "stop": lambda: None,
            "remove": lambda directory=directory: directory.remove("orders", 0),
        }[what]
        if what == "stop":
            with trio.move_on_after(0):
                total = await when_passes(world, directory, log, happens, trio.lowlevel.current_task)
            async with trio.open_nursery() as nursery:
                total = await stopped_at(world, directory, log, happens, nursery)
        else:
            total = await when_passes(world, directory, log, happens, event)
        if total < happens:
            break
        if what == "remove":
            assert "orders-0" not in world.disk.list_dir("")
            continue
        await directory.close()
        again = orders(world.start(), segment_bytes=800)
        assert not left_over(world.disk)
        assert (again.end.value, producers_of(again)) == (end, producers)
        assert {row.offset for row in story.expected(log.segments[-1].base_offset)} <= {
            record.offset for record in all_records(again)
        }
    assert happens > 10


async def stopped_at(
    world: World, directory: LogDirectory, log: PartitionLog, happens: int, nursery: trio.Nursery
) -> int:
    scope = trio.CancelScope()
    with scope:
        return await when_passes(world, directory, log, happens, scope.cancel)
    return happens


def retained(log: PartitionLog) -> int:
    return apply_retention(log, NOW, log.end.value, is_flushed=False)


async def test_L8_retention_waits_for_a_pass_and_goes_on_after_it() -> None:
    world, directory, log, story = made(cleanup_policy="compact,delete", retention_bytes=2000)
    deleted: list[int] = []
    await log.flush(world.offload)  # what is not durable is not deleted anyway
    await when_passes(world, directory, log, 4, lambda: deleted.append(retained(log)))
    assert deleted == [0]
    assert retained(log) > 0


async def test_L8_deleted_records_do_not_come_back_with_a_compaction() -> None:
    world, directory, log, story = made()
    start = log.end.value // 2
    await directory.move_starts({log: start})
    await compact(directory, log)
    assert log.start_offset == start
    assert [record.offset for record in all_records(log) if record.offset >= start][0] >= start
    left = contents(log)
    world.disk.kill()
    again = orders(world.start())
    assert again.start_offset == start
    assert contents(again) == left


async def test_a_lookup_by_time_finds_the_same_before_while_and_after() -> None:
    for pause in range(0, 40, 3):
        world, directory, log, story = made(count=80, segment_bytes=800)
        kept = {row.offset for row in story.expected(log.segments[-1].base_offset)}
        wanted = [row for row in story.rows if row.offset in kept][len(kept) // 2]
        lookup = log.first_at_or_after(wanted.timestamp, log.end.value)
        found = None
        try:
            errand = lookup.send(None)
            for _ in range(pause):
                errand = lookup.send(errand() if errand is not None else None)
            await compact(directory, log)
            while True:
                errand = lookup.send(errand() if errand is not None else None)
        except StopIteration as end:
            found = end.value
        assert found is not None
        after = do_errands(log.first_at_or_after(wanted.timestamp, log.end.value))
        assert after is not None and found.timestamp_ms >= wanted.timestamp
        assert found.offset <= after.offset and after.offset in kept, pause


async def test_what_a_worker_found_in_a_replaced_segment_is_not_taken_for_the_new_one() -> None:
    world, directory, log, story = made(count=100)
    for segment in log.segments[:-1]:
        segment.release()
    searches: list[NotInMemory] = []
    try:
        log.reading.read(0, 500, log.end.value, True, True)
    except NotInMemory as lacking:
        searches.append(lacking)
    try:
        log.aborted_between(0, log.end.value, now=True)
    except NotInMemory as lacking:
        searches.append(lacking)
    assert len(searches) == 2
    brought = [lacking.work() for lacking in searches[:1]]  # one was done before, the other is done after
    outcome = await compact(directory, log)
    brought.append(searches[1].work())
    for lacking, result in zip(searches, brought, strict=True):
        lacking.take(result)
    assert all_records(log) == story.expected(outcome.cleaned_to)
    fresh = MemoryDisk()
    fresh.make_dirs("orders-0")
    for name in world.disk.list_dir("orders-0"):
        if name.endswith((".log", ".metadata", ".snapshot")):
            fresh.write_atomic(f"orders-0/{name}", world.disk.read(f"orders-0/{name}"))
    again = open_log(fresh, Crash.PROCESS, **COMPACT)
    assert committed_offsets(log) == committed_offsets(again)


async def test_a_follower_has_what_its_compacted_leader_has() -> None:
    world, directory, log, story = made()
    await compact(directory, log)
    disk = MemoryDisk()
    follower = open_log(disk, **{**COMPACT, "segment_bytes": 1500})
    offset = 0
    while offset < log.end.value:
        data = b"".join(piece.read() for piece in log.read(offset, 700, log.end.value))
        follower.append_replicated(data, leader_epoch=0, now_ms=NOW)
        offset = follower.end.value
    assert contents(follower) == contents(log)
    assert last_batches({"producers": producers_of(follower)}) == last_batches({"producers": producers_of(log)})  # type: ignore[dict-item]
    assert not follower.producers.transactions.ongoing
    assert committed_offsets(follower) == committed_offsets(log)
    disk.kill()
    again = open_log(disk, Crash.PROCESS, **{**COMPACT, "segment_bytes": 1500})
    assert contents(again) == contents(log)


async def test_a_log_whose_topic_is_not_compacted_any_more_is_opened_after_a_power_failure() -> None:
    world, directory, log, story = made()
    await log.flush(world.offload)
    await compact(directory, log)
    left = contents(log)
    world.disk.power_loss()
    again = world.start()
    opened = orders(again, cleanup_policy="delete")
    assert contents(opened) == left
    assert opened.cleaned_to == log.cleaned_to


async def test_a_disk_in_doubt_ends_the_log_and_not_the_data() -> None:
    world, directory, log, story = made()
    world.disk.fail("rename", "*.log.swap")
    with pytest.raises(KafkaError, match="cannot take its place"):
        await compact(directory, log)
    assert log.offline is not None
    world.disk.heal()
    again = orders(directory)
    assert {row.offset for row in story.expected(log.segments[-1].base_offset)} <= {
        record.offset for record in all_records(again)
    }
    assert not left_over(world.disk)
    assert TopicConfig(**COMPACT).compacts  # type: ignore[arg-type]
