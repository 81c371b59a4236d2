"""By what a broker's process hangs together with whatever started it: the flags of `kbroker start`, and the ties."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kbroker.cli.broker.service.life import Herald, Life

if TYPE_CHECKING:
    from kbroker.cli.broker.service.parent import Parent
    from kbroker.cli.broker.service.ready_file import ReadyFile
    from kbroker.cli.broker.service.systemd import Systemd
    from kbroker.cli.broker.supervised import Starter


ANY_PARENT = "any"


class Ties(NamedTuple):
    """None: there is no such tie."""

    ready_file: ReadyFile | None = None
    parent: Parent | None = None
    systemd: Systemd | None = None
    starter: Starter | None = None
    log_file: str | None = None
    others: tuple[Herald, ...] = ()

    def begin(self, *heralds: Herald, **about: Any) -> Life:
        """The life of this process, told of to all who are tied to it, and to heralds before them."""
        others = (self.ready_file, self.systemd, self.starter, *self.others)
        if self.log_file is not None:
            about["log_file"] = self.log_file
        about["started_ms"] = int(time.time() * 1000)
        return Life([*heralds, *(each for each in others if each is not None)], **about)


def tied(
    ready_file: Path | None,
    with_parent: str | None,
    starter: Starter | None,
    log_file: str | None,
    environment: MutableMapping[str, str] = os.environ,
) -> Ties:
    """What the flags ask for. with_parent: a pid, or ANY_PARENT. Raises Misconfigured. Imports what is wanted only."""
    file = parent = systemd = None
    if ready_file is not None:
        from kbroker.cli.broker.service.ready_file import ReadyFile

        file = ReadyFile(ready_file)
    if with_parent is not None:
        from kbroker.cli.broker.service.parent import Parent

        parent = Parent(None if with_parent == ANY_PARENT else int(with_parent))
    if "NOTIFY_SOCKET" in environment:
        from kbroker.cli.broker.service.systemd import systemd_of

        systemd = systemd_of(environment)
    return Ties(file, parent, systemd, starter, log_file)


class Flags(NamedTuple):
    """As they were given."""

    ready_file: Path | None
    with_parent: str | None
    detach: bool
    wait: bool
    wait_timeout: str
    log_file: Path | None
    detached: str | None  # the process that goes on: its log

    def check(self) -> None:
        """Raises UsageError for what does not go together."""
        if self.detach and self.with_parent:
            raise click.UsageError("--detach and --exit-with-parent exclude each other: the parent ends at once")
        if self.log_file and not self.detach:
            raise click.UsageError("--log-file is for --detach; else: kbroker start 2>> FILE")
        if self.with_parent not in (None, ANY_PARENT) and not str(self.with_parent).isdecimal():
            raise click.UsageError(f"--exit-with-parent {self.with_parent!r} is not the number of a process")

    def starter(self, supervised: int | None) -> Starter | None:
        """Whom this process tells how its start goes, if anybody. supervised: as `start` has it."""
        if self.detached is None and supervised is None:
            return None
        from kbroker.cli.broker.supervised import Starter

        return Starter(until_ready=self.detached is not None)

    def ties(self, starter: Starter | None) -> Ties:
        """Those of this process. Raises Misconfigured."""
        return tied(self.ready_file, self.with_parent, starter, self.detached)

    def run_detached(self, data_dir: str) -> int:
        """Have the same command run on in the background. data_dir: "" for one in memory. Raises Failed."""
        from kbroker.cli.broker.service.detach import Detachment, detach
        from kbroker.cli.times import DurationType

        wait_s = DurationType().convert(self.wait_timeout, None, None) / 1000 if self.wait else None
        return detach(sys.argv[1:], Detachment(data_dir, self.log_file, wait_s))


def service_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Those flags; the command gets them as `service`."""

    @click.option("--detach", is_flag=True, help="Go on in the background; `kbroker stop` ends it.")
    @click.option(
        "--wait/--no-wait",
        default=True,
        show_default=True,
        help="With --detach: return when the broker is ready, or tell why it is not.",
    )
    @click.option(
        "--wait-timeout",
        metavar="DURATION",
        default="60s",
        show_default=True,
        help="How long --wait waits.",
    )
    @click.option(
        "--log-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Where the log goes with --detach.  [default: kbroker.log in the data directory]",
    )
    @click.option(
        "--ready-file",
        envvar="KBROKER_READY_FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A file that is there while the broker is ready: JSON with address and pid.",
    )
    @click.option(
        "--exit-with-parent",
        "with_parent",
        is_flag=False,
        flag_value=ANY_PARENT,
        metavar="[PID]",
        help="Stop when the process that started this one (or PID) has ended, however it did.",
    )
    @click.option("--detached", hidden=True)  # said by `--detach` to the process that goes on: its log
    @functools.wraps(command)
    def wrapped(*args: Any, **given: Any) -> Any:
        flags = Flags(**{name: given.pop(name) for name in Flags._fields})
        flags.check()
        return command(*args, service=flags, **given)

    return wrapped
