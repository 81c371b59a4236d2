"""Which run of the operating system this is, and on what its files lie: read where Linux tells it, "" elsewhere."""

from __future__ import annotations

import os
import re


def read_boot_id() -> str:
    """What identifies this run of the operating system. Containers of one machine share it, as they share its clock."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.readline().strip()
    except OSError:
        return ""


def filesystem_of(path: str) -> str:
    """The type of the file system that holds a path: "ext4", "nfs4"."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return filesystem_in(file.read(), os.path.realpath(path))
    except OSError:
        return ""


def filesystem_in(mountinfo: str, path: str) -> str:
    """The same, by a table of mounts as in /proc/self/mountinfo (proc_pid_mountinfo(5)); the later one lies on top."""
    found, longest = "", -1
    for line in mountinfo.splitlines():
        mount, dash, kind = line.partition(" - ")
        fields = mount.split(" ")
        if not dash or len(fields) < 5:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        if len(point) >= longest and f"{path}/".startswith(point.rstrip("/") + "/"):
            found, longest = kind.split(" ")[0], len(point)
    return found
