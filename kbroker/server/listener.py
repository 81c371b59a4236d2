"""A listener: accepts connections, bounds their number, and closes those that have gone quiet.

The limits are per listener: so many connections in all, so many from one address; whoever comes beyond is hung up on
at once, as Kafka does. The reaper looks round every few seconds: a connection that has begun a frame and not moved for
half a minute, or has done nothing for `connections.max.idle.ms`, is closed. It compares counters, so a busy connection
pays nothing for it.
"""

from __future__ import annotations

import logging
from collections import Counter

import trio

from kbroker.api.context import Services
from kbroker.api.registry import Api
from kbroker.env import Listener, Stream
from kbroker.server.connection import Connection
from kbroker.server.memory import RequestMemory

REAPER_INTERVAL_S = 10.0
PARTIAL_FRAME_MAX_S = 30.0
COMPLAINTS_MAX = 10  # log lines about clients' mistakes between two rounds of the reaper

log = logging.getLogger("kbroker.listener")


class Server:
    """The accept loop of one bound address and the connections it has accepted."""

    def __init__(
        self, name: str, listener: Listener, services: Services, apis: dict[int, Api], memory: RequestMemory
    ) -> None:
        self.name = name
        self.listener = listener
        self.services = services
        self.apis = apis
        self.memory = memory
        self.connections: dict[Connection, tuple[int, float]] = {}  # -> (turns when last looked at, seconds quiet)
        self._per_address: Counter[str] = Counter()
        self._complaints = 0

    async def run(self) -> None:
        """Accept until cancelled. Every connection lives in a nursery of this call."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reap)
                while True:
                    stream = await self.listener.accept()
                    if self._has_room(stream):
                        nursery.start_soon(self._serve, stream)
                    else:
                        await stream.aclose()
        finally:
            await self.listener.aclose()

    def _has_room(self, stream: Stream) -> bool:
        config, address = self.services.config, stream.peer[0]
        for limit, used in (
            ("max.connections", len(self.connections)),
            ("max.connections.per.ip", self._per_address[address]),
        ):
            if used >= config.get_int(limit):
                log.warning("refusing a connection from %s: %s is %d", address, limit, config.get_int(limit))
                return False
        return True

    async def _serve(self, stream: Stream) -> None:
        address = stream.peer[0]
        connection = Connection(stream, self.services, self.apis, self.name, self.memory, self._complain)
        self.connections[connection] = (0, 0.0)
        self._per_address[address] += 1
        try:
            await connection.run()
        finally:
            del self.connections[connection]
            self._per_address[address] -= 1
            if not self._per_address[address]:
                del self._per_address[address]

    def _complain(self, line: str, failure: BaseException | None) -> None:
        """Log what a client did wrong, or what failed here, but not the ten-thousandth time in a row."""
        self._complaints += 1
        if self._complaints <= COMPLAINTS_MAX:
            log.log(logging.ERROR if failure else logging.INFO, "%s", line, exc_info=failure)

    async def _reap(self) -> None:
        while True:
            await self.services.env.clock.sleep(REAPER_INTERVAL_S)
            self.look_round(REAPER_INTERVAL_S)
            if self._complaints > COMPLAINTS_MAX:
                log.info("closed %d more connections for such reasons", self._complaints - COMPLAINTS_MAX)
            self._complaints = 0

    def look_round(self, elapsed_s: float) -> None:
        """Note which connections have been quiet for another elapsed_s seconds; cancel those that were for too long."""
        idle_max_s = self.services.config.get_int("connections.max.idle.ms") / 1000
        for connection, (turns, quiet_s) in self.connections.items():
            if connection.turns != turns:
                self.connections[connection] = (connection.turns, 0.0)
                continue
            quiet_s += elapsed_s
            self.connections[connection] = (turns, quiet_s)
            if quiet_s >= (PARTIAL_FRAME_MAX_S if connection.frames.pending else idle_max_s):
                log.info("closing the connection from %s: nothing for %.0f s", connection.peer, quiet_s)
                connection.scope.cancel()
