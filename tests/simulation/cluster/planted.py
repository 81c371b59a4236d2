"""Bugs that replicated logs have had: planted one at a time, each has to be found.

Each is a function that patches the brokers; PLANTED says under which faults to look for it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pytest import MonkeyPatch

from kbroker.api import produce
from kbroker.cluster import isr_changes, joining
from kbroker.cluster.elections import NO_ELR, Rules, with_isr
from kbroker.cluster.image import NO_LEADER, ClusterImage, PartitionImage
from kbroker.cluster.isr_changes import IsrChange, IsrWriter
from kbroker.cluster.store import Guard
from kbroker.cluster.writer import Txn
from kbroker.replication import isr
from kbroker.replication.followers import Follower
from kbroker.replication.partition import LOG_END, Partition
from kbroker.turns import Work
from tests.simulation.runs import Planted


def truncation_to_the_high_watermark(patch: MonkeyPatch) -> None:
    """KIP-101: what a follower does not know to be committed goes when there is another leader."""
    follow = Partition.follow

    def forgetful(self: Partition, image: PartitionImage) -> None:
        epoch = self.leader_epoch
        follow(self, image)
        if self.leader_epoch != epoch and self.high_watermark.value < self.log.end.value:
            self.log.truncate_to(self.high_watermark.value)

    patch.setattr(Partition, "follow", forgetful)


def a_smaller_isr_counts_before_it_is_written(patch: MonkeyPatch) -> None:
    """R5."""

    def hasty(agreed: Collection[int], proposed: Collection[int] = ()) -> frozenset[int]:
        return frozenset(proposed or agreed)

    patch.setattr(isr, "maximal", hasty)


def producers_known_to_their_leader_only(patch: MonkeyPatch) -> None:
    """P2: what a follower took in its producers are not known of, once it leads."""
    lead = Partition.lead

    def forgetful(self: Partition, image: PartitionImage) -> None:
        epoch = self.leader_epoch
        lead(self, image)
        if self.leader_epoch != epoch:
            self.log.producers.by_id.clear()

    patch.setattr(Partition, "lead", forgetful)


def reads_past_the_high_watermark(patch: MonkeyPatch) -> None:
    """L7."""
    read = Partition.read

    def curious(self: Partition, *args: Any, isolation: int = 0, **options: Any) -> Any:
        return read(self, *args, isolation=LOG_END, **options)

    patch.setattr(Partition, "read", curious)


def acknowledged_when_the_leader_has_it(patch: MonkeyPatch) -> None:
    """R6."""
    pending = produce.Pending
    patch.setattr(
        produce, "Pending", lambda answer, partition, watermark, *rest: pending(answer, partition, None, *rest)
    )


def a_restarted_leader_goes_on_in_its_epoch(patch: MonkeyPatch) -> None:
    """R8."""
    take_up = joining.take_up

    def resume(image: ClusterImage, broker_id: int, rules: Rules) -> Work[list[PartitionImage]]:
        found = yield from take_up(image, broker_id, rules)
        topics = image.topics_by_id
        return [each for each in found if topics[each.topic_id].partitions[each.index].leader == NO_LEADER]

    patch.setattr(joining, "take_up", resume)


def nobody_is_eligible_outside_of_the_isr(patch: MonkeyPatch) -> None:
    """R10, before KIP-966: the last of an ISR stays in it, whatever it has lost."""
    patch.setattr(Rules, "min_isr", lambda self, topic: NO_ELR)


def who_joins_may_have_started_again(patch: MonkeyPatch) -> None:
    """R7, before KIP-903: no broker epoch is compared when an ISR grows."""

    def unguarded(self: IsrWriter, image: ClusterImage, changes: Sequence[IsrChange]) -> Txn:
        own = Guard(self._keys.broker(self._id), image.brokers[self._id].mod_revision)
        return self._partitions.txn([with_isr(c.partition, c.isr, c.min_isr) for c in changes], own)

    patch.setattr(IsrWriter, "_txn", unguarded)
    patch.setattr(isr_changes, "_is_possible", lambda change, own_id, image: own_id in image.brokers)


def who_joins_may_lack_earlier_epochs(patch: MonkeyPatch) -> None:
    """R7, K-7128: the high watermark alone decides who may join, where the leader may have forgotten it."""

    def level(self: Partition, follower: Follower) -> bool:
        return follower.session is not None and follower.end >= self.high_watermark.value

    patch.setattr(Partition, "_may_join", level)


def a_deposed_leader_is_certain_of_itself(patch: MonkeyPatch) -> None:
    """R14."""
    patch.setattr(Partition, "is_proven", property(lambda self: True))


PLANTED = [
    Planted(truncation_to_the_high_watermark, "R4", ("kill", "pause", "isolate"), first=28),
    Planted(a_smaller_isr_counts_before_it_is_written, "R5", ("lost_shrink", "store_cut", "one_way")),
    Planted(producers_known_to_their_leader_only, "duplicate", ("kill", "pause", "isolate")),
    Planted(reads_past_the_high_watermark, "the high watermark is", ("slow", "kill")),
    Planted(acknowledged_when_the_leader_has_it, "yet no high watermark has passed", ("slow", "kill")),
    Planted(a_restarted_leader_goes_on_in_its_epoch, "R8", ("kill", "restart", "slow")),
    Planted(nobody_is_eligible_outside_of_the_isr, "R3", ("last_standing",)),
    Planted(who_joins_may_have_started_again, "R7", ("rejoin", "old_fetch")),
    Planted(who_joins_may_lack_earlier_epochs, "R7", ("lag_join",)),
    Planted(a_deposed_leader_is_certain_of_itself, "R14", ("deposed",)),
]
