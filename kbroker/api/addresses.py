"""How a client reaches a broker: the address that the listener it came in on advertises.

Where none is advertised (a wildcard address), the one this connection came in on: who reached us can reach us again,
and other brokers of a cluster without advertised addresses are on the same machine. A broker that lacks the listener is
not there for who came in on it, as in Kafka.
"""

from __future__ import annotations

from kbroker.api.context import Context
from kbroker.cluster.image import BrokerImage

Address = tuple[str, int]


def address_of(broker: BrokerImage, context: Context) -> Address | None:
    """Host and port of a broker, for the client that asks."""
    endpoint = broker.endpoints.get(context.peer.listener)
    if endpoint is None:
        return None
    host, port = endpoint
    return host or context.peer.local[0], port


def reachable(context: Context) -> dict[int, Address]:
    """The address of every live broker that has one."""
    found = ((broker.id, address_of(broker, context)) for broker in context.services.image.brokers.values())
    return {id: address for id, address in found if address is not None}
