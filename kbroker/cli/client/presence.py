"""Saying once that a broker is lost and tried again, and once that it is back: kafka-python goes on in silence."""

from __future__ import annotations

from typing import Any

import click

from kbroker.cli.tables import visible
from kbroker.env import address_text


class Presence:
    """The connections of one client. `client_factory` is to be its setting kafka_client; `look` now and then."""

    def __init__(self) -> None:
        self._client: Any = None
        self._lost: dict[Any, str] = {}  # node id -> address

    @property
    def is_lost(self) -> bool:
        """Whether a broker this client needs is not there."""
        return bool(self._lost)

    def client_factory(self, **settings: Any) -> Any:
        """kafka-python's own connections, remembered."""
        from kafka.net.compat import KafkaNetClient

        self._client = KafkaNetClient(**settings)
        return self._client

    def look(self) -> None:
        """See who has been lost, and who is back; costs next to nothing."""
        brokers = {each.node_id: each for each in self._client.cluster.brokers()} if self._client else {}
        for node_id, broker in brokers.items():
            connections = (node_id, f"coordinator-{node_id}")  # that of a group's coordinator is one of its own
            is_there = any(map(self._client.connected, connections))
            is_tried_again = any(self._client.connection_delay(each) > 0 for each in connections)  # it was in vain
            if node_id not in self._lost and is_tried_again and not is_there:
                self._lost[node_id] = visible(address_text(broker.host, broker.port))
                _say(f"lost the broker at {self._lost[node_id]}; trying again until it is back")
            elif node_id in self._lost and is_there:
                _say(f"the broker at {self._lost.pop(node_id)} is back")
        for node_id in self._lost.keys() - brokers.keys():
            _say(f"going on without the broker at {self._lost.pop(node_id)}")


def _say(text: str) -> None:
    click.echo(f"kbroker: {text}", err=True)
