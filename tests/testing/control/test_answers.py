"""Answers that carry an error: for every API and version, judged by a table of where Apache Kafka puts the code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kafka_wire.api import APIS, OWN_KEY_MIN, ApiKey, request_class, response_class
from kafka_wire.codegen import decode, encode
from kafka_wire.errors import ErrorCode
from kafka_wire.schema import Field, layout
from kbroker.api.registry import load
from kbroker.testing.control.answers import codes_in, error_answer, merge, places, topic_errors
from kbroker.testing.control.topics import can_name_topics, names_topics, split, topics_of

SERVED = load()
ALL = [
    (ApiKey(key), version)
    for key, api in sorted(SERVED.items())
    if key < OWN_KEY_MIN
    for version in range(api.version_min, api.version_max + 1)
]
CODE = ErrorCode.NOT_LEADER_OR_FOLLOWER
ID = bytes(range(16))

# Where `AbstractRequest.getErrorResponse` of Apache Kafka puts the code; (first version, places). "" is the top.
PARTITIONS, TOPICS = "topics.partitions", "topics"
KAFKA: dict[str, list[tuple[int, set[str]]]] = {
    "Produce": [(0, {"responses.partition_responses"})],
    "Fetch": [(0, {"responses.partitions"}), (7, {""})],  # at the partitions, too, up to 12: see faults.py
    "ListOffsets": [(0, {PARTITIONS})],
    "Metadata": [(0, {TOPICS}), (13, {""})],
    "OffsetCommit": [(0, {PARTITIONS})],
    "OffsetFetch": [(0, {PARTITIONS}), (2, {""}), (8, {"groups"})],
    "FindCoordinator": [(0, {""}), (4, {"coordinators"})],
    "DescribeGroups": [(0, {"groups"})],
    "CreateTopics": [(0, {TOPICS})],
    "DeleteTopics": [(0, {"responses"})],
    "DeleteRecords": [(0, {PARTITIONS})],
    "OffsetForLeaderEpoch": [(0, {PARTITIONS})],
    "AddPartitionsToTxn": [(0, {"results_by_topic_v3_and_below.results_by_partition"}), (4, {""})],
    "WriteTxnMarkers": [(0, {"markers.topics.partitions"})],
    "TxnOffsetCommit": [(0, {PARTITIONS})],
    "DescribeConfigs": [(0, {"results"})],
    "AlterConfigs": [(0, {"responses"})],
    "IncrementalAlterConfigs": [(0, {"responses"})],
    "AlterReplicaLogDirs": [(0, {"results.partitions"})],
    "DescribeLogDirs": [(0, set()), (3, {""})],
    "CreatePartitions": [(0, {"results"})],
    "DeleteGroups": [(0, {"results"})],
    "ElectLeaders": [
        (0, {"replica_election_results.partition_result"}),
        (1, {"", "replica_election_results.partition_result"}),
    ],
    "AlterPartitionReassignments": [(0, {"", "responses.partitions"})],
    "DescribeProducers": [(0, {PARTITIONS})],
    "DescribeTransactions": [(0, {"transaction_states"})],
    "ConsumerGroupDescribe": [(0, {"groups"})],
    "DescribeTopicPartitions": [(0, {TOPICS})],
}
AT_THE_TOP = {
    "JoinGroup", "Heartbeat", "LeaveGroup", "SyncGroup", "ListGroups", "ApiVersions", "InitProducerId",
    "AddOffsetsToTxn", "EndTxn", "ListPartitionReassignments", "OffsetDelete", "DescribeQuorum", "UpdateFeatures",
    "DescribeCluster", "UnregisterBroker", "ListTransactions", "ConsumerGroupHeartbeat", "ListConfigResources",
}  # fmt: skip


def expected(key: ApiKey, version: int) -> set[str]:
    name = APIS[key].name
    if name in AT_THE_TOP:
        return {""}
    return [where for since, where in KAFKA[name] if since <= version][-1]


def filled(cls: type, version: int) -> Any:
    """A message of which every array has two elements, and every key a value of its own."""
    made = cls()
    for each in layout(cls).fields:
        if each.has(version):
            setattr(made, each.name, _value(each, version))
    return made


def _value(field: Field, version: int) -> Any:
    if field.kind == "array":
        if isinstance(field.item, type):
            elements = [filled(field.item, version) for _ in range(2)]
            for n, element in enumerate(elements):
                for each in layout(field.item).fields:
                    if each.kind == "string":
                        setattr(element, each.name, f"{each.name} {n}")
                    elif each.kind == "uuid":
                        setattr(element, each.name, bytes([n + 1]) * 16)
                    elif each.kind in ("int32", "int64"):
                        setattr(element, each.name, n + 7)
                    elif each.name == "resource_type":
                        setattr(element, each.name, 2)
            return elements
        return ["x", "y"] if field.item == "string" else [3, 4]
    if field.kind == "struct":
        return None if field.nullable is not None or field.tag is not None else filled(field.item, version)  # type: ignore[arg-type]
    return "x" if field.kind == "string" else field.fresh_default()


def codes(message: Any, version: int, at: str = "") -> Iterator[tuple[str, int, Any]]:
    """Every place of a message that has an error code: (arrays that lead there, the code, the struct)."""
    for field in layout(type(message)).fields:
        if not field.has(version):
            continue
        value = getattr(message, field.name)
        if field.name in ("error_code", "partition_error_code"):
            yield at, value, message
        elif field.kind == "array" and isinstance(field.item, type):
            for element in value or ():
                yield from codes(element, version, f"{at}.{field.name}" if at else field.name)


def sent(message: Any, version: int) -> Any:
    """As it arrives."""
    return decode(type(message), version, encode(message, version))


@pytest.mark.parametrize("key, version", ALL, ids=lambda each: str(getattr(each, "name", each)))
def test_the_code_is_where_kafka_puts_it(key: ApiKey, version: int) -> None:
    request = filled(request_class(key), version)
    answer = error_answer(request, key, version, CODE)
    where = expected(key, version)
    if not where:
        assert answer is None and not places(key, version)[0]
        return
    found = list(codes(sent(answer, version), version))
    assert {at for at, code, _ in found if code == CODE} == where
    assert {at for at, code, _ in found if code != CODE} - where == set()
    for at, code, struct in found:
        assert code == CODE, at
        assert getattr(struct, "error_message", None) in (None, CODE.text)
    deeper = key is ApiKey.ALTER_REPLICA_LOG_DIRS  # its topics are in directories, those of the answer are not
    assert len(found) == sum(2 ** (at.count(".") + 1 + deeper) if at else 1 for at in where)
    assert codes_in(answer, key, version) == [CODE]


@pytest.mark.parametrize("key, version", ALL, ids=lambda each: str(getattr(each, "name", each)))
def test_a_request_that_names_nothing_has_a_place_only_at_the_top(key: ApiKey, version: int) -> None:
    request = filled(request_class(key), version)
    for field in layout(type(request)).fields:
        if field.kind == "array":
            setattr(request, field.name, [])
    assert (error_answer(request, key, version, CODE) is not None) == ("" in expected(key, version))


WITH_TOPICS = [(key, version) for key, version in ALL if can_name_topics(key, version)]


@pytest.mark.parametrize("key, version", WITH_TOPICS, ids=lambda each: str(getattr(each, "name", each)))
def test_a_request_is_cut_in_two_by_its_topics(key: ApiKey, version: int) -> None:
    request = filled(request_class(key), version)
    before = encode(request, version)
    first, *others = topics_of(request, version)
    rest, picked = split(request, version, lambda topic, partition: topic == first)
    assert first not in topics_of(rest, version)
    assert set(topics_of(rest, version)) == set(others)
    assert topics_of(picked, version) == [first]
    assert encode(request, version) == before  # it is as it was
    assert split(request, version, lambda topic, partition: False)[1] is None
    assert not names_topics(split(request, version, lambda topic, partition: True)[0], version)
    for each in (rest, picked):
        assert encode(sent(each, version), version) == encode(each, version)


PLACED = [(key, version) for key, version in ALL if places(key, version)[1]]


@pytest.mark.parametrize("key, version", PLACED, ids=lambda each: str(getattr(each, "name", each)))
def test_the_error_of_a_topic_joins_the_true_answer_of_the_others(key: ApiKey, version: int) -> None:
    request = filled(request_class(key), version)
    rest, picked = split(request, version, lambda topic, partition: topic == topics_of(request, version)[0])
    true = error_answer(rest, key, version, ErrorCode.UNKNOWN_SERVER_ERROR)  # in place of an answer by the broker
    if "" in expected(key, version):
        true = topic_errors(rest, key, version, ErrorCode.UNKNOWN_SERVER_ERROR, at_partitions=False)
    errors = topic_errors(picked, key, version, CODE, at_partitions=False)
    merge(true, errors, key, version)
    found = [code for at, code, _ in codes(sent(true, version), version) if at and code]
    assert found.count(CODE) >= 1
    assert "" in expected(key, version) or ErrorCode.UNKNOWN_SERVER_ERROR in found
    assert not any(code == CODE for at, code, _ in codes(true, version) if not at)  # never the whole


@pytest.mark.parametrize("key, version", [each for each in ALL if places(*each)[2]], ids=str)
def test_one_partition_can_be_picked(key: ApiKey, version: int) -> None:
    request = filled(request_class(key), version)
    first = topics_of(request, version)[0]
    seen: list[int] = []

    def wants(topic: Any, partition: int | None) -> bool:
        if topic == first and partition is not None and partition not in seen:
            seen.append(partition)
        return topic == first and partition in (None, seen[0] if seen else None)

    _, picked = split(request, version, wants)
    errors = topic_errors(picked, key, version, CODE, at_partitions=True)
    found = [struct for _, code, struct in codes(errors, version) if code == CODE]
    assert found and len(seen) == 2
    numbers = {getattr(each, name) for each in found for name in type(each).__slots__ if name in INDEX_NAMES}
    assert numbers == {seen[0]}


INDEX_NAMES = ("index", "partition", "partition_index", "partition_id")


def test_what_stands_for_nothing() -> None:
    """By Kafka's constants: INVALID_OFFSET, NO_PRODUCER_ID, Node.noNode, UNKNOWN_GENERATION_ID ..."""

    def answer(key: ApiKey, version: int) -> Any:
        return error_answer(filled(request_class(key), version), key, version, CODE)

    produced = answer(ApiKey.PRODUCE, 9).responses[0].partition_responses[0]
    assert (produced.base_offset, produced.log_append_time_ms, produced.log_start_offset) == (-1, -1, -1)
    assert produced.error_message == CODE.text
    found = answer(ApiKey.FIND_COORDINATOR, 3)
    assert (found.node_id, found.host, found.port) == (-1, "", -1)
    assert [(each.node_id, each.port) for each in answer(ApiKey.FIND_COORDINATOR, 4).coordinators] == [(-1, -1)] * 2
    assert answer(ApiKey.JOIN_GROUP, 6).protocol_name == ""
    joined = answer(ApiKey.JOIN_GROUP, 7)
    assert (joined.generation_id, joined.protocol_name, joined.leader, joined.member_id) == (-1, None, "", "")
    begun = answer(ApiKey.INIT_PRODUCER_ID, 4)
    assert (begun.producer_id, begun.producer_epoch) == (-1, -1)
    listed = answer(ApiKey.LIST_OFFSETS, 5).topics[0].partitions[0]
    assert (listed.offset, listed.timestamp, listed.leader_epoch) == (-1, -1, -1)
    ended = answer(ApiKey.OFFSET_FOR_LEADER_EPOCH, 4).topics[0].partitions[0]
    assert (ended.leader_epoch, ended.end_offset) == (-1, -1)
    read = topic_errors(filled(request_class(ApiKey.FETCH), 12), ApiKey.FETCH, 12, CODE, at_partitions=True)
    assert read.responses[0].partitions[0].high_watermark == -1
    assert answer(ApiKey.DELETE_RECORDS, 2).topics[0].partitions[0].low_watermark == -1
    fetched = answer(ApiKey.OFFSET_FETCH, 1).topics[0].partitions[0]
    assert (fetched.committed_offset, fetched.metadata) == (-1, "")
    unsupported = error_answer(filled(request_class(ApiKey.API_VERSIONS), 3), ApiKey.API_VERSIONS, 3, UNSUPPORTED)
    assert [each.api_key for each in unsupported.api_keys] == [ApiKey.API_VERSIONS]  # KIP-511


UNSUPPORTED = ErrorCode.UNSUPPORTED_VERSION


def test_every_api_is_in_the_table() -> None:
    names = {APIS[key].name for key in SERVED if key < OWN_KEY_MIN}
    assert names == set(KAFKA) | AT_THE_TOP
    assert all(response_class(key) for key, _ in ALL)
