"""Checks of values with a shape of their own. Each takes the text and returns it as it is kept, or raises ValueError:
Unfit, where what is wrong is not plain from what is expected.

The first line of a check's docstring completes the sentence "expected ..." of the error.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kbroker.config.keys import Unfit, split_list

ETCD_PORT = 2379
PORT_MAX = 65535


class StoreAddress(NamedTuple):
    """Where the coordination store is."""

    engine: str  # "sqlite" or "etcd"
    path: str = ""  # of sqlite's file, "" for the one in the data directory
    members: tuple[str, ...] = ()  # of etcd, host:port
    is_tls: bool = False

    @property
    def text(self) -> str:
        """As it is configured."""
        if self.engine == "etcd":
            return f"etcd{'s' if self.is_tls else ''}://{','.join(self.members)}"
        return f"sqlite:{self.path}" if self.path else ""


class ListenerAddress(NamedTuple):
    """One entry of `listeners`: PLAINTEXT://localhost:9092. Host "" means every interface."""

    name: str
    host: str
    port: int


_NAME = re.compile(r"[A-Za-z0-9_.-]+")
# host:port, the host possibly empty or an IPv6 address in brackets.
_ENDPOINT = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?)\]|(?P<host>[0-9A-Za-z%._-]*)):(?P<port>\d{1,7})"
)
_MEMBER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]|[A-Za-z0-9._-]+)(:(?P<port>\d{1,5}))?")
_DURATION = re.compile(r"by_duration:P(?=\d|T\d)(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?")
_THROTTLED = re.compile(r"\*|\d+:\d+(,\d+:\d+)*")


def parse_listener(text: str) -> ListenerAddress:
    """One NAME://HOST:PORT; Unfit when it is not."""
    name, slashes, endpoint = text.strip().partition("://")
    if not slashes:
        raise Unfit(f"{text} has no name, as PLAINTEXT://{text}")
    return ListenerAddress(listener_name(name), *parse_endpoint(endpoint))


def listener_name(text: str) -> str:
    """A listener's name, which is the same in capitals; Unfit when it cannot be one."""
    if not _NAME.fullmatch(text):
        raise Unfit(f'"{text}" cannot be a listener\'s name, which is of letters, digits, "_", "-" and "."')
    return text.upper()


def parse_endpoint(text: str) -> tuple[str, int]:
    """HOST:PORT, the host possibly empty, an IPv6 address in brackets; Unfit when it is not."""
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise Unfit(_no_endpoint(text))
    if int(match["port"]) > PORT_MAX:
        raise Unfit(f"{match['port']} is no port, which is from 0 to {PORT_MAX}")
    return match["v6"] or match["host"], int(match["port"])


def _no_endpoint(text: str) -> str:
    """What is wrong with it."""
    host, colon, port = text.rpartition(":")
    if text.count(":") > 1 and "/" not in text and "[" not in text:
        return f"{text} would be an address of IPv6, which stands in brackets: [ADDRESS]:PORT"
    if not port or not colon:
        return f"{text} has no port"
    if not port.isdecimal():
        return f'"{port}" in {text} is no port, which is a whole number from 0 to {PORT_MAX}'
    if (odd := re.search(r"[^0-9A-Za-z%._-]", host)) and "[" not in host:
        return f"a host has no {odd[0]!r}, as {text} has"
    return f"{text} is not HOST:PORT"


def check_listeners(text: str) -> str:
    """a list of NAME://HOST:PORT, each name once, such as PLAINTEXT://localhost:9092"""
    names: set[str] = set()
    for name in (parse_listener(item).name for item in split_list(text)):
        if name in names:
            raise Unfit(f"{name} is there twice")
        names.add(name)
    if not names:
        raise ValueError(text)
    return text


def parse_protocol_map(text: str) -> dict[str, str]:
    """`PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT` as {listener name: security protocol}."""
    pairs = [item.partition(":") for item in split_list(text)]
    return {name.strip().upper(): protocol.strip().upper() for name, _, protocol in pairs}


def check_protocol_map(text: str) -> str:
    """a list of NAME:PROTOCOL, the protocol PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"""
    if not set(parse_protocol_map(text).values()) <= {"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"}:
        raise ValueError(text)
    return text


def parse_store(text: str) -> StoreAddress:
    """`kbroker.coordination` as an address; ValueError when it is none."""
    engine, _, rest = text.partition(":")
    if engine in ("etcd", "etcds") and rest.startswith("//"):
        members = tuple(_member(item) for item in rest[2:].split(","))
        if len(set(members)) < len(members):
            raise ValueError(text)
        return StoreAddress("etcd", members=members, is_tls=engine == "etcds")
    if text and (engine != "sqlite" or not rest or rest.endswith("/")):
        raise ValueError(text)
    return StoreAddress("sqlite", path=rest)


def _member(text: str) -> str:
    """One member of etcd, HOST:PORT."""
    match = _MEMBER.fullmatch(text.strip())
    if match is None or not 0 < int(match["port"] or ETCD_PORT) <= PORT_MAX:
        raise ValueError(text)
    return f"{match['host']}:{match['port'] or ETCD_PORT}"


def check_store(text: str) -> str:
    """nothing (a file in the data directory), sqlite:PATH, or etcd://HOST:PORT,HOST:PORT (etcds:// with TLS)"""
    parse_store(text)
    return text


def check_gzip_level(text: str) -> str:
    """1 to 9, or -1 for gzip's own default"""
    if int(text) != -1 and not 1 <= int(text) <= 9:
        raise ValueError(text)
    return text


def check_not_zero(text: str) -> str:
    """a whole number, at least 1, or -1 for no limit"""
    if int(text) != -1 and int(text) < 1:
        raise ValueError(text)
    return text


def check_migration_policy(text: str) -> str:
    """one of bidirectional, upgrade, downgrade, disabled"""
    if text.lower() not in ("bidirectional", "upgrade", "downgrade", "disabled"):
        raise ValueError(text)
    return text.lower()


def check_offset_reset(text: str) -> str:
    """earliest, latest, or by_duration: with a length of time, such as by_duration:PT1H30M"""
    if text not in ("earliest", "latest") and not _DURATION.fullmatch(text):
        raise ValueError(text)
    return text


def check_throttled(text: str) -> str:
    """nothing, *, or a list of PARTITION:BROKER"""
    if text and not _THROTTLED.fullmatch(text):
        raise ValueError(text)
    return text


def check_unset(text: str) -> str:
    """nothing: kbroker cannot load Java classes, and will not pretend to enforce what they would"""
    if text:
        raise ValueError(text)
    return text
