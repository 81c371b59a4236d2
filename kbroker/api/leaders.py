"""Hints: whom a client that asked the wrong broker should ask instead, told with the refusal (KIP-951)."""

from __future__ import annotations

from kafka_wire.messages.produce_fetch import LeaderIdAndEpoch, NodeEndpoint
from kbroker.api.addresses import address_of
from kbroker.api.context import Context
from kbroker.cluster.image import TopicImage


def current_leader(
    topic: TopicImage | None, index: int, context: Context, nodes: list[NodeEndpoint]
) -> LeaderIdAndEpoch | None:
    """Who leads a partition now; None if there is no such partition. nodes: gains that broker's address, once."""
    if topic is None or not 0 <= index < len(topic.partitions):
        return None
    partition = topic.partitions[index]
    leader = context.services.image.brokers.get(partition.leader)
    if leader is not None and all(each.node_id != leader.id for each in nodes):
        address = address_of(leader, context)
        if address is not None:
            nodes.append(NodeEndpoint(node_id=leader.id, host=address[0], port=address[1], rack=leader.rack))
    return LeaderIdAndEpoch(leader_id=partition.leader, leader_epoch=partition.leader_epoch)
