"""Producer ids one by one: each once, and nobody waits for ever."""

from __future__ import annotations

from typing import cast

import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.admin import Admin
from kbroker.cluster.image import ClusterImage
from kbroker.cluster.producer_ids import BLOCK_S, ProducerIds


class Blocks:
    """Hands out blocks of three; silent for as long as it is told."""

    def __init__(self) -> None:
        self.given = 0
        self.silent_s = 0.0

    async def allocate_producer_ids(self) -> range:
        await trio.sleep(self.silent_s)
        self.given += 3
        return range(self.given - 3, self.given)


class Kept:
    """How far ids were kept to be given out; slow, so that it shows what is done before."""

    def __init__(self) -> None:
        self.ends: list[int] = []

    async def __call__(self, end: int) -> None:
        await trio.sleep(1)
        self.ends.append(end)


def supply(blocks: Blocks, kept: Kept | None = None, known: int = 0) -> ProducerIds:
    return ProducerIds(cast(Admin, blocks), kept or Kept(), known)


async def test_P4_each_id_is_given_once(autojump_clock: MockClock) -> None:
    ids, found = supply(Blocks()), list[int]()

    async def take() -> None:
        found.append(await ids.next())

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(take)
    assert sorted(found) == list(range(20))


async def test_P4_none_is_given_out_that_would_be_forgotten_with_the_store(autojump_clock: MockClock) -> None:
    kept = Kept()
    ids = supply(Blocks(), kept)
    for end in (3, 6):
        for _ in range(3):
            assert await ids.next() < kept.ends[-1] == end
    assert kept.ends == [3, 6], "once a block"


async def test_P4_what_others_are_given_is_kept_too(autojump_clock: MockClock) -> None:
    kept, blocks = Kept(), Blocks()
    ids = supply(blocks, kept, 9)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ids.run)
        for known in (6, 9, 12, 15):  # the first two it has kept before
            ids.on_image(ClusterImage(producer_ids=known))
        await trio.sleep(5)
        assert kept.ends == [15]
        blocks.given = 12
        assert (await ids.next(), kept.ends) == (12, [15])
        nursery.cancel_scope.cancel()


async def test_many_that_wait_for_a_silent_store_are_all_told_in_time(autojump_clock: MockClock) -> None:
    blocks = Blocks()
    ids, refused = supply(blocks), list[float]()
    blocks.silent_s = 1000.0

    async def take() -> None:
        try:
            await ids.next()
        except KafkaError as error:
            assert error.code is ErrorCode.REQUEST_TIMED_OUT
            refused.append(trio.current_time())

    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(take)
    assert len(refused) == 20 and max(refused) <= begun + BLOCK_S + 0.01
    blocks.silent_s = 0.0
    assert await ids.next() == 0
