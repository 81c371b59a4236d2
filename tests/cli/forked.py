"""The command line as a process runs it, many times at little cost: one process imports it, and forks for each command.

Each command has streams of its own: pipes, a pipe whose reader has gone, /dev/full, or a terminal.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, NamedTuple

from tests.server.process import ENVIRONMENT

SECONDS_MAX = 30  # a command that takes longer is ended: exit code -14
PIPE, CLOSED_PIPE, FULL, TERMINAL = "pipe", "closed pipe", "/dev/full", "terminal"


class Done(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int  # negative: the signal that ended it
    out: str
    err: str


class Commands:
    """`run(...)` a command; `start(...)` one, do something to it, then `wait(pid)`."""

    def __init__(self, process: subprocess.Popen[str], env: Mapping[str, str]) -> None:
        self._process = process
        self.env = env
        self._files: dict[int, tuple[IO[bytes], IO[bytes], IO[bytes]]] = {}

    def run(self, *arguments: str, out: str = PIPE, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Done:
        """Run `kbroker ARGUMENTS`."""
        return self.wait(self.start(*arguments, out=out, stdin=stdin, env=env))

    def start(
        self, *arguments: str, out: str = PIPE, stdin: bytes | None = b"", env: Mapping[str, str] | None = None
    ) -> int:
        """Start one; its pid. stdin: what it reads; None: nothing comes, and no end."""
        given, written, said = (tempfile.NamedTemporaryFile() for _ in range(3))  # noqa: SIM115
        given.write(stdin or b"")
        given.flush()
        names = [None if stdin is None else given.name, written.name, said.name]
        pid = self._ask({"start": arguments, "files": names, "out": out, "env": dict(env or {})})
        self._files[pid] = (written, said, given)
        return pid

    def said(self, pid: int) -> str:
        """What a command that runs has written to stderr so far."""
        return self._read(self._files[pid][1])

    def wait(self, pid: int) -> Done:
        """Wait for its end."""
        code = self._ask({"wait": pid})
        written, said, given = self._files.pop(pid)
        with written, said, given:
            return Done(code, self._read(written), self._read(said))

    @staticmethod
    def _read(file: IO[bytes]) -> str:
        with open(file.name, "rb") as again:
            return again.read().decode(errors="backslashreplace")

    def _ask(self, what: object) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def commands(**env: str) -> Iterator[Commands]:
    """The process that forks, and an end to it."""
    whole = {**ENVIRONMENT, "HOME": "/nonexistent", **env}
    command = [sys.executable, "-m", "tests.cli.forked"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=whole)
    try:
        yield Commands(process, whole)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=SECONDS_MAX + 5)


def _serve() -> None:
    import kafka  # noqa: F401  what takes long to import

    import kbroker.cli.groups.group
    import kbroker.cli.topics.topic  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _become(**asked)
        print(pid, flush=True)


def _become(start: Sequence[str], files: Sequence[str | None], out: str, env: Mapping[str, str]) -> None:
    """In the child: have the streams, be the command, end."""
    signal.alarm(SECONDS_MAX)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(env)
    os.dup2(_never() if files[0] is None else os.open(files[0], os.O_RDONLY), 0)
    os.dup2(_output(out, files[1] or os.devnull), 1)
    os.dup2(os.open(files[2] or os.devnull, os.O_WRONLY), 2)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    sys.argv = ["kbroker", *start]
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


def _never() -> int:
    reading, _writing = os.pipe()  # the end for writing stays open: no end of file
    return reading


def _output(kind: str, file: str) -> int:
    if kind == FULL:
        return os.open("/dev/full", os.O_WRONLY)
    if kind == CLOSED_PIPE:
        reading, writing = os.pipe()
        os.close(reading)
        return writing
    if kind == TERMINAL:
        return pty.openpty()[1]
    return os.open(file, os.O_WRONLY)


if __name__ == "__main__":
    _serve()
