"""The confirm round: what a leader is about to say for good is held back until it is certain that it led (R14).

A valid session with the cluster proves that a broker lives, and not that it leads: leaders are moved between brokers
that live, too, and who led may hear of it late. But who is to lead next is a follower first. So a word is true as of
the moment it was found, if all who might have been elected have followed this leader since:

    a batch is refused ──InDoubt──▶ followers that wait are answered ──▶ all have asked again, after that ──▶ said
                                                                    └──▶ not within a second ──▶ NOT_LEADER_OR_FOLLOWER

(ReadIndex of Raft is the same thought.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.env import Clock
from kbroker.watermark import Watermark

CONFIRM_S = 1.0  # from the moment on that something is in doubt
LOOK_S = 0.005  # how often it is looked whether the followers have asked
DOUBTS_A_TURN = 256
# What an append says of the partition, not of the batch: clients act on it for good.
DEFINITIVE = frozenset(
    {
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode.UNKNOWN_PRODUCER_ID,
        ErrorCode.INVALID_PRODUCER_EPOCH,
        ErrorCode.DUPLICATE_SEQUENCE_NUMBER,
        ErrorCode.INVALID_TXN_STATE,
        ErrorCode.TRANSACTION_COORDINATOR_FENCED,
    }
)


T = TypeVar("T")


class NotLeader(KafkaError):
    """This broker does not lead the partition (any more)."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.NOT_LEADER_OR_FOLLOWER)


class LedOn(NotLeader):
    """A leader epoch is over, and this broker leads the next one, too, with nobody in between: a replica has gone, say.

    What was appended is in the log still. Who waited for that may go on with the high watermark of the new epoch.
    """

    def __init__(self, high_watermark: Watermark) -> None:
        super().__init__()
        self.high_watermark = high_watermark


class Led(Protocol):
    """A partition that this broker leads, or did."""

    leading: bool
    high_watermark: Watermark

    @property
    def follower_ids(self) -> Iterable[int]:
        """Of a leader: all other replicas."""

    def has_led(self, since_s: float) -> bool:
        """Whether certainly nobody else had led before that moment, if this broker still does."""


class InDoubt(NotLeader):
    """Something was found that clients act on for good; whether this broker led at that moment is to be confirmed.

    To whom nothing is confirmed, this is what it is: NOT_LEADER_OR_FOLLOWER.
    """

    def __init__(self, partition: Led, refusal: KafkaError | None, since_s: float) -> None:
        """refusal: what was found, if that is an error. since_s: liveness clock, when."""
        super().__init__()
        self.partition = partition
        self.refusal = refusal
        self.since_s = since_s
        self._high_watermark = partition.high_watermark  # of that leader epoch

    @property
    def found(self) -> KafkaError:
        """The error that is to be told once it is confirmed."""
        return self.refusal or self

    @property
    def is_true(self) -> bool:
        """Whether it is certain."""
        return self._is_same_epoch and self.partition.has_led(self.since_s)

    @property
    def is_decided(self) -> bool:
        """Whether there is nothing to wait for."""
        return not self._is_same_epoch or self.partition.has_led(self.since_s)

    @property
    def _is_same_epoch(self) -> bool:
        return self.partition.high_watermark is self._high_watermark and self.partition.leading


async def unconfirmed(
    rows: Sequence[tuple[T, InDoubt]], hurry: Callable[[Iterable[int], float], None], clock: Clock
) -> list[T]:
    """What of these is not certain: another broker might know better. All is found out together, within CONFIRM_S.

    hurry: has these followers, by their ids, ask again soon; with the liveness clock's time.
    """
    doubts = [doubt for _, doubt in rows]
    followers = {id: None for doubt in doubts for id in doubt.partition.follower_ids}
    hurry(followers, clock.liveness())
    ends_s = max((doubt.since_s for doubt in doubts), default=0) + CONFIRM_S
    waiting = [doubt async for doubt in _in_turns(doubts) if not doubt.is_decided]
    while waiting and clock.liveness() < ends_s:
        await clock.sleep(LOOK_S)
        waiting = [doubt async for doubt in _in_turns(waiting) if not doubt.is_decided]
    is_true = [doubt.is_true async for doubt in _in_turns(doubts)]
    return [row for (row, _), sure in zip(rows, is_true, strict=True) if not sure]


async def _in_turns(doubts: Sequence[InDoubt]) -> AsyncIterator[InDoubt]:
    for number, doubt in enumerate(doubts, start=1):
        yield doubt
        if not number % DOUBTS_A_TURN:
            await trio.lowlevel.checkpoint()
