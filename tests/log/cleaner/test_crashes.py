"""A compaction that ends at any step, in any way: the log is as before it or as after it, or between two of its groups
of segments (L6, L9)."""

from __future__ import annotations

import pytest

from kafka_wire.records import Record
from kbroker.config import TopicConfig
from kbroker.log.directory import LogDirectory
from kbroker.log.log import PartitionLog
from kbroker.testing.disk import MemoryDisk
from kbroker.testing.world import Killed
from tests.log.cleaner.tools import COMPACT, Story, World, all_records, compact, markers, orders
from tests.log.tools import Fate, producers_of

WRITTEN = {**COMPACT, "segment_bytes": 500}
CONFIG = {**COMPACT, "segment_bytes": 1500}  # so that three segments become one
STEPS_MAX = 600


async def written(world: World, seed: int = 3) -> tuple[LogDirectory, PartitionLog, Story]:
    """A log of many small segments; made durable, so that a power failure may only harm what compaction does."""
    directory = world.start()
    log = orders(directory, **WRITTEN)
    story = Story(log, seed)
    story.write(45)
    story.end_all()
    log.reconfigure(TopicConfig(**CONFIG))  # type: ignore[arg-type]
    await log.flush(world.offload)
    await directory._checkpoint()
    return directory, log, story


def states(story: Story, log: PartitionLog) -> set[tuple[Record, ...]]:
    """What the log may hold: each group of segments is compacted, or not yet."""
    before, after = story.rows, story.expected(log.segments[-1].base_offset)
    left = {row.offset for row in after}
    bases = [segment.base_offset for segment in log.segments]
    return {tuple(row for row in before if row.offset >= base or row.offset in left) for base in bases}


def keyed(record: Record) -> bool:
    return record.key is not None


async def end_at(step: int, *, power: bool, seed: int) -> bool:
    """Compact, and end at that step. Whether it came so far."""
    world = World(MemoryDisk(seed=f"{seed}/{step}"))
    directory, log, story = await written(world)
    allowed, end, producers = states(story, log), log.end.value, producers_of(log)
    kept_markers = set(markers(log))
    world.disk.alive = Fate(step)
    was_killed = False
    try:
        await compact(directory, log)
    except (Killed, BaseExceptionGroup):
        was_killed = True
    world.disk.alive = lambda: None
    world.disk.power_loss() if power else world.disk.kill()
    again = world.start()
    opened = orders(again, **CONFIG)
    assert opened.end.value == end
    assert tuple(all_records(opened)) in allowed
    assert set(markers(opened)) <= kept_markers
    names = world.disk.list_dir("orders-0")
    assert not [name for name in names if name.endswith((".cleaned", ".swap", ".deleted"))]
    assert producers_of(opened) == producers
    if step % 8 == 0:  # and it can be done again
        outcome = await compact(again, opened)
        assert all_records(opened) == story.expected(outcome.cleaned_to)
    return was_killed


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
async def test_L6_L9_a_compaction_that_ends_at_any_step_leaves_each_group_as_it_was_or_as_it_is_to_be(
    stride: int, power: bool
) -> None:
    step = 0
    while await end_at(step, power=power, seed=0):
        step += stride
        assert step < STEPS_MAX
    assert step > 200
