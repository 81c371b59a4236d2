"""Keeping a session alive, for engines that have grant, refresh and revoke.

                    ┌── a keepalive succeeds ──┐
    granted ──▶ proven ── valid_until passes ──▶ in doubt ── the store says that it is over ──▶ lost (once, for good)
                    └──────────────────── block ends ───────────────▶ revoked

`valid_until` counts from when a keepalive was *sent*: the store's own count starts later, so before it nobody else can
have been given what this session owns. Past it that is possible: the holder goes on, but answers only what it can prove
in another way (R14). A store that is silent or slow is thus no reason to drop everything; a store that says no is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from kbroker.cluster.store import SessionLost, StoreError
from kbroker.env import Clock

REVOKE_S = 2.0  # a closing broker does not wait longer for the store; the TTL does the rest


class Lessor(Protocol):
    """The half of an engine that ends sessions."""

    async def grant(self, ttl_s: float) -> int:
        """A new session's id, > 0."""

    async def refresh(self, lease: int) -> bool:
        """Prolong by its TTL from now; False when it has ended."""

    async def revoke(self, lease: int) -> None:
        """End it, and delete its keys."""


class HeldSession:
    """A session this process keeps alive."""

    __slots__ = ("id", "ttl_s", "valid_until", "lost")

    def __init__(self, lease: int, ttl_s: float, sent: float) -> None:
        self.id = lease
        self.ttl_s = ttl_s
        self.valid_until = sent + ttl_s
        self.lost = trio.Event()


@asynccontextmanager
async def alongside(task: Callable[..., Awaitable[object]], *args: object) -> AsyncIterator[None]:
    """Run a task while the block runs. What the block raises goes on as it is, not as a group made by a nursery."""
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task, *args)
        try:
            yield
        except Exception as raised:
            error = raised
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error


@asynccontextmanager
async def hold(lessor: Lessor, clock: Clock, ttl_s: float) -> AsyncIterator[HeldSession]:
    """Grant, keep alive while the block runs, revoke."""
    sent = clock.liveness()
    session = HeldSession(await lessor.grant(ttl_s), ttl_s, sent)
    try:
        async with alongside(_keep_alive, lessor, clock, session):
            yield session
    finally:
        with trio.move_on_after(REVOKE_S) as scope:
            scope.shield = True
            try:
                await lessor.revoke(session.id)
            except StoreError:
                pass  # it ends by itself


async def _keep_alive(lessor: Lessor, clock: Clock, session: HeldSession) -> None:
    period_s = session.ttl_s / 3
    sent = session.valid_until - session.ttl_s
    is_alive = True
    while is_alive:
        if (pause_s := sent + period_s - clock.liveness()) > 0:
            await clock.sleep(pause_s)
        sent = clock.liveness()
        with trio.move_on_after(period_s):  # then the next one is sent
            try:
                is_alive = await lessor.refresh(session.id)
                if is_alive:
                    session.valid_until = sent + session.ttl_s
            except SessionLost:
                is_alive = False
            except StoreError:
                continue
    session.valid_until = min(session.valid_until, clock.liveness())
    session.lost.set()
