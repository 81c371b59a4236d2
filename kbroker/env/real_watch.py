"""Learning that another process has written to a file: by inotify on Linux, elsewhere by looking again and again.

Python's library has no inotify, so libc is called; it is loaded when the first file is watched.
"""

from __future__ import annotations

import os
import sys

import trio

from kbroker.env.features import Features

LOOK_AGAIN_S = 0.05
IN_MODIFY = 0x2
EVENTS_BYTES = 4096  # read at once; what more there is, is read the next time


class Looking:
    """Where nobody tells: it is time to look again. Each wake costs some 0.2 ms of an idle processor."""

    async def wait_written(self) -> None:
        """See FileWatch."""
        await trio.sleep(LOOK_AGAIN_S)

    def close(self) -> None:
        """See FileWatch."""


class Inotify:
    """The kernel tells."""

    def __init__(self, full_path: str) -> None:
        """Raises OSError; AttributeError where libc has no such calls."""
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        if libc.inotify_add_watch(self._fd, os.fsencode(full_path), IN_MODIFY) < 0:
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, "inotify_add_watch", full_path)

    async def wait_written(self) -> None:
        """See FileWatch."""
        await trio.lowlevel.wait_readable(self._fd)
        try:
            os.read(self._fd, EVENTS_BYTES)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """See FileWatch."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def watch_file(full_path: str, features: Features) -> Inotify | Looking:
    """The best watch there is. FileNotFoundError when the file is not there."""
    os.stat(full_path)
    if features.inotify and sys.platform == "linux":
        try:
            return Inotify(full_path)
        except (OSError, AttributeError, ImportError):
            pass  # the system's limit of watches is reached, or there is no libc of that kind
    return Looking()
