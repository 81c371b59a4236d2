"""How a command fails: one clear line on stderr and an exit code. Tracebacks are for bugs."""

from __future__ import annotations

import sys
from typing import IO, Any

import click

from kbroker.cli.tables import visible_lines

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
