"""Bugs that delayed delivery has had elsewhere, or nearly had here: planted one at a time, each has to be found.

Each is a function that patches the broker; PLANTED says in which scenario, and under which faults, to look for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest import MonkeyPatch

from kbroker.delay.delayer import Delayer
from kbroker.delay.schedule import Entry, Schedule
from kbroker.delay.tracker import Tracker
from kbroker.log.log import PartitionLog
from tests.simulation.delays.scenario import cluster_delays, delays
from tests.simulation.runs import Planted


def a_little_early(patch: MonkeyPatch) -> None:
    """Pulsar #10169: what is due within the next moment is as good as due."""
    bound = Delayer._bound_ms.fget  # type: ignore[attr-defined]
    patch.setattr(Delayer, "_bound_ms", property(lambda self: bound(self) + 20))


def forgotten_when_the_leadership_ends(patch: MonkeyPatch) -> None:
    """What was taken from the schedule, and not appended, is gone with the leader's memory of it."""
    patch.setattr(Schedule, "release", lambda self: self._taken.clear())


def delivered_before_all_was_read(patch: MonkeyPatch) -> None:
    """RocketMQ #3473: a new leader begins with what it knows, and delivers again what the last one had delivered."""
    patch.setattr(Delayer, "_may_append", lambda self, tracker: self.partition.leading and self._epoch >= 0)

    def take_over(self: Delayer, tracker: Tracker) -> None:
        if self._epoch < 0:
            self._epoch = self.partition.leader_epoch
            self.log.watch_hidden().on_news = self.wake

    patch.setattr(Delayer, "_take_over", take_over)


def the_saved_schedule_is_ahead_of_what_it_has_read(patch: MonkeyPatch) -> None:
    """rocketmq-rust #9154: after a restart it goes on behind what it has never seen."""
    save = Schedule.save

    def ahead(self: Schedule, position: Any) -> None:
        save(self, position._replace(offset=position.offset + 2))

    patch.setattr(Schedule, "save", ahead)


def aborted_transactions_count(patch: MonkeyPatch) -> None:
    """What a transaction hides is pending at once, whatever becomes of it."""
    take = Tracker._take_hidden

    def hasty(self: Tracker, header: Any, data: bytes) -> None:
        take(self, header._replace(attributes=header.attributes & ~0x10), data)

    patch.setattr(Tracker, "_take_hidden", hasty)


def cancels_are_forgotten(patch: MonkeyPatch) -> None:
    patch.setattr(Schedule, "cancel", lambda self, key, before: None)


def retention_takes_what_is_pending(patch: MonkeyPatch) -> None:
    patch.setattr(PartitionLog, "hold", lambda self, offset: None)


def some_of_a_batch_stay_behind(patch: MonkeyPatch) -> None:
    """Pulsar #5489: of what was taken the last is left out of the batch, and nobody takes it again."""
    take = Schedule.take

    def lossy(self: Schedule, now_ms: int, most: int) -> list[Entry]:
        taken: Sequence[Entry] = take(self, now_ms, most)
        return list(taken[:-1]) if len(taken) > 2 else list(taken)

    patch.setattr(Schedule, "take", lossy)


PLANTED = {
    delays: [
        Planted(a_little_early, "early", ("reset",)),
        Planted(
            the_saved_schedule_is_ahead_of_what_it_has_read,
            "is delivered at .* not pending",
            ("kill", "restart", "power_loss"),
            first=4,
        ),
        Planted(aborted_transactions_count, "is delivered at .* not pending", ("reset", "kill")),
        Planted(cancels_are_forgotten, "is delivered at .* not pending", ("reset",)),
        Planted(retention_takes_what_is_pending, "was never delivered", ("kill", "reset"), first=4),
        Planted(some_of_a_batch_stay_behind, "lost, late, or undecided", ("reset",)),
    ],
    cluster_delays: [
        Planted(forgotten_when_the_leadership_ends, "lost, late, or undecided", ("isolate", "kill", "slow"), first=19),
        Planted(delivered_before_all_was_read, "is delivered at .* not pending", ("kill", "restart", "slow"), first=5),
    ],
}
