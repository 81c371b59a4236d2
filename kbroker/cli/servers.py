"""Where brokers are: the option that says so, and an address as people write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

DEFAULT_PORT = 9092


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
        default="localhost:9092",
        show_default=True,
        help="Where brokers are. Else $KBROKER_BROKERS, $KAFKA_BOOTSTRAP_SERVERS.",
    )(command)


def located(server: str) -> tuple[str, int]:
    """ "h:1", "h" (port 9092), "[::1]:5". Raises UsageError."""
    host, colon, port = server.rpartition(":") if ":" in server and not server.endswith("]") else (server, "", "")
    if (colon and not port.isdecimal()) or not host or int(port or 0) > 65535 or (":" in host and host[:1] != "["):
        raise click.UsageError(f"{server!r} is not HOST:PORT")
    return host.strip("[]"), int(port or DEFAULT_PORT)
