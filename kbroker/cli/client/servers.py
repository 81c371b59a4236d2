"""Where brokers are: the option that says so, and an address as people write it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

DEFAULT_PORT = 9092
USUAL = "localhost:9092"


def servers_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """-b; the command gets `servers`, a text with commas."""
    return click.option(
        "-b",
        "--bootstrap-server",
        "--bootstrap-servers",
        "--brokers",
        "servers",
        metavar="HOST:PORT,...",
        envvar=["KBROKER_BROKERS", "KAFKA_BOOTSTRAP_SERVERS"],
        default=lambda: _told_by_ready_file() or USUAL,
        help=f"Where brokers are. Else $KBROKER_BROKERS, $KAFKA_BOOTSTRAP_SERVERS.  [default: {USUAL}]",
    )(command)


def addresses(servers: str) -> list[tuple[str, int]]:
    """Each of a text with commas. Raises UsageError."""
    return [located(part.strip()) for part in servers.split(",") if part.strip()]


def located(server: str) -> tuple[str, int]:
    """ "h:1", "h" (port 9092), "[::1]:5". Raises UsageError."""
    host, colon, port = server.rpartition(":") if ":" in server and not server.endswith("]") else (server, "", "")
    if (colon and not port.isdecimal()) or not host or int(port or 0) > 65535 or (":" in host and host[:1] != "["):
        raise click.UsageError(f"{server!r} is not HOST:PORT")
    return host.strip("[]"), int(port or DEFAULT_PORT)


def _told_by_ready_file() -> str | None:
    """Where the broker of this environment is: in a container, whose health is asked for, it may have any port."""
    path = os.environ.get("KBROKER_READY_FILE")
    if not path:
        return None
    from kbroker.cli.broker.service.ready_file import bootstrap_servers

    return bootstrap_servers(Path(path))
