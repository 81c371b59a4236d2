"""Views, as `scenarios.md` has them: what a client gets of a source, and that it gets on where nothing matches."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import wire
from common import Message, Record, Run, Seen, check, refusal, same, scenario, until
from group_scenarios import Team
from members import Member
from transaction_scenarios import COMMITTED, UNCOMMITTED, Stage

COUNT, MATCHES = 1000, (100, 500)
SIZE = 3000  # bytes of a record: the source has three megabytes
IN_TIME_S = 10.0
LATE_S, LATER_S = 3.0, 3.0  # of a view that is late, and how much later than that a record may come


def message(number: int, *, matches: bool) -> Message:
    tag = b"eu" if matches else b"us"
    value = random.Random(number).randbytes(SIZE // 2).hex().encode()
    return Message(value, key=b"%d" % number, headers=(("kbroker-tags", tag), ("region", tag)))


def view(run: Run, name: str, source: str, **configs: str) -> str:
    """A view of a source with one partition, made by the client itself where it can."""
    if run.client.shows_markers:
        raise run.client.absent("way past control batches: it shows them as records")
    return run.topic(name, 1, **{"kbroker_view_source": source, **configs})


def read(run: Run, topic: str, wanted: list[int], **options: object) -> None:
    """What is there from the beginning on is what is wanted, by offset; each record has its own number for a key."""
    records = run.client.read(topic, {0: 0}, len(wanted), **options)
    records = records[: len(wanted)]  # some clients hand over what came with them
    same([each.offset for each in records], wanted, f"offsets in {topic}")
    check(all(each.key == b"%d" % each.offset for each in records), "records are not what was sent")


@scenario("view-skip-markers")
def view_skip_markers(run: Run) -> Seen:
    source = run.topic("skips", 1, kbroker_tags_enable="true")
    run.client.produce(
        source, (message(n, matches=n in MATCHES) for n in range(COUNT)), batch_bytes=20_000, linger_ms=5, in_flight=1
    )
    views = [
        view(run, "skips-by-tag", source, kbroker_view_tags="eu"),
        view(run, "skips-by-header", source, kbroker_view_filter='region = "eu"'),
    ]
    for each in views:
        read(run, each, list(MATCHES))
        waits(run, source, each)
    return {"matches": len(MATCHES), "views": len(views)}


def waits(run: Run, source: str, topic: str) -> None:
    """A reader that has come to the end hears of what matches, and of nothing else."""
    reader = run.client.consumer(topic, {0: MATCHES[-1] + 1})
    try:
        before = reader.take(1, 2.0)  # on the way there it passes over all that does not match
        end = COUNT + 51 * len(before)
        run.client.produce(source, [message(end + n, matches=n == 50) for n in range(51)])
        found: list[Record] = before + reader.take(1, IN_TIME_S)
        check(found, "nothing came")
        same([each.key for each in found][-1], b"%d" % (end + 50), "what came last")
    finally:
        reader.close()


@scenario("view-committed")
def view_committed(run: Run) -> Seen:
    stage = Stage(run, "view-committed")
    source = stage.topic("source", kbroker_tags_enable="true")
    topic = view(run, "view-committed-eu", source, kbroker_view_tags="eu")
    transactor = stage.transactor()
    try:
        for is_commit in (False, True):
            transactor.begin()
            transactor.send(source, [message(n, matches=n % 3 == 0) for n in range(9)])
            transactor.commit() if is_commit else transactor.abort()
        stage.ends_at(source, 20)
        read_offsets(run, topic, [10, 13, 16], COMMITTED)
        read_offsets(run, topic, [0, 3, 6, 10, 13, 16], UNCOMMITTED)
    finally:
        stage.close()
    return {"committed": 3, "uncommitted": 6}


def read_offsets(run: Run, topic: str, wanted: list[int], isolation: str) -> None:
    records = run.client.read(topic, {0: 0}, len(wanted), isolation=isolation)
    same([each.offset for each in records][: len(wanted)], wanted, f"offsets of the {isolation} reader")


@scenario("view-late")
def view_late(run: Run) -> Seen:
    source = run.topic("late-source", 1)
    topic = view(run, "late", source, kbroker_view_lag_ms=str(int(LATE_S * 1000)))
    reader = run.client.consumer(topic, {0: 0})
    try:
        reader.take(1, 0.5)  # it is up and waits
        for number in range(3):
            began = time.monotonic()
            run.client.produce(source, [Message(b"v", key=b"%d" % number)])
            sent = time.monotonic()
            found = reader.take(1, LATE_S + IN_TIME_S)
            now = time.monotonic()
            same([each.offset for each in found], [number], "what came")
            check(now - began >= LATE_S, f"it came {now - began:.3f} s after it was sent: early")
            check(now - sent <= LATE_S + LATER_S, f"it came {now - sent:.3f} s after it was sent: late")
    finally:
        reader.close()
    return {"records": 3}


@scenario("view-refused")
def view_refused(run: Run) -> Seen:
    source = run.topic("refused-source", 1)
    topic = view(run, "refused", source)
    began = time.monotonic()
    found = refusal(lambda: run.client.produce(topic, [Message(b"v")]))
    check(time.monotonic() - began < IN_TIME_S, "it was tried again and again")
    same(wire.offset(run.client.bootstrap, source, 0), 0, "where the source ends")
    return {"refused": found}


def groups_of_views(run: Run, protocol: str) -> Seen:
    """Two members share a view by tags and a view of all; who comes later goes on where they were."""
    team = Team(run, f"view-{protocol}", protocol)
    source = team.topic(4, "source")
    tagged = view_of_team(run, team, "eu", source, kbroker_view_tags="eu")
    try:
        for partition in range(4):
            rows = [message(n, matches=n % 10 == 0) for n in range(100)]
            run.client.produce(source, [replace(row, partition=partition) for row in rows])
        first, second = team.join([tagged]), team.join([tagged])
        shares = team.shares(tagged, 4, first, second)
        wanted = {(tagged, p, n) for p in range(4) for n in range(0, 100, 10)}
        check(until(lambda: wanted <= taken(first) | taken(second), IN_TIME_S), "not all that match were read")
        same((taken(first) | taken(second)) - wanted, set(), "what does not match")
        team.leave(first)
        team.leave(second)
        last = team.join([tagged])
        team.shares(tagged, 4, last)
        run.client.produce(source, [replace(message(n, matches=True), partition=n) for n in range(4)])
        check(until(lambda: len(taken(last)) >= 4, IN_TIME_S), "who comes later reads nothing")
        same(taken(last), {(tagged, p, 100) for p in range(4)}, "what who comes later has read")
    finally:
        team.close()
    return {"shares": shares, "read": len(wanted)}


def view_of_team(run: Run, team: Team, name: str, source: str, **configs: str) -> str:
    if run.client.shows_markers:
        raise run.client.absent("way past control batches: it shows them as records")
    return run.topic(f"{team.name}-{name}", 4, **{"kbroker_view_source": source, **configs})


def taken(member: Member) -> set[tuple[str, int, int]]:
    return {entry[2:] for entry in member.journal() if entry.kind == "took"}


@scenario("view-group")
def view_group(run: Run) -> Seen:
    return groups_of_views(run, "classic")


@scenario("view-kip848")
def view_kip848(run: Run) -> Seen:
    return groups_of_views(run, "consumer")
