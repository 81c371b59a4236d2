"""The assignors: everything is given, once, to somebody who wants it; evenly; and what can stay stays."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.groups.consumer.assignors import ASSIGNORS, Made, MemberSpec, loads, range_assignor, uniform
from kbroker.turns import at_once

Subscriptions = dict[str, frozenset[bytes]]


def topic(n: int) -> bytes:
    return n.to_bytes(16, "big")


def specs(subscriptions: Subscriptions, made: Made | None = None) -> dict[str, MemberSpec]:
    """Members with what they were given before."""
    found = made or {}
    return {
        member: MemberSpec(topics, {t: frozenset(p) for t, p in found.get(member, {}).items()})
        for member, topics in subscriptions.items()
    }


def check(members: Mapping[str, MemberSpec], partitions: Mapping[bytes, int], made: Made) -> None:
    """All partitions of topics somebody wants are given once, to subscribers."""
    given_out = [(t, p) for target in made.values() for t, numbers in target.items() for p in numbers]
    wanted = {t for spec in members.values() for t in spec.topics}
    assert sorted(given_out) == sorted((t, p) for t in wanted for p in range(partitions[t]))
    assert made.keys() == members.keys()
    assert all(t in members[member].topics for member, target in made.items() for t in target)


def kept(before: Made, after: Made) -> int:
    had = {(m, t, p) for m, target in before.items() for t, numbers in target.items() for p in numbers}
    return sum((m, t, p) in had for m, target in after.items() for t, numbers in target.items() for p in numbers)


TOPICS = [topic(n) for n in range(5)]
counts = st.fixed_dictionaries({each: st.integers(1, 12) for each in TOPICS})
members_of = st.dictionaries(st.sampled_from([f"m{n}" for n in range(8)]), st.frozensets(st.sampled_from(TOPICS)))


def subscribed(partitions: Mapping[bytes, int], subscriptions: Subscriptions) -> dict[bytes, int]:
    wanted = {t for topics in subscriptions.values() for t in topics}
    return {t: count for t, count in partitions.items() if t in wanted}


@given(counts, members_of, st.sampled_from(["uniform", "range"]))
def test_everything_is_given_once_and_the_same_way_each_time(
    partitions: dict[bytes, int], subscriptions: Subscriptions, name: str
) -> None:
    partitions, members = subscribed(partitions, subscriptions), specs(subscriptions)
    made = at_once(ASSIGNORS[name](members, partitions))
    check(members, partitions, made)
    assert at_once(ASSIGNORS[name](dict(reversed(members.items())), partitions)) == made


@given(counts, members_of)
def test_uniform_is_as_even_as_subscriptions_allow(partitions: dict[bytes, int], subscriptions: Subscriptions) -> None:
    """No chain of moves leads from a member to one that has at least two fewer: then no assignment is more even."""
    partitions = subscribed(partitions, subscriptions)
    made = at_once(uniform(specs(subscriptions), partitions))
    load = loads(made)
    for giver in load:
        reached, todo = {giver}, [giver]
        while todo:
            for t in made[todo.pop()]:
                more = {m for m in subscriptions if t in subscriptions[m]} - reached
                reached |= more
                todo += more
        assert all(load[giver] - load[other] < 2 for other in reached)


@given(counts, members_of, members_of)
def test_uniform_assigns_again_what_comes_after(
    partitions: dict[bytes, int], before: Subscriptions, after: Subscriptions
) -> None:
    first = at_once(uniform(specs(before), subscribed(partitions, before)))
    members = specs(after, first)
    wanted = subscribed(partitions, after)
    second = at_once(uniform(members, wanted))
    check(members, wanted, second)
    again = at_once(uniform(specs(after, second), wanted))
    assert again == second, "what is even already is left alone"


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 9))
def test_uniform_moves_no_more_than_it_has_to(partitions: int, before: int, after: int) -> None:
    """Equal subscriptions, members come or go: whoever stays keeps as much as its quota allows."""
    everything = frozenset((topic(1),))
    count = {topic(1): partitions}
    first = at_once(uniform(specs({f"m{n}": everything for n in range(before)}), count))
    members = specs({f"m{n}": everything for n in range(after)}, first)
    second = at_once(uniform(members, count))
    low, extra = divmod(partitions, after)
    stay = sorted((len(first[m].get(topic(1), ())) for m in members if m in first), reverse=True)
    most = sum(min(had, low + (n < extra)) for n, had in enumerate(stay))
    assert kept(first, second) == most


def test_uniform_evens_out_members_that_share_no_topic() -> None:
    """a has too much of x, c too little of y; b, who reads both, hands on."""
    x, y = topic(1), topic(2)
    members = {
        "a": MemberSpec(frozenset((x,)), {x: {0, 1, 2, 3}}),
        "b": MemberSpec(frozenset((x, y)), {y: {0, 1, 2}}),
        "c": MemberSpec(frozenset((y,)), {y: {3, 4}}),
    }
    made = at_once(uniform(members, {x: 4, y: 5}))
    assert sorted(loads(made).values()) == [3, 3, 3]


def test_uniform_ignores_what_does_not_exist_any_more() -> None:
    members = {"a": MemberSpec(frozenset((topic(1),)), {topic(1): {0, 9}, topic(7): {0}})}
    assert at_once(uniform(members, {topic(1): 2})) == {"a": {topic(1): [0, 1]}}


def test_nobody_and_nothing() -> None:
    for assign in ASSIGNORS.values():
        assert at_once(assign({}, {})) == {}
        assert at_once(assign({"a": MemberSpec(frozenset(), {})}, {})) == {"a": {}}


def test_range_cuts_equal_topics_in_the_same_places() -> None:
    both = frozenset((topic(1), topic(2)))
    made = at_once(range_assignor(specs({"a": both, "b": both, "c": both}), {topic(1): 7, topic(2): 7}))
    assert made["a"] == {topic(1): [0, 1, 2], topic(2): [0, 1, 2]}
    assert made["b"] == {topic(1): [3, 4], topic(2): [3, 4]}
    assert made["c"] == {topic(1): [5, 6], topic(2): [5, 6]}


def test_range_with_fewer_partitions_than_members() -> None:
    one = frozenset((topic(1),))
    made = at_once(range_assignor(specs({"a": one, "b": one, "c": one}), {topic(1): 2}))
    assert loads(made) == {
        "a": 1,
        "b": 1,
        "c": 0,
    }


def test_range_goes_by_instance_ids_so_that_restarts_move_nothing() -> None:
    one = frozenset((topic(1),))
    for ids in (("x1", "x2"), ("x2", "x1")):
        members = {ids[0]: MemberSpec(one, {}, "i1"), ids[1]: MemberSpec(one, {}, "i2"), "a": MemberSpec(one, {})}
        made = at_once(range_assignor(members, {topic(1): 3}))
        assert (made[ids[0]], made[ids[1]], made["a"]) == ({topic(1): [0]}, {topic(1): [1]}, {topic(1): [2]})


def _same_for_all() -> tuple[Subscriptions, dict[bytes, int]]:
    partitions = {topic(n): 100 for n in range(100)}
    everything = frozenset(partitions)
    return {f"m{n:04}": everything for n in range(1000)}, partitions


def _different() -> tuple[Subscriptions, dict[bytes, int]]:
    partitions = {topic(n): 10 for n in range(1000)}
    return {f"m{n:04}": frozenset(topic((n * k) % 1000) for k in range(1, 40)) for n in range(1000)}, partitions


@pytest.mark.slow
@pytest.mark.parametrize("made_up", [_same_for_all, _different])
@pytest.mark.parametrize("name", ["uniform", "range"])
def test_thousand_members_ten_thousand_partitions(made_up: object, name: str) -> None:
    assert callable(made_up)
    subscriptions, partitions = made_up()
    partitions = subscribed(partitions, subscriptions)
    made: Made = {}
    for _ in range(2):  # afresh, and after a tenth of the members has left
        members = specs(subscriptions, made)
        made = at_once(ASSIGNORS[name](members, partitions))
        given = [(topic, index) for mine in made.values() for topic, indexes in mine.items() for index in indexes]
        assert len(given) == len(set(given)) == sum(partitions.values()), "each to one member, none left"
        subscriptions = {m: t for n, (m, t) in enumerate(subscriptions.items()) if n % 10}
        partitions = subscribed(partitions, subscriptions)
