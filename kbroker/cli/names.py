"""Names that a shell completes: of topics and groups, asked of the broker, and of configs.

Pressing TAB must neither wait nor complain. A broker has 300 ms for everything; of one that is not there, does not
answer or wants a password there are no names. So this speaks with it without kafka-python, whose import takes as long.
"""

from __future__ import annotations

import shlex
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from kafka_wire.api import ApiKey
from kbroker.cli.client.plain import call
from kbroker.cli.client.servers import USUAL, addresses

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

ANSWER_S = 0.3
NAMES_MAX = 1000
METADATA_VERSION, LIST_GROUPS_VERSION = 1, 1
CLIENT_ID = "kbroker-completion"

Servers = Sequence[tuple[str, int]]


class NameType(click.ParamType[str]):
    """A name, of which `known` tells those there are, given the command line so far. Any other is taken, too."""

    def __init__(self, name: str, known: Callable[[click.Context], Iterable[str]], *, end: str = "") -> None:
        self.name = name
        self._known = known
        self._end = end  # what comes behind it: "=" and a value

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """As it is."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """Those that begin like this."""
        return completions((name + self._end for name in self._known(ctx)), incomplete)


def completions(names: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    """Those that begin like this, and that a shell takes as they are. Names with an underscore only if asked for."""
    from click.shell_completion import CompletionItem

    fit = (name for name in names if name.startswith(incomplete) and (incomplete or not name.startswith("_")))
    return [CompletionItem(name) for name in sorted(fit) if shlex.quote(name) == name or name[-1:] == "="][:NAMES_MAX]


def topics(ctx: click.Context) -> list[str]:
    """The topics there are."""
    return _in_time(lambda servers: [each.name or "" for each in _metadata(servers).topics], ctx)


def groups(ctx: click.Context) -> list[str]:
    """The groups there are, as each broker knows those it coordinates."""
    return _in_time(_groups, ctx)


def _configs(*scopes: str) -> Callable[[click.Context], list[str]]:
    def known(_ctx: click.Context) -> list[str]:
        from kbroker.config.keys import Scope
        from kbroker.config.table import TABLE

        return sorted({name for scope in scopes for name in TABLE[Scope[scope]]})

    return known


TOPIC = NameType("topic", topics)
GROUP = NameType("group", groups)
CONFIG = NameType("name", _configs("TOPIC", "BROKER", "GROUP"))
TOPIC_CONFIG = NameType("name", _configs("TOPIC"))
TOPIC_SETTING = NameType("name=value", _configs("TOPIC"), end="=")
BROKER_SETTING = NameType("name=value", _configs("BROKER"), end="=")


def _in_time(ask: Callable[[Servers], list[str]], ctx: click.Context) -> list[str]:
    """What a broker answers in time, else nothing. To look up a host's name cannot be given a limit: hence a thread."""
    if ctx.params.get("command_config") or any("security" in each for each in ctx.params.get("settings") or ()):
        return []
    found: list[str] = []

    def run() -> None:
        try:
            found.extend(ask(addresses(ctx.params.get("servers") or USUAL)))
        except Exception:  # whatever it is, this is not the moment to tell it
            pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    return [] if thread.is_alive() else found


def _groups(servers: Servers) -> list[str]:
    from kafka_wire.messages.group_admin import ListGroupsRequest

    found: list[str] = []
    for broker in _metadata(servers).brokers:
        answer = _ask([(broker.host, broker.port)], ApiKey.LIST_GROUPS, LIST_GROUPS_VERSION, ListGroupsRequest())
        found += [each.group_id for each in answer.groups]
    return found


def _metadata(servers: Servers) -> Any:
    from kafka_wire.messages.metadata import MetadataRequest

    return _ask(servers, ApiKey.METADATA, METADATA_VERSION, MetadataRequest(topics=None))


def _ask(servers: Servers, key: ApiKey, version: int, request: object) -> Any:
    """Put to the first that takes it. Raises OSError, EOFError, ProtocolError."""
    for server in servers:
        try:
            connection = socket.create_connection(server, timeout=ANSWER_S)
        except OSError:
            continue
        with connection:
            return call(connection, key, version, request, CLIENT_ID)
    raise OSError("nobody there")
