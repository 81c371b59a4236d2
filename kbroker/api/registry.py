"""Which requests this broker answers, in which versions, and by whom.

A handler is registered where it is written:

    @handles(ApiKey.LIST_OFFSETS, 1, 10)
    def list_offsets(request: ListOffsetsRequest, context: Context) -> ListOffsetsResponse: ...

and everything else derives from that line: the dispatch, ApiVersions, the reference page. A handler is a `def` that
changes state at once. It returns the response; or a coroutine of it, when the answer has to wait; or what is `Awaited`,
when all it waits for is something that rings; or None, when there is to be no answer (acks=0). The coroutine begins
later, in the task that waits for it, when the answers before it are sent: what the handler saw may have changed then.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from importlib import import_module
from typing import Any, NamedTuple, Protocol, TypeVar

from kafka_wire.api import ApiKey, request_class
from kafka_wire.codegen import decoder
from kafka_wire.frames import Writer, response_writer
from kbroker.api.tallies import Tallies, Tally

FAMILIES = (
    "produce", "fetch", "offsets", "metadata", "topics", "configs", "log_dirs", "features",
    "quorum", "elections", "reassignments",
    "transactions", "transaction_admin", "transaction_markers", "partition_producers", "transaction_offsets",
    "groups", "group_offsets", "group_admin", "consumer_groups", "internal", "compaction", "delays",
)  # fmt: skip

Handler = Callable[[Any, Any], "Any | Coroutine[Any, Any, Any] | None"]
H = TypeVar("H", bound=Handler)


class Api(NamedTuple):
    """One registered API."""

    key: ApiKey
    version_min: int  # the lowest version that is answered
    version_max: int
    advertised_min: int  # what ApiVersions says; lower than version_min only for Produce (see produce.py)
    handle: Handler
    overlaps: bool  # later requests of the connection may be handled while this one's answer waits

    @property
    def request(self) -> type:
        """The request's class; imports its family."""
        return request_class(self.key)


class Route(NamedTuple):
    """One API in one version, with all that a request on its way needs looked up."""

    api: Api
    version: int
    decode: Callable[[bytearray, int], Any]  # a frame and where its body begins, to the request
    write: Writer
    tally: Tally


class RouteTable(Protocol):
    """Routes by `key << 16 | version`."""

    def __getitem__(self, pair: int) -> Route:
        """Raises KeyError for what is not answered, CloseConnection for what may not be asked."""


class Routes(dict[int, Route]):
    """Routes by `key << 16 | version`, made when first asked for. KeyError for what is not answered."""

    def __init__(self, apis: Mapping[int, Api], tallies: Tallies | None = None) -> None:
        super().__init__()
        self._apis = apis
        self._tallies = tallies or Tallies()

    def __missing__(self, pair: int) -> Route:
        key, version = pair >> 16, pair & 0xFFFF
        api = self._apis[key]
        if not api.version_min <= version <= api.version_max:
            raise KeyError(pair)
        writer, tally = response_writer(key, version), self._tallies.of(pair)
        route = self[pair] = Route(api, version, decoder(api.request, version), writer, tally)
        return route


APIS: dict[int, Api] = {}


def handles(
    key: ApiKey, version_min: int, version_max: int, *, advertised_min: int | None = None, overlaps: bool = False
) -> Callable[[H], H]:
    """Register the decorated handler for key in versions version_min..version_max."""

    def register(handler: H) -> H:
        assert key not in APIS, f"{key.name} has two handlers"
        low = version_min if advertised_min is None else advertised_min
        APIS[int(key)] = Api(key, version_min, version_max, low, handler, overlaps)
        return handler

    return register


class CloseConnection(Exception):
    """Raised by a handler whose only possible answer is to hang up (a failed produce with acks=0)."""


def load() -> dict[int, Api]:
    """Import every handler family and return the table."""
    for family in FAMILIES:
        import_module(f"kbroker.api.{family}")
    return APIS
