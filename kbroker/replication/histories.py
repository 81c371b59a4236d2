"""Where an epoch ends in a log, as far as its leader knows: by that two replicas find out where their histories part.

    epochs of the log   1: 0 ...... 3: 40 ...... 55 end        led now in epoch 6, which began at 55 and has no record
    epoch_end           1 → (1, 40)   2 → (1, 40)   3 → (3, 55)   5 → (3, 55)   6 → (6, 55)

Epochs that left no record count: what was written in one of them elsewhere is no part of this log. (KIP-101, KIP-595.)
"""

from __future__ import annotations

from kbroker.log.derived.epochs import NO_EPOCH
from kbroker.log.log import PartitionLog


def epoch_end(log: PartitionLog, epoch: int, leader_epoch: int, begun_at: int) -> tuple[int, int]:
    """The last epoch of a leader's log at or before epoch, and where it ends; (-1, -1) when there is none (R4).

    leader_epoch: the current one, which ends at the log's end. begun_at: where the log ended when that began.
    """
    end, latest = log.end.value, log.epochs.latest
    if epoch == leader_epoch:
        return epoch, end
    if latest < epoch < leader_epoch:
        return (latest if latest != NO_EPOCH else epoch), begun_at
    return log.epochs.end_offset_for(epoch, end if latest == leader_epoch else begun_at)
