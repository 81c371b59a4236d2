"""Keeping a session: what silence means, and what a refusal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from kbroker.cluster.store import SessionLost, Unavailable
from kbroker.cluster.stores.session import HeldSession, hold
from tests.cluster.tools import RunClock

TTL_S = 6.0


class Lessor:
    """Answers keepalives as it is told, and notes when they came."""

    def __init__(self) -> None:
        self.answer: Callable[[], Awaitable[bool]] = self.yes
        self.asked: list[float] = []
        self.revoked = False

    async def grant(self, ttl_s: float) -> int:
        return 1

    async def refresh(self, lease: int) -> bool:
        self.asked.append(trio.current_time())
        return await self.answer()

    async def revoke(self, lease: int) -> None:
        self.revoked = True

    async def yes(self) -> bool:
        return True

    async def no(self) -> bool:
        return False

    async def ended(self) -> bool:
        raise SessionLost("it has ended")

    async def failing(self) -> bool:
        raise Unavailable("no answer")

    async def silent(self) -> bool:
        await trio.sleep_forever()
        raise AssertionError


@pytest.fixture
def lessor() -> Lessor:
    return Lessor()


def is_proven(session: HeldSession) -> bool:
    return trio.current_time() < session.valid_until


@pytest.mark.parametrize("kind", ["failing", "silent"])
async def test_R14_silence_is_doubt_and_an_answer_ends_it(autojump_clock: MockClock, lessor: Lessor, kind: str) -> None:
    async with hold(lessor, RunClock(), TTL_S) as session:
        await trio.sleep(5)
        assert is_proven(session)
        lessor.answer = getattr(lessor, kind)
        await trio.sleep(60)
        assert not is_proven(session) and not session.lost.is_set()
        assert len(lessor.asked) >= 60 / (2 * TTL_S / 3)  # each wait for an answer was bounded
        lessor.answer = lessor.yes
        await trio.sleep(2 * TTL_S / 3)
        assert is_proven(session) and not session.lost.is_set()
    assert lessor.revoked


@pytest.mark.parametrize("kind", ["no", "ended"])
async def test_R14_a_refusal_loses_the_session(autojump_clock: MockClock, lessor: Lessor, kind: str) -> None:
    async with hold(lessor, RunClock(), TTL_S) as session:
        lessor.answer = getattr(lessor, kind)
        with trio.fail_after(TTL_S):
            await session.lost.wait()
        assert not is_proven(session)
        asked = len(lessor.asked)
        await trio.sleep(60)
        assert len(lessor.asked) == asked


async def test_R14_valid_until_counts_from_when_a_keepalive_was_sent(autojump_clock: MockClock, lessor: Lessor) -> None:
    async def slow() -> bool:
        await trio.sleep(1.5)
        return True

    async with hold(lessor, RunClock(), TTL_S) as session:
        lessor.answer = slow
        await trio.sleep(TTL_S / 3 + 1.6)
        assert session.valid_until == lessor.asked[0] + TTL_S
