"""Views of a source that is compacted under them: what matches of all that is left, whatever was known before."""

from __future__ import annotations

from random import Random

import pytest

from kafka_wire import records
from kbroker.config import TopicConfig
from kbroker.log.derived.producers import UNVERIFIED
from kbroker.log.log import PartitionLog
from tests.log.cleaner.tools import COMPACT, World, compact, orders
from tests.log.tools import NOW
from tests.views.test_reading import EU, consume, expected, reader


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
    log.roll()
    await compact(directory, log)
    assert consume(reader(EU), log) == expected(log)
