"""Keeping a session alive, for engines that have grant, refresh and revoke.

    granted ──keepalive every TTL/3──▶ alive ──block ends──▶ revoked
       └──────── refused, or none succeeded until valid_until ────────▶ lost (once, for good)

`valid_until` counts from when a keepalive was *sent*: the store's own count starts later, so the holder always stops
acting before the store ends the session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
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
async def hold(lessor: Lessor, clock: Clock, ttl_s: float) -> AsyncIterator[HeldSession]:
    """Grant, keep alive while the block runs, revoke."""
    sent = clock.liveness()
    session = HeldSession(await lessor.grant(ttl_s), ttl_s, sent)
    error: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_alive, lessor, clock, session)
            try:
                yield session
            except Exception as raised:  # goes on as it is, not as a group made by this nursery
                error = raised
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error
    finally:
        with trio.move_on_after(REVOKE_S) as scope:
            scope.shield = True
            try:
                await lessor.revoke(session.id)
            except StoreError:
                pass  # it ends by itself


async def _keep_alive(lessor: Lessor, clock: Clock, session: HeldSession) -> None:
    while clock.liveness() < session.valid_until:
        await clock.sleep(session.ttl_s / 3)
        sent = clock.liveness()
        try:
            if not await lessor.refresh(session.id):
                break
            session.valid_until = sent + session.ttl_s
        except SessionLost:
            break
        except StoreError:
            continue  # valid_until decides
    session.valid_until = min(session.valid_until, clock.liveness())
    session.lost.set()
