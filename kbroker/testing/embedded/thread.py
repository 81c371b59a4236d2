"""ThreadBroker: a broker in a background thread of this process, all of it in memory.

    broker = ThreadBroker()             ready when this returns
    broker.bootstrap_servers            "127.0.0.1:54321"
    broker.kill(); broker.start()       the same port, the same data
    broker.renew()                      another broker on that port: nothing is left of what was
    broker.close()

Its clients are real and connect over loopback. Nothing touches the disk, so nothing is left when the process is killed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from kbroker.testing.embedded.forks import check_owner
from kbroker.testing.embedded.host import Host
from kbroker.testing.embedded.lines import Lines, thread_log
from kbroker.testing.embedded.loop import LoopThread
from kbroker.testing.embedded.machines import MemoryMachine
from kbroker.testing.embedded.port import Port
from kbroker.testing.embedded.portal import CALL_S, BrokerGone, Uncontrollable

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

START_S = 30.0


class InThread:
    """A broker in a loop, which may have others. It is its own Portal: its controls are in the same process."""

    def __init__(self, loop: LoopThread, host: Host, lines: Lines) -> None:
        self.is_ours = True
        self._loop = loop
        self._host = host
        self._lines = lines

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect."""
        return self._host.port.host, self._host.port.number

    @property
    def is_running(self) -> bool:
        """Whether it serves, or would, were it not paused."""
        return self._loop.is_alive and self._host.is_running

    @property
    def failure(self) -> str:
        """Why it ended by itself; "" where it did not."""
        return self._host.failure if self._loop.is_alive else "its thread has ended"

    def log_lines(self) -> list[str]:
        """What was logged in its loop, oldest first; the latest 2,000 lines."""
        return self._lines.all()

    def call(self, method: str, *args: Any, timeout_s: float = CALL_S, **kwargs: Any) -> Any:
        """Call a method of its controls; see Portal. It need not run."""
        return self._loop.call(self._host.call, method, args, kwargs, timeout_s=timeout_s)

    def start(self) -> None:
        """Start it again where it was stopped or killed."""
        self.resume()
        self._loop.call(self._host.start, timeout_s=START_S)

    def stop(self) -> None:
        """Stop it cleanly."""
        self.resume()
        self._loop.call(self._host.stop, timeout_s=START_S)

    def kill(self) -> None:
        """End it as kill -9 does: connections break, and what it had written is there at the next start."""
        self.resume()
        self._loop.call(self._host.kill)

    def pause(self) -> None:
        """Refused."""
        raise Uncontrollable("one of several brokers in a thread cannot stand still alone: --kbroker-backend=process")

    def resume(self) -> None:
        """Let it go on. Nothing to do where it was not paused."""

    def renew(self, config: Mapping[str, str] | None = None, topics: Mapping[str, int] | None = None) -> None:
        """Refused: it has no data of its own."""
        raise Uncontrollable("one of several brokers cannot be replaced by another one")

    def prepare(self, config: Mapping[str, str] | None = None) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Whoever has the loop does that."""


class ThreadBroker(InThread):
    """An Embedded with a loop of its own."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        config: Mapping[str, str] | None = None,
        topics: Mapping[str, int] | None = None,
    ) -> None:
        """Start it. port 0: any. config: Kafka's names, for every broker that will be here. topics: name -> partitions.

        Raises CannotStart.
        """
        self._pid = os.getpid()
        self._port = Port(host, port)
        self._config = dict(config or {})
        self._resume: threading.Event | None = None
        super().__init__(*self._open(), Lines())
        try:
            self.renew(topics=topics)
        except BaseException:
            self.close()
            raise

    def _open(self) -> tuple[LoopThread, Host]:
        loop = LoopThread(f"the broker on port {self._port.number}")
        return loop, loop.call(Host, loop.nursery, self._port, self._config, MemoryMachine)

    def call(self, method: str, *args: Any, timeout_s: float = CALL_S, **kwargs: Any) -> Any:
        """The same, unless it is paused."""
        if self._resume is not None:
            raise BrokerGone("the broker is paused: resume() it first")
        return super().call(method, *args, timeout_s=timeout_s, **kwargs)

    def pause(self) -> None:
        """Stop its thread, as SIGSTOP or a long garbage collection does: it accepts, and does not answer."""
        if self._resume is None:
            paused, self._resume = threading.Event(), threading.Event()
            self._loop.call(self._begin_pause, paused, self._resume)
            paused.wait(CALL_S)

    def resume(self) -> None:
        """Let it go on. Nothing to do where it was not paused."""
        if self._resume is not None:
            self._resume.set()
            self._resume = None

    def renew(self, config: Mapping[str, str] | None = None, topics: Mapping[str, int] | None = None) -> None:
        """Another broker, without anything of this one. config: beside what all have. Raises as the start does."""
        self.resume()
        check_owner(self._pid)
        if not self._loop.is_alive:
            thread_log.detach(self._loop.thread_id)
            self._loop, self._host = self._open()
        self._lines.clear()
        thread_log.attach(self._loop.thread_id, self._lines)
        self._loop.call(self._host.renew, config, topics, timeout_s=START_S)

    def prepare(self, config: Mapping[str, str] | None = None) -> None:
        """Begin to `renew` and do not wait for it: the next call of `renew` is likely to want the same config."""
        self.resume()
        if self._loop.is_alive:
            self._loop.call(self._host.prepare, config)

    def close(self) -> None:
        """End it for good; idempotent."""
        self.resume()
        if self._loop.is_alive:
            self._loop.call(self._host.kill)
        self._loop.close()
        thread_log.detach(self._loop.thread_id)
        self._port.close()

    def _begin_pause(self, paused: threading.Event, resume: threading.Event) -> None:
        async def pause() -> None:
            paused.set()
            resume.wait()

        self._loop.nursery.start_soon(pause)
