"""Bugs of replication that have shipped somewhere: planted one at a time, each has to be found.

Each is a function that patches the broker (and nothing of the tests, but for what stands in for a part of it there).
The ancestors are named in docs/invariants.md's terms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest import MonkeyPatch

from kbroker.api import produce
from kbroker.cluster.image import PartitionImage
from kbroker.cluster.isr_changes import IsrChange, IsrOutcome
from kbroker.log.derived.producers import ProducerStates
from kbroker.log.log import PartitionLog
from kbroker.replication.followers import Follower
from kbroker.replication.partition import LOG_END, Partition

Bug = Callable[[MonkeyPatch], None]


def truncates_to_the_high_watermark(patch: MonkeyPatch) -> None:
    """A follower cuts its log to its own high watermark, and no epochs are compared (KIP-101)."""
    follow = Partition.follow

    def cutting(self: Partition, image: PartitionImage) -> None:
        epoch = self.leader_epoch
        follow(self, image)
        if self.leader_epoch > epoch and self.log.offline is None:
            self.log.truncate_to(self.high_watermark.value)

    patch.setattr(Partition, "follow", cutting)
    patch.setattr(Partition, "parting", lambda *_, **__: None)


def counts_a_shrink_before_it_is_known(patch: MonkeyPatch) -> None:
    """A proposal counts as agreed on (R5)."""

    def hasty(self: Partition, change: IsrChange) -> None:
        if self.leading and change.partition is self.image:
            self.isr = change.isr
            self._count_members()

    patch.setattr(Partition, "propose", hasty)


def forgets_a_proposal_that_was_not_answered(patch: MonkeyPatch) -> None:
    """A timeout is taken for a failure (KAFKA-14144)."""
    settle = Partition.settle

    def hasty(self: Partition, change: IsrChange, outcome: IsrOutcome, image: PartitionImage | None) -> None:
        if self.proposal is change and outcome is IsrOutcome.UNKNOWN:
            self.proposal = None
            self._count_members()
        else:
            settle(self, change, outcome, image)

    patch.setattr(Partition, "settle", hasty)


def takes_a_refusal_for_a_word_on_what_was_asked_before(patch: MonkeyPatch) -> None:
    """The proposal is given up, though the image that made the store refuse may have it (R5)."""
    settle = Partition.settle

    def hasty(self: Partition, change: IsrChange, outcome: IsrOutcome, image: PartitionImage | None) -> None:
        settle(self, change, outcome, change.partition if outcome is IsrOutcome.REFUSED else image)

    patch.setattr(Partition, "settle", hasty)


def keeps_producers_in_the_leaders_memory(patch: MonkeyPatch) -> None:
    """A follower does not note the producers of what it takes (P2)."""
    append = PartitionLog.append_replicated

    def forgetful(self: PartitionLog, *args: Any, **options: Any) -> int:
        producers, self.producers = self.producers, ProducerStates()
        try:
            return append(self, *args, **options)
        finally:
            self.producers = producers

    patch.setattr(PartitionLog, "append_replicated", forgetful)


def reads_past_the_high_watermark(patch: MonkeyPatch) -> None:
    """Consumers see what only the leader has (L7)."""
    read = Partition.read

    def seeing(self: Partition, *args: Any, **options: Any) -> Any:
        return read(self, *args, **options | {"isolation": LOG_END} if self.leading else options)

    patch.setattr(Partition, "read", seeing)


def acknowledges_what_it_appended(patch: MonkeyPatch) -> None:
    """Without waiting for anybody."""
    patch.setattr(produce, "_note_pending", lambda *_: None)
    patch.setattr("tests.replication.world.is_acknowledged", lambda sent: True)


def resumes_an_epoch_after_a_restart(patch: MonkeyPatch) -> None:
    """Whoever led goes on in the same epoch (R8)."""
    patch.setattr("kbroker.cluster.elections.take_up", lambda image, broker_id: _nothing())
    patch.setattr("tests.replication.world.taken_up", lambda image, broker_id, live: image)


def _nothing() -> Any:
    return []
    yield


def joins_without_a_look_at_the_epochs_start(patch: MonkeyPatch) -> None:
    """Who has what the high watermark covers joins (KAFKA-7128)."""

    def lenient(self: Partition, follower: Follower) -> bool:
        return follower.session is not None and follower.end >= self.high_watermark.value

    patch.setattr(Partition, "_may_join", lenient)


def counts_the_fetches_of_who_diverges(patch: MonkeyPatch) -> None:
    """The leader notes where a follower is before it has looked whether that is the same log (KAFKA-13141)."""
    check, parting, asking = Partition.check_follower, Partition.parting, [0]

    def noting(self: Partition, replica_id: int, current_leader_epoch: int) -> None:
        asking[0] = replica_id
        check(self, replica_id, current_leader_epoch)

    def hasty(self: Partition, offset: int, *args: Any, **options: Any) -> Any:
        follower = self.followers.get(asking[0])
        if options.get("as_replica") and follower is not None and offset <= self.log.end.value:
            follower.end = offset
            self._advance()
        return parting(self, offset, *args, **options)

    patch.setattr(Partition, "check_follower", noting)
    patch.setattr(Partition, "parting", hasty)


def commits_with_too_few_in_sync(patch: MonkeyPatch) -> None:
    """The high watermark goes on moving under min.insync.replicas, while others are eligible (R6, KIP-966)."""
    patch.setattr(Partition, "has_min_isr", True)

    def unmoved(self: Partition) -> None:
        if self.leading:
            ends = [self.log.end.value, *(self.followers[id].end for id in self._maximal if id != self.node_id)]
            self.high_watermark.advance(min(ends))

    patch.setattr(Partition, "_advance", unmoved)


PLANTED: list[Bug] = [
    truncates_to_the_high_watermark,
    counts_a_shrink_before_it_is_known,
    forgets_a_proposal_that_was_not_answered,
    takes_a_refusal_for_a_word_on_what_was_asked_before,
    keeps_producers_in_the_leaders_memory,
    reads_past_the_high_watermark,
    acknowledges_what_it_appended,
    resumes_an_epoch_after_a_restart,
    joins_without_a_look_at_the_epochs_start,
    counts_the_fetches_of_who_diverges,
    commits_with_too_few_in_sync,
]
