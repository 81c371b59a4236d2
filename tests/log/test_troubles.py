"""What the disk refuses is told to people: each partition once a minute, of many the first few and their number."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from kbroker.log.troubles import AGAIN_S, LOGS_MAX, Troubles
from kbroker.testing.broker import Machine


async def test_each_partition_is_told_once_a_minute_and_no_flood(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    troubles = Troubles(Machine().env().clock)
    for _ in range(3):
        for partition in range(LOGS_MAX + 5):
            troubles.tell("t", partition, OSError(28, "No space left on device"))
    assert len(caplog.messages) == LOGS_MAX
    assert caplog.messages[0] == "the disk refuses clients of partition t-0: [Errno 28] No space left on device"
    mock_clock.jump(AGAIN_S)
    troubles.tell("t", 0, OSError(5, "Input/output error"))
    assert caplog.messages[LOGS_MAX:] == [
        "the disk refused clients of other partitions, too: 15 times",
        "the disk refuses clients of partition t-0: [Errno 5] Input/output error",
    ]
