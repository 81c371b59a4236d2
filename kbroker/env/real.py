"""The operating system as an `Env`: `real_env(data_dir)`.

The parts: `real_disk` (files), `real_lock` (the data directory's lock), `real_net` (TCP), `descriptors` (a reserve of
them), `features` (which system calls there are), `procfs` (who is in the way), `real_helper` (a process that computes).
The rest is here: clocks, randomness, threads.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import trio

from kbroker.env import Env, Helper, Steps
from kbroker.env.descriptors import Descriptors
from kbroker.env.features import Features
from kbroker.env.real_disk import RealDisk
from kbroker.env.real_net import RealNet

OFFLOAD_THREADS_MAX = 16  # fsyncs and cold reads at one time; the disk gains nothing from more

T = TypeVar("T")


def real_env(data_dir: str, *, features: Features | None = None) -> Env:
    """The world of a broker process, its disk rooted at data_dir, which is created if absent (OSError if it cannot be).

    features: what the system is able to do; found out when not given. Tests switch some off.
    """
    features = features or Features.detect()
    descriptors = Descriptors()
    disk, net = RealDisk(data_dir, features, descriptors), RealNet(features, descriptors)
    return Env(RealClock(), disk, net, RealRng(), ThreadOffload(), LateHelper(disk.root))


class RealClock:
    """Wall clock for data; for liveness a clock that goes on while the machine is suspended, where there is one."""

    def data_ms(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def liveness(self) -> float:
        """Seconds since some moment, suspended time included."""
        return _liveness()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await trio.sleep(seconds)

    async def sleep_data(self, seconds: float) -> bool:
        """Wait. Nobody tells of it when a machine's clock is set."""
        await trio.sleep(seconds)
        return False


def _choose_liveness() -> Callable[[], float]:
    """CLOCK_BOOTTIME on Linux; CLOCK_MONOTONIC on macOS and time.monotonic on Windows count suspension as well."""
    if sys.platform == "linux":
        return lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    elif sys.platform == "darwin":
        return lambda: time.clock_gettime(time.CLOCK_MONOTONIC)
    else:
        return time.monotonic


_liveness = _choose_liveness()


class RealRng:
    """The system's randomness."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def token(self, length: int) -> bytes:
        """Random bytes."""
        return os.urandom(length)

    def below(self, bound: int) -> int:
        """A random integer, 0 <= n < bound."""
        return self._random.randrange(bound)


class LateHelper:
    """Processes that compute, of whom nothing is loaded before there is work for them. root: of the disk they get."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._helper: Helper | None = None

    def begin(self, work: Callable[..., Iterator[T]], *args: Any) -> AbstractAsyncContextManager[Steps[T]]:
        """Have work(disk, *args) done."""
        if self._helper is None:
            from kbroker.env.real_helper import ProcessHelper

            self._helper = ProcessHelper(self._root)
        return self._helper.begin(work, *args)

    def close(self) -> None:
        """Let go of what is idle."""
        if self._helper is not None:
            self._helper.close()


class ThreadOffload:
    """Work in worker threads, a bounded number at a time. Work once begun is waited for, even when cancelled."""

    def __init__(self, threads_max: int = OFFLOAD_THREADS_MAX) -> None:
        self._limiter = trio.CapacityLimiter(threads_max)

    async def __call__(self, work: Callable[[], T]) -> T:
        """Run work in a thread; its result or exception is ours.

        An exception holds what work had in hand, megabytes maybe, and all frames that it came through. None of them may
        hold it, as trio's do: such circles stay until Python looks for them.
        """
        outcome: list[tuple[T | None, Exception | None]] = []
        await trio.to_thread.run_sync(_attempt, work, outcome, limiter=self._limiter)
        result, error = outcome.pop()
        try:
            if error is not None:
                raise error
        finally:
            del error
        return result  # type: ignore[return-value]


def _attempt(work: Callable[[], T], outcome: list[tuple[T | None, Exception | None]]) -> None:
    try:
        outcome.append((work(), None))
    except Exception as error:
        outcome.append((None, error))


def raise_file_limit() -> int | None:
    """Let this process open as many files as the system permits; the number, or None where there is no such limit.

    Many systems start processes with 256 or 1,024, which a broker with a few hundred partitions exceeds.
    """
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, 10240):  # macOS may call the hard limit infinite and yet accept no more than OPEN_MAX
        if wanted == soft:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
        except (ValueError, OSError):
            continue
    return soft
