"""What a listener tells people of its clients: who broke the protocol, who was refused, what they asked for in vain.

Not the ten-thousandth time in a row. Each level of the log has its own bound, so no crowd of mistaken clients hides a
failure of ours; what a client's software cannot have is told once for each kind of software and API.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from kafka_wire.api import OWN_KEY_MIN, ApiKey
from kafka_wire.errors import ProtocolError
from kbroker.api.context import Peer
from kbroker.api.registry import APIS
from kbroker.events import CONNECTIONS_MORE, UNSUPPORTED_API, Event, tell

COMPLAINTS_MAX = 10  # of one level between two rounds
UNSUPPORTED_MAX = 1000  # kinds of software and APIs that are remembered; software calls itself what it wants

SECURITY = (ApiKey.SASL_HANDSHAKE, ApiKey.SASL_AUTHENTICATE)

log = logging.getLogger("kbroker.listener")


class Unsupported(ProtocolError):
    """A request that is not answered in this version, or in none: Kafka hangs up then, too."""

    def __init__(self, key: int, version: int) -> None:
        super().__init__(f"API {name_of(key)} version {version} is not supported")
        self.key = key
        self.version = version


class Complaints:
    """Of one listener."""

    def __init__(self) -> None:
        self._told: Counter[int] = Counter()  # by level, since the last round
        self._unsupported: set[tuple[str, int]] = set()  # software and API key

    def complain(self, event: Event, failure: BaseException | None = None, /, **fields: Any) -> None:
        """Tell it, unless there was enough of it. failure: to be told with its traceback."""
        self._told[event.level] += 1
        if self._told[event.level] <= COMPLAINTS_MAX:
            tell(log, event, failure, **fields)

    def note_unsupported(self, peer: Peer, request: Unsupported) -> None:
        """A client asked for what there is not."""
        kind = peer.software_name, request.key
        if kind in self._unsupported or len(self._unsupported) >= UNSUPPORTED_MAX:
            return
        self._unsupported.add(kind)
        api, advice = name_of(request.key), _advice(request.key)
        self.complain(
            UNSUPPORTED_API, client=str(peer), api=api, version=request.version, advice=advice, api_key=request.key
        )

    def look_round(self) -> None:
        """Some seconds have passed: tell how many were left out."""
        for level, number in self._told.items():
            if number > COMPLAINTS_MAX:
                tell(log, CONNECTIONS_MORE._replace(level=level), count=number - COMPLAINTS_MAX)
        self._told.clear()


def name_of(key: int) -> str:
    """As Kafka calls an API: "SaslHandshake"; its number where nobody knows it."""
    try:
        return ApiKey(key).name.title().replace("_", "")
    except ValueError:
        return str(key)


def _advice(key: int) -> str:
    api = APIS.get(key)
    if api is not None and key < OWN_KEY_MIN:
        return f"versions {api.version_min} to {api.version_max} are"
    if key in SECURITY:
        return "there is no security yet, set security.protocol=PLAINTEXT"
    return "see docs/reference/apis.md for what is"
