"""Which process is in the way, and whether it is still the same: read from /proc where there is one, "" elsewhere."""

from __future__ import annotations

import os

from kbroker.env.machine import read_boot_id

LISTEN = "0A"  # state column of /proc/net/tcp


def process_name(pid: int) -> str:
    """A process as people call it: "process 4711 (java)"; without the name where that cannot be read."""
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return f"process {pid} ({comm.read().strip()})"
    except OSError:
        return f"process {pid}"


def process_identity(pid: int) -> str:
    """What no other process has, on no machine, nor after a restart, nor one that is given the same pid later.

    BOOT/NAMESPACE/PID/START: the run of the system, the namespace of pids as this process sees it (a container has its
    own), when the process started in clock ticks. "" where that cannot be read, or there is no such process.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            state, *fields = file.read().rpartition(")")[2].split()
        if state in "ZX":
            return ""  # it has ended, and nobody has asked how
        return f"{read_boot_id()}/{_link('/proc/self/ns/pid')}/{pid}/{fields[18]}"
    except (OSError, IndexError):
        return ""


def process_descriptor(pid: int) -> int | None:
    """A descriptor of that very process, which stays its own when the pid is given away; readable once it has ended.
    None: on another system, an older kernel, in a sandbox; or there is no such process."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def is_of_here(identity: str) -> bool:
    """Whether a process of that identity, if it is one, can be seen from here: neither another machine's nor another
    container's."""
    own = process_identity(os.getpid())
    return bool(own) and own.split("/")[:2] == identity.split("/")[:2]


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
