"""ProcessBroker: a broker in a process of its own, on a directory of its own: kill() is SIGKILL, pause() is SIGSTOP.

    broker = ProcessBroker()            ready when this returns
    broker.kill(); broker.start()       another process: the same port, the same data
    broker.close()

The child (`child.py`) ends when its stdin does, which the system sees to when this process is killed. Its directory is
in memory where there is room, and is removed by whichever of the two lives longer.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kbroker.cli.broker.layout import LOCK
from kbroker.cli.broker.memory_directory import memory_directory
from kbroker.env.features import Features
from kbroker.env.real_lock import take_lock
from kbroker.testing.embedded.forks import check_owner, let_go_in_children
from kbroker.testing.embedded.lines import Lines
from kbroker.testing.embedded.port import Port
from kbroker.testing.embedded.portal import CALL_S, BrokerGone, Uncontrollable, told

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

if TYPE_CHECKING:
    from kbroker.testing.embedded.between import Between

START_S = 60.0
END_S = 10.0
SAVE_S = 5.0  # for the controls' state, before a kill
GRACE_S = 5.0


class ProcessBroker:
    """An Embedded."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        config: Mapping[str, str] | None = None,
        topics: Mapping[str, int] | None = None,
        brokers_min: int = 1,
        shared: str = "",
    ) -> None:
        """Start it. port 0: any. config: Kafka's names, for every broker that will be here. topics: name -> partitions.
        brokers_min: of its cluster, so many are to live before it is ready. shared: its cluster's
        directory, which is removed with its own where this process is killed.

        Raises CannotStart.
        """
        self.is_ours = True
        self._port = Port(host, port)
        self._config = dict(config or {})
        self._shared = [shared] if shared else []
        self._lines = Lines()
        self._stack = ExitStack()
        self.directory = self._stack.enter_context(memory_directory())[0]
        self._stack.callback(take_lock(str(Path(self.directory) / LOCK), Features.detect()).release)
        self._child: _Child | None = None
        self._renewals = 0
        self._config_now: dict[str, str] = {}  # of the latest `renew`, beside config
        self._saved: Any = None  # the controls' state, when it was last asked for
        self._between: Between | None = None  # the controls, from a kill to the next start
        try:
            self._renew({}, dict(topics or {}), brokers_min)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process. BrokerGone when there is none."""
        return self._living(or_paused=True).pid

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect."""
        return self._port.host, self._port.number

    @property
    def is_running(self) -> bool:
        """Whether it serves, or would, were it not paused."""
        return self._child is not None and self._child.state()[0]

    @property
    def failure(self) -> str:
        """Why it ended by itself; "" where it did not."""
        return self._child.state()[1] if self._child is not None else ""

    def log_lines(self) -> list[str]:
        """What it logged since `renew`, oldest first; the latest 2,000 lines."""
        return self._lines.all()

    def call(self, method: str, *args: Any, timeout_s: float = CALL_S, **kwargs: Any) -> Any:
        """Call a method of its controls; see Portal. It need not run, but it must not be paused."""
        if self._between is not None:
            return self._between.call(method, args, kwargs)
        return self._living().ask("call", method, args, kwargs, timeout_s=timeout_s)

    def start(self) -> None:
        """Start it again where it was stopped or killed."""
        self.resume()
        if self._child is not None and self._child.is_alive:
            self._child.ask("start", timeout_s=START_S)
        else:
            saved = self._between.save() if self._between is not None else self._saved
            self._open(self._config_now, {}, saved, brokers_min=1)

    def stop(self) -> None:
        """Stop it cleanly. Its process goes on, without a broker."""
        self.resume()
        if self._child is not None and self._child.is_alive:
            self._child.ask("stop", timeout_s=START_S)

    def kill(self) -> None:
        """End its process by SIGKILL. What it had written is there at the next start, and so are its controls."""
        if self._child is not None and self._child.is_alive and not self._child.is_paused:
            with suppress(BrokerGone, TimeoutError):  # it dies already, or hangs: all the more
                self._saved = self._child.ask("call", "save", [], {}, timeout_s=SAVE_S)
        if self._child is not None:
            from kbroker.testing.embedded.between import Between

            self._between = Between(self._saved)
        self._end_child()
        self._port.hold()

    def pause(self) -> None:
        """Stop its process by SIGSTOP: the system accepts connections for it, and nobody answers."""
        child = self._living(or_paused=True)
        if not child.is_paused:
            self._saved = child.ask("call", "save", [], {})
            child.pause()

    def resume(self) -> None:
        """Let it go on. Nothing to do where it was not paused."""
        if self._child is not None:
            self._child.resume()

    def renew(self, config: Mapping[str, str] | None = None, topics: Mapping[str, int] | None = None) -> None:
        """Another broker, without anything of this one; in the same process, where that lives."""
        self._renew(dict(config or {}), dict(topics or {}), brokers_min=1)

    def _renew(self, config: dict[str, str], topics: dict[str, int], brokers_min: int) -> None:
        self.resume()
        self._renewals += 1
        self._config_now = config
        self._saved = None
        self._lines.clear()
        if self._child is not None and self._child.is_alive:
            self._child.ask("renew", str(self._renewals), config, topics, None, 1, timeout_s=START_S)
        else:
            shutil.rmtree(Path(self.directory) / str(self._renewals - 1), ignore_errors=True)
            self._open(config, topics, None, brokers_min)

    def prepare(self, config: Mapping[str, str] | None = None) -> None:
        """Nothing to do: who wants brokers quickly has them in a thread."""

    def close(self) -> None:
        """End it for good; idempotent."""
        self._end_child()
        self._port.close()
        self._stack.close()

    def _open(self, config: dict[str, str], topics: dict[str, int], saved: Any, brokers_min: int) -> None:
        """A new process, with a broker on the data of the latest `renew`."""
        self._end_child()
        self._between = None
        self._port.make_room()
        self._child = child = _Child([*self.address, [self.directory, *self._shared], self._config], self._lines)
        child.ask("renew", str(self._renewals), config, topics, saved, brokers_min, timeout_s=START_S)

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _living(self, *, or_paused: bool = False) -> _Child:
        if self._child is None:
            raise BrokerGone("there is no process")
        if self._child.is_paused and not or_paused:
            raise BrokerGone("the broker is paused: resume() it first")
        return self._child


class _Child:
    """One process, its answers and its log."""

    def __init__(self, arguments: list[Any], lines: Lines) -> None:
        self.is_paused = False
        self._pid = os.getpid()
        self._lines = lines
        self._asked: dict[int, Future[Any]] = {}
        self._asked_ever = 0
        self._lock = threading.Lock()
        self._is_gone = False  # nobody answers any more
        command = [sys.executable, "-P", "-m", "kbroker.testing.embedded.child", json.dumps(arguments)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            **_APART,
        )
        let_go_in_children(self)
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_answers, self._read_log)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process is."""
        return self._process.poll() is None

    def ask(self, do: str, *args: Any, timeout_s: float = CALL_S) -> Any:
        """Give an order and return its result. Raises what the order does, BrokerGone when the process ends."""
        check_owner(self._pid)
        future: Future[Any] = Future()
        with self._lock:
            if self._is_gone:
                raise BrokerGone(self.end())
            self._asked_ever += 1
            self._asked[self._asked_ever] = future
            order = {"id": self._asked_ever, "do": do, "args": args, "timeout_s": timeout_s}
            assert self._process.stdin is not None
            with suppress(OSError):  # it has just ended: the reader tells
                self._process.stdin.write(json.dumps(order).encode() + b"\n")
                self._process.stdin.flush()
        try:
            error = future.exception(timeout_s + GRACE_S)
        except LateError:
            raise TimeoutError(f"the broker's process did not answer within {timeout_s + GRACE_S:g} s") from None
        if error is not None:
            raise error
        return future.result()

    def state(self) -> tuple[bool, str]:
        """Whether there is a broker, and why not, where it ended by itself."""
        if self.is_paused:
            return True, ""
        try:
            is_running, failure = self.ask("state")
            return is_running, failure
        except BrokerGone as error:
            return False, str(error)

    def end(self) -> str:
        """How it ended, in words."""
        status = self._process.wait(END_S)
        return f"its process ended {f'by signal {-status}' if status < 0 else f'with status {status}'}"

    def kill(self) -> None:
        """SIGKILL; nothing is left of it when this returns."""
        self._process.kill()
        self._process.wait(END_S)
        for reader in self._readers:
            reader.join(END_S)
        for pipe in self._pipes():
            with suppress(OSError):
                pipe.close()

    def pause(self) -> None:
        """SIGSTOP."""
        if sys.platform == "win32":
            raise Uncontrollable("pause() of a process needs signals that Windows does not have")
        self.is_paused = True
        self._process.send_signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):  # the system wakes it when we are gone only if it stands still by then
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT."""
        if sys.platform != "win32" and self.is_paused:
            self._process.send_signal(signal.SIGCONT)
            self.is_paused = False

    def abandon(self) -> None:
        """Close the pipes; not as objects, for a thread that is not here may have been reading."""
        nothing = os.open(os.devnull, os.O_RDWR)
        for pipe in self._pipes():
            if not pipe.closed:
                os.dup2(nothing, pipe.fileno(), inheritable=False)
        os.close(nothing)

    def _pipes(self) -> list[IO[bytes]]:
        process = self._process
        return [pipe for pipe in (process.stdin, process.stdout, process.stderr) if pipe is not None]

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in iter(self._process.stdout.readline, b""):
            try:
                answer = json.loads(line)
                future = self._asked.pop(answer["id"])
            except (ValueError, KeyError, TypeError):  # what a sitecustomize prints, say
                self._lines.add(line.decode(errors="replace"))
                continue
            if "error" in answer:
                future.set_exception(told(*answer["error"]))
            else:
                future.set_result(answer["result"])
        gone = BrokerGone(self.end())
        with self._lock:
            self._is_gone = True
            for future in self._asked.values():
                future.set_exception(gone)
            self._asked.clear()

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in iter(self._process.stderr.readline, b""):
            self._lines.add(line.decode(errors="replace"))


# Not in the terminal's foreground: CTRL+C is for the tests. And a child that stands still is woken when we are gone.
_APART: dict[str, Any] = {} if sys.platform == "win32" else {"process_group": 0}
