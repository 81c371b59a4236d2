"""What this process uses of its system: CPU, memory, descriptors, disks. Read from /proc where there is one."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Sequence

from kbroker.env import Usage

if sys.platform != "win32":
    import resource


class RealProcess:
    """This process."""

    def now(self) -> float:
        """Seconds, on the clock of the event loop's budgets."""
        return time.perf_counter()

    def loop_cpu_s(self) -> float:
        """Seconds of CPU of the thread that calls."""
        return time.thread_time()

    def usage(self) -> Usage:
        """All of it."""
        stat, io = _stat(), _io()
        ticks, page = _sysconf("SC_CLK_TCK"), _sysconf("SC_PAGE_SIZE")
        return Usage(
            time.process_time(),
            [generation["collections"] for generation in gc.get_stats()],
            resident_bytes=int(stat[21]) * page if stat else None,
            virtual_bytes=int(stat[20]) if stat else None,
            open_fds=_open_fds(),
            max_fds=resource.getrlimit(resource.RLIMIT_NOFILE)[0] if sys.platform != "win32" else None,
            threads=int(stat[17]) if stat else None,
            started_s=_boot_s() + int(stat[19]) / ticks if stat else None,
            read_bytes=io.get("read_bytes"),
            written_bytes=io.get("write_bytes"),
        )


def _stat() -> Sequence[str]:
    """The fields of /proc/self/stat from the state on, which is the third (proc(5)); none where there is no /proc."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return ()


def _io() -> dict[str, int]:
    try:
        with open("/proc/self/io", encoding="ascii") as file:
            return {name: int(value) for name, _, value in (line.partition(":") for line in file)}
    except (OSError, ValueError):
        return {}


def _open_fds() -> int | None:
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # one is that of the listing
    except OSError:
        return None


def _boot_s() -> float:
    """When the system began, seconds since the epoch."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _sysconf(name: str) -> int:
    return os.sysconf(name) if hasattr(os, "sysconf") else 1
