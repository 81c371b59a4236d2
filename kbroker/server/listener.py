"""A listener: accepts connections, bounds their number, and closes those that have gone quiet.

The limits are per listener: so many connections in all, so many from one address; whoever comes beyond is hung up on
at once, as Kafka does. The reaper looks round every few seconds: a connection that has begun a frame, or is sent
answers, and has not moved for half a minute, or that has done nothing for `connections.max.idle.ms`, is closed; never
one that waits for our answer. It compares counters, so a busy connection pays nothing for it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

import trio

from kafka_wire.frames import Scratch
from kbroker.api.context import Peer, Services
from kbroker.api.registry import Api, Routes
from kbroker.env import Listener, Stream
from kbroker.server.connection import Connection
from kbroker.server.driver import Driver, House
from kbroker.server.memory import AnswerMemory, RequestMemory

REAPER_INTERVAL_S = 10.0
COMPLAINTS_MAX = 10  # log lines of one level between two rounds of the reaper

log = logging.getLogger("kbroker.listener")


class Server:
    """The accept loop of one bound address and the connections it has accepted."""

    def __init__(
        self,
        name: str,
        listener: Listener,
        services: Services,
        apis: Mapping[int, Api],
        requests: RequestMemory,
        answers: AnswerMemory,
    ) -> None:
        self.name = name
        self.listener = listener
        self.services = services
        self.routes = Routes(apis)
        self.requests = requests
        self.answers = answers
        self.drivers: dict[Driver, None] = {}
        self._scratch = Scratch()
        self._per_address: Counter[str] = Counter()
        self._complaints: Counter[int] = Counter()  # by level, since the reaper's last round

    async def run(self) -> None:
        """Accept until cancelled. Every task of a connection lives in a nursery of this call."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reap)
                house = House(nursery, self.requests, self.answers, self._complain, self._forget)
                while True:
                    stream = await self.listener.accept()
                    if self._has_room(stream):
                        self._serve(stream, house)
                    else:
                        stream.close()
        finally:
            for driver in list(self.drivers):
                driver.close()
            await self.listener.aclose()

    def _has_room(self, stream: Stream) -> bool:
        config, address = self.services.config, stream.peer[0]
        for limit, used in (
            ("max.connections", len(self.drivers)),
            ("max.connections.per.ip", self._per_address[address]),
        ):
            if used >= config.get_int(limit):
                self._complain(f"refusing a connection from {address}: {limit} is {config.get_int(limit)}")
                return False
        return True

    def _serve(self, stream: Stream, house: House) -> None:
        peer = Peer(stream.peer, stream.local, self.name)
        driver = Driver(stream, Connection(self.services, self.routes, peer, self._scratch, house.now), house)
        self.drivers[driver] = None
        self._per_address[peer.address[0]] += 1
        driver.start()

    def _forget(self, driver: Driver) -> None:
        address = driver.core.peer.address[0]
        del self.drivers[driver]
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]

    def _complain(self, line: str, level: int = logging.INFO, failure: BaseException | None = None) -> None:
        """Log what a client did wrong, or what failed here, but not the ten-thousandth time in a row.

        Each level has its own bound: no crowd of mistaken clients hides a failure of ours.
        """
        self._complaints[level] += 1
        if self._complaints[level] <= COMPLAINTS_MAX:
            log.log(level, "%s", line, exc_info=failure)

    async def _reap(self) -> None:
        while True:
            await self.services.env.clock.sleep(REAPER_INTERVAL_S)
            self.look_round(REAPER_INTERVAL_S)
            for level, number in self._complaints.items():
                if number > COMPLAINTS_MAX:
                    log.log(level, "closed or refused %d more connections for such reasons", number - COMPLAINTS_MAX)
            self._complaints.clear()

    def look_round(self, elapsed_s: float) -> None:
        """Another elapsed_s seconds have passed: close the connections that have been quiet for too long."""
        idle_max_s = self.services.config.get_int("connections.max.idle.ms") / 1000
        for driver in list(self.drivers):
            reason = driver.look(elapsed_s, idle_max_s)
            if reason is not None:
                self._complain(f"closing the connection from {driver.core.peer}: {reason}")
                driver.close()
        self.requests.look_round()
