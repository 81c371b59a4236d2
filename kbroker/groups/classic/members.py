"""The members of a classic group: who they are, what they vote for, who leads. No time, no states, no effects.

`Roster` owns the sums over members (votes, how many wait in JoinGroup, bytes held), so that a join costs the same in a
group of ten and of a thousand. A member's `join_ticket` is set by `park` and `take_join` only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.groups import JoinGroupRequest
from kbroker.coordinators.effects import Ticket
from kbroker.groups.group import Client
from kbroker.groups.storage.snapshots import MemberSnapshot

Protocols: TypeAlias = tuple[tuple[str, bytes], ...]  # name, metadata; in order of preference

MEMBER_BYTES_FIXED = 256  # what a member costs besides its texts, roughly: as a record and in memory
PROTOCOL_BYTES_FIXED = 128  # and what a protocol costs


def protocols_of(request: JoinGroupRequest) -> Protocols:
    """The protocols a member offers, copied out of the frame."""
    return tuple((each.name, bytes(each.metadata)) for each in request.protocols)


def protocols_bytes(protocols: Protocols) -> int:
    """What they weigh, so that many empty ones are not free."""
    return sum(len(name) + len(metadata) + PROTOCOL_BYTES_FIXED for name, metadata in protocols)


class Member:
    """One member. Static when it has a group_instance_id (KIP-345)."""

    __slots__ = (
        "member_id", "group_instance_id", "client", "rebalance_timeout_ms", "session_timeout_ms", "protocols",
        "assignment", "join_ticket", "sync_ticket", "is_new", "session_end",
    )  # fmt: skip

    def __init__(self, member_id: str, group_instance_id: str | None, client: Client) -> None:
        self.member_id = member_id
        self.group_instance_id = group_instance_id
        self.client = client
        self.rebalance_timeout_ms = 0
        self.session_timeout_ms = 0
        self.protocols: Protocols = ()
        self.assignment = b""
        self.join_ticket: Ticket | None = None  # waits for the rebalance to complete
        self.sync_ticket: Ticket | None = None  # waits for the leader's assignment
        self.is_new = True  # waits in its first JoinGroup: it cannot send heartbeats yet
        self.session_end = 0.0  # liveness seconds; counts unless `excused`

    @property
    def excused(self) -> bool:
        """Nobody expects heartbeats of a member that waits for an answer, except that a first join ends some time."""
        if self.is_new:
            return False
        return self.join_ticket is not None or self.sync_ticket is not None

    def metadata(self, protocol: str | None) -> bytes:
        """What it says for a protocol; empty when it does not know it."""
        return next((metadata for name, metadata in self.protocols if name == protocol), b"")

    def snapshot(self, protocol: str | None) -> MemberSnapshot:
        """The member as it is stored."""
        return MemberSnapshot(
            self.member_id,
            self.group_instance_id,
            self.client.id,
            self.client.host,
            self.rebalance_timeout_ms,
            self.session_timeout_ms,
            self.metadata(protocol),
            self.assignment,
        )


class Roster:
    """The members by id, in the order they came."""

    __slots__ = ("members", "static", "leader", "awaiting_join", "votes", "bytes_held")

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.static: dict[str, str] = {}  # group_instance_id -> member id; at most one
        self.leader: str | None = None  # a member id, if there are members
        self.awaiting_join = 0  # members with a join_ticket
        self.votes: Counter[str] = Counter()  # protocol -> members that know it
        self.bytes_held = 0  # of all members' protocols and fixed costs

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    def add(self, member: Member, protocols: Protocols) -> None:
        """A member enters; the first one leads."""
        assert member.member_id not in self.members
        assert member.group_instance_id not in self.static
        self.members[member.member_id] = member
        self.bytes_held += MEMBER_BYTES_FIXED
        self._vote(member, protocols)
        if member.group_instance_id is not None:
            self.static[member.group_instance_id] = member.member_id
        if self.leader is None:
            self.leader = member.member_id

    def remove(self, member: Member) -> None:
        """A member goes, answered already; the longest serving one inherits the lead."""
        assert member.join_ticket is None and member.sync_ticket is None
        del self.members[member.member_id]
        self.bytes_held -= MEMBER_BYTES_FIXED
        self._unvote(member)
        if member.group_instance_id is not None:
            del self.static[member.group_instance_id]
        if self.leader == member.member_id:
            self.leader = next(iter(self.members), None)

    def rename(self, member: Member, new_id: str) -> None:
        """A static member comes back without its id: it goes on, the lead included, under a new one (KIP-345)."""
        assert member.group_instance_id is not None
        del self.members[member.member_id]
        self.members[new_id] = member
        self.static[member.group_instance_id] = new_id
        if self.leader == member.member_id:
            self.leader = new_id
        member.member_id = new_id

    def revote(self, member: Member, protocols: Protocols) -> None:
        """A member offers other protocols, or other metadata."""
        self._unvote(member)
        self._vote(member, protocols)

    def _vote(self, member: Member, protocols: Protocols) -> None:
        member.protocols = protocols
        self.votes.update({name for name, _ in protocols})
        self.bytes_held += protocols_bytes(protocols)

    def _unvote(self, member: Member) -> None:
        self.bytes_held -= protocols_bytes(member.protocols)
        for name in {name for name, _ in member.protocols}:
            self.votes[name] -= 1
            if not self.votes[name]:
                del self.votes[name]

    def park(self, member: Member, ticket: Ticket) -> Ticket | None:
        """Have a member wait in JoinGroup; returns the ticket this one takes the place of."""
        before = member.join_ticket
        member.join_ticket = ticket
        self.awaiting_join += before is None
        return before

    def take_join(self, member: Member) -> Ticket | None:
        """The ticket of a member that waits in JoinGroup, which from now on it does not."""
        ticket, member.join_ticket = member.join_ticket, None
        self.awaiting_join -= ticket is not None
        return ticket

    def fence(self, member_id: str, group_instance_id: str | None) -> ErrorCode:
        """Whether this is a member: NONE, UNKNOWN_MEMBER_ID, or FENCED_INSTANCE_ID where another one has its place."""
        if group_instance_id is not None:
            holder = self.static.get(group_instance_id)
            if holder is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            if holder != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
        return ErrorCode.NONE if member_id in self.members else ErrorCode.UNKNOWN_MEMBER_ID

    def supports(self, protocols: Protocols) -> bool:
        """Whether all members know at least one of these."""
        everybody = len(self.members)
        return any(self.votes[name] == everybody for name, _ in protocols)

    def select_protocol(self) -> str:
        """The protocol that most members like best among those all know; the first to be named wins a draw."""
        everybody = len(self.members)
        ballots: Counter[str] = Counter()
        for member in self:
            ballots[next(name for name, _ in member.protocols if self.votes[name] == everybody)] += 1
        return max(ballots, key=ballots.__getitem__)

    def elect_joined_leader(self) -> bool:
        """See that the leader has joined: the old one if it has, else the first that has. False: nobody has."""
        if self.leader is not None and self.members[self.leader].join_ticket is not None:
            return True
        joined = next((member.member_id for member in self if member.join_ticket is not None), None)
        if joined is not None:
            self.leader = joined
        return joined is not None

    @property
    def rebalance_timeout_ms(self) -> int:
        """How long a rebalance waits: as long as its most patient member; 0 without members."""
        return max((member.rebalance_timeout_ms for member in self), default=0)
