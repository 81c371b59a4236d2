"""The process of a broker: its world, its signals, what it says when it is ready, and how it ends.

Everything the command line knows of `run_broker` is in `_Process.run_broker`.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

import click
import trio

from kbroker import __version__
from kbroker.cli.broker.banner import address_text, banner, seconds_since_start
from kbroker.cli.broker.logs import is_terminal
from kbroker.cli.broker.memory_directory import memory_directory
from kbroker.cli.broker.signals import Signals, signal_name
from kbroker.cli.errors import Failed, Misconfigured
from kbroker.config import BrokerConfig

if TYPE_CHECKING:
    from kbroker.cli.broker.supervised import Supervised

GC_THRESHOLDS = (20_000, 20, 50)  # a broker makes few cycles; Python's 700 would go through its state all the time

log = logging.getLogger("kbroker")


class Ready(Protocol):
    """What the broker tells when it serves."""

    @property
    def node_id(self) -> int:
        """Its number."""

    @property
    def listeners(self) -> Mapping[str, tuple[str, int]]:
        """Listener name to the address bound."""


def serve(
    config: BrokerConfig,
    *,
    topics: Sequence[tuple[str, int]],
    memory: bool,
    plain: bool,
    supervised: Supervised | None = None,
) -> int:
    """Run a broker until a signal; returns the exit status. plain: no banner, even on a terminal.

    topics: (name, partitions; -1 for num.partitions) to create if absent. supervised: set where a supervisor started
    this broker; it speaks for all. Raises Misconfigured when it cannot start.
    """
    for warning in () if supervised else config.warnings:
        log.warning("%s", warning)
    with memory_directory() if memory else nullcontext((config.data_dir, config.data_dir)) as (data_dir, place):
        process = _Process(config, data_dir, place, supervised, banner=is_terminal(sys.stderr) and not plain)
        try:
            trio.run(process.run, topics)
        except Exception as error:
            reason = None if process.ready else why(error)
            if reason is None:
                raise  # a bug, or a failure while serving: the traceback is wanted
            raise (Failed if _may_pass(error) else Misconfigured)(reason) from None
    gc.freeze()  # nor need any as the process ends: with thousands of partitions it would take seconds
    return 0


class _Process:
    """A broker and the signals that end it."""

    def __init__(
        self, config: BrokerConfig, data_dir: str, place: str, supervised: Supervised | None, *, banner: bool
    ) -> None:
        self.config = config
        self.data_dir = data_dir
        self.place = place  # data_dir in words
        self.supervised = supervised
        self.banner = banner
        self.ready = False
        self.hands_over = True  # what it leads, to others, when it stops

    async def run(self, topics: Sequence[tuple[str, int]]) -> None:
        """The broker, in a scope that the first signal cancels."""
        token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope:

            def stop(reason: str) -> None:
                log.info("%s: stopping", reason)
                scope.cancel()

            def stop_with_all() -> None:
                self.hands_over = False  # to whom? The others stop, too
                stop("the supervisor ends")

            # Not trio's own receiver of signals: at its end it would raise again what had come twice.
            Signals(lambda number: token.run_sync_soon(stop, signal_name(number))).watch()
            if self.supervised is not None:
                self.supervised.watch(lambda: token.run_sync_soon(stop_with_all))
            await self.run_broker(topics)
        log.info("stopped")

    async def run_broker(self, topics: Sequence[tuple[str, int]]) -> None:
        """The broker in the real world, until it is cancelled."""
        from kbroker.env.real import raise_file_limit, real_env
        from kbroker.server.broker import run_broker

        raise_file_limit()
        env = real_env(self.data_dir)
        async with trio.open_nursery() as nursery:

            def on_ready(ready: Ready) -> None:
                self._say_ready(ready)
                nursery.start_soon(trio.to_thread.run_sync, import_the_rest)

            brokers_min = self.supervised.brokers_min if self.supervised is not None else 1
            await run_broker(
                env,
                self.config,
                topics=topics,
                brokers_min=brokers_min,
                on_ready=on_ready,
                hands_over=lambda: self.hands_over,
            )

    def _say_ready(self, ready: Ready) -> None:
        self.ready = True
        gc.freeze()  # what is there now stays: no collection need look at it again
        gc.set_threshold(*GC_THRESHOLDS)
        if self.supervised is not None:
            self.supervised.tell_ready(ready.listeners)
            return
        addresses = [address_text(*address) for address in ready.listeners.values()]
        took = f"ready in {seconds_since_start():.2f} s"
        if self.banner:
            click.echo(banner(f"node {ready.node_id}", self.place, addresses, took), err=True)
        else:
            about = f"kbroker {__version__}, node {ready.node_id}, data {self.place}"
            log.info("%s, listening on %s", about, ", ".join(addresses))
            log.info("%s", took)


def import_the_rest() -> None:
    """Import what otherwise the first request would that needs it: there may be no file descriptor left by then."""
    from kafka_wire import compression, primitives

    primitives.crc32c(b"")
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
        return f"the data directory is in use by {error.holder}. Another directory: kbroker --data-dir DIR"
    if isinstance(error, ConfigError | StartFailed):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot use {error.filename or 'the data directory'}: {error.strerror or error}"
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
