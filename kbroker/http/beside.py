"""The HTTP server beside a broker: bound before the broker comes up, so that a port that is taken is told at once, and
there until it is down, so that it can be asked what it is doing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from kbroker.api.context import Services
from kbroker.config import BrokerConfig
from kbroker.env import AddressInUse, Env, Process, address_text
from kbroker.http.health import Life
from kbroker.http.hosts import ANY, Hosts
from kbroker.http.metrics.page import Metrics
from kbroker.http.paths import Paths
from kbroker.http.server import Server
from kbroker.server.identity import StartFailed


class HttpServer:
    """The server, as who runs the broker sees it."""

    def __init__(self, address: tuple[str, int], life: Life, metrics: Metrics) -> None:
        self.address = address  # with the real port
        self._life = life
        self._metrics = metrics

    def note_ready(self) -> None:
        """The broker serves."""
        self._life.note_ready()

    async def attach(self, services: Services) -> None:
        """Answer for a broker of these services; runs as long as that does (`run_broker`, beside)."""
        self._life.attach(services)
        self._metrics.begin(services)
        try:
            await trio.sleep_forever()
        finally:
            self._life.detach()


@asynccontextmanager
async def http_server(env: Env, config: BrokerConfig, process: Process) -> AsyncIterator[HttpServer]:
    """Serve HTTP as `kbroker.http.*` say, while the block runs. Raises StartFailed."""
    host, port = config.get_str("kbroker.http.host"), config.get_int("kbroker.http.port")
    try:
        listener = await env.net.listen(host, port)
    except AddressInUse as error:
        raise StartFailed(f"{error}. Another port for HTTP: kbroker --http-port 0") from error
    except OSError as error:
        raise StartFailed(f"cannot serve HTTP on {address_text(host, port)}: {error.strerror or error}") from error
    life = Life()
    metrics = Metrics(life, process)
    server = Server(listener, Paths(life, metrics).answer, Hosts(own_names(config)), env.clock.data_ms)
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope(shield=True)  # it ends with the block, which may go on when cancelled

        async def run() -> None:
            with scope:
                await server.run()

        nursery.start_soon(run)
        try:
            yield HttpServer(listener.address, life, metrics)
        finally:
            scope.cancel()


def own_names(config: BrokerConfig) -> list[str]:
    """By which this machine is called, as far as the configuration tells."""
    hosts = [config.get_str("kbroker.http.host"), *(listener.host for listener in config.listeners)]
    hosts += [host for host, _ in config.advertised_listeners.values()]
    return [*(host for host in hosts if host != ANY), *config.get_list("kbroker.http.allowed.hosts")]
