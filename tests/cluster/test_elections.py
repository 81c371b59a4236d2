"""Who leads: leaders and their epochs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.cluster import elections
from kbroker.cluster.changes.features import Finalized
from kbroker.cluster.elections import NO_ELR, Electorate, Rules, settled
from kbroker.cluster.image import NO_LEADER, PartitionImage, TopicImage
from kbroker.config import BrokerConfig
from kbroker.turns import at_once
from tests.cluster.tools import T, cluster


@pytest.mark.parametrize(
    ("leader", "isr", "live", "becomes"),
    [
        (0, (0,), (0,), 0),  # alone: itself, in a new epoch
        (-1, (0,), (0,), 0),  # the partition waited for it
        (0, (0, 1), (0, 1), 1),  # another of the ISR is there and need not wait for it
        (0, (0, 1), (0,), 0),  # the other is not there
        (1, (0, 1), (0, 1), None),  # not its own
        (-1, (1,), (0,), None),  # not in the ISR: never (R9)
    ],
)
def test_R8_R9_a_returning_broker_leads_only_in_a_new_epoch(
    leader: int, isr: tuple[int, ...], live: tuple[int, ...], becomes: int | None
) -> None:
    partition = PartitionImage(T, 0, (0, 1), isr, leader, 7, 9)
    image = cluster(*live, partitions=[partition])
    changed = at_once(elections.take_up(image, 0, Rules(image, BrokerConfig())))
    if becomes is None:
        assert changed == []
    else:
        assert changed == [PartitionImage(T, 0, (0, 1), isr, becomes, 8, 10)]


@pytest.mark.parametrize(
    ("isr", "elr", "min_isr", "to", "becomes"),
    [
        ((0, 1, 2), (), 2, (0, 1), ()),  # still enough
        ((0, 1, 2), (), 2, (0,), (1, 2)),  # too few: whoever leaves has all that is committed
        ((0, 1, 2), (), 9, (0, 1), (2,)),  # no partition needs more than it has
        ((0,), (1,), 2, (0, 2), ()),  # enough again
        ((0,), (1, 2), 3, (0, 2), (1,)),  # a member is not eligible as well
        ((0,), (1,), 2, (), (0, 1)),
        ((0,), (1,), 1, (), (0,)),  # one is enough by now: what was committed since, 1 has not
    ],
)
def test_KIP_966_who_leaves_too_small_an_isr_stays_eligible(
    isr: tuple[int, ...], elr: tuple[int, ...], min_isr: int, to: tuple[int, ...], becomes: tuple[int, ...]
) -> None:
    partition = PartitionImage(T, 0, (0, 1, 2), isr, 0, 7, 9, elr=elr)
    assert elections.with_isr(partition, to, min_isr) == PartitionImage(T, 0, (0, 1, 2), to, 0, 7, 10, elr=becomes)


def test_R10_who_may_have_lost_its_cache_is_not_eligible() -> None:
    partition = PartitionImage(T, 0, (0, 1, 2), (0, 1), 0, 7, 9, elr=(2,))
    assert elections.with_isr(partition, (0,), 3, lossy=(1,)).elr == (2,)
    assert elections.with_isr(partition, (0,), 3, lossy=(1, 2)).elr == ()


def test_a_partition_remembers_who_led_last_until_there_is_another() -> None:
    partition = PartitionImage(T, 0, (0, 1), (0,), 0, 7, 9)
    headless = elections.led_by(partition, NO_LEADER)
    assert headless == PartitionImage(T, 0, (0, 1), (0,), NO_LEADER, 8, 10, last_leader=0)
    assert elections.led_by(headless, NO_LEADER).last_leader == 0
    assert elections.led_by(headless, 1) == PartitionImage(T, 0, (0, 1), (0,), 1, 9, 11)


MINE_WITH_ELR = Rules(
    replace(cluster(), features=Finalized({"eligible.leader.replicas.version": 1}, 1)), BrokerConfig()
)


def voters(
    live: tuple[int, ...], leaving: tuple[int, ...] = (), registered: tuple[int, ...] = (0, 1, 2, 3)
) -> Electorate:
    return Electorate(frozenset(live), frozenset(live) - {*leaving}, frozenset(registered) | frozenset(live))


@pytest.mark.parametrize(
    ("before", "live", "min_isr", "unclean", "after"),
    [
        # leader, isr, elr, last leader                      leader, isr, elr, last leader
        ((0, (0, 1, 2), (), -1), (0, 1, 2), 2, False, None),
        ((0, (0, 1, 2), (), -1), (1, 2), 2, False, (1, (1, 2), (), -1)),
        ((0, (0, 1, 2), (), -1), (0, 1), 2, False, (0, (0, 1), (), -1)),  # a follower dies
        ((0, (0, 1), (), -1), (1, 2), 2, False, (1, (1,), (0,), -1)),
        ((0, (0,), (1,), -1), (1, 2), 2, False, (1, (1,), (0,), -1)),  # of those eligible; who died is so, too
        ((0, (0,), (1,), -1), (2,), 2, False, (-1, (), (0, 1), 0)),  # nobody (R9)
        ((-1, (), (0, 1), 0), (1, 2), 2, False, (1, (1,), (0,), -1)),
        ((-1, (), (), 0), (0, 2), 2, False, (0, (0,), (), -1)),  # the last known leader
        ((-1, (), (1,), 0), (0, 2), 2, False, None),  # not while another is eligible
        ((-1, (), (1,), 0), (2,), 2, True, (2, (2,), (), -1)),  # unclean
        ((0, (0,), (), -1), (1, 2), 2, True, (1, (1,), (), -1)),
        ((0, (0,), (1,), -1), (0, 1, 2), 1, False, (0, (0,), (), -1)),  # min.insync.replicas was lowered
        ((0, (0,), (), -1), (1, 2), NO_ELR, False, (-1, (0,), (), 0)),  # without eligible replicas the last one stays
        ((0, (0, 1), (), -1), (2,), NO_ELR, False, (-1, (0, 1), (), 0)),
        ((0, (0, 1), (), -1), (1,), NO_ELR, False, (1, (1,), (), -1)),
        ((0, (0,), (), -1), (1,), NO_ELR, True, (1, (1,), (), -1)),
    ],
)
def test_R9_who_leads_and_who_is_in_sync(
    before: tuple[int, tuple[int, ...], tuple[int, ...], int],
    live: tuple[int, ...],
    min_isr: int,
    unclean: bool,
    after: tuple[int, tuple[int, ...], tuple[int, ...], int] | None,
) -> None:
    leader, isr, elr, last = before
    partition = PartitionImage(T, 0, (0, 1, 2), isr, leader, 7, 9, elr=elr, last_leader=last)
    now = settled(partition, voters(live), min_isr, unclean)
    if after is None:
        assert now is partition
    else:
        assert (now.leader, now.isr, now.elr, now.last_leader) == after
        assert (now.leader_epoch, now.partition_epoch) == (7 + (now.leader != leader), 10)


def test_who_is_about_to_stop_is_not_elected_and_keeps_what_it_leads() -> None:
    partition = PartitionImage(T, 0, (0, 1, 2), (0, 1, 2), 0, 7, 9)
    assert settled(partition, voters((1, 2), leaving=(1,)), 2).leader == 2
    assert settled(partition, voters((0, 1, 2), leaving=(0,)), 2) is partition


def test_who_is_not_registered_any_more_is_not_eligible() -> None:
    partition = PartitionImage(T, 0, (0, 1, 2), (0,), 0, 7, 9, elr=(1, 2))
    assert settled(partition, voters((0,), registered=(0, 2)), 2).elr == (2,)


@pytest.mark.parametrize(
    ("replicas", "adding", "removing", "isr", "becomes"),
    [
        ((3, 1, 2, 0), (3,), (0,), (0, 1, 2), None),  # it has not caught up
        ((3, 1, 2, 0), (3,), (0,), (0, 1, 2, 3), ((3, 1, 2), (3, 1, 2), 3)),  # the leader goes
        ((1, 2, 3, 0), (3,), (0,), (0, 3), ((1, 2, 3), (3,), 3)),  # what was added is enough
        ((1, 0, 2), (), (0, 2), (0, 2), None),  # fewer: all that stay have to be there
        ((1, 0, 2), (), (0, 2), (0, 1), ((1,), (1,), 1)),
        ((0, 1, 2), (2,), (), (0, 1, 2), ((0, 1, 2), (0, 1, 2), 0)),  # only more
    ],
)
def test_a_reassignment_ends_when_its_target_is_in_sync(
    replicas: tuple[int, ...],
    adding: tuple[int, ...],
    removing: tuple[int, ...],
    isr: tuple[int, ...],
    becomes: tuple[tuple[int, ...], tuple[int, ...], int] | None,
) -> None:
    partition = PartitionImage(T, 0, replicas, isr, 0, 7, 9, adding=adding, removing=removing)
    now = settled(partition, voters((0, 1, 2, 3)), 1)
    if becomes is None:
        assert now is partition
    else:
        assert (now.replicas, now.isr, now.leader) == becomes
        assert (now.adding, now.removing) == ((), ())
        assert now.leader_epoch == (7 if set(replicas) <= set(now.replicas) else 8)


ids = st.integers(0, 5)


@st.composite
def partitions(draw: st.DrawFn) -> PartitionImage:
    """Any partition that could be stored."""
    replicas = tuple(draw(st.lists(ids, min_size=1, max_size=5, unique=True)))
    some = st.lists(st.sampled_from(replicas), unique=True).map(
        lambda found: tuple(id for id in replicas if id in found)
    )
    isr, others = draw(some), draw(some)
    leader = draw(st.sampled_from(isr)) if isr and draw(st.booleans()) else NO_LEADER
    adding, removing = (draw(some), draw(some)) if draw(st.booleans()) else ((), ())
    return PartitionImage(
        T,
        0,
        replicas,
        isr,
        leader,
        7,
        9,
        5,
        elr=tuple(id for id in others if id not in isr),
        last_leader=draw(st.sampled_from((*replicas, NO_LEADER))) if leader == NO_LEADER else NO_LEADER,
        adding=tuple(id for id in adding if id not in removing),
        removing=removing,
    )


@given(partitions(), st.frozensets(ids), st.frozensets(ids), st.integers(0, 4), st.booleans(), st.data())
def test_R9_R10_no_decision_loses_what_is_committed(
    before: PartitionImage,
    live: frozenset[int],
    leaving: frozenset[int],
    min_isr: int,
    unclean: bool,
    data: st.DataObject,
) -> None:
    """Whatever is decided: nobody leads that may lack something, nothing is shortened, and it is decided once."""
    lossy = tuple(data.draw(st.frozensets(ids, max_size=1))) if data.draw(st.booleans()) else ()
    brokers = Electorate(live - set(lossy), live - leaving - set(lossy), frozenset(range(5)) | live)
    now = settled(before, brokers, min_isr, unclean, lossy=lossy)
    again = settled(now, brokers, min_isr, unclean, lossy=lossy)
    assert again is now or (now.adding or now.removing) and not (again.adding or again.removing)
    assert settled(again, brokers, min_isr, unclean, lossy=lossy) is again, "idempotent"
    if now is before:
        return
    assert (now.partition_epoch, now.mod_revision) == (before.partition_epoch + 1, before.mod_revision)
    assert now.leader_epoch - before.leader_epoch == (
        now.leader != before.leader or not set(before.replicas) <= set(now.replicas)
    )
    assert now.replicas and not set(now.isr) & set(now.elr) and set(now.isr) | set(now.elr) <= set(now.replicas)
    assert now.leader in {*now.isr, NO_LEADER}
    fit = {*before.isr} or {*before.elr} or {before.last_leader}  # if all of the ISR are dead, those that were eligible
    eligible = {*before.isr, *before.elr}
    if now.leader not in (NO_LEADER, before.leader):
        assert now.leader in brokers.active, "a leader is alive, and goes on to be"
        if not unclean:
            assert now.leader in (eligible or fit), "a leader has all that was committed (R9)"
        if set(before.isr) & brokers.active - set(before.removing):
            assert now.leader in before.isr, "the ISR comes before those that are only eligible"
    if now.leader == NO_LEADER and not lossy:
        gone = {*before.isr, *before.elr} - {*now.isr, *now.elr}
        large_enough = len(before.isr) >= min(min_isr, len(before.replicas))
        may_go = set(before.elr) if large_enough else set()  # of before the ISR was large enough
        assert gone <= may_go | ({*before.isr, *before.elr} - brokers.registered) | set(before.removing), (
            "nothing is shortened (R9)"
        )
    assert not set(lossy) & set(now.elr) and (min_isr == NO_ELR or not set(lossy) & set(now.isr) or now.isr == lossy)


@given(partitions(), st.frozensets(ids, min_size=1))
def test_who_leaves_gives_away_what_others_have(before: PartitionImage, live: frozenset[int]) -> None:
    leaver = min(live)
    image = cluster(*live, partitions=[before])
    rules = Rules(image, BrokerConfig())
    found = at_once(elections.leave(image, leaver, rules))
    others = (live - {leaver}) & set(before.isr)
    assert bool(found) == (leaver in before.isr and bool(others))
    for now in found:
        assert (
            leaver not in now.isr
            and now.leader != leaver
            and set(before.isr) - {leaver} <= {*now.isr, *before.removing}
        )
        assert now.leader_epoch == before.leader_epoch or before.leader in (leaver, NO_LEADER) or before.removing


@given(partitions(), st.frozensets(ids, min_size=1))
def test_R10_who_may_have_lost_something_is_in_no_isr(before: PartitionImage, live: frozenset[int]) -> None:
    image = cluster(*live, partitions=[before])
    for lossy in range(6):
        found = at_once(elections.disown(image, lossy, MINE_WITH_ELR))
        if before.replicas == (lossy,) or lossy not in {*before.isr, *before.elr}:
            assert not found
        for now in found:
            assert lossy not in now.isr and lossy not in now.elr and now.leader != lossy
            if not now.isr and not now.elr and before.leader == lossy:
                assert now.last_leader == lossy


def test_preferred_leaders_come_back() -> None:
    led_elsewhere = PartitionImage(T, 0, (0, 1, 2), (0, 1), 1, 7, 9)
    not_in_sync = PartitionImage(T, 1, (2, 1, 0), (0, 1), 1, 7, 9)
    as_it_should = PartitionImage(T, 2, (0, 1, 2), (0, 1), 0, 7, 9)
    image = cluster(0, 1, 2, partitions=[led_elsewhere, not_in_sync, as_it_should])
    assert at_once(elections.balance(image, ["t", "gone"])) == [elections.led_by(led_elsewhere, 0)]


def test_by_which_rules() -> None:
    levels = Finalized({"eligible.leader.replicas.version": 1}, 1)
    config = BrokerConfig().with_values({"min.insync.replicas": 2, "unclean.leader.election.enable": True})
    own = TopicImage("own", T, (), {"min.insync.replicas": "3", "unclean.leader.election.enable": "false"})
    plain = TopicImage("plain", T, (), {})
    rules = Rules(replace(cluster(), features=levels), config)
    assert (rules.min_isr(own), rules.min_isr(plain), rules.is_unclean(own), rules.is_unclean(plain)) == (
        3,
        2,
        False,
        True,
    )
    agreed = {"": {"min.insync.replicas": "1", "unclean.leader.election.enable": "false"}}
    rules = Rules(replace(cluster(), features=levels, broker_configs=agreed), config)
    assert (rules.min_isr(own), rules.min_isr(plain), rules.is_unclean(plain)) == (3, 1, False)
    assert Rules(cluster(), config).min_isr(own) == NO_ELR
