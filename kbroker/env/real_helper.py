"""A process of our own that computes: `ProcessHelper`, and in the other process `serve`.

    broker                                    helper, niced
      begin ── directory, function, arguments ──▶  steps = function(disk, *arguments)
      step  ── "" ──────────────────────────────▶  next(steps)
            ◀───────────── step, end or error ──
            ...
      the context ends: idle, or killed            ends with the broker, whichever way that goes, or when long idle

Messages are pickles, each with its length in front, on the helper's standard input and output. It is started when there
is work and none is idle. It may die at any moment, or be stopped for good: who asks for the next step is told so.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, BinaryIO, Generic, TypeVar

import trio

from kbroker.env.features import Features
from kbroker.env.real_disk import RealDisk

IDLE_SECONDS = 30.0  # then it ends; to start it takes a fraction of a second
STEP_SECONDS_MAX = 600.0  # that one step may take: it may sync a whole segment to a slow disk, behind all others
GREET_SECONDS_MAX = 5.0  # that one that was idle may take to say that it is there
NICENESS = 10  # of 19: behind whatever else wants the processor
START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import kbroker.env.real_helper as h; h.serve()"
CHUNK_BYTES = 64 * 1024

_LENGTH = struct.Struct(">I")

T = TypeVar("T")


class HelperLost(OSError):
    """The process has ended before its work did, or does not answer any more."""


class ProcessHelper:
    """Processes that compute for this one, one for each work that goes on. root: of the disk that work is given."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._idle: list[trio.Process] = []

    @asynccontextmanager
    async def begin(self, work: Callable[..., Iterator[T]], *args: Any) -> AsyncIterator[RemoteSteps[T]]:
        """Have work(disk, *args) done."""
        process = await self._take()
        steps: RemoteSteps[T] = RemoteSteps(process)
        try:
            await steps.send((self._root, work, args))
            yield steps
        finally:
            if steps.is_over and process.returncode is None:
                self._idle.append(process)
            else:
                await _end(process)

    async def _take(self) -> trio.Process:
        while self._idle:
            process = self._idle.pop()
            if process.poll() is None:
                try:
                    steps: RemoteSteps[str] = RemoteSteps(process, GREET_SECONDS_MAX)
                    await steps.send((self._root, _greet, ()))  # it may be about to end, having been idle for long
                    if await steps.step() and await steps.step() is None:
                        return process
                except OSError:
                    pass
                except BaseException:
                    await _end(process)
                    raise
            await _end(process)
        command = [sys.executable, "-c", START, json.dumps(sys.path)]
        return await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self) -> None:
        """End those that are idle. Called in the event loop."""
        while self._idle:
            process = self._idle.pop()
            process.kill()
            process.poll()


async def _end(process: trio.Process) -> None:
    """Have a process gone: nothing it does comes later than this."""
    with trio.CancelScope(shield=True):
        process.kill()
        await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await stream.aclose()


class RemoteSteps(Generic[T]):
    """Work in another process."""

    def __init__(self, process: trio.Process, seconds_max: float = STEP_SECONDS_MAX) -> None:
        """seconds_max: that sending a message, or a step, may take."""
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._seconds_max = seconds_max
        self._input, self._output = process.stdin, process.stdout
        self._buffer = bytearray()
        self.is_over = False  # it has come to its end: the process is free for other work

    async def send(self, message: Any) -> None:
        """Send a message. Raises HelperLost."""
        data = pickle.dumps(message)
        with self._in_time():
            await self._input.send_all(_LENGTH.pack(len(data)) + data)

    async def step(self) -> T | None:
        """The next step; None: finished. Raises what the work does, HelperLost."""
        await self.send(None)
        with self._in_time():
            message = await self._receive()
        value, error, self.is_over = pickle.loads(message)
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    async def _receive(self) -> bytes:
        wanted = _LENGTH.size
        while len(self._buffer) < wanted:
            data = await self._output.receive_some(CHUNK_BYTES)
            if not data:
                raise self._lost("has ended")
            self._buffer += data
            if len(self._buffer) >= _LENGTH.size:
                wanted = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
        message = bytes(self._buffer[_LENGTH.size : wanted])
        del self._buffer[:wanted]
        return message

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """Wait for the other process no longer than for what it may take. Raises HelperLost."""
        try:
            with trio.fail_after(self._seconds_max):
                yield
        except trio.BrokenResourceError as error:
            raise self._lost("has ended") from error
        except trio.TooSlowError as error:
            raise self._lost("does not answer") from error

    def _lost(self, what: str) -> HelperLost:
        return HelperLost(f"the process {self._process.pid}, which was computing, {what}")


# in the other process ------------------------------------------------------------------------------------------------


def serve() -> None:
    """Work for the process at the other end of standard input, as long as that is there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it is for the broker, which ends us
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed by mistake is no answer
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    with suppress(queue.Empty):
        while True:
            root, work, args = requests.get(timeout=IDLE_SECONDS)
            _work(work(RealDisk(root, Features.detect()), *args), requests, answers)


def _listen(stream: BinaryIO, requests: queue.SimpleQueue[Any]) -> None:
    """Take requests; at their end the other process is gone, and nothing we do is wanted any more."""
    while len(head := stream.read(_LENGTH.size)) == _LENGTH.size:
        requests.put(pickle.loads(stream.read(*_LENGTH.unpack(head))))
    os._exit(0)


def _work(steps: Iterator[Any], requests: queue.SimpleQueue[Any], answers: BinaryIO) -> None:
    is_over = False
    while not is_over:
        requests.get()
        value, error = None, None
        try:
            value = next(steps, None)
        except Exception as problem:
            error = _portable(problem)
        is_over = value is None
        data = pickle.dumps((value, error, is_over))
        answers.write(_LENGTH.pack(len(data)) + data)
        answers.flush()


def _portable(error: Exception) -> Exception:
    """An exception as it can be told to another process."""
    try:
        pickle.loads(pickle.dumps(error))
        return error.with_traceback(None)
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _greet(disk: RealDisk) -> Iterator[str]:
    yield "here"
