"""Who leads a partition and who is in sync, as pure functions of the picture of the cluster.

    settled      one partition as it should be, by who is alive         decide       of many topics, those that differ
    take_up      what a broker finds when it has registered (R8)        leave        what it hands over before it stops
    disown       what it is no longer fit for (R10)                     balance      preferred leaders

    the leader lives and is in sync ──────────────────────────── it stays
    else the first live replica of the ISR
    else, the ISR being empty, of the eligible replicas (ELR) ── the ISR is it alone
    else, both being empty, who led last ─────────────────────── the ISR is it alone
    else, where unclean elections are configured, any live one ─ the ISR is it alone
    else nobody (R9)

A dead broker leaves the ISR, and stays eligible while the ISR is smaller than min.insync.replicas (KIP-966).
An eligible replica has everything that is committed, because nothing is committed while the ISR is too small: the high
watermark stands still while a partition has eligible replicas. Who may have lost something is not eligible (R10). In a
cluster that has not agreed on `eligible.leader.replicas.version` 1 there are none, and the last of an ISR stays in it.

(Kafka: PartitionChangeBuilder, ReplicationControlManager.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from kbroker.cluster.changes.config_changes import MIN_ISR
from kbroker.cluster.image import NO_LEADER, ClusterImage, PartitionImage, TopicImage
from kbroker.config import BrokerConfig
from kbroker.turns import Work

UNCLEAN = "unclean.leader.election.enable"
CHUNK = 8  # partitions between two pauses
NO_ELR = 0  # as min_isr: no replica becomes eligible by leaving, and the last member of an ISR stays in it


class Electorate(NamedTuple):
    """The brokers, by what they may become."""

    live: frozenset[int]  # they stay what they are
    active: frozenset[int]  # and may be elected: those that are not about to stop
    registered: frozenset[int]  # known, if not alive


class Rules:
    """By which elections are decided: what the cluster, its topics and this broker are configured to."""

    __slots__ = ("_has_elr", "_min_isr", "_unclean")

    def __init__(self, image: ClusterImage, config: BrokerConfig) -> None:
        """config: of the broker that decides; what the cluster has for all brokers comes before it."""
        everyone = image.broker_configs.get("", {})
        self._has_elr = image.features.has_eligible_replicas
        self._min_isr = everyone.get(MIN_ISR) or str(config.get_int(MIN_ISR))
        self._unclean = everyone.get(UNCLEAN) or str(config.get_bool(UNCLEAN))

    def min_isr(self, topic: TopicImage) -> int:
        """min.insync.replicas of a topic; NO_ELR in a cluster without eligible replicas."""
        return int(topic.configs.get(MIN_ISR, self._min_isr)) if self._has_elr else NO_ELR

    def is_unclean(self, topic: TopicImage) -> bool:
        """Whether a replica that is not in sync may lead when no other is left."""
        return topic.configs.get(UNCLEAN, self._unclean).lower() == "true"


def electorate(image: ClusterImage, joining: int = NO_LEADER) -> Electorate:
    """The brokers of an image. joining: one that is about to be among them."""
    more = {joining} - {NO_LEADER}
    active = (broker.id for broker in image.brokers.values() if not broker.leaving)
    return Electorate(
        frozenset(image.brokers) | more,
        frozenset(active) | more,
        frozenset((*image.registrations, *image.brokers, *more)),
    )


# One partition. Whatever changes it is made by `changed`, which keeps in step what belongs together.


def changed(
    partition: PartitionImage,
    isr: Collection[int],
    leader: int,
    *,
    elr: Collection[int] | None = None,
    replicas: tuple[int, ...] | None = None,
    adding: tuple[int, ...] | None = None,
    removing: tuple[int, ...] | None = None,
    is_new_epoch: bool = False,
) -> PartitionImage:
    """The partition with this ISR and leader (and what else is given), in its next partition epoch.

    The leader epoch is a new one where the leader changes, a replica goes, or is_new_epoch says so. Whom a partition
    loses as its leader it remembers until there is another (KIP-966's last known leader).
    """
    replicas = partition.replicas if replicas is None else replicas
    elr = partition.elr if elr is None else elr
    last = NO_LEADER
    if leader == NO_LEADER:
        last = partition.leader if partition.last_leader == NO_LEADER else partition.last_leader
    is_new_epoch = is_new_epoch or leader != partition.leader or not {*partition.replicas}.issubset(replicas)
    return PartitionImage(
        partition.topic_id, partition.index, replicas, tuple(id for id in replicas if id in isr), leader,
        partition.leader_epoch + is_new_epoch, partition.partition_epoch + 1, partition.mod_revision,
        tuple(id for id in replicas if id in elr), last, partition.adding if adding is None else adding,
        partition.removing if removing is None else removing,
    )  # fmt: skip


def with_isr(
    partition: PartitionImage, isr: Collection[int], min_isr: int, lossy: Collection[int] = ()
) -> PartitionImage:
    """The partition with this ISR, in its next epoch.

    Args:
        partition: as it is.
        isr: the members it is to have, all of them replicas; kept in the order of the replicas.
        min_isr: min.insync.replicas of the topic (Rules.min_isr).
        lossy: brokers that may have lost what they had. They are eligible no more (R10).
    """
    return changed(partition, isr, partition.leader, elr=_eligible(partition, partition.replicas, isr, min_isr, lossy))


def led_by(partition: PartitionImage, leader: int) -> PartitionImage:
    """The partition with this leader (NO_LEADER: none), in its next leader epoch even if it is the same leader."""
    return changed(partition, partition.isr, leader, is_new_epoch=True)


def _eligible(
    partition: PartitionImage, replicas: Collection[int], isr: Collection[int], min_isr: int, lossy: Collection[int]
) -> Collection[int]:
    """Who is eligible once these are the replicas, and this the ISR: who was, and who leaves it while it is too small.

    A partition with fewer replicas than min_isr needs no more than it has. Those that were eligible are so no more if
    the ISR has been large enough since, by a configuration that was lowered: something may be committed without them.
    """
    if isr and len(isr) >= min(min_isr, len(replicas)):
        return ()
    was_large_enough = partition.isr and len(partition.isr) >= min(min_isr, len(partition.replicas))
    before = {*partition.isr} if was_large_enough else {*partition.isr, *partition.elr}
    return before.intersection(replicas).difference(isr, lossy)


def settled(
    partition: PartitionImage,
    brokers: Electorate,
    min_isr: int,
    is_unclean: bool = False,
    *,
    is_preferred: bool = False,
    without: int = NO_LEADER,
    lossy: Collection[int] = (),
) -> PartitionImage:
    """The partition as it should be; the very same where it is.

    Applied again, it changes nothing more (but a reassignment whose last condition was an election ends then).

    Args:
        partition: as it is.
        brokers: who is alive.
        min_isr: Rules.min_isr of the topic.
        is_unclean: a replica that is not in sync may lead, if no other is left.
        is_preferred: the first replica leads if it may, whoever leads now.
        without: a broker that is to leave the ISR, and not to lead.
        lossy: brokers that may have lost what they had: neither in sync nor eligible (R10).
    """
    live, leader = brokers.live, partition.leader
    if leader in partition.isr and live.issuperset(partition.isr) and not (
        partition.elr or partition.adding or partition.removing or is_preferred or lossy or without != NO_LEADER
    ):  # fmt: skip
        return partition
    isr: Collection[int] = [id for id in partition.isr if id in live and id not in lossy and id != without]
    if not isr and min_isr == NO_ELR:
        isr = partition.isr
    replicas, isr, adding, removing = _completed(partition, isr)
    elr = brokers.registered.intersection(_eligible(partition, replicas, isr, min_isr, lossy))
    if not (leader in isr and leader in live) or is_preferred:
        leader, isr, elr = _elected(partition, replicas, isr, elr, brokers, is_unclean, is_preferred)
        if len(isr) == 1 and min(min_isr, len(replicas)) <= 1:
            elr = frozenset()  # an ISR of one is large enough
        if leader == NO_LEADER and isr:  # nothing is committed meanwhile: who was in sync, still is
            isr = [id for id in partition.isr if id in replicas and id not in lossy and id != without]
            elr = brokers.registered.intersection(_eligible(partition, replicas, isr, min_isr, lossy))
    if (
        leader == partition.leader and {*isr} == {*partition.isr} and elr == {*partition.elr}
        and (replicas, adding, removing) == (partition.replicas, partition.adding, partition.removing)
    ):  # fmt: skip
        return partition
    return changed(partition, isr, leader, elr=elr, replicas=replicas, adding=adding, removing=removing)


def _elected(
    partition: PartitionImage,
    replicas: tuple[int, ...],
    isr: Collection[int],
    elr: frozenset[int],
    brokers: Electorate,
    is_unclean: bool,
    is_preferred: bool,
) -> tuple[int, Collection[int], frozenset[int]]:
    """Leader, ISR and eligible replicas after an election."""
    live, active = brokers.live, brokers.active
    if is_preferred and partition.leader in isr and partition.leader in live:
        preferred = replicas[0] if replicas[0] in isr and replicas[0] in active else partition.leader
        return preferred, isr, elr
    leader = next((id for id in replicas if id in isr and id in active), NO_LEADER)
    if leader != NO_LEADER:
        return leader, isr, elr
    if not isr:
        leader = next((id for id in replicas if id in elr and id in active), NO_LEADER)
        if leader != NO_LEADER:
            return leader, (leader,), elr - {leader}
        if not elr and partition.last_leader in active and partition.last_leader in replicas:
            return partition.last_leader, (partition.last_leader,), elr
    if is_unclean and live.isdisjoint(isr):
        leader = next((id for id in replicas if id in active), NO_LEADER)
        if leader != NO_LEADER:
            return leader, (leader,), frozenset()
    return NO_LEADER, isr, elr


def _completed(
    partition: PartitionImage, isr: Collection[int]
) -> tuple[tuple[int, ...], Collection[int], tuple[int, ...], tuple[int, ...]]:
    """Replicas, ISR, adding and removing, after a reassignment that has reached its end; else as they are.

    It has when all that were added are in sync, and somebody stays; where there will be fewer, all that stay.
    (Kafka: PartitionReassignmentReplicas.maybeCompleteReassignment.)
    """
    adding, removing = partition.adding, partition.removing
    if adding or removing:
        staying = tuple(id for id in partition.replicas if id not in removing)
        members = [id for id in isr if id not in removing]
        waits_for = staying if len(adding) < len(removing) else adding
        if members and {*waits_for} <= {*members}:
            return staying, members, (), ()
    return partition.replicas, isr, adding, removing


# Many partitions, in turns.


def decide(image: ClusterImage, names: Iterable[str], rules: Rules) -> Work[list[PartitionImage]]:
    """The partitions of these topics that are not as they should be, as they should be: those to be led first."""
    brokers = electorate(image)
    elections: list[PartitionImage] = []
    others: list[PartitionImage] = []
    for topic, chunk in _chunks(image, names):
        yield
        min_isr, is_unclean = rules.min_isr(topic), rules.is_unclean(topic)
        for partition in chunk:
            now = settled(partition, brokers, min_isr, is_unclean)
            if now is not partition:
                (others if now.leader == partition.leader else elections).append(now)
    return elections + others


def take_up(image: ClusterImage, broker_id: int, rules: Rules) -> Work[list[PartitionImage]]:
    """What changes when a broker has registered (again): it resumes no leadership of an epoch it led before (R8).

    A partition it led gets a new leader epoch: led by another live member of the ISR, else by this broker. One that
    has no leader gets one, if this broker makes that possible.
    """
    brokers = electorate(image, joining=broker_id)
    found = []
    for topic, chunk in _chunks(image, image.topics):
        yield
        for partition in chunk:
            if partition.leader == broker_id:
                others = (id for id in partition.replicas if id != broker_id and id in partition.isr)
                found.append(led_by(partition, next((id for id in others if id in brokers.active), broker_id)))
            elif partition.leader == NO_LEADER and broker_id in partition.replicas:
                now = settled(partition, brokers, rules.min_isr(topic), rules.is_unclean(topic))
                if now.leader != NO_LEADER:
                    found.append(now)
    return found


def leave(
    image: ClusterImage, broker_id: int, rules: Rules, wanted: Collection[tuple[str, int]] | None = None
) -> Work[list[PartitionImage]]:
    """What a broker hands over: each ISR in which another stays that may lead. What it leads comes first.

    wanted: (topic, index) of partitions for which it cannot be relied on for what it had; None: all, it only stops.
    """
    everyone = electorate(image)
    active = everyone.active - {broker_id}
    lossy = () if wanted is None else (broker_id,)
    led: list[PartitionImage] = []
    followed: list[PartitionImage] = []
    names = image.topics if wanted is None else dict.fromkeys(name for name, _ in sorted(wanted))
    for topic, chunk in _chunks(image, names):
        yield
        for partition in chunk:
            is_wanted = wanted is None or (topic.name, partition.index) in wanted
            if is_wanted and broker_id in partition.isr and not active.isdisjoint(partition.isr):
                # Who else is dead, is another's business.
                brokers = Electorate(frozenset(partition.isr), active, everyone.registered)
                now = settled(partition, brokers, rules.min_isr(topic), without=broker_id, lossy=lossy)
                (led if partition.leader == broker_id else followed).append(now)
    return led + followed


def disown(image: ClusterImage, broker_id: int, rules: Rules) -> Work[list[PartitionImage]]:
    """What a broker is no longer fit for that may have lost what it had: every ISR, and to be eligible (R10).

    A partition that nobody else is fit for keeps it as the last that led. One that no other broker has, keeps it.
    """
    everyone = electorate(image)
    brokers = everyone._replace(live=everyone.live - {broker_id}, active=everyone.active - {broker_id})
    found = []
    for topic, chunk in _chunks(image, image.topics):
        yield
        for partition in chunk:
            if partition.replicas != (broker_id,) and (broker_id in partition.isr or broker_id in partition.elr):
                now = settled(partition, brokers, rules.min_isr(topic), lossy=(broker_id,))
                if now is not partition:
                    found.append(now)
    return found


def balance(image: ClusterImage, names: Iterable[str]) -> Work[list[PartitionImage]]:
    """The partitions that could be led by their first replica, and are not."""
    active = electorate(image).active
    found = []
    for _, chunk in _chunks(image, names):
        yield
        for partition in chunk:
            first = partition.replicas[0]
            if partition.leader not in (first, NO_LEADER) and first in partition.isr and first in active:
                found.append(led_by(partition, first))
    return found


def _chunks(image: ClusterImage, names: Iterable[str]) -> Iterator[tuple[TopicImage, Sequence[PartitionImage]]]:
    """The partitions of these topics, as far as there are such, a few at a time."""
    for name in names:
        topic = image.topics.get(name)
        if topic is not None:
            for start in range(0, len(topic.own_partitions), CHUNK):
                yield topic, topic.own_partitions[start : start + CHUNK]
