"""The groups of `scenarios.md`, carried out through `Client.member` and the journals of `members.py`.

What is under "Groups" is asked with the classic protocol (`group-…`); most of it is asked again with the consumer
protocol of KIP-848 (`kip848-…`) by the same functions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import wire
from common import Absent, Client, Message, Refused, Run, Seen, check, same, scenario, until
from members import Member, Place

SETTLE_SECONDS_MAX = 30.0
ROLLING_MEMBERS = 5
LOAD_MIN = 200


class Team:
    """One group of a scenario, its members and the topics it reads; `close` makes all leave."""

    def __init__(self, run: Run, name: str, protocol: str = "classic") -> None:
        self.run, self.name, self.protocol = run, name, protocol
        self.group = run.name(f"{name}-group")
        self.options: dict[str, Any] = {"protocol": protocol, "commits": True, "reset": "earliest"}
        self.members: list[Member] = []  # those that left or crashed too: their journals count
        self.gone: list[Member] = []
        self.others: list[Client] = []

    def topic(self, partitions: int, name: str = "topic") -> str:
        return self.run.topic(f"{self.name}-{name}", partitions)

    def write(self, topic: str, partitions: int, each: int) -> None:
        self.run.client.produce(
            topic, [Message(b"%d-%d" % (p, i), partition=p) for i in range(each) for p in range(partitions)]
        )

    def join(self, topics: str | list[str], client: Client | None = None, **options: Any) -> Member:
        """A pattern begins with ^."""
        asked = topics if isinstance(topics, list) or topics.startswith("^") else [topics]
        wanted = {"group": self.group, **self.options, **options}
        self.members.append((client or self.run.client).member(asked, **wanted))
        return self.members[-1]

    def elsewhere(self) -> Client:
        """The client in another process, to be killed with `crash`."""
        self.others.append(self.run.client.elsewhere())
        return self.others[-1]

    def crash(self, member: Member, client: Any) -> None:
        member.journal()
        client.kill()
        self.gone.append(member)

    def leave(self, member: Member) -> None:
        member.leave()
        self.gone.append(member)

    def close(self) -> None:
        leaving = [member for member in self.members if member not in self.gone]
        in_parallel([member.leave for member in leaving])
        for client in self.others:
            client.kill()  # type: ignore[attr-defined]

    def shares(self, topic: str, partitions: int, *members: Member) -> list[int]:
        """How many partitions each has, smallest first, once all are shared evenly and none is with two."""
        everything = sorted((topic, partition) for partition in range(partitions))

        def settled() -> bool:
            owned = [member.owned() for member in members]
            fair = max(map(len, owned)) - min(map(len, owned)) <= 1
            return fair and sorted(place for each in owned for place in each) == everything

        check(until(settled, SETTLE_SECONDS_MAX), f"the members own {[sorted(m.owned()) for m in members]}")
        return sorted(len(member.owned()) for member in members)

    def finish(self, topic: str, partitions: int, committed: bool = True) -> int:
        """How many records there are, once every one was taken and, where members commit, committed."""
        ends = {(topic, p): wire.offset(self.run.client.bootstrap, topic, p) for p in range(partitions)}
        wanted = {(*place, offset) for place, end in ends.items() for offset in range(end)}

        def done() -> bool:
            journals = [entry for member in self.members for entry in member.journal()]
            taken = {entry[2:] for entry in journals if entry.kind == "took"}
            acknowledged = {entry[2:] for entry in journals if entry.kind == "committed"}
            return wanted <= taken and (
                not committed or all((*place, end) in acknowledged for place, end in ends.items() if end)
            )

        if not until(done, SETTLE_SECONDS_MAX):
            raise AssertionError(f"not all of {len(wanted)} were read or committed: {self.told(wanted)}")
        return len(wanted)

    def told(self, wanted: set[tuple[str, int, int]]) -> str:
        journals = [entry for member in self.members for entry in member.journal()]
        missing = sorted(wanted - {entry[2:] for entry in journals if entry.kind == "took"})
        refused = sorted({entry.topic for entry in journals if entry.kind == "refused"})
        return f"{len(missing)} missing, such as {missing[:3]}; errors {refused}"

    def again_after_commit(self) -> int:
        """How often a record was taken although an offset behind it had been committed before."""
        entries = sorted((entry for member in self.members for entry in member.journal()), key=lambda entry: entry.at)
        done: dict[Place, int] = {}
        again = 0
        for entry in entries:
            place = (entry.topic, entry.partition)
            if entry.kind == "committed":
                done[place] = max(done.get(place, 0), entry.offset)
            elif entry.kind == "took" and entry.offset < done.get(place, 0):
                again += 1
        return again


Body = Callable[[Run, Team], Seen]


def group(identifier: str, kip848: bool = False) -> Callable[[Body], Body]:
    """Register under `group-…`, and with the consumer protocol under `kip848-…`."""

    def register(body: Body) -> Body:
        for prefix, protocol in (("group", "classic"), ("kip848", "consumer"))[: 1 + kip848]:

            def carry_out(run: Run, name: str = f"{prefix}-{identifier}", protocol: str = protocol) -> Seen:
                team = Team(run, name, protocol)
                if protocol != "classic":
                    team.leave(team.join("^none$"))  # absent at once where there is no such protocol
                try:
                    return body(run, team)
                finally:
                    team.close()

            scenario(f"{prefix}-{identifier}")(carry_out)
        return body

    return register


# ---- Membership ------------------------------------------------------------------------------------------------------


@group("join", kip848=True)
def join(run: Run, team: Team) -> Seen:
    topic = team.topic(4)
    team.write(topic, 4, each=10)
    first = team.join(topic)
    alone = team.shares(topic, 4, first)
    team.finish(topic, 4)
    second = team.join(topic)
    both = team.shares(topic, 4, first, second)
    team.write(topic, 4, each=5)
    return {
        "alone": alone,
        "two": both,
        "read": team.finish(topic, 4),
        "again after commit": team.again_after_commit(),
    }


@group("leave", kip848=True)
def leave(run: Run, team: Team) -> Seen:
    topic = team.topic(4)
    stays, goes = team.join(topic, session_ms=30_000), team.join(topic, session_ms=30_000)
    both = team.shares(topic, 4, stays, goes)
    team.write(topic, 4, each=5)
    team.finish(topic, 4)
    began = time.monotonic()
    team.leave(goes)
    one = team.shares(topic, 4, stays)
    check(time.monotonic() - began < 15, "the partitions came over after the session timeout only")
    team.write(topic, 4, each=5)
    return {
        "two": both,
        "one": one,
        "read": team.finish(topic, 4),
        "again after commit": team.again_after_commit(),
    }


@group("crash", kip848=True)
def crash(run: Run, team: Team) -> Seen:
    topic, elsewhere = team.topic(4), team.elsewhere()
    survivor, victim = team.join(topic, session_ms=6000), team.join(topic, elsewhere, session_ms=6000)
    both = team.shares(topic, 4, survivor, victim)
    team.write(topic, 4, each=5)
    team.finish(topic, 4)
    began = time.monotonic()
    team.crash(victim, elsewhere)
    team.write(topic, 4, each=5)
    one = team.shares(topic, 4, survivor)
    took = time.monotonic() - began
    check(2 < took < 15, f"taken over after {took:.1f} s with a session timeout of 6 s")
    return {
        "two": both,
        "one": one,
        "read": team.finish(topic, 4),
        "again after commit": team.again_after_commit(),
    }


@group("static-restart", kip848=True)
def static_restart(run: Run, team: Team) -> Seen:
    topic, before, after = team.topic(4), team.elsewhere(), team.elsewhere()
    stays = team.join(topic, instance="stays", session_ms=30_000)
    first = team.join(topic, before, instance="restarts", session_ms=30_000)
    both = team.shares(topic, 4, stays, first)
    team.write(topic, 4, each=5)
    team.finish(topic, 4)
    owned, seen_before = first.owned(), rebalances(stays)
    if team.protocol == "classic":
        team.crash(first, before)
    else:  # a new member takes the name over only once the old one has said goodbye: UNRELEASED_INSTANCE_ID
        team.leave(first)
    second = team.join(topic, after, instance="restarts", session_ms=30_000)
    team.shares(topic, 4, stays, second)
    team.write(topic, 4, each=5)
    read = team.finish(topic, 4)
    return {
        "two": both,
        "the same partitions": second.owned() == owned,
        "rebalances of the other": rebalances(stays) - seen_before,
        "read": read,
        "again after commit": team.again_after_commit(),
    }


@group("cooperative")
def cooperative(run: Run, team: Team) -> Seen:
    return kept_partitions(team, cooperative=True)


def kip848_incremental(run: Run) -> Seen:
    team = Team(run, "kip848-incremental", "consumer")
    try:
        return kept_partitions(team)
    finally:
        team.close()


scenario("kip848-incremental")(kip848_incremental)


def kept_partitions(team: Team, **options: Any) -> Seen:
    """A second member comes and goes again: what the first need not give up is never taken from it."""
    topic = team.topic(4)
    first = team.join(topic, **options)
    team.shares(topic, 4, first)
    second = team.join(topic, **options)
    both = team.shares(topic, 4, first, second)
    team.write(topic, 4, each=5)
    team.finish(topic, 4, committed=False)
    team.leave(second)
    team.shares(topic, 4, first)
    kinds = [entry.kind for entry in first.journal()]
    return {
        "two": both,
        "revoked from the first": kinds.count("revoked"),
        "lost by the first": kinds.count("lost"),
        "assigned to the first": kinds.count("assigned"),
    }


@group("pattern", kip848=True)
def pattern(run: Run, team: Team) -> Seen:
    topics = [team.topic(1, "in-1"), team.topic(1, "in-2")]
    team.topic(1, "out-1")
    member = team.join(f"^{run.name(team.name)}-in-.*$")
    check(until(lambda: len(member.owned()) == 2, SETTLE_SECONDS_MAX), f"it owns {member.owned()}")
    topics.append(team.topic(1, "in-3"))
    later = until(lambda: len(member.owned()) == 3, 5 if team.protocol == "classic" else 15)
    for topic in topics[: 3 if later else 2]:
        team.write(topic, 1, each=5)
    read = sum(team.finish(topic, 1) for topic in topics[: 3 if later else 2])
    return {"owned": sorted(topic for topic, _ in member.owned()), "read": read}


# ---- Offsets ---------------------------------------------------------------------------------------------------------


@group("seek", kip848=True)
def seek(run: Run, team: Team) -> Seen:
    topic = team.topic(1)
    team.write(topic, 1, each=10)
    member = team.join(topic)
    team.finish(topic, 1)
    member.seek((topic, 0), 3)
    until(lambda: len(taken(member)) >= 17)
    return {"after seeking to 3": taken(member)[10:]}


@group("commit", kip848=True)
def commit(run: Run, team: Team) -> Seen:
    topic = team.topic(1)
    team.write(topic, 1, each=10)
    first = team.join(topic, commits=False)
    until(lambda: len(taken(first)) == 10)
    nothing = run.client.committed(team.group, topic)
    commit_now(first, {(topic, 0): 4})
    by_wait = run.client.committed(team.group, topic)
    first.commit({(topic, 0): 6}, wait=False)
    by_async = until(lambda: run.client.committed(team.group, topic).get(0) == 6)
    team.leave(first)
    second = team.join(topic, commits=False)
    until(lambda: len(taken(second)) >= 4)
    return {
        "before": nothing.get(0),
        "synchronous": by_wait.get(0),
        "asynchronous": by_async,
        "the next begins at": taken(second)[:1],
    }


@group("lag", kip848=True)
def lag(run: Run, team: Team) -> Seen:
    topic = team.topic(2)
    team.write(topic, 2, each=10)
    member = team.join(topic, commits=False)
    team.finish(topic, 2, committed=False)
    commit_now(member, {(topic, 0): 4, (topic, 1): 10})
    committed = run.client.committed(team.group, topic)
    try:
        own = [member.committed((topic, partition)) for partition in range(2)]
    except Absent as reason:
        own = [str(reason)]
    ends = [run.client.offset(topic, partition, "latest") or 0 for partition in range(2)]
    return {"lag": [end - committed[p] for p, end in enumerate(ends)], "committed by the consumer's call": own}


@group("two-groups")
def two_groups(run: Run, team: Team) -> Seen:
    topic = team.topic(2)
    team.write(topic, 2, each=20)
    members = [team.join(topic, group=f"{team.group}-{which}") for which in "ab"]
    until(lambda: all(len(taken(member)) == 40 for member in members), SETTLE_SECONDS_MAX)

    def ends() -> list[list[tuple[int, int]]]:
        return [sorted(run.client.committed(f"{team.group}-{which}", topic).items()) for which in "ab"]

    until(lambda: ends() == 2 * [[(0, 20), (1, 20)]])  # what was taken last may not be committed yet
    return {"read": [len(taken(member)) for member in members], "committed": ends()}


@group("auto-reset")
def auto_reset(run: Run, team: Team) -> Seen:
    topic = team.topic(1)
    team.write(topic, 1, each=5)
    earliest, latest = (team.join(topic, group=f"{team.group}-{how}", reset=how) for how in ("earliest", "latest"))
    check(until(lambda: earliest.owned() and latest.owned(), SETTLE_SECONDS_MAX), "no partition was assigned")
    time.sleep(1)  # the position of `latest` is looked up after the assignment
    team.write(topic, 1, each=2)
    until(lambda: len(taken(earliest)) == 7 and len(taken(latest)) == 2)
    return {"earliest": taken(earliest), "latest": taken(latest), "none": without_reset(team, topic)}


def without_reset(team: Team, topic: str) -> str:
    try:
        member = team.join(topic, group=f"{team.group}-none", reset="none")
    except Absent as reason:
        return str(reason)
    until(lambda: errors(member))
    return (errors(member) or ["no error"])[0]


# ---- The list of groups ----------------------------------------------------------------------------------------------


@group("admin")
def admin(run: Run, team: Team) -> Seen:
    topic, client, name = team.topic(2), run.client, team.group
    team.write(topic, 2, each=5)
    member = team.join(topic)
    team.finish(topic, 2)
    seen: Seen = {
        "listed": name in client.groups(),
        "with a member": client.describe_group(name),
        "deleted with a member": answer(lambda: client.delete_group(name)),
        "altered with a member": answer(lambda: client.alter_offsets(name, topic, {0: 2})),
        "offsets deleted with a member": answer(lambda: client.delete_offsets(name, topic, [0])),
    }
    team.leave(member)
    seen |= {
        "empty": client.describe_group(name),
        "altered": answer(lambda: client.alter_offsets(name, topic, {0: 2})),
        "then committed": sorted(client.committed(name, topic).items()),
        "offsets deleted": answer(lambda: client.delete_offsets(name, topic, [1])),
        "of those left": sorted(client.committed(name, topic).items()),
        "deleted": answer(lambda: client.delete_group(name)),
        "listed afterwards": name in client.groups(),
        "deleted again": answer(lambda: client.delete_group(name)),
        "described afterwards": answer(lambda: client.describe_group(name)),
        "committed afterwards": answer(lambda: sorted(client.committed(name, topic).items())),
    }
    return seen


# ---- Under load ------------------------------------------------------------------------------------------------------


@group("rolling-restart", kip848=True)
def rolling_restart(run: Run, team: Team) -> Seen:
    topic, partitions = team.topic(2 * ROLLING_MEMBERS), 2 * ROLLING_MEMBERS
    members = [team.join(topic) for _ in range(ROLLING_MEMBERS)]
    shares = team.shares(topic, partitions, *members)
    with Load(run, topic) as load:
        for index in range(ROLLING_MEMBERS):
            team.leave(members[index])
            members[index] = team.join(topic)
            team.shares(topic, partitions, *members)
        until(lambda: load.count >= LOAD_MIN)
    check(team.finish(topic, partitions, committed=False) >= LOAD_MIN, "hardly anything was written meanwhile")
    return {"shares": shares, "lost": 0, "again after commit": team.again_after_commit()}


@scenario("group-broker-kill")
def broker_kill(run: Run) -> Seen:
    """The broker is killed while a member joins, and again nothing is lost and nothing read again after its commit."""
    if run.control is None:
        raise Absent("no power over the broker")
    team, partitions = Team(run, "group-broker-kill"), 6
    try:
        topic = team.topic(partitions)
        members = [team.join(topic) for _ in range(2)]
        team.shares(topic, partitions, *members)
        with Load(run, topic) as load:
            time.sleep(0.5)
            members.append(team.join(topic))
            time.sleep(0.2)
            run.kill_and_restart_broker()
            team.write(topic, partitions, each=1)
            shares = team.shares(topic, partitions, *members)
            until(lambda: load.count >= LOAD_MIN)
        check(team.finish(topic, partitions, committed=False) >= LOAD_MIN, "hardly anything was written meanwhile")
        again = team.again_after_commit()
    finally:
        team.close()
    return {"shares": shares, "lost": 0, "again after commit": again}


class Load:
    """Writes without pause for as long as the block lasts, over all partitions, with acks=all."""

    def __init__(self, run: Run, topic: str) -> None:
        self.run, self.topic = run, topic
        self.over, self.count = threading.Event(), 0
        self.problems: list[BaseException] = []
        self.writer = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Load:
        self.writer.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.over.set()
        self.writer.join(40)
        if problem[0] is None:
            check(not self.problems and not self.writer.is_alive(), f"the producer: {self.problems or 'no end'}")

    def _write(self) -> None:
        try:
            self.run.client.produce(self.topic, self._source(), acks="all", in_flight=1, patience=40)
        except BaseException as problem:
            self.problems.append(problem)

    def _source(self) -> Iterator[Message]:
        while not self.over.is_set() and self.count < 20_000:
            yield Message(b"%06d" % self.count, key=b"k%d" % self.count, partition=None)
            self.count += 1
            time.sleep(0.004)


# ---- After a restart -------------------------------------------------------------------------------------------------


@scenario("after-restart-groups")
def after_restart_groups(run: Run) -> Seen:
    team = Team(run, "group-commit")
    topic = run.name("group-commit-topic")
    committed = until(lambda: run.client.committed(team.group, topic))  # some clients hide that it is still loading
    same(committed, {0: 6}, "committed offsets")
    member = team.join(topic)
    try:
        check(until(lambda: len(taken(member)) >= 4), f"the member took {taken(member)}, errors {errors(member)}")
        return {"committed": committed[0], "goes on at": taken(member)[:1], "read": len(taken(member))}
    finally:
        team.close()


# ---- Helpers ---------------------------------------------------------------------------------------------------------


def taken(member: Member) -> list[int]:
    """The offsets, in the order in which they came."""
    return [entry.offset for entry in member.journal() if entry.kind == "took"]


def commit_now(member: Member, offsets: dict[Place, int]) -> None:
    """Synchronously, and again where a rebalance was in the way, as applications do."""

    def accepted() -> bool:
        try:
            member.commit(offsets)
        except Refused as error:
            check(error.name == "REBALANCE_IN_PROGRESS", error)
            return False
        return True

    check(until(accepted), "no commit within 10 s: REBALANCE_IN_PROGRESS")


def errors(member: Member) -> list[str]:
    return [entry.topic for entry in member.journal() if entry.kind == "refused"]


def rebalances(member: Member) -> int:
    return sum(entry.kind in ("assigned", "revoked", "lost") for entry in member.journal())


def answer(call: Callable[[], Any]) -> Any:
    """What a call gave, the name of the error, or that there is no such call."""
    try:
        found = call()
    except Refused as error:
        return error.name
    except Absent as reason:
        return str(reason)
    return "done" if found is None else found


def in_parallel(calls: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SETTLE_SECONDS_MAX)
