"""Which process is in the way: read from /proc where there is one, "" elsewhere. For messages to people only."""

from __future__ import annotations

import os

LISTEN = "0A"  # state column of /proc/net/tcp


def process_name(pid: int) -> str:
    """A process as people call it: "process 4711 (java)"; without the name where that cannot be read."""
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return f"process {pid} ({comm.read().strip()})"
    except OSError:
        return f"process {pid}"


def port_holder(port: int) -> str:
    """The process that listens on a TCP port, as `process_name` puts it; "" when that cannot be found out."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not sockets:
        return ""
    for entry in _list("/proc"):
        if entry.isdecimal() and any(_link(f"/proc/{entry}/fd/{fd}") in sockets for fd in _list(f"/proc/{entry}/fd")):
            return process_name(int(entry))
    return ""


def _listening_inodes(port: int) -> set[str]:
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as lines:
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue
        # sl, local_address (hex address:hex port), rem_address, st, tx:rx, tr:when, retrnsmt, uid, timeout, inode
        inodes.update(row[9] for row in rows if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port)
    return inodes


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:  # another user's process, or one that has just gone
        return []


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
