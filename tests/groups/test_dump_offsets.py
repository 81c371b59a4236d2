"""What groups and transactions write, judged by Kafka's own dump tool and its decoder of offsets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.groups.test_coordinator import enter
from tests.groups.test_transaction_requests import compacted, mark, pend
from tests.groups.tools import change, rig
from tests.log.test_dump_log_segments import classpath, dump

pytestmark = [pytest.mark.java, pytest.mark.slow]

__all__ = ["classpath"]


async def test_T6_offsets_of_transactions_are_read(classpath: str, tmp_path: Path) -> None:
    async with rig() as made:
        enter(made, "members")
        assert made.commit("g", change("g", 5, metadata="note")) == 0
        assert pend(made, 1, "g", change("g", 8), change("g", 9, 1)) == 0
        assert pend(made, 2, "g", change("g", 20)) == 0
        assert mark(made, 1) == 0
        await compacted(made)  # while the second is open
        assert mark(made, 2, False, coordinator_epoch=3) == 0
        paths = []
        for segment in made.partition.log.segments:
            paths.append(tmp_path / f"{segment.base_offset:020}.log")
            paths[-1].write_bytes(segment.file.pread(segment.size, 0))
    text = dump(classpath, paths, "--offsets-decoder", "--deep-iteration")
    assert not re.search(r"isvalid: false|mismatch|\binvalid|exception", text, re.IGNORECASE), text[-2000:]
    offsets = re.findall(r'"partition":(\d+)\}.*?"offset":(\d+)', text)
    assert offsets == [("0", "5"), ("0", "8"), ("1", "9"), ("0", "20")], text
    assert re.findall(r"endTxnMarker: (\w+) coordinatorEpoch: (\d+)", text) == [("COMMIT", "0"), ("ABORT", "3")]
    assert '"group":"members"' in text
