"""Telling a service manager, by the datagram socket that NOTIFY_SOCKET names (sd_notify(3)), where there is one.

    STATUS=opening logs: 3 of 40 partitions done, 120 MiB read     what it is doing
    EXTEND_TIMEOUT_USEC=30000000                                   while it starts: it is alive, wait on
    READY=1                                                        clients are served
    WATCHDOG=1                                                     where WATCHDOG_USEC asks for it: the event loop turns
    STOPPING=1                                                     the end has begun

The variables are taken out of the environment: no child of this process speaks in its name.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

import trio

from kbroker.cli.broker.service.life import ENDED, READY, STARTING, STOPPING, Life

BEAT_S = 5.0  # between two signs of life
PATIENCE_S = 30.0  # that one sign asks for


class Systemd:
    """The herald of a service manager."""

    def __init__(self, address: str, watchdog_s: float = 0.0) -> None:
        """address: a path, or "@" and an abstract name (Linux). watchdog_s: it wants signs at least so often; 0: no."""
        self._address = address
        self._watchdog_s = watchdog_s
        self._state = ""

    def __str__(self) -> str:
        return f"NOTIFY_SOCKET {self._address}"

    @property
    def beat_s(self) -> float:
        """How often `beat` is to be called; twice as often as the watchdog wants, as it recommends."""
        return min(BEAT_S, self._watchdog_s / 2) if self._watchdog_s else BEAT_S

    def tell(self, life: Life) -> None:
        """State and status."""
        lines = []
        if life.state == READY and self._state != READY:
            lines = ["READY=1", f"MAINPID={os.getpid()}"]
        elif life.state in (STOPPING, ENDED) and self._state not in (STOPPING, ENDED):
            lines = ["STOPPING=1"]
        self._state = life.state
        if life.state != ENDED:
            lines.append(f"STATUS={_status(life)}")
        if lines:
            self._send(lines)

    def beat(self, life: Life) -> None:
        """A sign of life. May raise OSError."""
        lines = [f"EXTEND_TIMEOUT_USEC={int(PATIENCE_S * 1e6)}"] if life.state == STARTING else []
        lines += ["WATCHDOG=1"] if self._watchdog_s else []
        if lines:
            self._send(lines)

    async def beat_on(self, life: Life) -> None:
        """Signs of life from the event loop, until cancelled."""
        while True:
            with suppress(OSError):  # the first word has said so
                self.beat(life)
            await trio.sleep(self.beat_s)

    def _send(self, lines: list[str]) -> None:
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as out:
            out.setblocking(False)  # who does not read its socket does not hold the broker up
            out.sendto("\n".join(lines).encode(), address)


def systemd_of(environment: MutableMapping[str, str]) -> Systemd | None:
    """The one that has started this process, if any; taken out of the environment."""
    address = environment.pop("NOTIFY_SOCKET", "")
    usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
    if address[:1] not in ("/", "@") or not hasattr(socket, "AF_UNIX"):
        return None
    is_ours = usec.isdecimal() and pid in ("", str(os.getpid()))
    return Systemd(address, int(usec) / 1e6 if is_ours else 0.0)


def _status(life: Life) -> str:
    if life.state == READY:
        return f"serving on {', '.join(life.about['bootstrap_servers'])}"
    return " ".join(f"{life.state}: {life.doing}".split()) if life.doing else life.state
