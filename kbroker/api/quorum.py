"""DescribeQuorum 0-2 (KIP-595, KIP-853), UnregisterBroker 0: who decides for the cluster, who belongs to it.

There is no quorum of controllers and no metadata log: what the cluster has agreed on stands in the coordination store,
and one broker at a time holds the key of the controller. So the partition `__cluster_metadata-0` is described as that
broker's alone: it is the leader and the one voter, the epoch is the controller's, the end of the log the revision of
the store. Nobody fetches it, so it has no observers. Any broker knows this much and answers.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.admin import (
    DescribeQuorumPartition,
    DescribeQuorumPartitionResult,
    DescribeQuorumRequest,
    DescribeQuorumResponse,
    DescribeQuorumTopicResult,
    QuorumListener,
    QuorumNode,
    QuorumReplicaState,
    UnregisterBrokerRequest,
    UnregisterBrokerResponse,
)
from kbroker.api.addresses import address_of
from kbroker.api.context import Context
from kbroker.api.registry import handles
from kbroker.cluster.admin import CLUSTER_METADATA
from kbroker.cluster.image import BrokerImage
from kbroker.cluster.keys import id_bytes
from kbroker.turns import Work, answer, each


@handles(ApiKey.DESCRIBE_QUORUM, 0, 2)
def describe_quorum(
    request: DescribeQuorumRequest, context: Context
) -> DescribeQuorumResponse | Coroutine[Any, Any, DescribeQuorumResponse]:
    """Describe the one partition there is to be asked for; about others nothing is known (KafkaRaftClient)."""
    controller = context.services.image.brokers.get(context.services.image.controller_id)
    wanted = [
        (topic.topic_name, [each.partition_index for each in topic.partitions[:2]]) for topic in request.topics[:2]
    ]
    if wanted != [(CLUSTER_METADATA, [0])]:
        return answer(_refused(request, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
    if controller is None:
        return answer(_refused(request, ErrorCode.NOT_LEADER_OR_FOLLOWER))
    result = DescribeQuorumTopicResult(topic_name=CLUSTER_METADATA, partitions=[_partition(controller, context)])
    return DescribeQuorumResponse(error_message="", topics=[result], nodes=[_node(controller, context)])


@handles(ApiKey.UNREGISTER_BROKER, 0, 0)
async def unregister_broker(request: UnregisterBrokerRequest, context: Context) -> UnregisterBrokerResponse:
    """Forget a broker that will not come back."""
    try:
        await context.services.admin.unregister(request.broker_id)
    except KafkaError as error:
        return UnregisterBrokerResponse(error_code=error.code, error_message=error.message)
    return UnregisterBrokerResponse()


def _partition(controller: BrokerImage, context: Context) -> DescribeQuorumPartitionResult:
    image, now_ms = context.services.image, context.services.env.clock.data_ms()
    voter = QuorumReplicaState(
        replica_id=controller.id,
        replica_directory_id=id_bytes(controller.directory_id),
        log_end_offset=image.revision,
        last_fetch_timestamp=now_ms,  # a leader is always up to date with itself
        last_caught_up_timestamp=now_ms,
    )
    return DescribeQuorumPartitionResult(
        partition_index=0,
        error_message="",  # as Kafka writes that there is none
        leader_id=controller.id,
        leader_epoch=image.controller_epoch,
        high_watermark=image.revision,
        current_voters=[voter],
    )


def _node(controller: BrokerImage, context: Context) -> QuorumNode:
    address, listener = address_of(controller, context), context.peer.listener
    listeners = [] if address is None else [QuorumListener(name=listener, host=address[0], port=address[1])]
    return QuorumNode(node_id=controller.id, listeners=listeners)


def _refused(request: DescribeQuorumRequest, code: ErrorCode) -> Work[DescribeQuorumResponse]:
    """DescribeQuorumRequest.getPartitionLevelErrorResponse."""

    def row(partition: DescribeQuorumPartition) -> DescribeQuorumPartitionResult:
        return DescribeQuorumPartitionResult(
            partition_index=partition.partition_index, error_code=code, error_message=code.text
        )

    topics = []
    for topic in request.topics:
        rows = yield from each(row, topic.partitions)
        topics.append(DescribeQuorumTopicResult(topic_name=topic.topic_name, partitions=rows))
        yield
    return DescribeQuorumResponse(error_message="", topics=topics)
