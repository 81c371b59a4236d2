"""Which replicas partitions are to have: evenly, on different racks, and as little as possible moves."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.cli.cluster.plan import Impossible, Targets, drained, spread
from kbroker.cli.cluster.reads import Broker, Partition


def brokers(*ids: int, racks: str = "") -> list[Broker]:
    return [Broker(id, f"b{id}", 9092, racks[n] if racks else None, False) for n, id in enumerate(ids)]


def partitions(*replicas: tuple[int, ...], topic: str = "t") -> list[Partition]:
    return [Partition(topic, index, each[0], each, each) for index, each in enumerate(replicas)]


def after(before: list[Partition], targets: Targets) -> list[tuple[int, ...]]:
    return [targets.get(each.key, each.replicas) for each in before]


def test_what_is_spread_already_does_not_move() -> None:
    assert spread(partitions((1, 2), (2, 3), (3, 1)), brokers(1, 2, 3)) == {}


def test_a_new_broker_gets_its_share_and_no_more_moves() -> None:
    before = partitions((1,), (2,), (1,), (2,), (1,), (2,))
    targets = spread(before, brokers(1, 2, 3))
    assert Counter(after(before, targets)) == {(1,): 2, (2,): 2, (3,): 2}
    assert len(targets) == 2


def test_a_new_replica_takes_the_place_of_the_one_it_replaces() -> None:
    assert drained(partitions((1, 2, 3)), [2], brokers(1, 2, 3, 4)) == {("t", 0): (1, 4, 3)}


def test_only_what_is_on_the_leaving_broker_moves() -> None:
    before = partitions((1, 2), (2, 3), (3, 1))
    assert drained(before, [1], brokers(1, 2, 3)) == {("t", 0): (3, 2), ("t", 2): (3, 2)}


def test_more_replicas_are_added_fewer_taken_from_the_end() -> None:
    assert spread(partitions((1,)), brokers(1, 2, 3), 3) == {("t", 0): (1, 2, 3)}
    assert spread(partitions((2, 1, 3)), brokers(1, 2, 3), 1) == {("t", 0): (2,)}


def test_replicas_go_to_other_racks_first() -> None:
    assert spread(partitions((1,)), brokers(1, 2, 3, racks="aab"), 2) == {("t", 0): (1, 3)}


def test_leaders_are_spread_too() -> None:
    before = partitions((1, 2), (1, 2), (1, 2), (1, 2))
    assert Counter(each[0] for each in after(before, spread(before, brokers(1, 2)))) == {1: 2, 2: 2}


def test_too_few_brokers_are_told() -> None:
    with pytest.raises(Impossible, match="t 0 needs 3 brokers for its replicas, and there are: 1, 2"):
        spread(partitions((1, 2, 3)), brokers(1, 2))
    with pytest.raises(Impossible, match="there are: 1, 2"):
        drained(partitions((1, 2, 3)), [3], brokers(1, 2, 3))


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Partition], list[Broker]]:
    there = draw(st.lists(st.integers(1, 9), min_size=3, max_size=6, unique=True))
    one = st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True).map(tuple)
    return partitions(*draw(st.lists(one, max_size=30))), brokers(*there)


@given(clusters())
def test_every_partition_keeps_its_number_of_replicas_and_all_are_on_wanted_brokers(
    cluster: tuple[list[Partition], list[Broker]],
) -> None:
    before, there = cluster
    replicas = after(before, spread(before, there))
    assert [len(set(each)) for each in replicas] == [len(each.replicas) for each in before]
    assert {id for each in replicas for id in each} <= {broker.id for broker in there}


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_shares_are_fair(factor: int) -> None:
    """To one replica: a partition cannot have two on the emptiest broker."""
    random = Random(factor)
    for _ in range(100):
        there = brokers(*random.sample(range(1, 10), random.randint(3, 6)))
        before = partitions(*(tuple(random.sample(range(1, 10), factor)) for _ in range(random.randint(0, 40))))
        counts = Counter(id for each in after(before, spread(before, there)) for id in each)
        assert max(counts.values(), default=0) <= -(-len(before) * factor // len(there)) + 1
