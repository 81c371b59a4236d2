"""Which delayers a broker has, and that no two write to one schedule."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kbroker.delay import delayer
from kbroker.delay.delays import Delays
from kbroker.delay.schedule import Entry, Position, Schedule
from kbroker.testing.broker import memory_broker
from kbroker.testing.clock import SteeredClock
from kbroker.testing.disk import MemoryDisk
from tests.delay.test_holding import alter
from tests.delay.tools import after, at_once, create, send, wait_for


class Slow:
    """A delayer whose worker takes its time to end."""

    def __init__(self, partition: Any, env: Any) -> None:
        self.partition = partition
        self.log = partition.log

    async def run(self) -> None:
        self.partition.told.append(f"{self.partition.name} begins")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await self.partition.may_end.wait()
            self.partition.told.append(f"{self.partition.name} ends")


async def test_D2_a_delayer_begins_when_the_one_before_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delayer, "Delayer", Slow)
    told: list[str] = []
    partitions: list[Any] = [
        SimpleNamespace(
            topic="t", index=0, name=name, told=told, may_end=trio.Event(),
            log=SimpleNamespace(rules=SimpleNamespace(delays=True)),
        )
        for name in "abc"
    ]  # fmt: skip
    a, b, c = partitions
    env: Any = SimpleNamespace(clock=SteeredClock())
    delays = Delays(env)
    async with trio.open_nursery() as nursery:
        await nursery.start(delays.run)
        delays.assume(a)
        await wait_all_tasks_blocked()
        delays.assume(b)  # in place of the first
        delays.leave("t", 0)  # nor does one that never began let the next begin
        delays.assume(c)
        await wait_all_tasks_blocked()
        before = list(told)
        for each in partitions:
            each.may_end.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert before == ["a begins"]
    assert told[:2] == ["a begins", "a ends"] and told[-2:] == ["c begins", "c ends"]
    assert not delays._ending


async def test_what_lies_in_the_directory_of_a_new_log_is_not_its_schedule(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of the log that had the name before may have written it there."""
    stray = Schedule(MemoryDisk(seed=1), "t-0/delay")
    stray.add([Entry(1, 0, 0, bytes(8))])
    monkeypatch.setattr(Schedule, "load", classmethod(lambda *_: (stray, Position(1, 0))))
    async with memory_broker() as broker, broker.client() as client:
        await create(client, kbroker__delay__enable="false")
        await send(client, at_once(b"x"))
        await alter(client, "kbroker.delay.enable", "true")
        await send(client, after(5000, b"a"))
        assert [each.value for each in await wait_for(client, 2)] == [b"x", b"a"]
    assert stray.next_due_ms == 1  # nobody has asked it what is due
