"""One member's steps: what stays is never touched, what goes is acknowledged first, what comes was nobody's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.groups.consumer import reconciliation
from kbroker.groups.consumer.member import ConsumerMember, MemberState
from kbroker.groups.consumer.reconciliation import Owners, Step, awaits_others
from kbroker.turns import at_once

STABLE, UNREVOKED, UNRELEASED, UNKNOWN = MemberState
T = b"t" * 16


def next_step(*arguments: Any) -> Step | None:
    return at_once(reconciliation.next_step(*arguments))


def member_of(
    assigned: set[int], *, epoch: int = 5, pending: set[int] | None = None, state: MemberState = STABLE
) -> ConsumerMember:
    owned = {T: dict.fromkeys(assigned, 3)} if assigned else {}
    given_up = {T: dict.fromkeys(pending, 3)} if pending else {}
    return ConsumerMember("m", epoch=epoch, assigned=owned, pending=given_up, state=state)


def owners_of(**members: set[int]) -> Owners:
    owners = Owners()
    for member_id, partitions in members.items():
        for partition in partitions:
            owners.give(member_id, T, {partition})
    return owners


def test_reconciled_member_does_nothing() -> None:
    assert next_step(member_of({0}), 5, {T: {0}}, owners_of(m={0}), None) is None


def test_revocation_comes_first_and_in_the_old_epoch() -> None:
    step = next_step(member_of({0, 1}), 6, {T: {1, 2}}, owners_of(m={0, 1}), None)
    assert step == (UNREVOKED, 5, {T: {1: 3}}, {T: {0: 3}})


def test_what_the_member_says_it_does_not_have_needs_no_revocation() -> None:
    step = next_step(member_of({0, 1}), 6, {T: {1}}, owners_of(m={0, 1}), {T: {1}})
    assert step == (STABLE, 6, {T: {1: 3}}, {})


@pytest.mark.parametrize("reported", [None, {T: {0, 1}}, {T: {0}}])
def test_unrevoked_waits_for_the_acknowledgement(reported: object) -> None:
    member = member_of({1}, pending={0}, state=UNREVOKED)
    assert next_step(member, 6, {T: {1, 2}}, owners_of(m={0, 1}), reported) is None


def test_acknowledged_member_gets_what_is_free() -> None:
    member = member_of({1}, pending={0}, state=UNREVOKED)
    step = next_step(member, 6, {T: {1, 2, 3}}, owners_of(m={0, 1}, x={3}), {T: {1}})
    assert step == (UNRELEASED, 6, {T: {1: 3, 2: 6}}, {})


def test_what_was_to_be_given_up_is_given_again_when_the_target_turned() -> None:
    member = member_of({1}, pending={0}, state=UNREVOKED)
    step = next_step(member, 7, {T: {0, 1}}, owners_of(m={0, 1}), {T: {1}})
    assert step == (STABLE, 7, {T: {0: 7, 1: 3}}, {})


def test_unreleased_gets_the_rest_when_it_is_free() -> None:
    member = member_of({1}, epoch=6, state=UNRELEASED)
    owners = owners_of(m={1}, x={3})
    assert awaits_others(member, {T: {1, 3}}, owners)
    assert next_step(member, 6, {T: {1, 3}}, owners, None) is None
    owners.free("x", T, {3})
    assert not awaits_others(member, {T: {1, 3}}, owners)
    assert next_step(member, 6, {T: {1, 3}}, owners, None) == (STABLE, 6, {T: {1: 3, 3: 6}}, {})


def test_state_of_the_future_is_left_for_a_known_one() -> None:
    member = member_of({1}, state=UNKNOWN)
    assert next_step(member, 5, {T: {1}}, owners_of(m={1}), None) == (STABLE, 5, {T: {1: 3}}, {})


sets = st.sets(st.integers(0, 5))


@given(sets, sets, sets, st.one_of(st.none(), sets))
def test_a_step_keeps_what_stays_and_takes_only_what_is_free(
    assigned: set[int], target: set[int], others: set[int], reported: set[int] | None
) -> None:
    others -= assigned
    said = None if reported is None else {T: reported}
    step = next_step(member_of(assigned), 6, {T: target}, owners_of(m=assigned, x=others), said)
    assert step is not None
    after, pending = set(step.assigned.get(T, ())), set(step.pending.get(T, ()))
    assert assigned & target <= after <= target
    assert not (after | pending) & others
    assert pending <= assigned - target
    assert (step.state is STABLE) == (after == target and not pending)


def test_owner_is_one() -> None:
    owners = owners_of(m={1})
    with pytest.raises(AssertionError):
        owners.give("x", T, {1})
    with pytest.raises(AssertionError):
        owners.free("x", T, {1})
