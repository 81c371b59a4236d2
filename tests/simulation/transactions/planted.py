"""Bugs that brokers have had, or nearly: planted one at a time, each has to be found.

Each is a function that patches the broker; PLANTED says under which rules and faults to look for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytest import MonkeyPatch

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.internal import WritableTxnMarkerPartitionResult
from kbroker.api import transaction_markers
from kbroker.coordinators.effects import Effect, Order, Store
from kbroker.coordinators.shard import Shard
from kbroker.groups.offsets import Offsets
from kbroker.groups.pending import Pending
from kbroker.groups.shard import GroupShard
from kbroker.log import rediscovery
from kbroker.log.derived.producers import ProducerStates
from kbroker.log.derived.transactions import Transactions
from kbroker.log.log import PartitionLog
from kbroker.replication.partition import Partition
from kbroker.transactions.coordinator import TransactionCoordinator
from kbroker.transactions.transaction import Transaction
from tests.simulation.runs import Planted


def markers_lost(patch: MonkeyPatch) -> None:
    """Every seventh is answered, and not written."""
    write, count = transaction_markers._write, iter(range(10**9))

    def lossy(topic: str, index: int, *rest: Any) -> WritableTxnMarkerPartitionResult:
        if next(count) % 7:
            return write(topic, index, *rest)
        return WritableTxnMarkerPartitionResult(partition_index=index)

    patch.setattr(transaction_markers, "_write", lossy)


def markers_not_taken_up_after_a_restart(patch: MonkeyPatch) -> None:
    patch.setattr(TransactionCoordinator, "_take_up", lambda self, shard: iter(()))


def the_last_stable_offset_is_the_high_watermark(patch: MonkeyPatch) -> None:
    patch.setattr(PartitionLog, "stable_below", lambda self, high_watermark: high_watermark)


def the_last_stable_offset_moves_when_the_marker_is_appended(patch: MonkeyPatch) -> None:
    def end(self: Transactions, producer_id: int, marker_offset: int) -> None:
        self.ongoing.pop(producer_id, None)
        self.first_unstable = self.first_ongoing

    patch.setattr(Transactions, "end", end)


def transactions_in_memory_only(patch: MonkeyPatch) -> None:
    add = Transaction.add

    def forgetful(self: Transaction, *args: Any, **options: Any) -> list[Effect]:
        return [effect for effect in add(self, *args, **options) if not isinstance(effect, Store)]

    patch.setattr(Transaction, "add", forgetful)


def no_verification(patch: MonkeyPatch) -> None:
    patch.setattr(Partition, "verification", lambda self, header, **options: None)
    patch.setattr(ProducerStates, "_check_guard", lambda self, *args: None)


def a_marker_amid_a_verification_does_not_matter(patch: MonkeyPatch) -> None:
    patch.setattr(ProducerStates, "_check_guard", lambda self, *args: None)


def offsets_visible_before_the_marker(patch: MonkeyPatch) -> None:
    pend = Offsets.pend

    def settle(self: Offsets, producer_id: int, producer_epoch: int, group: str, changes: Any, offset: int) -> None:
        pend(self, producer_id, producer_epoch, group, changes, offset)
        self._settle(group, changes)

    patch.setattr(Offsets, "pend", settle)


def unstable_offsets_are_told(patch: MonkeyPatch) -> None:
    patch.setattr(Offsets, "is_unstable", lambda self, group, topic, partition: False)


def the_last_to_be_committed_wins(patch: MonkeyPatch) -> None:
    patch.setattr(Pending, "_outdo", lambda self, group, topic, partition, offset: None)


def markers_before_the_decision_is_committed(patch: MonkeyPatch) -> None:
    perform = Shard.perform

    def hasty(self: Shard, name: str, effects: Iterable[Effect]) -> None:
        effects = list(effects)
        perform(self, name, [effect for effect in effects if not isinstance(effect, Order)])
        for effect in effects:
            if isinstance(effect, Order):
                self.carry_out(name, effect.what)

    patch.setattr(Shard, "perform", hasty)


def complete_before_the_markers_are_committed(patch: MonkeyPatch) -> None:
    async def committed(*args: Any) -> ErrorCode:
        return ErrorCode.NONE

    patch.setattr(transaction_markers, "_committed", committed)


def a_quiet_border_ends_the_search_for_aborted_transactions(patch: MonkeyPatch) -> None:
    patch.setattr(rediscovery, "is_last", lambda lowest_open, segment, bound: lowest_open >= bound)


def coordinators_do_not_flush(patch: MonkeyPatch) -> None:
    patch.setattr(Shard, "owes_flush", False)


def pending_offsets_lost_at_a_restart(patch: MonkeyPatch) -> None:
    patch.setattr(GroupShard, "restore_open", lambda self, open_: iter(()))


# Under which rules and faults to look; without copies a seed is quicker.
ALONE = {"copies": False}
LAGS = {"lags": True, **ALONE}
OLD = {"version": 0, "durable": False, "lags": False, **ALONE}
PLANTED = [
    Planted(markers_lost, "is committed, and lost|aborted read.* which is aborted", ("reset",), ALONE),
    Planted(markers_not_taken_up_after_a_restart, "the producers are not served", ("prepared", "marking"), ALONE),
    Planted(the_last_stable_offset_is_the_high_watermark, "aborted read.* which is open", ("reset",), ALONE),
    Planted(
        the_last_stable_offset_moves_when_the_marker_is_appended,
        "the last stable offset was told as",
        ("marking", "fail_over"),
        LAGS,
    ),
    Planted(transactions_in_memory_only, "aborted read", ("open", "kill"), ALONE),
    Planted(no_verification, "aborted read", ("reset",), {"is_distant": False, **OLD}, first=3),
    Planted(a_marker_amid_a_verification_does_not_matter, "aborted read", ("slow",), {"is_distant": True, **OLD}),
    Planted(offsets_visible_before_the_marker, "committed so far is", ("reset",)),
    Planted(unstable_offsets_are_told, "stable is", ("cut", "slow")),
    Planted(the_last_to_be_committed_wins, "stable is", ("reset",)),
    Planted(markers_before_the_decision_is_committed, "aborted read", ("usurp",), LAGS, first=37),
    Planted(complete_before_the_markers_are_committed, "aborted read", ("fail_over", "marked"), LAGS, first=5),
    Planted(a_quiet_border_ends_the_search_for_aborted_transactions, "aborted read", ("reset",), ALONE),
    Planted(coordinators_do_not_flush, "the readers are not served", ("power_loss",), {"durable": True, **ALONE}),
    Planted(pending_offsets_lost_at_a_restart, "offset .* after", ("kill", "kill_twice"), first=7),
]
