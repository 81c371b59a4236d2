"""`kbroker start --detach`: the same command, as a process of its own that goes on when this one has ended.

It gets a session of its own, so no terminal's end or CTRL+C reaches it, nothing to read, and a log file; what it tells
while it starts (supervised.py) is told here, a start that fails with its reason and its exit status.
"""

from __future__ import annotations

import os
import queue
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import click

from kbroker.cli.broker.again import program
from kbroker.cli.broker.supervised import told
from kbroker.cli.errors import EXIT_USAGE, Failed, Misconfigured

LOG = "kbroker.log"
OWN_FLAGS = ("--detach", "--wait", "--no-wait")
OWN_OPTIONS = ("--log-file", "--wait-timeout")  # each with a value
TAIL_LINES, TAIL_BYTES = 15, 8192  # of the log, when there is no other reason


class Detachment(NamedTuple):
    """What was asked for."""

    data_dir: str  # "": in memory
    log_file: Path | None  # None: the usual place
    wait_s: float | None  # for it to be ready; None: not at all


def detach(arguments: Sequence[str], wish: Detachment) -> int:
    """Start `kbroker` with these arguments (the process's own), and tell of it. Raises Failed, Misconfigured."""
    log_file = _log_file(wish)
    command = [*program(), *_passed_on(arguments), "--detached", str(log_file)]
    with _opened(log_file) as log:
        begin = log.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if wish.wait_s is None else subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    if wish.wait_s is None:
        click.echo(f"process    {process.pid}\nlog        {log_file}")
        return 0
    try:
        record = _wait_ready(process, wish.wait_s, log_file, begin)
    except KeyboardInterrupt:
        process.terminate()
        raise
    except Failed as error:
        if process.poll() is not None and _is_temporary(wish) and str(log_file) not in error.message:
            os.remove(log_file)  # nobody is told of it
        raise
    _say(record, log_file, wish.data_dir)
    return 0


def _passed_on(arguments: Sequence[str]) -> list[str]:
    """The arguments without those that are about this process."""
    passed, skip = [], False
    for text in arguments:
        if skip or text in OWN_FLAGS:
            skip = False
        elif text in OWN_OPTIONS:
            skip = True
        elif text.partition("=")[0] not in OWN_OPTIONS:
            passed.append(text)
    return passed if passed[:1] == ["start"] else ["start", *passed]


def _log_file(wish: Detachment) -> Path:
    if wish.log_file is not None:
        return wish.log_file.absolute()
    if not _is_temporary(wish):
        return Path(wish.data_dir).absolute() / LOG
    handle, name = tempfile.mkstemp(prefix="kbroker-", suffix=".log")
    os.close(handle)
    return Path(name)


def _is_temporary(wish: Detachment) -> bool:
    """Whether the log is a file of a name that we chose."""
    return wish.log_file is None and not wish.data_dir


def _opened(path: Path) -> IO[bytes]:
    """To be appended to: it may be cut to nothing at any time, as log rotation does."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = open(path, "ab")  # noqa: SIM115  the caller closes it
    except OSError as error:
        raise Misconfigured(
            f"cannot write the log {path}: {error.strerror}. Another place: kbroker start --detach --log-file FILE"
        ) from None
    log.seek(0, os.SEEK_END)
    return log


def _wait_ready(process: subprocess.Popen[str], wait_s: float, log_file: Path, begin: int) -> Mapping[str, Any]:
    """What it tells when it is ready. Raises Failed with its reason and status when it is not going to be."""
    messages: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(process, messages), daemon=True).start()
    until, doing, reason = time.monotonic() + wait_s, "", ""
    while True:
        try:
            message = messages.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            on = f" ({doing})" if doing else ""
            raise Failed(
                f"not ready after {wait_s:g} s{on}: process {process.pid} goes on, its log is {log_file}"
            ) from None
        match message:
            case {"ready": dict() as record}:
                return record
            case {"failed": str() as text}:
                reason = text
            case {"doing": str() as doing}:
                if sys.stderr.isatty():
                    click.echo(doing, err=True)
            case None:
                raise _failure(process.wait(), reason, log_file, begin)


def _listen(process: subprocess.Popen[str], messages: queue.SimpleQueue[Mapping[str, Any] | None]) -> None:
    """In a thread: pass on what it tells, at last None."""
    assert process.stdout is not None
    for message in told(process.stdout):
        messages.put(message)
    messages.put(None)


def _failure(status: int, reason: str, log_file: Path, begin: int) -> Failed:
    """Why it has not become ready: in its own words, or those of its log."""
    if not reason:
        with open(log_file, "rb") as log:
            log.seek(max(begin, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            tail = log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        how = f"it ended with status {status}" if status >= 0 else f"it was killed by signal {-status}"
        reason = "\n".join([f"the broker did not start: {how}; its log {log_file} ends with", *tail])
    return Misconfigured(reason) if status == EXIT_USAGE else Failed(reason)


def _say(record: Mapping[str, Any], log_file: Path, data_dir: str) -> None:
    click.echo(f"process    {record['pid']}")
    click.echo(f"listening  {', '.join(record['bootstrap_servers'])}")
    click.echo(f"log        {log_file}")
    click.echo(f"stop       {_stop_command(data_dir or record['data_dir'])}")


def _stop_command(data_dir: str) -> str:
    """The command that stops the broker of a directory."""
    from kbroker.config import BrokerConfig

    return "kbroker stop" if data_dir == BrokerConfig().data_dir else f"kbroker stop --data-dir {shlex.quote(data_dir)}"
