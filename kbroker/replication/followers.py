"""What a leader knows of the followers of one partition: how far each has come, and since when that is not all.

A follower fetches through a session with this broker (KIP-227). Its requests name only what has news: for all else in
the session its offset is the one it had, and a request that comes is a word for every partition in it. So what is known
of one partition is where the follower stands, and the session that its last word came through.

    end          0 ═══════════════╪══ 41   ─ ─ ─   leader's end 44        behind since the leader's end has passed 41
    caught up    the last moment at which its end was the leader's end (Kafka: Replica.updateFetchStateOrThrow)
"""

from __future__ import annotations

from typing import Protocol

NEVER = float("-inf")
UNKNOWN = -1  # in place of an offset


class FollowerSession(Protocol):
    """What the fetches of one follower broker come through. Times are of the liveness clock."""

    heard_s: float  # when its last request came
    # When the answer was sent that its last request follows: it was a follower of ours then, or later. The request
    # itself may have lain in the socket for long, if it was this broker that stood still. NEVER: there was no answer.
    proven_s: float


class Follower:
    """One follower of one partition, in one leader epoch."""

    __slots__ = (
        "end", "start", "session", "broker_epoch", "caught_up_s", "is_awaited", "_is_behind", "_leader_end", "_named_s",
    )  # fmt: skip

    def __init__(self, caught_up_s: float) -> None:
        self.end = UNKNOWN  # its log's end; UNKNOWN: it has not fetched in this epoch
        self.start = UNKNOWN  # where its log begins
        self.session: FollowerSession | None = None  # None: it does not fetch this partition (any more)
        self.broker_epoch = -1
        self.caught_up_s = caught_up_s
        self.is_awaited = False  # it is about to join the ISR: the high watermark waits for it
        self._is_behind = False  # no word that comes says any more that it has all there is
        self._leader_end = UNKNOWN  # at the last request that named the partition
        self._named_s = NEVER  # when that came

    def note(self, session: FollowerSession, broker_epoch: int, offset: int, leader_end: int, now_s: float) -> None:
        """A request names the partition: everything below offset is in the follower's log."""
        if offset >= leader_end:
            self.caught_up_s = now_s
        elif 0 <= self._leader_end <= offset:  # all there was when it asked before: under load nobody has ever all
            self.caught_up_s = max(self.caught_up_s, self._named_s)
        self.session, self.broker_epoch = session, broker_epoch
        self.end, self._leader_end, self._named_s = offset, leader_end, now_s
        self._is_behind = offset < leader_end

    def leave(self) -> None:
        """It does not fetch the partition any more."""
        self._note_word()
        self.session, self.is_awaited = None, False

    def caught_up(self, leader_end: int) -> float:
        """The last moment at which it is known to have had all there was."""
        self._note_word()
        self._is_behind = self.end < leader_end
        return self.caught_up_s

    def is_heard(self, since_s: float) -> bool:
        """Whether it still fetches: a word of it has come since then. One that fell silent has what it had."""
        return self.session is not None and self.session.heard_s >= since_s

    def _note_word(self) -> None:
        """Its session speaks for this partition as long as there is no news of it."""
        if self.session is not None and not self._is_behind:
            self.caught_up_s = max(self.caught_up_s, self.session.heard_s)

    @property
    def proven_s(self) -> float:
        """Until when it certainly followed this leader, in this epoch."""
        return NEVER if self.session is None else self.session.proven_s
