"""Which replica a consumer is to read from: one in its own rack, if there is one in sync (KIP-392).

Asked of the leader, where `replica.selector.class` is the RackAwareReplicaSelector; the LeaderSelector is the same as
none. Of several the one with most counts. (Kafka: ReplicaManager.findPreferredReadReplica, RackAwareReplicaSelector.)
"""

from __future__ import annotations

from kbroker.cluster.image import ClusterImage
from kbroker.config import BrokerConfig
from kbroker.config.broker_keys import RACK_AWARE_SELECTOR
from kbroker.replication.partition import Partition

NO_REPLICA = -1  # read from the leader


def is_rack_aware(config: BrokerConfig) -> bool:
    """Whether consumers are sent to followers."""
    return config.get_str("replica.selector.class") == RACK_AWARE_SELECTOR


def preferred(partition: Partition, offset: int, rack: str, listener: str, image: ClusterImage) -> int:
    """The broker id of the replica that a consumer in a rack reads an offset from; NO_REPLICA: this one, the leader.

    listener: on which the consumer came in; a replica that has none of that name cannot be reached by it.
    """
    best, best_end = NO_REPLICA, offset - 1
    if not partition.leading or _is_in(rack, partition.node_id, listener, image):
        return NO_REPLICA
    for replica_id in partition.isr:
        follower = partition.followers.get(replica_id)
        if follower is not None and follower.end > best_end and _is_in(rack, replica_id, listener, image):
            best, best_end = replica_id, follower.end
    return best


def _is_in(rack: str, broker_id: int, listener: str, image: ClusterImage) -> bool:
    broker = image.brokers.get(broker_id)
    return broker is not None and broker.rack == rack and listener in broker.endpoints
