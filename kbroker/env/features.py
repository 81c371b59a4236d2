"""Which system calls this operating system has, decided once and handed to the disk and the net.

Every call outside the portable core has a fallback, and the table says which of the two is taken. A test switches a
feature off (`Features.detect().without("sendfile")`) and runs the same suite, so the ways of macOS and Windows are
walked on every machine.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from typing import NamedTuple


class Features(NamedTuple):
    """One bool per call; in the comment, what is done without it."""

    epoll: bool = False  # with eventfd; without, each connection waits by itself
    sendfile: bool = False  # read and send
    sendmsg: bool = False  # one send per buffer
    writev: bool = False  # join, then write
    pread: bool = False  # seek and read, under a lock
    read_now: bool = False  # pread: data that is not in memory holds the loop until the disk has it
    fdatasync: bool = False  # fsync
    full_sync: bool = False  # fsync; where this is present (macOS), fsync alone stops at the drive's cache
    dir_sync: bool = False  # nothing: the system has no such thing
    inotify: bool = False  # look again and again
    flock: bool = False  # byte_lock, else a file that holds a pid
    byte_lock: bool = False  # a file that holds a pid

    @classmethod
    def detect(cls) -> Features:
        """The features of this machine."""
        posix = os.name == "posix"
        return cls(
            epoll=hasattr(select, "epoll") and hasattr(os, "eventfd"),
            sendfile=hasattr(os, "sendfile"),
            sendmsg=hasattr(socket.socket, "sendmsg"),
            writev=hasattr(os, "writev"),
            pread=hasattr(os, "pread"),
            read_now=hasattr(os, "RWF_NOWAIT"),
            fdatasync=hasattr(os, "fdatasync"),
            full_sync=sys.platform == "darwin",
            dir_sync=posix,
            inotify=sys.platform == "linux",
            flock=posix,
            byte_lock=sys.platform == "win32",
        )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """All features by name, for tests that switch off one at a time."""
        return cls._fields

    def without(self, *names: str) -> Features:
        """The same machine, lacking the named features."""
        return self._replace(**dict.fromkeys(names, False))
