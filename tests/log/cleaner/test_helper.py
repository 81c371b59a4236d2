"""Compaction as it really runs: on the operating system's files, by a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kafka_wire.errors import KafkaError
from kbroker.config import BrokerConfig
from kbroker.env.real import real_env
from kbroker.log.cleaner import passes
from kbroker.log.directory import LogDirectory
from tests.log.cleaner.tools import Story, all_records, compact, orders
from tests.log.tools import producers_of

pytestmark = [pytest.mark.slow]


@asynccontextmanager
async def started(path: Path) -> AsyncIterator[LogDirectory]:
    directory = LogDirectory(real_env(str(path)), BrokerConfig())
    directory.open()
    yield directory
    await directory.close()
    directory.env.helper.close()


async def test_L9_a_log_is_compacted_by_another_process_and_opened_again(tmp_path: Path) -> None:
    async with started(tmp_path) as directory:
        log = orders(directory, segment_bytes=20_000)
        story = Story(log, 1, keys=200)
        for _ in range(2):
            story.write(400)
            outcome = await compact(directory, log)
        left, producers = all_records(log), producers_of(log)
        assert left == story.expected(outcome.cleaned_to) and outcome.records_after < outcome.records_before
        assert outcome.seconds > 0
    async with started(tmp_path) as directory:
        again = orders(directory, segment_bytes=20_000)
        assert all_records(again) == left and producers_of(again) == producers
        assert again.cleaned_to == outcome.cleaned_to
    assert not [path for path in (tmp_path / "orders-0").iterdir() if path.suffix in (".cleaned", ".swap")]


async def test_L9_a_helper_that_is_killed_amid_a_pass_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path) as directory:
        log = orders(directory, segment_bytes=20_000)
        story = Story(log, 2, keys=200)
        story.write(400)
        story.end_all()
        before = all_records(log)
        begin: Callable[..., Any] = directory.env.helper.begin

        @asynccontextmanager
        async def killed(work: Callable[..., Any], *args: Any) -> AsyncIterator[Any]:
            async with begin(work, *args) as steps:
                os.kill(steps._process.pid, signal.SIGKILL)
                yield steps

        monkeypatch.setattr(directory.env.helper, "begin", killed)
        with pytest.raises(KafkaError, match="which was computing, has ended"):
            await compact(directory, log)
        monkeypatch.undo()
        assert all_records(log) == before
        assert not [path for path in (tmp_path / "orders-0").iterdir() if path.suffix in (".cleaned", ".swap")]
        outcome = await compact(directory, log)
        assert all_records(log) == story.expected(outcome.cleaned_to)


async def test_a_damaged_batch_is_told_across_processes(tmp_path: Path) -> None:
    async with started(tmp_path) as directory:
        log = orders(directory, segment_bytes=2000)
        Story(log, 3).write(60)
        path = tmp_path / log.segments[1].path
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(KafkaError, match="damage at byte"):
            await compact(directory, log)
        assert passes.CLEANED not in {each.suffix for each in (tmp_path / "orders-0").iterdir()}
