"""The command line as a process runs it, many times at little cost: one process imports it, and forks for each command.

Each command has streams of its own: pipes, a pipe whose reader has gone, /dev/full, or a terminal.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from tests.server.process import ENVIRONMENT

SECONDS_MAX = 30  # a command that takes longer is ended: exit code -14
PIPE, CLOSED_PIPE, FULL, TERMINAL = "pipe", "closed pipe", "/dev/full", "terminal"
MESSAGE_BYTES_MAX = 1 << 16


class Done(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int  # negative: the signal that ended it
    out: str
    err: str


class Stream:
    """What a command writes, read as it comes."""

    def __init__(self, descriptor: int) -> None:
        self._data = b""
        self._is_new = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=[descriptor], daemon=True)
        self._thread.start()

    def wait_for(self, text: str) -> None:
        """Until that has been written."""
        with self._is_new:
            assert self._is_new.wait_for(lambda: text.encode() in self._data, SECONDS_MAX), self._data

    def whole(self) -> str:
        """All of it, when it has ended."""
        self._thread.join(SECONDS_MAX)
        return self._data.decode(errors="backslashreplace")

    def _read(self, descriptor: int) -> None:
        with suppress(OSError):  # a terminal that is closed
            while chunk := os.read(descriptor, 1 << 16):
                with self._is_new:
                    self._data += chunk
                    self._is_new.notify_all()
        os.close(descriptor)


class Started(NamedTuple):
    """A command that runs."""

    pid: int
    stdin: int  # -1: it has ended
    out: Stream | None
    err: Stream


class Commands:
    """`run(...)` a command; or `start(...)` one, do something to it, then `wait(pid)`."""

    def __init__(self, channel: socket.socket, env: Mapping[str, str]) -> None:
        self.env = env
        self._channel = channel
        self._running: dict[int, Started] = {}

    def run(self, *arguments: str, out: str = PIPE, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Done:
        """Run `kbroker ARGUMENTS`."""
        return self.wait(self.start(*arguments, out=out, stdin=stdin, env=env))

    def start(
        self, *arguments: str, out: str = PIPE, stdin: bytes | None = b"", env: Mapping[str, str] | None = None
    ) -> int:
        """Start one; its pid. stdin: what it reads, as much as fits into a pipe; None: what `give` gives it."""
        given, to_give = os.pipe()
        written, output = _output(out)
        said, errors = os.pipe()
        theirs = [given, output, errors]
        pid = self._ask({"start": arguments, "env": dict(env or {})}, theirs)
        for descriptor in theirs:
            os.close(descriptor)
        self._running[pid] = Started(pid, to_give, None if written < 0 else Stream(written), Stream(said))
        if stdin is not None:
            self.give(pid, stdin)
            self.give(pid, None)
        return pid

    def give(self, pid: int, data: bytes | None) -> None:
        """Write to the standard input of a command; None: its end."""
        command = self._running[pid]
        if data is None:
            os.close(command.stdin)
            self._running[pid] = command._replace(stdin=-1)
        else:
            with suppress(BrokenPipeError):
                os.write(command.stdin, data)

    def said_soon(self, pid: int, text: str) -> None:
        """Wait until a command that runs has written a text to stderr."""
        self._running[pid].err.wait_for(text)

    def wrote_soon(self, pid: int, text: str) -> None:
        """The same, to stdout."""
        out = self._running[pid].out
        assert out is not None
        out.wait_for(text)

    def wait(self, pid: int) -> Done:
        """Wait for its end."""
        code = self._ask({"wait": pid})
        command = self._running.pop(pid)
        if command.stdin >= 0:
            os.close(command.stdin)
        return Done(code, command.out.whole() if command.out else "", command.err.whole())

    def _ask(self, what: object, descriptors: Sequence[int] = ()) -> int:
        socket.send_fds(self._channel, [json.dumps(what).encode()], list(descriptors))
        return int(self._channel.recv(MESSAGE_BYTES_MAX))


@contextmanager
def commands(**env: str) -> Iterator[Commands]:
    """The process that forks, and an end to it."""
    whole = {**ENVIRONMENT, "HOME": "/nonexistent", **env}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.cli.forked", str(theirs.fileno())]
    with ours, subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=whole) as process:
        theirs.close()
        try:
            yield Commands(ours, whole)
        finally:
            ours.close()
            process.wait(timeout=SECONDS_MAX + 5)


def _output(kind: str) -> tuple[int, int]:
    """Descriptors: to read what is written, -1 where nobody can, and for the command to write to."""
    if kind == FULL:
        return -1, os.open("/dev/full", os.O_WRONLY)
    if kind == TERMINAL:
        return pty.openpty()
    reading, writing = os.pipe()
    if kind == CLOSED_PIPE:
        os.close(reading)
        return -1, writing
    return reading, writing


def _serve(channel: socket.socket) -> None:
    import kafka  # noqa: F401  what takes long to import

    import kbroker.cli.groups.group
    import kbroker.cli.topics.topic  # noqa: F401

    while True:
        message, streams, _, _ = socket.recv_fds(channel, MESSAGE_BYTES_MAX, 3)
        if not message:
            return
        asked = json.loads(message)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                channel.close()
                _become(asked["start"], asked["env"], streams)
            for descriptor in streams:
                os.close(descriptor)
        channel.send(str(answer).encode())


def _become(arguments: Sequence[str], env: Mapping[str, str], streams: Sequence[int]) -> None:
    """In the child: have the streams, be the command, end."""
    signal.alarm(SECONDS_MAX)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(env)
    for number, (name, descriptor) in enumerate(zip(("stdin", "stdout", "stderr"), streams, strict=True)):
        os.dup2(descriptor, number)
        os.close(descriptor)
        setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    sys.argv = ["kbroker", *arguments]
    code = 1
    try:
        from kbroker.cli import main

        main()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
