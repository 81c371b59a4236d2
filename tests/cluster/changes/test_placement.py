"""Names, numbers and replicas of new partitions; codes and texts are Kafka's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.changes import placement
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.image import ClusterImage
from kbroker.turns import at_once
from tests.cluster.tools import T, cluster


def plan(image: ClusterImage, start: int = 0, **wish: Any) -> list[tuple[int, ...]]:
    return list(placement.plan_topic(NewTopic("t", **wish), image, partitions=2, replication_factor=1, start=start))


@pytest.mark.parametrize("name", ["t", "a" * 249, "A.b_c-9", "__consumer_offsets", "..."])
def test_names_that_are_fine(name: str) -> None:
    placement.check_topic_name(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "Topic name is invalid: the empty string is not allowed"),
        (".", "Topic name is invalid: '.' is not allowed"),
        ("..", "Topic name is invalid: '..' is not allowed"),
        ("a" * 250, f"Topic name is invalid: the length of '{'a' * 250}' is longer than the max allowed length 249"),
        (
            "a/b",
            "Topic name is invalid: 'a/b' contains one or more characters other than ASCII alphanumerics, '.', '_' "
            "and '-'",
        ),
        ("ü", None),
        ("a\n", None),
        ("٣", None),
    ],
)
def test_names_that_are_not(name: str, text: str | None) -> None:
    with pytest.raises(KafkaError) as raised:
        placement.check_topic_name(name)
    assert raised.value.code is ErrorCode.INVALID_TOPIC_EXCEPTION
    assert text is None or raised.value.message == text


def test_dots_and_underscores_collide() -> None:
    taken = {"a_b_c": "a.b_c", "y_": "y_"}
    for name in ("a_b_c", "a.b.c", "a_b.c"):
        with pytest.raises(KafkaError, match=f"Topic '{name}' collides with existing topic: a.b_c"):
            placement.check_topic_name(name, taken)
    for name in ("a.b_c", "a-b_c", "a.bc", "_x", "y"):
        placement.check_topic_name(name, taken)
    long = "_".join("abcdefghijklmnopqrstuvwxyz" * 4)
    with pytest.raises(KafkaError):
        placement.check_topic_name(long, taken, {long: long.replace("_", ".", 1)})


@pytest.mark.parametrize(
    ("wish", "code", "text"),
    [
        (
            {"partitions": 0},
            ErrorCode.INVALID_PARTITIONS,
            "Number of partitions was set to an invalid non-positive value.",
        ),
        ({"partitions": -2}, ErrorCode.INVALID_PARTITIONS, None),
        (
            {"replication_factor": 0},
            ErrorCode.INVALID_REPLICATION_FACTOR,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        ),
        ({"replication_factor": -3}, ErrorCode.INVALID_REPLICATION_FACTOR, None),
        (
            {"replication_factor": 3},
            ErrorCode.INVALID_REPLICATION_FACTOR,
            "Unable to replicate the partition 3 time(s): The target replication factor of 3 cannot be reached because "
            "only 1 broker(s) are registered or some brokers have all their log directories cordoned.",
        ),
        (
            {"assignments": [(0, [0])], "partitions": 1},
            ErrorCode.INVALID_REQUEST,
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        ),
        (
            {"assignments": [(0, [0])], "replication_factor": 1},
            ErrorCode.INVALID_REQUEST,
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        ),
        (
            {"assignments": [(0, [])]},
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes an empty replica list.",
        ),
        (
            {"assignments": [(0, [5])]},
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes broker 5, but no such broker is registered.",
        ),
        (
            {"assignments": [(0, [0, 0])]},
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes the broker 0 more than once.",
        ),
        (
            {"assignments": [(0, [0]), (0, [0])]},
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "Found multiple manual partition assignments for partition 0",
        ),
        (
            {"assignments": [(0, [0]), (2, [0])]},
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "partitions should be a consecutive 0-based integer sequence",
        ),
    ],
)
def test_topics_that_cannot_be(wish: dict[str, Any], code: ErrorCode, text: str | None) -> None:
    with pytest.raises(KafkaError) as raised:
        plan(cluster(0), **wish)
    assert raised.value.code is code
    assert text is None or raised.value.message == text


def test_assignments_of_different_lengths() -> None:
    with pytest.raises(KafkaError) as raised:
        plan(cluster(0, 1), assignments=[(0, [0, 1]), (1, [1])])
    assert raised.value.message == (
        "The manual partition assignment includes a partition with 1 replica(s), but this is not consistent with "
        "previous partitions, which have 2 replica(s)."
    )


def test_placement_is_round_robin() -> None:
    assert plan(cluster(0)) == [(0,), (0,)]
    assert plan(cluster(0), partitions=3) == [(0,)] * 3
    assert plan(cluster(7, 8, 9), start=1, partitions=4) == [(8,), (9,), (7,), (8,)]
    assert plan(cluster(0, 1), assignments=[(1, [0, 1]), (0, [1, 0])]) == [(1, 0), (0, 1)]
    # the example in Kafka's AdminUtils: 10 partitions, 5 brokers, factor 3
    table = ["012", "123", "234", "340", "401", "023", "134", "240", "301", "412"]
    placed = plan(cluster(0, 1, 2, 3, 4), partitions=10, replication_factor=3)
    assert ["".join(map(str, replicas)) for replicas in placed] == table


@pytest.mark.parametrize("start", range(5))
def test_placement_is_even(start: int) -> None:
    image = cluster(0, 1, 2, 3, 4)
    placed = plan(image, start=start, partitions=100, replication_factor=3)
    assert all(len(set(replicas)) == 3 for replicas in placed)
    assert set(Counter(replicas[0] for replicas in placed).values()) == {20}
    assert set(Counter(broker for replicas in placed for broker in replicas).values()) == {60}
    followers = Counter(broker for replicas in placed if replicas[0] == 0 for broker in replicas[1:])
    assert set(followers) == {1, 2, 3, 4}


def test_growing() -> None:
    image = cluster(0, 1, partitions=list(at_once(placement.new_partitions(T, [(0,), (1,)], cluster(0, 1)))))
    topic = image.topics["t"]
    assert list(placement.plan_growth(topic, 5, None, image, 0)) == [(0,), (1,), (0,)]
    assert placement.plan_growth(topic, 3, [[1]], image, 0) == [(1,)]
    for total, assignments, code, text in [
        (2, None, ErrorCode.INVALID_PARTITIONS, "Topic already has 2 partition(s)."),
        (
            1,
            None,
            ErrorCode.INVALID_PARTITIONS,
            "The topic t currently has 2 partition(s); 1 would not be an increase.",
        ),
        (
            4,
            [[0]],
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified.",
        ),
        (3, [[0, 1]], ErrorCode.INVALID_REPLICA_ASSIGNMENT, None),
        (3, [[9]], ErrorCode.INVALID_REPLICA_ASSIGNMENT, None),
    ]:
        with pytest.raises(KafkaError) as raised:
            placement.plan_growth(topic, total, assignments, image, 0)
        assert raised.value.code is code and (text is None or raised.value.message == text)
