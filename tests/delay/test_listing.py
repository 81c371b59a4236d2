"""What is pending, as it is told to who asks while the delayer goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.delay.listing import listing
from kbroker.delay.schedule import START, Schedule
from kbroker.testing.disk import MemoryDisk


async def test_a_schedule_that_is_being_made_anew_is_not_read_though_its_lock_was_waited_for() -> None:
    delayer: Any = SimpleNamespace(reading=trio.Lock(), schedule=Schedule(MemoryDisk(seed=1), "orders-0/delay"))
    refused: list[KafkaError] = []

    async def ask() -> None:
        with pytest.raises(KafkaError) as caught:
            await listing(delayer, cast("Any", None), START, 10, None)
        refused.append(caught.value)

    async with trio.open_nursery() as nursery:
        async with delayer.reading:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            delayer.schedule = None
    assert [each.code for each in refused] == [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]
