"""Scripts that talk to a classic group: a step a line, and after `=>` all that comes of it, in order, or nothing.

A line that begins with `;` goes on with the outcome of the one before.

    join a v3                => a JOIN generation=1 leader=a protocol=range members=a
    sync a a=left            => STORE Stable 1 a(left); a SYNC left
    wait 45                  => STORE Empty 2

Steps (words in brackets are optional; options keep their last value for that client):
    join NAME [v9] [static=I] [id=ID] [session=S] [rebalance=S] [type=T] [range=META] [sticky=META] [only=PROTOCOL]
    sync NAME [generation=N] [static=I] [id=ID] [type=T] [protocol=P] [MEMBER=ASSIGNMENT ...]
    heartbeat NAME [generation=N] [static=I] [id=ID]
    leave NAME,... [v2] [static=I ...] [id=ID]      commit NAME [generation=N] [static=I] [id=ID] [transactional]
    wait SECONDS        jump SECONDS (the clock leaps: one alarm for all of it)
    restart             from the last record            state STATE GENERATION MEMBERS, an assertion
A client without an id joins with "", and keeps the id it is given. Ids are shown as the names of their clients.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.groups import (
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    JoinGroupResponse,
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberIdentity,
    SyncGroupRequest,
    SyncGroupRequestAssignment,
    SyncGroupResponse,
)
from kbroker.coordinators.effects import Effect, Order, Store
from kbroker.groups.classic.group import ClassicGroup
from kbroker.groups.classic.members import MEMBER_BYTES_FIXED, protocols_bytes
from kbroker.groups.group import Client, Committer, Expelled
from kbroker.groups.settings import GroupLimits
from kbroker.groups.storage.snapshots import GroupSnapshot
from kbroker.turns import at_once

NOW_MS = 1_000_000


@dataclass
class Actor:
    """A client, and the options it has been given."""

    name: str
    member_id: str = ""
    generation: int = -1
    options: dict[str, str] = field(default_factory=dict)


class Script:
    """A group, its clients, and the time."""

    def __init__(self, limits: GroupLimits | None = None) -> None:
        self.limits = limits or GroupLimits()
        self.group = ClassicGroup("g", self.limits, now_ms=NOW_MS)
        self.now = 0.0
        self.actors: dict[str, Actor] = {}
        self.names: dict[str, str] = {}  # member id -> name
        self.tokens = 0
        self.stored: list[object] = []
        self.answered: set[tuple[str, int]] = set()
        self.tickets = 0
        self.expelled: list[tuple[str, str]] = []  # of whom people are told, and why

    def play(self, text: str) -> None:
        """Play the steps; a step whose outcome is not the expected one fails the test."""
        for number, line in enumerate(re.sub(r"\n *;", ";", text.strip()).splitlines(), 1):
            step, arrow, expected = (part.strip() for part in line.partition("=>"))
            if not step or step.startswith("#"):
                continue
            got = "; ".join(self.step(step))
            want = "nothing" if not arrow else expected
            assert (got or "nothing") == want, (
                f"line {number}: {step}\n  expected {want}\n  got      {got or 'nothing'}"
            )

    def step(self, text: str) -> list[str]:
        verb, *words = text.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        result: list[str] = getattr(self, f"do_{verb}")(plain, options)
        self.check_invariants()
        return result

    @property
    def now_ms(self) -> int:
        return NOW_MS + round(self.now * 1000)

    def actor(self, name: str, options: dict[str, str], *kept: str) -> Actor:
        actor = self.actors.setdefault(name, Actor(name))
        actor.options.update({key: value for key, value in options.items() if key in kept})
        return actor

    def ticket(self, actor: Actor) -> tuple[str, int]:
        self.tickets += 1
        return actor.name, self.tickets

    def do_join(self, plain: list[str], options: dict[str, str]) -> list[str]:
        name, *rest = plain
        kept = ("static", "session", "rebalance", "type", "range", "sticky", "only", "v")
        actor = self.actor(name, options | {word[0]: word[1:] for word in rest}, *kept)
        o = actor.options
        protocols = [
            JoinGroupRequestProtocol(name=each, metadata=o.get(each, name).encode())
            for each in o.get("only", "range").split(",")
            if each != "none"
        ]
        request = JoinGroupRequest(
            group_id="g",
            session_timeout_ms=round(float(o.get("session", 45)) * 1000),
            rebalance_timeout_ms=round(float(o.get("rebalance", 60)) * 1000),
            member_id=options.get("id", actor.member_id),
            group_instance_id=o.get("static"),
            protocol_type=o.get("type", "test"),
            protocols=protocols,
        )
        self.tokens += 1
        self.names.setdefault(f"{o.get('static') or name}-{self.tokens}", name)  # the id it may be given
        return self.perform(
            self.group.join(
                self.ticket(actor),
                request,
                version=int(o.get("v", 9)),
                client=Client(name, "/h"),
                token=str(self.tokens),
                now=self.now,
                now_ms=self.now_ms,
            )
        )

    def do_sync(self, plain: list[str], options: dict[str, str]) -> list[str]:
        actor = self.actors[plain[0]]
        fixed = ("generation", "static", "id", "type", "protocol")
        assignments = [
            SyncGroupRequestAssignment(member_id=self.id_of(key), assignment=value.encode())
            for key, value in options.items()
            if key not in fixed
        ]
        request = SyncGroupRequest(
            group_id="g",
            generation_id=int(options.get("generation", actor.generation)),
            member_id=options.get("id", actor.member_id),
            group_instance_id=options.get("static", actor.options.get("static")),
            protocol_type=options.get("type"),
            protocol_name=options.get("protocol"),
            assignments=assignments,
        )
        given = {each.member_id: bytes(each.assignment) for each in assignments}
        return self.perform(self.group.sync(self.ticket(actor), request, given, now=self.now, now_ms=self.now_ms))

    def do_heartbeat(self, plain: list[str], options: dict[str, str]) -> list[str]:
        actor = self.actor(plain[0], {})
        code = self.group.heartbeat(
            options.get("id", actor.member_id),
            options.get("static", actor.options.get("static")),
            int(options.get("generation", actor.generation)),
            self.now,
        )
        return [code.name]

    def do_commit(self, plain: list[str], options: dict[str, str]) -> list[str]:
        actor = self.actor(plain[0], {})
        try:
            committer = Committer(
                options.get("id", actor.member_id),
                options.get("static", actor.options.get("static")),
                int(options.get("generation", actor.generation)),
                transactional="transactional" in plain,
            )
            self.group.check_commit(committer, {}, now=self.now)
        except KafkaError as error:
            return [error.code.name]
        return ["NONE"]

    def do_leave(self, plain: list[str], options: dict[str, str]) -> list[str]:
        names, *rest = plain
        version = int(rest[0][1:]) if rest else 5
        actor = self.actor(names.split(",")[0], {})
        if version < 3:
            request = LeaveGroupRequest(group_id="g", member_id=options.get("id", actor.member_id))
        else:
            members = [
                MemberIdentity(
                    member_id=options.get("id", self.actor(name, {}).member_id),
                    group_instance_id=options.get("static", self.actor(name, {}).options.get("static")),
                )
                for name in names.split(",")
            ]
            request = LeaveGroupRequest(group_id="g", members=members)
        ticket = self.ticket(actor)
        return self.perform(self.group.leave(ticket, request, version=version, now=self.now, now_ms=self.now_ms))

    def do_wait(self, plain: list[str], options: dict[str, str]) -> list[str]:
        """Time runs: alarms come when they are due."""
        end, out = self.now + float(plain[0]), []
        while self.group.deadline is not None and self.group.deadline <= end:
            self.now = max(self.now, self.group.deadline)
            out += self.perform(self.group.on_alarm(self.now, self.now_ms))
            self.check_invariants()
        self.now = end
        return out

    def do_jump(self, plain: list[str], options: dict[str, str]) -> list[str]:
        self.now += float(plain[0])
        return self.perform(self.group.on_alarm(self.now, self.now_ms))

    def do_restart(self, plain: list[str], options: dict[str, str]) -> list[str]:
        self.perform(self.group.resign(ErrorCode.NOT_COORDINATOR))
        snapshot = self.stored[-1]
        assert isinstance(snapshot, GroupSnapshot)
        self.group = ClassicGroup.restore(snapshot, self.limits, now=self.now)
        return []

    def do_resign(self, plain: list[str], options: dict[str, str]) -> list[str]:
        return self.perform(self.group.resign())

    def do_delete(self, plain: list[str], options: dict[str, str]) -> list[str]:
        try:
            return self.perform(self.group.delete(self.now_ms))
        except KafkaError as error:
            return [error.code.name]

    def do_state(self, plain: list[str], options: dict[str, str]) -> list[str]:
        state, generation, *members = plain
        described = at_once(self.group.describe_classic())
        assert described.group_state == state, described.group_state
        assert self.group.generation == int(generation), self.group.generation
        names = ",".join(self.name_of(member.member_id) for member in described.members)
        assert names == "".join(members), names
        return []

    # -- what comes of it

    def perform(self, effects: list[Effect]) -> list[str]:
        out = []
        for each in effects:
            if isinstance(each, Order):
                assert isinstance(each.what, Expelled)
                self.expelled += [(self.name_of(member_id), why) for member_id, _, why in each.what.members]
            else:
                out.append(self.stored_line(each) if isinstance(each, Store) else self.reply_line(each))
        return out

    def stored_line(self, store: Store) -> str:
        (record,) = store.records
        self.stored.append(record)
        if not isinstance(record, GroupSnapshot):
            return "STORE tombstone"
        members = [f" {self.name_of(m.member_id)}({m.assignment.decode(errors='replace')})" for m in record.members]
        return f"STORE {'Stable' if members else 'Empty'} {record.generation}{''.join(members)}"

    def reply_line(self, reply: object) -> str:
        ticket, response = reply.to, reply.response  # type: ignore[attr-defined]
        assert ticket not in self.answered, "answered twice"
        self.answered.add(ticket)
        name = ticket[0]
        if isinstance(response, JoinGroupResponse):
            return f"{name} JOIN {self.join_line(name, response)}"
        if isinstance(response, SyncGroupResponse):
            assignment = bytes(response.assignment).decode(errors="replace") or "(none)"
            return f"{name} SYNC {ErrorCode(response.error_code).name if response.error_code else assignment}"
        assert isinstance(response, LeaveGroupResponse)
        codes = [f" {ErrorCode(each.error_code).name}" for each in response.members]
        return f"{name} LEAVE {ErrorCode(response.error_code).name}{''.join(codes)}"

    def join_line(self, name: str, response: JoinGroupResponse) -> str:
        code = ErrorCode(response.error_code)
        if code in (ErrorCode.NONE, ErrorCode.MEMBER_ID_REQUIRED):
            self.actors[name].member_id = response.member_id
            self.actors[name].generation = response.generation_id
        if code is not ErrorCode.NONE:
            return code.name
        assert response.protocol_type == self.group.protocol_type
        members = ",".join(self.name_of(each.member_id) for each in response.members)
        parts = [f"generation={response.generation_id}", f"leader={self.name_of(response.leader)}"]
        parts += [f"protocol={response.protocol_name}"]
        parts += [f"members={members}"] if members else []
        parts += ["skip"] if response.skip_assignment else []
        return " ".join(parts)

    def id_of(self, name: str) -> str:
        return self.actors[name].member_id if name in self.actors else name

    def name_of(self, member_id: str) -> str:
        return self.names[member_id]

    def check_invariants(self) -> None:
        """What holds between any two events."""
        group = self.group
        roster = group._roster
        state = group.state.name
        members = list(roster)
        assert (state in ("EMPTY", "DEAD")) <= (not members)
        assert roster.awaiting_join == sum(member.join_ticket is not None for member in members)
        assert state == "PREPARING_REBALANCE" or roster.awaiting_join == 0
        assert state == "COMPLETING_REBALANCE" or all(member.sync_ticket is None for member in members)
        assert (roster.leader in roster.members) if members else roster.leader is None
        assert group._pending_sync <= set(roster.members)
        assert group._phase_end is None or state not in ("EMPTY", "DEAD")
        assert all(roster.votes.values())
        assert roster.bytes_held == sum(MEMBER_BYTES_FIXED + protocols_bytes(member.protocols) for member in members)
        assert len(group._pending) <= self.limits.size_max
        ends = [member.session_end for member in members if not member.excused] + list(group._pending.values())
        ends += [group._phase_end] if group._phase_end is not None else []
        assert not ends or (group.deadline is not None and group.deadline <= min(ends)), "an alarm would come late"
