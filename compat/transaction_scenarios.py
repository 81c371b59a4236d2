"""The transactions of `scenarios.md`, carried out through `Client.transactor` and `Client.source`.

A scenario has a `Stage`: its topics, its transactional ids, whatever it opens. What the committed reader must not see
is shown by what comes to it from behind that: a plain record, or a later transaction.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import wire
from common import (
    Absent,
    Client,
    Consumer,
    Message,
    Record,
    Refused,
    Run,
    Seen,
    Source,
    Transactor,
    check,
    digest,
    refusal,
    same,
    scenario,
    until,
)
from group_scenarios import answer
from members import Member, Place
from scenarios import counts, numbered, texts

COMMITTED, UNCOMMITTED = "read_committed", "read_uncommitted"
NOTHING_COMES_SECONDS = 0.5
BACK_SECONDS_MAX = 30.0  # after a kill -9 Apache Kafka takes its time to write the markers
LOOP_RECORDS, LOOP_PARTITIONS, LOOP_EACH = 5000, 4, 100
LOOP_STILL_SECONDS_MAX = 8.0
LOOP_KILLS = ((1200, "loop"), (2400, "broker"), (3600, "loop"))
LEFT_OPEN: list[Transactor] = []  # kept until the runner ends: nothing may close them


class Stage:
    """What one scenario uses; `close` ends all of it."""

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name
        self.group = run.name(f"{name}-group")
        self.closing: list[Callable[[], Any]] = []

    def topic(self, name: str = "topic", partitions: int = 1, **configs: str) -> str:
        return self.run.topic(f"{self.name}-{name}", partitions, **configs)

    def identifier(self, which: str = "id") -> str:
        return self.run.name(f"{self.name}-{which}")

    def transactor(self, which: str = "id", client: Client | None = None, **options: Any) -> Transactor:
        """One that has called `init`."""
        made = (client or self.run.client).transactor(self.identifier(which), **options)
        self.closing.append(made.close)
        made.init()
        return made

    def source(self, topic: str, client: Client | None = None, **options: Any) -> Source:
        wanted = {"group": self.group, "protocol": "classic", "reset": "earliest", "isolation": COMMITTED, **options}
        made = (client or self.run.client).source(topic, **wanted)
        self.closing.append(made.leave)
        return made

    def member(self, topic: str, protocol: str) -> Member:
        """One that reads by itself and commits nothing."""
        options = {"group": self.group, "protocol": protocol, "reset": "earliest", "commits": False}
        made = self.run.client.member([topic], **options)
        self.closing.append(made.leave)
        return made

    def reader(self, topic: str, isolation: str = COMMITTED, **options: Any) -> Consumer:
        """Of partition 0."""
        made = self.run.client.consumer(topic, {0: 0}, isolation=isolation, **options)
        self.closing.append(made.close)
        return made

    def read(self, topic: str, count: int, partitions: int = 1, isolation: str = COMMITTED) -> list[Record]:
        """The first `count` records, in order of partition and offset."""
        records = self.run.client.read(topic, dict.fromkeys(range(partitions), 0), count, isolation=isolation)
        same(len(records), count, f"records in {topic}")
        return records

    def elsewhere(self) -> Any:
        """The client in another process, to be killed."""
        other: Any = self.run.client.elsewhere()
        self.closing.insert(0, other.kill)
        return other

    def plain(self, topic: str, count: int = 1, partitions: int = 1) -> None:
        """Records that are in no transaction, in each partition."""
        self.run.client.produce(topic, [m for p in range(partitions) for m in numbered(count, "plain", p)])

    def ends_at(self, topic: str, end: int, partition: int = 0) -> None:
        """Wait for a marker: it may be written after its commit or abort was answered."""
        found = until(lambda: wire.offset(self.run.client.bootstrap, topic, partition) >= end)
        check(found, f"{topic}-{partition} does not end at {end}")

    def close(self) -> None:
        for end in reversed(self.closing):
            try:
                end()
            except Exception as problem:  # what a client makes of its end is no part of the scenario
                print(f"{self.name}, at its end: {problem!r}", file=sys.stderr)


Body = Callable[[Run, Stage], Seen]


def transaction(identifier: str) -> Callable[[Body], Body]:
    """Register under `transaction-…`."""

    def register(body: Body) -> Body:
        def carry_out(run: Run) -> Seen:
            stage = Stage(run, f"transaction-{identifier}")
            try:
                return body(run, stage)
            finally:
                stage.close()

        scenario(f"transaction-{identifier}")(carry_out)
        return body

    return register


# ---- What readers see ------------------------------------------------------------------------------------------------


@transaction("commit")
def commit(run: Run, stage: Stage) -> Seen:
    writer, topic = stage.transactor(), stage.topic()
    waiting = later(lambda reader: (reader.take(10, 15), time.monotonic()), stage.reader(topic, max_wait_ms=10_000))
    writer.begin()
    acknowledged = writer.send(topic, numbered(10))
    uncommitted = stage.read(topic, 10, isolation=UNCOMMITTED)
    time.sleep(1)  # the reader is surely in its long poll by now
    check(not waiting.done(), "the committed reader has records of an open transaction")
    writer.commit()
    committed = time.monotonic()
    came, at = waiting.result(20)
    same(offsets(came), list(range(10)), "what the committed reader has")
    check(at - committed < 2.0, f"the records came {at - committed:.1f} s after the commit")
    stage.ends_at(topic, 11)
    acknowledged += in_transaction(writer, topic, numbered(2, "next"))
    records = stage.read(topic, 12)
    keep(run, topic, records)
    if None not in acknowledged:
        same(acknowledged, offsets(records), "acknowledged offsets")
    return {"uncommitted": offsets(uncommitted), "committed": offsets(records), "within 2 s": True}


@transaction("abort")
def abort(run: Run, stage: Stage) -> Seen:
    writer, topic = stage.transactor(), stage.topic()
    stage.plain(topic, 3)
    writer.begin()
    writer.send(topic, numbered(5, "aborted"))
    writer.abort()
    stage.ends_at(topic, 9)
    stage.plain(topic, 2)
    in_transaction(writer, topic, numbered(2, "committed"))
    records = stage.read(topic, 7)
    keep(run, topic, records)
    return {"offsets": offsets(records), "aborted ones": sum(text.startswith("aborted") for text in texts(records))}


@transaction("read-uncommitted")
def read_uncommitted(run: Run, stage: Stage) -> Seen:
    writer, topic = stage.transactor(), stage.topic()
    in_transaction(writer, topic, numbered(2, "committed"))
    stage.ends_at(topic, 3)
    writer.begin()
    writer.send(topic, numbered(2, "aborted"))
    writer.abort()
    stage.ends_at(topic, 6)
    writer.begin()
    writer.send(topic, numbered(2, "open"))
    records = stage.read(topic, 6, isolation=UNCOMMITTED)
    committed = stage.read(topic, 2)
    return {
        "uncommitted": [[r.offset, text.rstrip(".")] for r, text in zip(records, texts(records), strict=True)],
        "committed": offsets(committed),
    }


@transaction("end-offsets")
def end_offsets(run: Run, stage: Stage) -> Seen:
    writer, topic = stage.transactor(), stage.topic()

    def ends() -> dict[str, int | None]:
        asked = ((when, level) for when in ("earliest", "latest") for level in (UNCOMMITTED, COMMITTED))
        return {f"{when}, {level}": run.client.offset(topic, 0, when, isolation=level) for when, level in asked}

    stage.plain(topic, 3)
    writer.begin()
    writer.send(topic, numbered(2))
    open_ = ends()
    writer.commit()
    stage.ends_at(topic, 6)
    return {"open": open_, "committed": ends()}


@transaction("interleaved")
def interleaved(run: Run, stage: Stage) -> Seen:
    first, second, topic = stage.transactor("a"), stage.transactor("b"), stage.topic()
    reader = stage.reader(topic)
    seen: Seen = {}

    def after(what: str, comes: int) -> None:
        took = reader.take(comes, 10) if comes else reader.take(1, NOTHING_COMES_SECONDS)
        seen[f"after {what}"] = offsets(took)

    first.begin()
    first.send(topic, numbered(2, "a"))  # 0, 1
    second.begin()
    second.send(topic, numbered(2, "b"))  # 2, 3
    stage.plain(topic)  # 4
    after("records of both and a plain one", 0)
    second.commit()  # 5
    stage.ends_at(topic, 6)
    first.send(topic, numbered(1, "a"))  # 6
    after("the commit of the later", 0)
    first.abort()  # 7
    stage.ends_at(topic, 8)
    after("the abort of the earlier", 3)
    first.begin()
    first.send(topic, numbered(1, "a"))  # 8
    second.begin()
    second.send(topic, numbered(1, "b"))  # 9
    stage.plain(topic)  # 10
    first.commit()  # 11
    after("the commit of the earlier", 1)
    second.commit()
    after("the commit of both", 2)
    keep(run, topic, stage.read(topic, 6))
    return seen


@transaction("many-partitions")
def many_partitions(run: Run, stage: Stage) -> Seen:
    writer, partitions = stage.transactor(), 20
    topics = [stage.topic(f"topic-{n}", partitions) for n in range(3)]

    def write(tag: str) -> None:
        writer.begin()
        for topic in topics:
            writer.send(topic, [m for p in range(partitions) for m in numbered(1, tag, p)])

    write("first")
    before = [len(stage.reader(topic).take(1, NOTHING_COMES_SECONDS)) for topic in topics]
    writer.commit()
    after = [counts(stage.read(topic, partitions, partitions)) for topic in topics]
    write("aborted")
    writer.abort()
    write("last")
    writer.commit()
    both = [stage.read(topic, 2 * partitions, partitions) for topic in topics]
    return {
        "before the commit": before,
        "after it": [sum(count.values()) for count in after],
        "partitions": [len(count) for count in after],
        "then": [sorted({text.rstrip(".") for text in texts(records)}) for records in both],
    }


@transaction("big")
def big(run: Run, stage: Stage) -> Seen:
    writer, partitions = stage.transactor(patience=50), 4
    topic = stage.topic(partitions=partitions)
    sent = [Message(b"%08d" % i, partition=i % partitions) for i in range(10_000)]
    writer.begin()
    writer.send(topic, sent, wait=False)
    writer.commit()
    records = stage.read(topic, len(sent), partitions)
    for partition in range(partitions):
        found = [r.value for r in records if r.partition == partition]
        same(found, [m.value for m in sent if m.partition == partition], f"values in partition {partition}")
    keep(run, topic, records)
    return {"records": counts(records)}


@transaction("many-short")
def many_short(run: Run, stage: Stage) -> Seen:
    writer, topic, count = stage.transactor(), stage.topic(), 200
    for n in range(count):
        in_transaction(writer, topic, numbered(1, f"{n:03}-"))
    records = stage.read(topic, count)
    steps = {later - earlier for earlier, later in zip(offsets(records), offsets(records)[1:], strict=False)}
    same([text[:3] for text in texts(records)], [f"{n:03}" for n in range(count)], "order")
    keep(run, topic, records)
    return {"records": len(records), "from offset to offset": sorted(steps)}


@transaction("empty")
def empty(run: Run, stage: Stage) -> Seen:
    writer, topic = stage.transactor(), stage.topic()
    for end in (writer.commit, writer.abort, writer.commit):
        writer.begin()
        end()
    in_the_log = wire.offset(run.client.bootstrap, topic, 0)
    in_transaction(writer, topic, numbered(1))
    return {"in the log": in_the_log, "then": offsets(stage.read(topic, 1))}


@transaction("left-open")
def left_open(run: Run, stage: Stage) -> Seen:
    writer = run.client.transactor(stage.identifier(), timeout_ms=900_000)
    LEFT_OPEN.append(writer)
    writer.init()
    topic = stage.topic()
    in_transaction(writer, topic, numbered(1, "committed"))
    stage.ends_at(topic, 2)
    writer.begin()
    writer.send(topic, numbered(1, "open"))
    run.remember("left open", "topic", topic)
    return {
        "uncommitted": offsets(stage.read(topic, 2, isolation=UNCOMMITTED)),
        "committed": offsets(stage.read(topic, 1)),
    }


# ---- Offsets in transactions -----------------------------------------------------------------------------------------


@transaction("offsets")
def offsets_with_records(run: Run, stage: Stage) -> Seen:
    inputs, outputs, writer = stage.topic("in", 2), stage.topic("out", 2), stage.transactor()
    stage.plain(inputs, 10, partitions=2)
    source = stage.source(inputs)
    writer.begin()
    copy(stage, source, writer, inputs, outputs, 20)
    before = run.client.committed(stage.group, inputs)
    writer.commit()
    after = until(lambda: run.client.committed(stage.group, inputs))
    source.leave()
    stage.plain(inputs, 1, partitions=2)
    more = gather(stage.source(inputs), 2)
    return {
        "committed before": before,
        "committed after": sorted(after.items()),
        "copied": counts(stage.read(outputs, 20, 2)),
        "the next has": places(more),
    }


@transaction("offsets-abort")
def offsets_abort(run: Run, stage: Stage) -> Seen:
    inputs, outputs, writer = stage.topic("in", 2), stage.topic("out", 2), stage.transactor()
    stage.plain(inputs, 10, partitions=2)
    source = stage.source(inputs)
    writer.begin()
    first = copy(stage, source, writer, inputs, outputs, 20)
    writer.abort()
    committed = run.client.committed(stage.group, inputs)
    source.rewind()
    writer.begin()
    second = copy(stage, source, writer, inputs, outputs, 20)
    writer.commit()
    same(places(second), places(first), "the records that came again")
    return {
        "committed after the abort": committed,
        "committed in the end": sorted(until(lambda: run.client.committed(stage.group, inputs)).items()),
        "copied": counts(stage.read(outputs, 20, 2)),
    }


@transaction("offsets-pending")
def offsets_pending(run: Run, stage: Stage) -> Seen:
    inputs, outputs, writer = stage.topic("in"), stage.topic("out"), stage.transactor()
    stage.plain(inputs, 10)
    source = stage.source(inputs)
    writer.begin()
    copy(stage, source, writer, inputs, outputs, 10)
    source.leave()
    newcomer = stage.source(inputs)
    pending = gather(newcomer, 10, 3.0)
    fate = answer(writer.commit)
    stage.plain(inputs, 2)
    return {"while they are pending": offsets(pending), "commit": fate, "then": offsets(gather(newcomer, 2))}


def shared(source: Source, other: Member) -> bool:
    """Whether each has one of two partitions. `other` has it once the coordinator knows that `source` gave it up, and
    not before: until then what `source` sends is not stale, though it shows one partition.
    """
    return len(source.owned()) == len(other.owned()) == 1


def stale_member(identifier: str, protocol: str) -> None:
    @transaction(identifier)
    def carry_out(run: Run, stage: Stage) -> Seen:
        inputs, outputs, writer = stage.topic("in", 2), stage.topic("out", 2), stage.transactor()
        stage.plain(inputs, 10, partitions=2)
        source = stage.source(inputs, protocol=protocol)
        taken = gather(source, 20)
        membership = source.membership()
        other = stage.member(inputs, protocol)
        check(until(lambda: source.poll(1, 0.5) is not None and shared(source, other), 20), "no rebalance")

        def commit_what_was_taken() -> None:
            writer.begin()
            writer.send(outputs, [copied(record) for record in taken])
            writer.send_offsets(done_by(taken, inputs), stage.group, membership)
            writer.commit()  # a client may send them with the commit only

        refused = refusal(commit_what_was_taken)
        writer.abort()
        other.leave()
        check(until(lambda: source.poll(1, 0.5) is not None and len(source.owned()) == 2, 20), "no rebalance")
        committed = run.client.committed(stage.group, inputs)
        source.rewind()
        writer.begin()
        copy(stage, source, writer, inputs, outputs, 20)
        writer.commit()
        return {
            "refused": refused,
            "committed then": committed,
            "committed in the end": sorted(until(lambda: run.client.committed(stage.group, inputs)).items()),
            "copied": counts(stage.read(outputs, 20, 2)),
        }


stale_member("stale-member", "classic")
stale_member("stale-member-kip848", "consumer")


# ---- Fencing, timeouts, errors ---------------------------------------------------------------------------------------


@transaction("zombie")
def zombie(run: Run, stage: Stage) -> Seen:
    topic, first = stage.topic(), stage.transactor(patience=10)
    first.begin()
    first.send(topic, numbered(3, "first"))
    second = stage.transactor()
    stage.ends_at(topic, 4)
    fate = {
        "its next record": answer(lambda: first.send(topic, numbered(1, "first"))),
        "its commit": answer(first.commit),
        "its abort": answer(first.abort),
    }
    in_transaction(second, topic, numbered(2, "second"))
    records = stage.read(topic, 2)
    keep(run, topic, records)
    return {**fate, "committed": [text.rstrip(".") for text in texts(records)], "offsets": offsets(records)}


@transaction("init-aborts")
def init_aborts(run: Run, stage: Stage) -> Seen:
    topic, other = stage.topic(), stage.elsewhere()
    victim = stage.transactor(client=other)
    victim.begin()
    victim.send(topic, numbered(3))
    other.kill()
    stage.plain(topic)
    reader = stage.reader(topic)
    before = reader.take(1, NOTHING_COMES_SECONDS)
    writer = stage.transactor()
    after = reader.take(1, 10)
    stage.ends_at(topic, 5)
    in_transaction(writer, topic, numbered(1, "next"))
    return {"before": offsets(before), "after": offsets(after), "then": offsets(reader.take(1, 10))}


@transaction("timeout")
def timeout(run: Run, stage: Stage) -> Seen:
    topic, writer = stage.topic(), stage.transactor(timeout_ms=1000, patience=10)
    reader = stage.reader(topic)
    writer.begin()
    writer.send(topic, numbered(1, "late"))
    stage.plain(topic)
    before = reader.take(1, NOTHING_COMES_SECONDS)
    after = reader.take(1, 10)
    stage.ends_at(topic, 3)
    fate = {"commit": answer(writer.commit), "abort": answer(writer.abort), "next": tried(writer, topic, "same")}
    anew = stage.transactor(timeout_ms=1000)
    in_transaction(anew, topic, numbered(1, "anew"))
    came = [text.rstrip(".") for text in texts(gather_from(reader, "anew"))]
    return {"at first": offsets(before), "after the timeout": offsets(after), **fate, "then": came}


@transaction("timeout-too-long")
def timeout_too_long(run: Run, stage: Stage) -> Seen:
    return {"init": refusal(lambda: stage.transactor(timeout_ms=900_001, patience=10))}


@transaction("after-error")
def after_error(run: Run, stage: Stage) -> Seen:
    topic = stage.topic(max_message_bytes="10000")
    writer = stage.transactor(request_bytes_max=3_000_000, patience=10)
    writer.begin()
    writer.send(topic, numbered(1, "first"))
    fate = {
        "the large record": answer(lambda: writer.send(topic, [Message(b"x" * 20_000)])),
        "commit": answer(writer.commit),
        "abort": answer(writer.abort),
        "next": tried(writer, topic, "next"),
    }
    stage.plain(topic)
    return {**fate, "committed": [text.rstrip(".") for text in texts(gather_from(stage.reader(topic), "plain"))]}


# ---- By the admin ----------------------------------------------------------------------------------------------------


@transaction("admin")
def admin(run: Run, stage: Stage) -> Seen:
    client, topic, name = run.client, stage.topic(partitions=2), stage.identifier()
    client.transactions()  # absent before anything else is done
    writer = stage.transactor(timeout_ms=50_000)

    def look() -> Seen:
        found = client.describe_transaction(name)
        return {
            "listed": client.transactions().get(name),
            "state": found["state"],
            "timeout": found["timeout_ms"],
            "places": sorted(found["places"]),
            "open in 0": client.open_producers(topic, 0),
        }

    seen: Seen = {"at first": look()}
    writer.begin()
    writer.send(topic, [*numbered(1), *numbered(1, partition=1)])
    seen["open"] = look()
    writer.commit()
    check(until(lambda: client.transactions()[name] == "CompleteCommit"), client.transactions().get(name))
    seen["committed"] = look()
    return {**seen, "unknown id": answer(lambda: client.describe_transaction(stage.identifier("none")))}


@transaction("hanging")
def hanging(run: Run, stage: Stage) -> Seen:
    topic, writer = stage.topic(), stage.transactor(patience=10)
    writer.begin()
    writer.send(topic, numbered(1, "hanging"))
    stage.plain(topic)
    run.client.abort_hanging(topic, 0)
    reader = stage.reader(topic)
    after = reader.take(1, 10)
    fate = {"commit": answer(writer.commit), "open then": run.client.open_producers(topic, 0)}
    in_transaction(stage.transactor(), topic, numbered(1, "next"))
    return {"after the abort": offsets(after), **fate, "then": [text[:4] for text in texts(reader.take(1, 10))]}


@transaction("fence")
def fence(run: Run, stage: Stage) -> Seen:
    topic, writer = stage.topic(), stage.transactor(patience=10)
    writer.begin()
    writer.send(topic, numbered(1, "fenced"))
    run.client.fence(stage.identifier())
    stage.ends_at(topic, 2)
    fate = {"commit": answer(writer.commit), "abort": answer(writer.abort)}
    in_transaction(stage.transactor(), topic, numbered(1, "next"))
    return {**fate, "committed": offsets(stage.read(topic, 1))}


# ---- The broker is killed --------------------------------------------------------------------------------------------


@transaction("broker-kill")
def broker_kill(run: Run, stage: Stage) -> Seen:
    if run.control is None:
        raise Absent("no power over the broker")
    topics = {who: stage.topic(who, 20) for who in ("open", "orphan", "under-way", "answered")}
    other = stage.elsewhere()
    writers = {who: stage.transactor(who, other if who == "orphan" else None, patience=50) for who in topics}
    for who, writer in writers.items():
        writer.begin()
        writer.send(topics[who], [Message(who.encode(), partition=p) for p in range(20)])
    writers["answered"].commit()
    under_way = later(lambda writer: answer(writer.commit), writers["under-way"])
    run.kill_and_restart_broker()
    other.kill()
    try:
        fate = under_way.result(15)
    except TimeoutError:
        fate = "never answered by the client"
    writers["open"].send(topics["open"], [Message(b"more", partition=p) for p in range(20)])
    writers["open"].commit()
    for who in ("orphan", "under-way"):
        stage.transactor(who)  # what is open is aborted, what was being committed is committed
    for topic in topics.values():
        stage.plain(topic, partitions=20)
    found = {who: before_plain(stage, topic, 20) for who, topic in topics.items()}
    whole = found.pop("under-way")
    check(whole == 20 or (whole == 0 and fate != "done"), f"{whole} of 20 were committed, and the commit was {fate}")
    return found


@transaction("loop-kill")
def loop_kill(run: Run, stage: Stage) -> Seen:
    if run.control is None:
        raise Absent("no power over the broker")
    stage.transactor("loop")  # absent at once where there are no transactions
    loop = Loop(stage, stage.topic("in", LOOP_PARTITIONS), stage.topic("out", LOOP_PARTITIONS))
    sent = [Message(b"%06d" % i, partition=i % LOOP_PARTITIONS) for i in range(LOOP_RECORDS)]
    run.client.produce(loop.inputs, sent)
    loop.start()
    for copied_by_then, victim in LOOP_KILLS:
        loop.until_copied(copied_by_then)
        if victim == "broker":
            run.kill_and_restart_broker()
        else:
            loop.kill()
            loop.start()
    loop.until_copied(LOOP_RECORDS)
    loop.kill()
    stage.plain(loop.outputs, partitions=LOOP_PARTITIONS)
    stage.transactor("loop")
    records = stage.read(loop.outputs, LOOP_RECORDS + LOOP_PARTITIONS, LOOP_PARTITIONS)
    for partition in range(LOOP_PARTITIONS):
        wanted = [m for m in [*sent, *numbered(1, "plain", partition)] if m.partition == partition]
        found = [r.value for r in records if r.partition == partition]
        same(found, [m.value for m in wanted], f"the copy in partition {partition}")
    return {"records": counts(records), "exact": True, "kills": [victim for _, victim in LOOP_KILLS]}


class Loop:
    """Consume, transform, produce, in a process of its own; started again after each `kill`.

    What is committed is known by the group's offsets, as whoever watches the loop from outside knows it.
    """

    def __init__(self, stage: Stage, inputs: str, outputs: str) -> None:
        self.stage, self.inputs, self.outputs = stage, inputs, outputs
        self.errors: list[str] = []

    def start(self) -> None:
        self.process = self.stage.elsewhere()
        self.over = threading.Event()
        self.running = later(self._run, self.process)

    def kill(self) -> None:
        self.over.set()
        self.process.kill()
        self.running.result(10)

    def until_copied(self, count: int) -> None:
        """A loop that stands still is ended and started again, as whoever supervises it does."""
        reached, moved = 0, time.monotonic()

        def there() -> bool:
            nonlocal reached, moved
            if self.running.done():
                self.running.result()
            if (now := self._committed()) > reached:
                reached, moved = now, time.monotonic()
            elif time.monotonic() - moved > LOOP_STILL_SECONDS_MAX:
                self.kill()
                self.start()
                moved = time.monotonic()
            return reached >= count

        check(until(there, 50), f"copied {reached} of {count}; errors {self.errors[-5:]}")

    def _committed(self) -> int:
        try:
            return sum(self.stage.run.client.committed(self.stage.group, self.inputs).values())
        except Refused:  # the coordinator is not back yet
            return 0

    def _run(self, process: Any) -> None:
        while not self.over.is_set():
            try:
                self._copy(process)
            except Refused as error:  # fatal: an application makes its clients anew
                self.errors.append(error.name)
                time.sleep(0.1)
            except (ConnectionError, BrokenPipeError, ValueError):
                if not self.over.is_set():
                    raise

    def _copy(self, process: Any) -> None:
        """Until an error that an abort does not mend."""
        try:
            process.copy(self.stage.identifier("loop"), self.stage.group, self.inputs, self.outputs, LOOP_EACH)
        except Absent:
            self._copy_by_steps(process)

    def _copy_by_steps(self, process: Any) -> None:
        writer = self.stage.transactor("loop", process, patience=20)
        source = self.stage.source(self.inputs, process, session_ms=2000)
        try:
            while not self.over.is_set():
                if records := source.poll(LOOP_EACH, 0.5):
                    self._turn(writer, source, records)
        finally:
            source.leave()
            writer.close()

    def _turn(self, writer: Transactor, source: Source, records: list[Record]) -> None:
        writer.begin()
        try:
            writer.send(self.outputs, [copied(record) for record in records], wait=False)
            writer.send_offsets(done_by(records, self.inputs), self.stage.group, membership_of(source))
            writer.commit()
        except Refused as error:
            self.errors.append(error.name)
            writer.abort()
            source.rewind()


# ---- After a restart -------------------------------------------------------------------------------------------------


@scenario("after-restart-transactions")
def after_restart_transactions(run: Run) -> Seen:
    run.client.transactor(run.name("nobody")).close()  # absent where there are no transactions
    wanted = run.remembered("transactions")
    for topic, kept in wanted.items():
        starts = {int(partition): start for partition, start in kept["starts"].items()}
        records = run.client.read(topic, starts, kept["count"], isolation=COMMITTED)
        same(digest(records), kept["digest"], f"fingerprint of the committed records in {topic}")
    stage, topic = Stage(run, "transaction-left-open"), run.remembered("left open")["topic"]
    try:
        reader = stage.reader(topic)
        before = [*reader.take(1, 10), *reader.take(1, NOTHING_COMES_SECONDS)]
        writer = stage.transactor()
        stage.ends_at(topic, 4)
        in_transaction(writer, topic, numbered(1, "next"))
        after = reader.take(1, 10)
    finally:
        stage.close()
    return {"topics": len(wanted), "still open": offsets(before), "then": offsets(after)}


# ---- Helpers ---------------------------------------------------------------------------------------------------------


def in_transaction(writer: Transactor, topic: str, messages: list[Message]) -> list[int | None]:
    writer.begin()
    acknowledged = writer.send(topic, messages)
    writer.commit()
    return acknowledged


def tried(writer: Transactor, topic: str, tag: str) -> Any:
    """One more transaction: `done` or the error."""
    found = answer(lambda: in_transaction(writer, topic, numbered(1, tag)))
    return found if isinstance(found, str) else "done"


def gather(source: Source, count: int, wait: float = 20.0) -> list[Record]:
    """At least `count` records, or what came within `wait` seconds."""
    found: list[Record] = []
    deadline = time.monotonic() + wait
    while len(found) < count and (left := deadline - time.monotonic()) > 0:
        found += source.poll(count - len(found), left)
    return found


def gather_from(reader: Consumer, last: str) -> list[Record]:
    """All records until one whose value begins with `last`."""
    found: list[Record] = []
    deadline = time.monotonic() + 10
    while not any(text.startswith(last) for text in texts(found)) and time.monotonic() < deadline:
        found += reader.take(1, 1.0)
    return found


def copy(stage: Stage, source: Source, writer: Transactor, inputs: str, outputs: str, count: int) -> list[Record]:
    """Take `count` records, write them in the open transaction, with the offsets; what was taken."""
    taken = gather(source, count)
    same(len(taken), count, "records that the member took")
    writer.send(outputs, [copied(record) for record in taken])
    writer.send_offsets(done_by(taken, inputs), stage.group, membership_of(source))
    return taken


def copied(record: Record) -> Message:
    return Message(record.value, record.key, record.partition)


def done_by(records: Iterable[Record], topic: str) -> dict[Place, int]:
    """The offsets that say that these are done."""
    return {(topic, record.partition): record.offset + 1 for record in sorted(records)}


def membership_of(source: Source) -> Any:
    try:
        return source.membership()
    except Absent:
        return None


def before_plain(stage: Stage, topic: str, partitions: int) -> int:
    """How many partitions have committed records before the plain one."""
    found: set[int] = set()
    ends: set[int] = set()
    reader = stage.run.client.consumer(topic, dict.fromkeys(range(partitions), 0), isolation=COMMITTED)
    stage.closing.append(reader.close)
    while len(ends) < partitions and (records := reader.take(1, BACK_SECONDS_MAX)):
        for record in records:
            (ends if texts([record])[0].startswith("plain") else found).add(record.partition)
    same(len(ends), partitions, f"partitions of {topic} whose plain record came")
    return len(found)


def later(work: Callable[[Any], Any], argument: Any) -> Future[Any]:
    """Carried out by a thread of its own."""
    result: Future[Any] = Future()

    def body() -> None:
        try:
            result.set_result(work(argument))
        except BaseException as problem:
            result.set_exception(problem)

    threading.Thread(target=body, daemon=True).start()
    return result


def offsets(records: Iterable[Record]) -> list[int]:
    return [record.offset for record in records]


def places(records: Iterable[Record]) -> list[tuple[int, int]]:
    return sorted((record.partition, record.offset) for record in records)


def keep(run: Run, topic: str, records: list[Record]) -> None:
    """Remember what the committed reader has, for after the restart."""
    starts = {str(record.partition): 0 for record in records}
    run.remember("transactions", topic, {"starts": starts, "count": len(records), "digest": digest(records)})
