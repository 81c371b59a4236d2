"""A consumer group, of either protocol, as a broker describes it: its members, what they own, and how far they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.consumer_groups import ConsumerGroupDescribeRequest
from kafka_wire.messages.group_admin import DescribeGroupsRequest
from kafka_wire.messages.group_offsets import OffsetFetchRequest
from kbroker.groups.consumer_protocol import PROTOCOL_TYPE, read_assignment, read_subscription
from kbroker.testing.control.links import Links, check
from kbroker.testing.control.offsets import EARLIEST, LATEST, topic_offsets

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

Partition = tuple[str, int]  # topic, index
UNKNOWN = {ErrorCode.GROUP_ID_NOT_FOUND, ErrorCode.UNSUPPORTED_VERSION}


class Member(NamedTuple):
    """A member of a group, and the partitions it has."""

    member_id: str
    client_id: str
    partitions: frozenset[Partition]


class Description(NamedTuple):
    """A group. state: Kafka's word, "Dead" for one that is not there. topics: those its consumers subscribe to."""

    group_id: str
    state: str
    members: list[Member]
    topics: frozenset[str] = frozenset()

    def is_settled(self, members: int | None) -> bool:
        """Whether it has so many members, at least one if None, and is not rebalancing."""
        enough = len(self.members) == members if members is not None else bool(self.members)
        return enough and self.state == ("Stable" if self.members else "Empty")

    def __str__(self) -> str:
        """For people."""
        if self.state == "Dead":
            return f"there is no group {self.group_id}"
        said = [f"{each.client_id}: {named(each.partitions) or 'nothing'}" for each in self.members]
        members = "1 member" if len(said) == 1 else f"{len(said) or 'no'} members"
        return f"group {self.group_id} is {self.state} with {members}" + (f" ({'; '.join(said)})" if said else "")


def named(partitions: Iterable[Partition]) -> str:
    """As people write them: "orders-0, orders-1"."""
    return ", ".join(f"{topic}-{index}" for topic, index in sorted(partitions))


async def describe(links: Links, group_id: str) -> Description:
    """The group as it is. Raises KafkaError."""
    node = await links.coordinator(group_id)
    told = (await links.ask(DescribeGroupsRequest(groups=[group_id]), node)).groups[0]
    if told.error_code not in (ErrorCode.NONE, *UNKNOWN):
        check(told.error_code)
    if told.error_code == ErrorCode.NONE and told.group_state != "Dead":
        owned = [(each, read_assignment(bytes(each.member_assignment))) for each in told.members]
        members = [Member(each.member_id, each.client_id, parts or frozenset()) for each, parts in owned]
        read = [read_subscription(bytes(each.member_metadata)) for each in told.members]
        is_consumers = told.protocol_type == PROTOCOL_TYPE
        topics = {topic for each in read if each is not None for topic in each.topics} if is_consumers else ()
        return Description(group_id, told.group_state, members, frozenset(topics))
    return await _describe_consumer_group(links, group_id, node) or Description(group_id, "Dead", [])


async def _describe_consumer_group(links: Links, group_id: str, node: int) -> Description | None:
    """A group of KIP-848; None where there is none."""
    request = ConsumerGroupDescribeRequest(group_ids=[group_id], include_authorized_operations=False)
    try:
        told = (await links.ask(request, node)).groups[0]
        check(told.error_code)
    except KafkaError as error:
        if error.code in UNKNOWN:
            return None
        raise
    members = [
        Member(
            each.member_id,
            each.client_id,
            frozenset(
                (given.topic_name, index) for given in each.assignment.topic_partitions for index in given.partitions
            ),
        )
        for each in told.members
    ]
    topics = {topic for each in told.members for topic in each.subscribed_topic_names}
    return Description(group_id, told.group_state, members, frozenset(topics))


async def unowned(links: Links, group: Description) -> list[Partition]:
    """The partitions, of the topics its consumers subscribe to, that no member has. Raises KafkaError.

    A group may be stable before its leader has heard of all topics, and rebalances when it has.
    """
    if not group.topics:
        return []
    owned = {each for member in group.members for each in member.partitions}
    told = (await links.metadata(*sorted(group.topics))).topics
    present = [(topic.name, each.partition_index) for topic in told for each in topic.partitions]
    return sorted(set(present) - owned)


async def offsets(links: Links, group_id: str) -> dict[Partition, int]:
    """What the group has committed. Raises KafkaError."""
    node = await links.coordinator(group_id)
    told = await links.ask(OffsetFetchRequest(group_id=group_id, topics=None), node)
    check(told.error_code)
    found: dict[Partition, int] = {}
    for topic in told.topics:
        for each in topic.partitions:
            check(each.error_code)
            if each.committed_offset >= 0:
                found[topic.name, each.partition_index] = each.committed_offset
    return found


async def lag(links: Links, group_id: str) -> dict[Partition, int]:
    """How many records lie behind what the group has committed, of the partitions it has committed for or owns; where
    it owns one and has committed nothing, all that are there. Raises KafkaError."""
    committed = await offsets(links, group_id)
    owned = {each for member in (await describe(links, group_id)).members for each in member.partitions}
    found: dict[Partition, int] = {}
    for topic in sorted({topic for topic, _ in owned | committed.keys()}):
        told = (await links.metadata(topic)).topics[0]
        if told.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
            continue
        check(told.error_code)
        leaders = {each.partition_index: each.leader_id for each in told.partitions}
        read = {index: leader for index, leader in leaders.items() if (topic, index) in owned | committed.keys()}
        new = {index: leader for index, leader in read.items() if (topic, index) not in committed}
        starts = await topic_offsets(links, topic, new, EARLIEST)
        for index, end in (await topic_offsets(links, topic, read, LATEST)).items():
            done = committed[topic, index] if (topic, index) in committed else starts[index]
            found[topic, index] = max(end - done, 0)
    return found
