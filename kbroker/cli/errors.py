"""How a command fails: one clear line on stderr and an exit code. Tracebacks are for bugs.

Output that cannot be written is such a failure, whatever writes it: click.echo, print, stdout.buffer and the flush at
the end all write to the raw file below stdout. There a write that fails ends the command (`OutputLost`), and what is
still to be written is dropped. On stderr there is nobody left to tell: the words are lost, the command goes on.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from kbroker.cli.tables import visible_lines

if TYPE_CHECKING:
    from typing_extensions import Buffer

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130


class Failed(click.ClickException):
    """The command was understood and could not be done."""

    exit_code = EXIT_FAILED

    def show(self, file: IO[Any] | None = None) -> None:
        """The line, on stderr."""
        click.echo(visible_lines(f"kbroker: {self.format_message()}"), file=file, err=file is None)


class Misconfigured(Failed):
    """The configuration, the port or the data directory does not let it start."""

    exit_code = EXIT_USAGE


class Unreachable(Failed):
    """No broker answered."""

    exit_code = EXIT_UNREACHABLE


class OutputLost(Failed):
    """Standard output cannot be written. Nothing is said where the reader has gone (`| head`): he knows."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror}")
        self._reader_has_gone = error.errno == errno.EPIPE

    def show(self, file: IO[Any] | None = None) -> None:
        """The line, on stderr."""
        if not self._reader_has_gone:
            super().show(file)


def check_none(problems: Sequence[str]) -> None:
    """Failed, which tells all of them, when there are problems."""
    if problems:
        *others, last = problems
        raise Failed("; ".join([*(each.removesuffix(".") for each in others), last]))


@contextmanager
def reading(file: Path | str) -> Iterator[None]:
    """A file that cannot be read ends the command. Raises Failed, which names it."""
    try:
        yield
    except OSError as error:
        raise Failed(f"cannot read {file}: {error.strerror or error}") from None


class _Raw(io.FileIO):
    """The file below stdout or stderr; `is_lost`: a write has failed, and all that follow are dropped."""

    is_lost = False

    def write(self, data: Buffer, /) -> int:
        """Write, waiting where there is no room just now. Raises OutputLost on stdout, once."""
        size = memoryview(data).nbytes
        while not self.is_lost:
            try:
                written = super().write(data)
            except OSError as error:
                self.is_lost = True
                if self.fileno() == 1:
                    raise OutputLost(error) from None
            else:
                if written is not None:
                    return written
                select.select([], [self], [])  # somebody made it non-blocking; it is full
        return size


def run(command: click.Command) -> int:
    """Run a command with the process's arguments; returns the exit code."""
    try:
        result = _called(command)
        sys.stdout.flush()  # what cannot be written is told by us; Python would tell it in its own way
        return result
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except OSError as error:  # the machine's: a disk that is full, a file that is gone
        Failed(": ".join(filter(None, (error.filename and str(error.filename), error.strerror or str(error))))).show()
        return EXIT_FAILED


def _called(command: click.Command) -> int:
    try:
        result = command.main(prog_name="kbroker", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    return result if isinstance(result, int) else 0


def prepare_streams() -> None:
    """Have stdin, stdout and stderr, with the two raw files below the latter."""
    _fill()
    sys.stdout, sys.stderr = _over(sys.stdout, 1), _over(sys.stderr, 2)


def _fill() -> None:
    """A descriptor that was closed (`2>&-`) would else be the number of the first file we open, and that file would get
    what is meant for people."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _over(stream: Any, number: int) -> io.TextIOWrapper:
    """What is no character of the terminal's encoding is shown as \\u...; that is no reason to fail."""
    raw = _Raw(number, "w", closefd=False)
    lines = number == 2 or raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors="backslashreplace", line_buffering=lines
    )
