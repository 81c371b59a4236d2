"""Which names a request may call this server by. Pure.

A web page can have its own name resolve to 127.0.0.1 and then ask whatever listens here, with the browser of somebody
on this machine (DNS rebinding). Such a request tells the page's name in its Host header, so only names that are ours
are answered. An address is no name: nobody can have it resolve to another one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address

ANY = "*"
_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:/@\s]+))(?::\d{0,5})?")


class Hosts:
    """The names of this server: the loopback's, and those it is given."""

    def __init__(self, names: Collection[str]) -> None:
        """names: in any letter case; "*" stands for all."""
        self._names = {name.lower().rstrip(".") for name in names}

    def admits(self, host: str) -> bool:
        """Whether a Host header names this server. "HOST", "HOST:PORT", "[::1]:PORT"."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = (found["address"] or found["name"]).lower().rstrip(".")
        return ANY in self._names or name in self._names or _is_loopback_name(name) or _is_address(name)


def _is_loopback_name(name: str) -> bool:
    """RFC 6761: a name below `localhost` is never looked up elsewhere."""
    return name == "localhost" or name.endswith(".localhost")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
