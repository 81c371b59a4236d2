"""Compaction of whole logs (L9): what is left, and that all else about the log is as it was."""

from __future__ import annotations

import pytest

from tests.log.cleaner.tools import Story, World, all_records, compact, orders
from tests.log.tools import producers_of


@pytest.mark.parametrize("seed", range(8))
async def test_L9_the_newest_value_of_each_key_is_left_and_all_offsets_are_as_they_were(seed: int) -> None:
    world = World()
    directory = world.start()
    log = orders(directory)
    story = Story(log, seed)
    for _ in range(4):
        story.write(80)
        end, producers, ongoing = log.end.value, producers_of(log), dict(log.producers.transactions.ongoing)
        outcome = await compact(directory, log)
        assert all_records(log) == story.expected(outcome.cleaned_to)
        assert (log.end.value, producers_of(log)) == (end, producers)
        assert dict(log.producers.transactions.ongoing) == ongoing
        assert log.size == sum(segment.size for segment in log.segments)
    assert outcome.cleaned_to > 0
    assert outcome.bytes_after < outcome.bytes_before
