"""How a client reaches a broker: the address that the listener it came in on advertises.

Without one, the address this connection came in on, so that a client that reached us can reach us again.
"""

from __future__ import annotations

from collections.abc import Iterable

from kbroker.api.context import Context
from kbroker.cluster.image import BrokerImage

Address = tuple[str, int]


def address_of(broker: BrokerImage, context: Context) -> Address:
    """Host and port of a broker, for the client that asks."""
    services, peer = context.services, context.peer
    host, port = broker.endpoints.get(peer.listener) or next(iter(broker.endpoints.values()))
    if not host:  # nothing advertised for a wildcard address
        host = peer.local[0] if broker.id == services.node_id else "127.0.0.1"
    return host, port


def reachable(context: Context) -> Iterable[tuple[BrokerImage, Address]]:
    """Every broker with its address."""
    for broker in context.services.image.brokers.values():
        yield broker, address_of(broker, context)
