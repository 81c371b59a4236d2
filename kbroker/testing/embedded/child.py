"""The process of a ProcessBroker: a Host that takes its orders from stdin. `python -m kbroker.testing.embedded.child`.

    stdin     {"id": 7, "do": "call", "args": ["advance", [1800000], {}], "timeout_s": 10}     one JSON object a line
    stdout    {"id": 7, "result": null}          or {"id": 7, "error": ["ValueError", "time does not go backwards"]}
    stderr    the broker's log

Orders are carried out at the same time, each as soon as it comes. At the end of stdin, which comes also when the parent
is killed, the broker is ended, its directories are removed, and the process is gone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from functools import partial
from inspect import isawaitable
from pathlib import Path
from typing import Any

import trio

from kbroker.cli.broker.logs import set_up
from kbroker.testing.embedded.host import Host
from kbroker.testing.embedded.machines import DirectoryMachine
from kbroker.testing.embedded.port import Port
from kbroker.testing.embedded.portal import as_told

STDIN, STDOUT = 0, 1


class Child:
    """The orders, by name: the methods without an underscore."""

    def __init__(self, host: str, port: int, directory: str, config: Mapping[str, str]) -> None:
        """directory: where each broker has one of its own."""
        self._directory = Path(directory)
        self._current = ""
        self._port = Port(host, port)
        self._config = config
        self._nursery: trio.Nursery
        self._host: Host

    async def run(self) -> None:
        """Take orders until stdin ends."""
        async with trio.open_nursery() as self._nursery:
            self._host = Host(self._nursery, self._port, self._config, self._make_machine)
            token = trio.lowlevel.current_trio_token()
            threading.Thread(target=self._read, args=(token,), name="orders", daemon=True).start()
            await trio.sleep_forever()

    async def renew(
        self,
        directory: str,
        config: dict[str, str],
        topics: dict[str, int],
        saved: dict[str, Any] | None,
        brokers_min: int,
    ) -> None:
        """Another broker, on the data of a directory; what the one before had is removed. See Host."""
        await self._host.kill()
        before, self._current = self._current, directory
        await self._host.renew(config, topics, saved, brokers_min)
        if before not in ("", directory):
            old = self._directory / before
            self._nursery.start_soon(trio.to_thread.run_sync, partial(shutil.rmtree, old, ignore_errors=True))

    async def start(self) -> None:
        """See Host."""
        await self._host.start()

    async def stop(self) -> None:
        """See Host."""
        await self._host.stop()

    def call(self, method: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call a method of the controls."""
        return self._host.call(method, args, kwargs)

    def state(self) -> tuple[bool, str]:
        """Whether it runs, and why not where it ended by itself."""
        return self._host.is_running, self._host.failure

    def _make_machine(self) -> DirectoryMachine:
        return DirectoryMachine(str(self._directory / self._current))

    def _read(self, token: trio.lowlevel.TrioToken) -> None:
        """In a thread of its own: pass the orders on."""
        with open(STDIN, "rb", closefd=False) as orders:
            for line in orders:
                token.run_sync_soon(self._nursery.start_soon, self._obey, json.loads(line))
        token.run_sync_soon(self._nursery.cancel_scope.cancel)

    async def _obey(self, order: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"id": order["id"]}
        try:
            with trio.fail_after(order["timeout_s"]):
                result = getattr(self, order["do"])(*order["args"])
                answer["result"] = await result if isawaitable(result) else result
        except Exception as error:
            answer["error"] = as_told(error)
        tell(answer)


def tell(answer: dict[str, Any]) -> None:
    """One line to the parent, which reads all the time."""
    rest = json.dumps(answer).encode() + b"\n"
    try:
        while rest:
            rest = rest[os.write(STDOUT, rest) :]
    except OSError:
        pass  # it has gone


def main() -> None:
    """Be the child. The parent's terminal does not end it, its pipe does."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_up("info", "auto", sys.stderr)
    host, port, directories, config = json.loads(sys.argv[1])
    try:
        trio.run(Child(host, port, directories[0], config).run)
    finally:
        for directory in directories:  # also what others share: their parent has gone, too
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
