"""The page that /metrics answers: gathered when it is asked for, and made piece by piece."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from kbroker.api.context import Services
from kbroker.env import Process, Usage
from kbroker.http.health import Life
from kbroker.http.metrics import table
from kbroker.http.metrics.groups import groups, read_partitions
from kbroker.http.metrics.internals import LEAVING, RECOVERING, RUNNING, STARTING, internals, process
from kbroker.http.metrics.partitions import partitions
from kbroker.http.metrics.text import single
from kbroker.http.metrics.traffic import traffic
from kbroker.http.offsets import Offsets, ends_of
from kbroker.turns import finish

WINDOW_S = 30.0  # over which the loop's idle share is told, or a little more


class _Look(NamedTuple):
    at_s: float  # by the liveness clock
    busy_s: float  # CPU of the event loop's thread until then


class Metrics:
    """Makes pages. Owns when the loop's use of the CPU was last looked at."""

    def __init__(self, life: Life, process: Process) -> None:
        self._life = life
        self._process = process
        self._looks: deque[_Look] = deque()

    async def page(self, services: Services, http_requests: int) -> Iterator[bytes]:
        """What is to be waited for, first; then all of it."""
        usage = await services.env.offload(self._process.usage)
        volume = await self._volume(services)
        ends = await ends_of(services, await finish(read_partitions(services)))
        idle = self._idle(services.env.clock.liveness())
        return self._pieces(services, http_requests, usage, volume, ends, idle)

    def _pieces(
        self,
        services: Services,
        http_requests: int,
        usage: Usage,
        volume: tuple[int, int] | None,
        ends: Offsets,
        idle: float,
    ) -> Iterator[bytes]:
        yield from internals(services, self._state(services), volume)
        yield from process(usage)
        yield single(table.NETWORK_IDLE, idle)
        yield single(table.HANDLER_IDLE, idle)
        yield single(table.HTTP_REQUESTS, http_requests)
        yield from traffic(services)
        yield from groups(services, ends)
        yield from partitions(services)

    def begin(self, services: Services) -> None:
        """The broker's parts are there: what is measured only for metrics, is from now on."""
        services.tallies.measure(self._process.now)
        self._idle(services.env.clock.liveness())

    def _idle(self, now_s: float) -> float:
        """The share of time, 0 to 1, in which the loop's thread has not computed since the look before the window."""
        looks, look = self._looks, _Look(now_s, self._process.loop_cpu_s())
        while len(looks) > 1 and looks[1].at_s <= now_s - WINDOW_S:
            looks.popleft()
        if not looks or look.at_s >= looks[-1].at_s + 1:
            looks.append(look)
        passed_s = look.at_s - looks[0].at_s
        return 1.0 if passed_s <= 0 else min(1.0, max(0.0, 1 - (look.busy_s - looks[0].busy_s) / passed_s))

    async def _volume(self, services: Services) -> tuple[int, int] | None:
        disk = services.env.disk
        try:
            return await services.env.offload(lambda: (disk.free_bytes(), disk.total_bytes()))
        except OSError:
            return None

    def _state(self, services: Services) -> int:
        if not self._life.has_served:
            return STARTING if services.registration.session is None else RECOVERING
        mine = services.image.brokers.get(services.node_id)
        return LEAVING if mine is not None and mine.leaving else RUNNING
