"""`kbroker status` and `kbroker stop`: the broker of a data directory, found by what holds it (life.py).

Whom to signal is never guessed. Who holds the lock has written who it is; that it is still that process, and not one
that was given its pid later, is looked up in the moment of the signal, by a descriptor of that very process where the
system has such.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from kbroker.cli.broker.layout import LOCK
from kbroker.cli.broker.service.life import READY, RUNNING, STOPPING, is_whole, read_record, writer_of
from kbroker.cli.errors import EXIT_FAILED, EXIT_UNREACHABLE, Failed, Unreachable
from kbroker.cli.files import config_option
from kbroker.cli.tables import format_option, json_text, visible
from kbroker.cli.times import DurationType, span
from kbroker.env.features import Features
from kbroker.env.procfs import is_of_here, process_descriptor, process_name
from kbroker.env.real_lock import NOT_KNOWN, LockHolder, is_alive, lock_holder

LOOK_S = 0.02
SETTLE_S = 0.1  # who has just taken the lock has written its pid by then
RECORD_S = 1.0  # and has told what it is
KILLED_WITHIN_S = 10.0


def _where(command: Callable[..., Any]) -> Callable[..., Any]:
    """--data-dir, -c and --memory, as `start` takes them."""
    for option in (
        click.option("--memory", is_flag=True, help="The broker that was started with --memory."),
        config_option("The configuration that names the directory."),
        click.option("--data-dir", metavar="DIR", help="Its data directory.  [default: ./kbroker-data]"),
    ):
        command = option(command)
    return command


@click.command(epilog="\b\nStatus 0: ready. 1: it starts or stops. 3: none runs.")
@_where
@click.option("-b", "--bootstrap-server", "address", metavar="HOST:PORT", help="Ask the broker there instead.")
@format_option
@click.pass_context
def status(
    context: click.Context, data_dir: str | None, file: Path | None, memory: bool, address: str | None, style: str
) -> None:
    """Tell whether a broker runs on a data directory: ready or not, process, addresses."""
    if address is not None:
        if data_dir or file or memory:
            raise click.UsageError("-b is about an address: --data-dir, -c and --memory are about a directory")
        _tell_of_address(address, style)
        return
    directory = _directory(data_dir, file, memory)
    found = _find(directory)
    if found is None and style != "json":
        raise Unreachable(f"no broker runs on {directory}")
    about = {"state": "stopped", "data_dir": directory} if found is None else _about(found)
    click.echo(json_text(about) if style == "json" else _text(about))
    context.exit(EXIT_UNREACHABLE if found is None else 0 if about["state"] == READY else EXIT_FAILED)


@click.command(epilog="\b\nStatus 0: it has stopped. 1: it has not. 3: none runs.")
@_where
@click.option(
    "--timeout",
    "timeout_ms",
    type=DurationType(),
    default="90s",  # brokers that are started together have a minute
    show_default=True,
    help="How long to wait for it.",
)
@click.option("--kill", is_flag=True, help="End it at once if it has not stopped by then; the next start recovers.")
def stop(data_dir: str | None, file: Path | None, memory: bool, timeout_ms: int, kill: bool) -> None:
    """Stop the broker that runs on a data directory, cleanly, and wait until it has."""
    if sys.platform == "win32":
        raise Failed("not on Windows, which has no signal for it: press CTRL+C where the broker runs")
    directory = _directory(data_dir, file, memory)
    found = _find(directory)
    if found is None:
        raise Unreachable(f"no broker runs on {directory}")
    began = time.monotonic()
    process = _Process(found)
    told = "" if found.record.get("state") == STOPPING else process.signal(signal.SIGTERM)
    if not process.wait(timeout_ms / 1000):
        doing = (find(directory) or found).record.get("doing", "it does not say what it is doing")
        if not kill:
            raise Failed(
                f"{process.name} has not stopped within {timeout_ms / 1000:g} s: {visible(str(doing))}. "
                "The same command waits on; --kill ends it at once"
            )
        process.signal(signal.SIGKILL)
        if not process.wait(KILLED_WITHIN_S):
            raise Failed(f"{process.name} was killed and does not end: it waits for the system, its disk maybe")
        click.echo(f"killed {process.name}: it had not stopped within {timeout_ms / 1000:g} s; the next start recovers")
        return
    was = "" if told else ", which was stopping already"
    click.echo(f"stopped {process.name}{was}, in {time.monotonic() - began:.1f} s")


class Found(NamedTuple):
    """Who has a data directory."""

    data_dir: str
    holder: LockHolder
    record: Mapping[str, Any]  # {}: it has not said anything yet, or nothing that can be understood

    @property
    def pid(self) -> int | None:
        """Of the process; None while it is not written yet."""
        return self.holder.pid


def find(data_dir: str) -> Found | None:
    """Who has it; None: nobody. May raise OSError."""
    holder = lock_holder(os.path.join(data_dir, LOCK), Features.detect())
    if holder is None:
        return None
    record = read_record(Path(data_dir) / RUNNING)
    if not is_whole(record):
        return Found(data_dir, holder, {})
    if holder == NOT_KNOWN and writer_of(record).is_proven:  # the lock's file was removed while it was held
        holder = writer_of(record)
    return Found(data_dir, holder, record if writer_of(record) == holder else {})


class _Process:
    """The process that holds a directory, proven. Raises Failed where that cannot be."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self.pid = _proven(found)
        self.name = process_name(self.pid)
        self._fd = process_descriptor(self.pid)
        # The descriptor is of whoever had the pid when it was made: is it still who holds the lock?
        if _proven(_find(found.data_dir) or found) != self.pid:
            raise Failed(f"the data directory {found.data_dir} has changed hands just now: try again")
        if not _says_who_it_is(found):
            raise Failed(
                f"{self.name} holds {found.data_dir} and does not say that it is a broker: it is left alone. "
                f"If you know that it is one: kill {self.pid}"
            )

    def signal(self, number: signal.Signals) -> str:
        """Send it; the name of the signal."""
        try:
            if self._fd is not None:
                signal.pidfd_send_signal(self._fd, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass  # it has ended
        except PermissionError:
            raise Failed(f"{self.name} belongs to another user: it may not be told to stop") from None
        return number.name

    def wait(self, seconds: float) -> bool:
        """Until it has ended; whether it has, in time."""
        if self._fd is not None:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            return bool(poll.poll(seconds * 1000))
        until = time.monotonic() + seconds
        while self._is_there():
            if time.monotonic() >= until:
                return False
            time.sleep(LOOK_S)
        return True

    def _is_there(self) -> bool:
        return self._found.holder.is_proven if self._found.holder.identity else is_alive(self.pid)


def _proven(found: Found) -> int:
    """The pid of who holds the directory. Raises Failed where it cannot be told for certain."""
    until = time.monotonic() + SETTLE_S
    while not found.holder.is_proven and time.monotonic() < until:
        time.sleep(LOOK_S)  # it may just be writing who it is
        again = _find(found.data_dir)
        if again is None:
            raise Unreachable(f"no broker runs on {found.data_dir} any more")
        found = again
    pid, identity = found.holder.pid, found.holder.identity
    if found.holder.is_proven or (pid is not None and not identity and not os.path.exists("/proc/self/stat")):
        assert pid is not None
        return pid
    if identity and not is_of_here(identity):
        raise Failed(f"{found.data_dir} is held by a process of another container or machine: stop it there")
    raise Failed(f"{found.data_dir} is held by a process that cannot be told from others: nothing was signalled")


def _says_who_it_is(found: Found) -> bool:
    """Whether it is a broker: `kbroker log` holds a directory, too, while it reads there."""
    until = time.monotonic() + RECORD_S
    while not found.record and time.monotonic() < until:
        time.sleep(LOOK_S)
        found = _find(found.data_dir) or found
    return bool(found.record)


def _find(directory: str) -> Found | None:
    try:
        return find(directory)
    except OSError as error:
        raise Failed(f"cannot look into {directory}: {error.strerror}") from None


def _directory(data_dir: str | None, file: Path | None, memory: bool) -> str:
    """The directory that is meant. Raises Misconfigured, Unreachable, UsageError."""
    if memory:
        if data_dir or file:
            raise click.UsageError("--memory excludes --data-dir and -c")
        return _memory_directory()
    if data_dir:
        return data_dir
    from kbroker.cli.broker.start import configured

    return configured(file).data_dir


def _memory_directory() -> str:
    """The one broker in memory of this user."""
    from kbroker.cli.broker.memory_directory import directories

    mine = [str(each) for each in directories() if _find(str(each)) is not None]
    if not mine:
        raise Unreachable("no broker runs in memory")
    if len(mine) > 1:
        raise Failed("several brokers run in memory: choose one by --data-dir:\n" + "\n".join(mine))
    return mine[0]


def _about(found: Found) -> dict[str, Any]:
    """All that can be told of it."""
    about: dict[str, Any] = {"state": "starting", "pid": found.pid, "data_dir": found.data_dir, **found.record}
    about.pop("identity", None)
    if found.record:
        about["uptime_s"] = round(max(0.0, time.time() - about.pop("started_ms") / 1000), 1)
    return about


def _text(about: Mapping[str, Any]) -> str:
    what = f"kbroker {about['version']}, {about['who']}" if "who" in about else "a process"  # not known yet
    doing = f": {about['doing']}" if about.get("doing") else ""
    up = f", up {span(int(about['uptime_s'] * 1000))}" if "uptime_s" in about else ""
    lines = [f"{what}: {about['state']}{doing}"]
    lines.append(f"  process    {about['pid'] or 'not known yet'}{up}")
    lines.append(f"  data       {about['data_dir']}")
    if about.get("listeners"):
        lines.append(f"  listening  {', '.join(about['listeners'].values())}")
    for each in about.get("brokers", ()):
        where = ", ".join(each["listeners"].values()) or each["state"]
        lines.append(f"  broker {each['node']}   {where}" + (f", process {each['pid']}" if each["pid"] else ""))
    if about.get("log_file"):
        lines.append(f"  log        {about['log_file']}")
    return "\n".join(visible(line) for line in lines)


def _tell_of_address(address: str, style: str) -> None:
    from kbroker.cli.broker.service.asking import ask
    from kbroker.cli.broker.service.ping import TIMEOUT_S
    from kbroker.cli.client.servers import located

    answer = ask(located(address), time.monotonic() + TIMEOUT_S)
    click.echo(json_text({"state": READY, **answer.fields()}) if style == "json" else answer)
