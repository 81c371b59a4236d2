"""DescribeQuorum: the controller as the one voter of a log that nobody keeps."""

from __future__ import annotations

import pytest

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.admin import DescribeQuorumPartition, DescribeQuorumRequest, DescribeQuorumTopic
from kafka_wire.messages.metadata import DescribeClusterRequest
from kbroker.cluster.keys import id_text
from kbroker.testing.broker import PORT, memory_broker, memory_cluster


def asked(topic: str = "__cluster_metadata", *indexes: int) -> DescribeQuorumTopic:
    partitions = [DescribeQuorumPartition(partition_index=index) for index in indexes or (0,)]
    return DescribeQuorumTopic(topic_name=topic, partitions=partitions)


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_any_broker_names_the_controller(version: int) -> None:
    async with memory_cluster(2) as cluster, cluster.client(2) as client:
        known = await client.call(DescribeClusterRequest(include_cluster_authorized_operations=False), 0)
        controller = known.controller_id
        answer = await client.call(DescribeQuorumRequest(topics=[asked()]), version)
        assert answer.error_code == ErrorCode.NONE
        (topic,) = answer.topics
        (partition,) = topic.partitions
        assert (topic.topic_name, partition.error_code, partition.leader_id) == ("__cluster_metadata", 0, controller)
        (voter,) = partition.current_voters
        assert (voter.replica_id, voter.log_end_offset) == (controller, partition.high_watermark)
        assert partition.high_watermark > 0
        assert partition.observers == []
        if version >= 1:
            assert voter.last_caught_up_timestamp > 0
        if version >= 2:
            assert len(id_text(voter.replica_directory_id)) == 22
            assert [(each.node_id, [(at.host, at.port) for at in each.listeners]) for each in answer.nodes] == [
                (controller, [(f"b{controller}", PORT)])
            ]


@pytest.mark.parametrize("topics", [[], [asked("t")], [asked("__cluster_metadata", 1)], [asked(), asked()]])
async def test_other_partitions_are_unknown(topics: list[DescribeQuorumTopic]) -> None:
    async with memory_broker() as broker, broker.client() as client:
        answer = await client.call(DescribeQuorumRequest(topics=topics), 2)
        codes = [each.error_code for topic in answer.topics for each in topic.partitions]
        assert codes == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION] * len(topics)
        assert answer.error_code == ErrorCode.NONE
