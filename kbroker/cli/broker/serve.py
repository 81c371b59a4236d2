"""The process of a broker: its world, its signals, what it says when it is ready, and how it ends.

Everything the command line knows of `run_broker` is in `_Process.run_broker`.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING

import click
import trio

from kbroker import __version__, events
from kbroker.cli.broker.banner import address_of, advertised_texts, banner, near, seconds_since_start
from kbroker.cli.broker.layout import in_use, unusable
from kbroker.cli.broker.logs import is_terminal
from kbroker.cli.broker.service.life import LastWord, Life, RunningFile
from kbroker.cli.broker.service.options import Ties
from kbroker.cli.broker.signals import Signals, signal_name
from kbroker.cli.errors import Failed, Misconfigured
from kbroker.config import BrokerConfig
from kbroker.env import address_text
from kbroker.events import tell

if TYPE_CHECKING:
    from kbroker.api.context import Services
    from kbroker.cli.broker.seed.wishes import Wish
    from kbroker.env import Env
    from kbroker.http.beside import HttpServer
    from kbroker.server.broker import Ready

GC_THRESHOLDS = (20_000, 20, 50)  # a broker makes few cycles; Python's 700 would go through its state all the time

log = logging.getLogger("kbroker")


def serve(
    config: BrokerConfig,
    data_dir: str,
    place: str,
    *,
    wishes: Sequence[Wish],
    plain: bool,
    ties: Ties,
    supervised: int | None = None,
) -> int:
    """Run a broker until a signal; returns the exit status. plain: no banner, even on a terminal.

    data_dir, place: where data is, as a path and in words. wishes: topics to create if absent, and their records.
    ties: to whatever started it. supervised: set where a supervisor did, which speaks for all: so many brokers are to
    live before this one is ready. Raises Misconfigured when it cannot start.
    """
    for warning in () if supervised else config.warnings:
        log.warning("%s", warning)
    about = {"node": config.node_id, "data_dir": os.path.abspath(data_dir)}
    life = ties.begin(RunningFile(data_dir), who=f"node {config.node_id}", **about)
    if plain:
        tell(log, events.STARTING, version=__version__, pid=os.getpid(), place=place, **about)
    has_banner = is_terminal(sys.stderr) and not plain
    process = _Process(config, data_dir, place, life, ties, supervised, banner=has_banner)
    try:
        trio.run(process.run, wishes)
    except Exception as error:
        reason = None if process.ready else why(error)
        if reason is None:
            raise  # a bug, or a failure while serving: the traceback is wanted
        raise (Failed if _may_pass(error) else Misconfigured)(reason) from None
    finally:
        life.end()
    gc.freeze()  # nor need any as the process ends: with thousands of partitions it would take seconds
    return 0


class _Process:
    """A broker and what ends it."""

    def __init__(
        self,
        config: BrokerConfig,
        data_dir: str,
        place: str,
        life: Life,
        ties: Ties,
        supervised: int | None,
        *,
        banner: bool,
    ) -> None:
        self.config = config
        self.data_dir = data_dir
        self.place = place  # data_dir in words
        self.life = life
        self.ties = ties
        self.supervised = supervised
        self.banner = banner
        self.ready = False
        self.hands_over = True  # what it leads, to others, when it stops
        self.stops_at = 0.0  # when it began to stop

    async def run(self, wishes: Sequence[Wish]) -> None:
        """The broker, in a scope that the first signal cancels."""
        logging.getLogger().addHandler(LastWord(self.life))
        token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope:

            def stop(reason: str) -> None:
                if not self.stops_at:
                    self.stops_at = time.monotonic()
                    tell(log, events.STOPPING, reason=reason)
                    self.life.stop(reason)
                    scope.cancel()

            def stop_with_all() -> None:
                self.hands_over = False  # to whom? The others stop, too
                stop("the supervisor ends")

            # Not trio's own receiver of signals: at its end it would raise again what had come twice.
            Signals(lambda number: token.run_sync_soon(stop, signal_name(number))).watch()
            if self.ties.parent is not None:
                self.ties.parent.watch(lambda reason: token.run_sync_soon(stop, reason))
            if self.supervised is not None:
                from kbroker.cli.broker.supervised import watch_stdin

                watch_stdin(lambda: token.run_sync_soon(stop_with_all))
            await self.run_broker(wishes)
        tell(log, events.STOPPED, seconds=round(time.monotonic() - self.stops_at, 3))

    async def run_broker(self, wishes: Sequence[Wish]) -> None:
        """The broker in the real world, until it is cancelled."""
        from kbroker.env.real import raise_file_limit, real_env
        from kbroker.server.broker import run_broker

        raise_file_limit()
        env = real_env(self.data_dir)
        async with trio.open_nursery() as nursery, self._http(env) as http:

            def say_ready(ready: Ready) -> None:
                if http is not None:
                    http.note_ready()
                self._say_ready(ready, http)
                nursery.start_soon(trio.to_thread.run_sync, import_the_rest)

            async def beside(services: Services) -> None:
                self.life.learn()  # the directory is ours now
                if http is not None:
                    await http.attach(services)

            async def plant(ready: Ready) -> None:
                await self._plant(env, wishes, ready)
                say_ready(ready)

            def on_ready(ready: Ready) -> None:
                if any(each.records for each in wishes):
                    nursery.start_soon(plant, ready)
                else:
                    say_ready(ready)

            if self.ties.systemd is not None:
                nursery.start_soon(self.ties.systemd.beat_on, self.life)
            await run_broker(
                env,
                self.config,
                topics=[each.topic() for each in wishes],
                brokers_min=self.supervised or 1,
                on_ready=on_ready,
                hands_over=lambda: self.hands_over,
                beside=beside,
            )

    async def _plant(self, env: Env, wishes: Sequence[Wish], ready: Ready) -> None:
        """Have the records of a seed written, before anybody is told that this broker is ready."""
        from kbroker.cli.broker.seed.planting import plant

        address = near(address_text(*next(iter(ready.listeners.values()))))
        records = await plant(wishes, env.net, env.clock, *address_of(address))
        tell(log, events.SEEDED, records=records, topics=sum(bool(each.records) for each in wishes))

    def _http(self, env: Env) -> AbstractAsyncContextManager[HttpServer | None]:
        """The HTTP server, where it is asked for."""
        if self.config.get_int("kbroker.http.port") < 0:
            return nullcontext()
        from kbroker.env.real_process import RealProcess
        from kbroker.http.beside import http_server

        return http_server(env, self.config, RealProcess())

    def _say_ready(self, ready: Ready, http: HttpServer | None) -> None:
        self.ready = True
        gc.freeze()  # what is there now stays: no collection need look at it again
        gc.set_threshold(*GC_THRESHOLDS)
        url = f"http://{address_text(*http.address)}/" if http is not None else ""
        addresses = [address_text(*address) for address in ready.listeners.values()]
        seconds = seconds_since_start()
        if url and (self.supervised is not None or not self.banner):
            tell(log, events.HTTP_LISTENING, url=url)
        if self.supervised is None:
            self._say_where(ready, addresses, seconds, url)
        self.life.become_ready(
            cluster_id=ready.cluster_id,
            listeners=dict(zip(ready.listeners, addresses, strict=True)),
            advertised={name: address_text(*each) for name, each in ready.advertised.items() if each[0]},
            bootstrap_servers=[near(addresses[0])],
            **({"http": url} if url else {}),
        )

    def _say_where(self, ready: Ready, addresses: list[str], seconds: float, url: str) -> None:
        """To people on a terminal, or in the log. url: of HTTP, "" where that is not served."""
        advertised = advertised_texts(ready.listeners, ready.advertised)
        if self.banner:
            who, took = f"node {ready.node_id}", f"ready in {seconds:.2f} s"
            click.echo(banner(who, self.place, addresses, took, url=url, advertised=advertised), err=True)
            return
        data_dir = os.path.abspath(self.data_dir)
        about = {"version": __version__, "pid": os.getpid(), "node": ready.node_id, "data_dir": data_dir}
        tell(log, events.LISTENING, listeners=addresses, place=self.place, **about)
        if advertised:
            tell(log, events.ADVERTISED, addresses=advertised)
        tell(log, events.READY, seconds=seconds, listeners=addresses, cluster_id=ready.cluster_id, **about)


def import_the_rest() -> None:
    """Import what otherwise the first request would that needs it: there may be no file descriptor left by then."""
    from kafka_wire import compression, primitives

    primitives.crc32c(b"")
    import_module("kbroker.groups.consumer.group")
    for codec in (compression.GZIP, compression.SNAPPY, compression.LZ4, compression.ZSTD):
        compression.compress(codec, b"")


def why(error: BaseException) -> str | None:
    """A start that failed, in one line; None for an exception that nobody expected."""
    from kbroker.config import ConfigError
    from kbroker.env import AddressInUse, DirectoryLocked
    from kbroker.server.identity import StartFailed

    error = _bare(error)
    if isinstance(error, AddressInUse):
        return f"{error}. Another port: kbroker --listen 127.0.0.1:0"
    if isinstance(error, DirectoryLocked):
        return in_use(error.holder)
    if isinstance(error, ConfigError | StartFailed):
        return str(error)
    if isinstance(error, OSError):
        return unusable(error)
    return None


def _may_pass(error: BaseException) -> bool:
    """Whether to try again, as a supervisor does for status 1, may help."""
    from kbroker.server.identity import StoreUnreachable

    return isinstance(_bare(error), StoreUnreachable)


def _bare(error: BaseException) -> BaseException:
    """An exception without the groups around it, if it is the only one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
