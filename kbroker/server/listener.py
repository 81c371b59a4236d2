"""A listener: accepts connections, bounds their number, and closes those that have gone quiet.

The limits are per listener: so many connections in all, so many from one address; whoever comes beyond is hung up on
at once, as Kafka does. They are limits for clients: brokers are not counted, and on the listener that brokers use a few
more connections are let in on trial. Who is on trial may do nothing but prove to be a broker, and has little time for
it, so that no crowd of clients keeps a cluster apart.

The reaper looks round every few seconds: a connection that has begun a frame, or is sent answers, and has not moved for
half a minute, or that has done nothing for `connections.max.idle.ms`, is closed; never one that waits for our answer.
It compares counters, so a busy connection pays nothing for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import trio

from kafka_wire.api import ApiKey
from kafka_wire.frames import Scratch
from kbroker.api.context import NO_BROKER, Peer, Services
from kbroker.api.registry import Api, CloseConnection, Route, Routes, RouteTable
from kbroker.env import Listener, Stream
from kbroker.events import CONNECTION_CLOSED, CONNECTION_REFUSED
from kbroker.server.complaints import Complaints
from kbroker.server.connection import Connection
from kbroker.server.driver import Driver, House
from kbroker.server.memory import AnswerMemory, RequestMemory
from kbroker.server.porter import Porter

REAPER_INTERVAL_S = 10.0
TRIALS_MAX = 32  # connections beyond the limits; one more, and the oldest has to go
TRIAL_S = 5.0


class TrialRoutes(RouteTable):
    """What a connection on trial may ask: to be introduced; then, as a broker, everything."""

    __slots__ = ("_routes", "_peer")

    def __init__(self, routes: Routes, peer: Peer) -> None:
        self._routes = routes
        self._peer = peer

    def __getitem__(self, pair: int) -> Route:
        if self._peer.broker_id == NO_BROKER and pair >> 16 != ApiKey.INTRODUCE:
            raise CloseConnection("there are too many connections, and it is no broker's")
        return self._routes[pair]


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
        porter: Porter,
    ) -> None:
        self.name = name
        self.listener = listener
        self.services = services
        self.routes = Routes(apis, services.tallies)
        self.crowd = services.tallies.crowd(name)
        self.requests = requests
        self.answers = answers
        self.porter = porter
        self.drivers: dict[Driver, None] = {}
        self._scratch = Scratch()
        self._clients = 0  # connections that are counted, also
        self._per_address: Counter[str] = Counter()
        self._trials: dict[Peer, tuple[Driver, float]] = {}  # with the time until which they have to be introduced
        self._complaints = Complaints()

    async def run(self) -> None:
        """Accept until cancelled. Every task of a connection lives in a nursery of this call."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reap)
                house = House(nursery, self.requests, self.answers, self.porter, self._complaints, self._forget)
                try:
                    while True:
                        self._take(await self.listener.accept(), house)
                finally:
                    for driver in list(self.drivers):  # at once: no step may look for a nursery that has ended
                        driver.close()
        finally:
            await self.listener.aclose()

    def _take(self, stream: Stream, house: House) -> None:
        """Serve a new connection, if there is room for it."""
        limit = self._limit(stream.peer[0])
        if limit is None:
            peer = Peer(stream.peer, stream.local, self.name, is_broker=self._uncount)
            self._clients += 1
            self._per_address[peer.address[0]] += 1
            self._serve(stream, peer, self.routes, house)
        elif self.name == self.services.inter_broker_listener and len(self.services.image.registrations) > 1:
            self._try(stream, house)
        else:
            self.crowd.note_refused()
            self._complaints.complain(CONNECTION_REFUSED, client=stream.peer[0], reason=limit)
            stream.close()

    def _limit(self, address: str) -> str | None:
        """The limit that one more client from there would be beyond, if any."""
        config = self.services.config
        for limit, used in (
            ("max.connections", self._clients),
            ("max.connections.per.ip", self._per_address[address]),
        ):
            if used >= config.get_int(limit):
                return f"{limit} is {config.get_int(limit)}"
        return None

    def _serve(self, stream: Stream, peer: Peer, routes: RouteTable, house: House) -> None:
        driver = Driver(stream, Connection(self.services, routes, peer, self._scratch, house.now), house)
        self.drivers[driver] = None
        self.crowd.note_accepted()
        if isinstance(routes, TrialRoutes):
            self._trials[peer] = driver, trio.current_time() + TRIAL_S
        driver.start()

    def _try(self, stream: Stream, house: House) -> None:
        """Let one more in, as it may be a broker."""
        if len(self._trials) >= TRIALS_MAX:
            oldest, _ = next(iter(self._trials.values()))
            oldest.close()
        peer = Peer(stream.peer, stream.local, self.name, is_broker=self._uncount)
        self._serve(stream, peer, TrialRoutes(self.routes, peer), house)

    def _uncount(self, peer: Peer) -> None:
        """A client turns out to be a broker, or is gone."""
        if self._trials.pop(peer, None) is not None:
            return
        address = peer.address[0]
        self._clients -= 1
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]

    def _forget(self, driver: Driver) -> None:
        del self.drivers[driver]
        self.crowd.note_closed()
        peer = driver.core.peer
        if peer.broker_id == NO_BROKER:
            self._uncount(peer)

    async def _reap(self) -> None:
        while True:
            await self.services.env.clock.sleep(REAPER_INTERVAL_S)
            self.look_round(REAPER_INTERVAL_S)
            self._complaints.look_round()

    def look_round(self, elapsed_s: float) -> None:
        """Another elapsed_s seconds have passed: close the connections that have been quiet for too long."""
        idle_max_s = self.services.config.get_int("connections.max.idle.ms") / 1000
        for driver in list(self.drivers):
            reason = driver.look(elapsed_s, idle_max_s)
            if reason is not None:
                self._complaints.complain(CONNECTION_CLOSED, client=str(driver.core.peer), reason=reason)
                driver.close()
        now = trio.current_time()
        for driver, until in [*self._trials.values()]:
            if now >= until:
                driver.close()
        self.requests.look_round()
