"""The states of a transaction, and what may follow what (Kafka: TransactionState).

    Empty ───────────▶ Ongoing ──▶ PrepareCommit ──▶ CompleteCommit ──▶ Ongoing, Empty, …
                          └──────▶ PrepareAbort ───▶ CompleteAbort ───▶ Ongoing, Empty, …

What is Prepare* in the log is decided: its markers are written, whatever happens in between (T2).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class TransactionState(IntEnum):
    """The number is what a record holds."""

    EMPTY = 0  # a producer id, and no transaction yet
    ONGOING = 1  # partitions were added
    PREPARE_COMMIT = 2  # it will be committed: markers are being written
    PREPARE_ABORT = 3  # it will be aborted: the same
    COMPLETE_COMMIT = 4  # every marker is written
    COMPLETE_ABORT = 5
    DEAD = 6  # the id is forgotten; never stored
    PREPARE_EPOCH_FENCE = 7  # in Kafka, for a moment before PrepareAbort; never stored, and unknown to the cores here


S = TransactionState

# From which states each may be entered. An abort without a transaction is one of transaction.version 2: it bumps the
# epoch of a producer that does not know what of its transaction has arrived.
PREVIOUS: Mapping[TransactionState, frozenset[TransactionState]] = {
    S.EMPTY: frozenset({S.EMPTY, S.COMPLETE_COMMIT, S.COMPLETE_ABORT}),
    S.ONGOING: frozenset({S.ONGOING, S.EMPTY, S.COMPLETE_COMMIT, S.COMPLETE_ABORT}),
    S.PREPARE_COMMIT: frozenset({S.ONGOING}),
    S.PREPARE_ABORT: frozenset({S.ONGOING, S.PREPARE_EPOCH_FENCE, S.EMPTY, S.COMPLETE_COMMIT, S.COMPLETE_ABORT}),
    S.COMPLETE_COMMIT: frozenset({S.PREPARE_COMMIT}),
    S.COMPLETE_ABORT: frozenset({S.PREPARE_ABORT}),
    S.DEAD: frozenset({S.EMPTY, S.COMPLETE_COMMIT, S.COMPLETE_ABORT}),
    S.PREPARE_EPOCH_FENCE: frozenset({S.ONGOING}),
}

# As DescribeTransactions and ListTransactions call them.
NAMES: Mapping[TransactionState, str] = {
    state: "".join(word.capitalize() for word in state.name.split("_")) for state in TransactionState
}
BY_NAME: Mapping[str, TransactionState] = {name: state for state, name in NAMES.items()}

ENDING = frozenset({S.PREPARE_COMMIT, S.PREPARE_ABORT})
ENDED = ENDING | {S.COMPLETE_COMMIT, S.COMPLETE_ABORT}
IDLE = frozenset({S.EMPTY, S.COMPLETE_COMMIT, S.COMPLETE_ABORT})  # an id in these may be forgotten
