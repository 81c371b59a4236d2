"""`--exit-with-parent`: the broker stops when the process that started it has ended, however that went.

Linux tells by a descriptor of the parent (pidfd_open). Elsewhere this process looks, a few times a second, whether it
has been given to another parent. (Not PR_SET_PDEATHSIG: that comes when the *thread* ends that started us.)
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kbroker.cli.errors import Misconfigured
from kbroker.env.procfs import process_descriptor

LOOK_S = 0.25
ADOPTERS = ("systemd", "launchd")  # take over those whose parent has gone, and never end before them


class Parent:
    """The parent of this process, to be watched from the moment this is made."""

    def __init__(self, expected: int | None = None) -> None:
        """expected: its pid, as it was told to us; None: whoever it is. Raises Misconfigured where it has gone."""
        if sys.platform == "win32":
            raise Misconfigured("--exit-with-parent: not on Windows, where nobody is told whose child a process is")
        self.pid = os.getppid()
        self._fd = process_descriptor(self.pid)
        if expected is not None and self.pid != expected or os.getppid() != self.pid:
            raise Misconfigured(f"--exit-with-parent: process {expected or self.pid} has gone, or is not the parent")
        if expected is None and _adopts(self.pid):
            raise Misconfigured(
                f"--exit-with-parent: the parent is process {self.pid}, which outlives everything: the one that "
                "started this broker has gone, or the option is of no use here"
            )

    def watch(self, on_end: Callable[[str], None]) -> None:
        """Call on_end, from another thread, when it has ended; with that in words."""

        def wait_for_end() -> None:
            if self._fd is not None:
                poll = select.poll()
                poll.register(self._fd, select.POLLIN)
                poll.poll()
            while os.getppid() == self.pid:
                time.sleep(LOOK_S)
            on_end(f"process {self.pid}, the parent, has ended")

        threading.Thread(target=wait_for_end, name="parent", daemon=True).start()


def _adopts(pid: int) -> bool:
    try:
        return pid == 1 or Path(f"/proc/{pid}/comm").read_text().strip() in ADOPTERS
    except OSError:
        return False
