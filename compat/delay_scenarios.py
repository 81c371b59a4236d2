"""Delayed delivery, as `scenarios.md` has it: what a client sends for later, cancels, hurries, and what it is given."""

from __future__ import annotations

import time

from common import Headers, Message, Record, Run, Seen, check, same, scenario
from transaction_scenarios import COMMITTED, Stage

HOUR = b"3600000"
AFTER_MS, AT_MS = 1500, 2500
PATIENCE_S = 20.0
HIDDEN = 300


def later(value: bytes, key: bytes, name: str, text: bytes, *others: tuple[str, bytes]) -> Message:
    return Message(value, key=key, headers=((f"kbroker-{name}", text), *others))


def delaying(run: Run, name: str) -> str:
    """A topic that delays, made by the client itself where it can."""
    if run.client.shows_markers:
        raise run.client.absent("way past control batches: it shows them as records")
    return run.topic(name, 1, kbroker_delay_enable="true")


@scenario("delayed-delivery")
def delayed_delivery(run: Run) -> Seen:
    topic = delaying(run, "delayed")
    begun_ms = int(time.time() * 1000)
    at_ms = begun_ms + AT_MS
    sent = [
        later(b"after", b"a", "deliver-after", b"%d" % AFTER_MS, ("colour", b"red")),
        Message(b"first", key=b"f"),
        later(b"at", b"b", "deliver-at", b"%d" % at_ms),
        later(b"never", b"c", "deliver-after", b"2000"),
        later(b"hurried", b"d", "deliver-after", HOUR),
        *(later(b"far", b"e", "deliver-after", HOUR) for _ in range(HIDDEN)),
        Message(b"second", key=b"f"),
    ]
    run.client.produce(topic, sent)
    run.client.produce(topic, [later(b"cancel", b"c", "delay-cancel", b"")])
    run.client.produce(topic, [later(b"hurry", b"d", "delay-now", b"")])
    found, there_ms = took(run, topic, 5)
    same([each.value for each in found], [b"first", b"second", b"hurried", b"after", b"at"], "what was given, in order")
    check(there_ms[3] >= begun_ms + AFTER_MS and there_ms[4] >= at_ms, "given before it was due")
    same(found[4].timestamp, at_ms, "the timestamp of what was delivered at a time")
    names = [[name for name, _ in each.headers] for each in found]
    same(names, [[], [], ["kbroker-delay-id"], ["colour", "kbroker-delay-id"], ["kbroker-delay-id"]], "headers")
    return {"given": len(found), "cancelled": 1}


def took(run: Run, topic: str, count: int) -> tuple[list[Record], list[int]]:
    """So many records of a partition, in order, and when each was there, in ms since the epoch."""
    begun, found = time.time(), list[Record]()
    there_ms: list[int] = []
    reader = run.client.consumer(topic, {0: 0})
    try:
        while len(found) < count and time.time() - begun < PATIENCE_S:
            some = reader.take(1, 1.0)
            there_ms += [int(time.time() * 1000)] * len(some)
            found += some
    finally:
        reader.close()
    return found, there_ms


@scenario("delayed-in-a-transaction")
def delayed_in_a_transaction(run: Run) -> Seen:
    stage = Stage(run, "delayed-committed")
    topic = delaying(run, "delayed-committed")
    soon: Headers = (("kbroker-deliver-after", b"300"),)
    transactor = stage.transactor()
    try:
        for value, is_commit in ((b"aborted", False), (b"committed", True)):
            transactor.begin()
            transactor.send(topic, [Message(value, headers=soon), Message(value + b" at once")])
            time.sleep(0.5)  # due before it is decided
            transactor.commit() if is_commit else transactor.abort()
        run.client.produce(topic, [Message(b"last", headers=(("kbroker-deliver-after", b"1000"),))])
        found = run.client.read(topic, {0: 0}, 3, PATIENCE_S, isolation=COMMITTED)
    finally:
        stage.close()
    same([each.value for each in found], [b"committed at once", b"committed", b"last"], "what was given, in order")
    return {"given": len(found)}
