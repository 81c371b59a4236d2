"""Views of a source that is compacted under them: what matches of all that is left, whatever was known before."""

from __future__ import annotations

from random import Random

import pytest

from kafka_wire import records
from kbroker.config import TopicConfig
from kbroker.log.cold import NotInMemory
from kbroker.log.derived.producers import UNVERIFIED
from kbroker.log.log import PartitionLog
from tests.log.cleaner.tools import COMPACT, World, compact, end_transaction, orders, put
from tests.log.tools import NOW
from tests.views.test_reading import EU, MOST, consume, expected, reader


def write(log: PartitionLog, random: Random) -> None:
    for _ in range(random.randint(5, 40)):
        tags = random.choice([b"", b"eu", b"us", b"eu,us"])
        row = (
            NOW,
            b"k%d" % random.randrange(12),
            b"v" * random.randrange(300),
            (("kbroker-tags", tags),) if tags else (),
        )
        batch = records.build_batch([row] * random.randint(1, 3), compression=random.choice([0, 0, 4]))
        log.append(batch, leader_epoch=0, now_ms=NOW, guard=UNVERIFIED)


@pytest.mark.parametrize("seed", range(12))
async def test_a_view_shows_what_matches_of_what_compaction_left(seed: int) -> None:
    random, world = Random(seed), World()
    directory = world.start()
    log = orders(directory, kbroker_tags_enable=True)
    exact = reader(EU)
    for _ in range(8):
        write(log, random)
        if random.random() < 0.5:
            consume(exact, log)
        if random.random() < 0.4:
            log.reconfigure(TopicConfig(**{**COMPACT, "kbroker_tags_enable": random.random() < 0.7}))
        if random.random() < 0.6:
            await compact(directory, log)
        if random.random() < 0.3:
            log.release_idle()
            log.release_idle()
        assert consume(reader(EU), log) == expected(log)
    consume(exact, log)
    log.roll()
    await compact(directory, log)
    for by in (reader(EU), exact):
        assert consume(by, log) == expected(log)


async def test_what_was_found_before_a_compaction_is_not_told_after_it() -> None:
    directory = World().start()
    log, by = orders(directory), reader('key = "a"')
    put(log, (b"a", b"aborted"), producer=1, sequence=0, transactional=True)
    end_transaction(log, 1, commit=False)
    put(log, (b"b", b"committed"), producer=1, sequence=1, transactional=True)
    end_transaction(log, 1, commit=True)
    put(log, (b"a", b"old"))
    put(log, (b"a", b"new"))
    assert [each.value for each in consume(by, log)] == [b"aborted", b"old", b"new"]
    assert [each.producer_id for each in log.aborted_between(0, log.end.value)] == [1]
    other = reader('key = "a"')
    with pytest.raises(NotInMemory) as lacking:
        other.read(log, 0, MOST, log.end.value, True, True)
    slow = lacking.value.work()
    log.roll()
    await compact(directory, log)
    assert not log.aborted_between(0, log.end.value), "of what is gone nobody is told that it was aborted"
    lacking.value.take(slow)
    for anyone in (by, other):
        assert [each.value for each in consume(anyone, log)] == [b"new"]
