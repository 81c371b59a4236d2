"""The process of a broker: its world, its signals, what it says when it is ready, and how it ends.

Everything the command line knows of `run_broker` is in `_Process.run_broker`.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol

import click
import trio

from kbroker import __version__
from kbroker.cli.broker.logs import is_terminal
from kbroker.cli.broker.memory_directory import memory_directory
from kbroker.cli.errors import EXIT_INTERRUPTED, Misconfigured
from kbroker.config import BrokerConfig

# SIGHUP: the terminal is gone. Windows has none.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAME_SIGNAL_S = 1.0  # signals so close together are one
WILDCARDS = ("0.0.0.0:", "[::]:")
GC_THRESHOLDS = (20_000, 20, 50)  # a broker makes few cycles; Python's 700 would go through its state all the time
_IMPORTED_AT = time.monotonic()

log = logging.getLogger("kbroker")


class Ready(Protocol):
    """What the broker tells when it serves."""

    @property
    def node_id(self) -> int:
        """Its number."""

    @property
    def listeners(self) -> Mapping[str, tuple[str, int]]:
        """Listener name to the address bound."""


def serve(config: BrokerConfig, *, topics: Sequence[tuple[str, int]], memory: bool, plain: bool) -> int:
    """Run a broker until a signal; returns the exit status. plain: no banner, even on a terminal.

    topics: (name, partitions; -1 for num.partitions) to create if absent. Raises Misconfigured when it cannot start.
    """
    for warning in config.warnings:
        log.warning("%s", warning)
    with memory_directory() if memory else nullcontext((config.data_dir, config.data_dir)) as (data_dir, place):
        process = _Process(config, data_dir, place, banner=is_terminal(sys.stderr) and not plain)
        try:
            trio.run(process.run, topics)
        except Exception as error:
            reason = None if process.ready else why(error)
            if reason is None:
                raise  # a bug, or a failure while serving: the traceback is wanted
            raise Misconfigured(reason) from None
    gc.freeze()  # nor need any as the process ends: with thousands of partitions it would take seconds
    return 0


class _Process:
    """A broker and the signals that end it."""

    def __init__(self, config: BrokerConfig, data_dir: str, place: str, *, banner: bool) -> None:
        self.config = config
        self.data_dir = data_dir
        self.place = place  # data_dir in words
        self.banner = banner
        self.ready = False

    async def run(self, topics: Sequence[tuple[str, int]]) -> None:
        """The broker, in a scope that the first signal cancels."""
        with trio.CancelScope() as scope:
            _Signals(scope.cancel).watch()
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

            await run_broker(env, self.config, topics=topics, on_ready=on_ready)

    def _say_ready(self, ready: Ready) -> None:
        self.ready = True
        gc.freeze()  # what is there now stays: no collection need look at it again
        gc.set_threshold(*GC_THRESHOLDS)
        addresses = [_address(*address) for address in ready.listeners.values()]
        took = f"ready in {seconds_since_start():.2f} s"
        if self.banner:
            click.echo(_banner(ready.node_id, self.place, addresses, took), err=True)
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


class _Signals:
    """The first signal stops the broker; another one, later, ends the process at once: the next start recovers.

    One that comes within a second belongs to the first: `timeout` and many a supervisor send it to the process and to
    its group, a terminal to everyone in the foreground. What was set to be ignored (`nohup`, `kbroker &` in a script)
    stays so. trio's own receiver would raise again, at its end, what had come twice.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._token = trio.lowlevel.current_trio_token()
        self._first_at: float | None = None

    def watch(self) -> None:
        """From now on, until the process ends."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._first_at is None:
            self._first_at = time.monotonic()
            self._token.run_sync_soon(self._begin_stop, number)
        elif time.monotonic() - self._first_at > SAME_SIGNAL_S:
            os._exit(EXIT_INTERRUPTED)

    def _begin_stop(self, number: int) -> None:
        log.info("%s: stopping", signal.Signals(number).name)
        self._stop()


def why(error: BaseException) -> str | None:
    """A start that failed, in one line; None for an exception that nobody expected."""
    from kbroker.config import ConfigError
    from kbroker.env import AddressInUse, DirectoryLocked
    from kbroker.server.identity import StartFailed

    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, AddressInUse):
        return f"{error}. Another port: kbroker --listen 127.0.0.1:0"
    if isinstance(error, DirectoryLocked):
        return f"the data directory is in use by {error.holder}. Another directory: kbroker --data-dir DIR"
    if isinstance(error, ConfigError | StartFailed):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot use {error.filename or 'the data directory'}: {error.strerror or error}"
    return None


def seconds_since_start() -> float:
    """How long this process has run: since the system started it where that can be known, else since the import."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])  # starttime, field 22, after the command's name
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED_AT


def _banner(node_id: int, place: str, addresses: Sequence[str], took: str) -> str:
    bold, plain = ("", "") if "NO_COLOR" in os.environ else ("\x1b[1m", "\x1b[0m")
    port = addresses[0].rpartition(":")[2]
    near = f"localhost:{port}" if addresses[0].startswith(WILDCARDS) else addresses[0]
    port_option = "" if port == "9092" else f" -b {near}"
    lines = [
        f"{bold}kbroker {__version__}{plain}, node {node_id}",
        f"  data       {place}",
        f"  listening  {', '.join(addresses)}",
        f"  try        echo hi | kbroker topic produce{port_option} demo",
        f"{bold}{took}{plain} (CTRL+C to quit)",
    ]
    return "\n".join(lines)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
