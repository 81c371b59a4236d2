"""The list of `scenarios.md`, carried out through the `Client` interface of `common.py`.

One function per id, in the order of the page. A function checks what must be seen and returns the facts (`seen`) that
have to be the same on every broker: error names, counts, offsets, values. Nothing that changes from run to run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import wire
from common import (
    Absent,
    Message,
    Record,
    Refused,
    Run,
    Seen,
    check,
    digest,
    refusal,
    same,
    scenario,
    until,
)

CODEC_IDS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
HOUR = 3_600_000


# ---- Restart under load ----------------------------------------------------------------------------------------------


@scenario("restart-under-load")
def restart_under_load(run: Run) -> Seen:
    topic, sent, records = write_through_restart(run, "through", idempotent=False)
    return {"lost": lost(sent, records), "in order": in_order(sent, records)}


@scenario("restart-under-load-idempotent")
def restart_under_load_idempotent(run: Run) -> Seen:
    topic, sent, records = write_through_restart(run, "through-once", idempotent=True)
    check(len(records) == len(sent), f"{len(records)} records for {len(sent)} that were sent")
    return {"lost": lost(sent, records), "in order": in_order(sent, records), "duplicates": len(records) - len(sent)}


def write_through_restart(run: Run, name: str, idempotent: bool) -> tuple[str, list[Message], list[Record]]:
    """Write without pause, kill -9 the broker, start it again, write for another second; what was sent and found."""
    if run.control is None:
        raise Absent("no power over the broker")
    topic, sent, over = run.topic(name, 2), [], threading.Event()
    problems: list[BaseException] = []

    def disturb() -> None:
        try:
            time.sleep(1)
            run.kill_and_restart_broker()
            time.sleep(1)
        except BaseException as problem:
            problems.append(problem)
        over.set()

    def source() -> Iterator[Message]:
        while not over.is_set() and len(sent) < 20_000:
            sent.append(Message(b"%06d" % len(sent), key=b"k%d" % (len(sent) % 4), partition=None))
            yield sent[-1]
            time.sleep(0.004)

    threading.Thread(target=disturb, daemon=True).start()
    in_flight = 5 if idempotent else 1
    run.client.produce(topic, source(), acks="all", idempotent=idempotent, in_flight=in_flight, patience=50)
    check(not problems, problems)
    total = sum(wire.offset(run.client.bootstrap, topic, p) for p in range(2))
    records = run.client.read(topic, {0: 0, 1: 0}, total)
    same(len(records), total, "records up to the end offsets")
    keep(run, topic, records)
    return topic, sent, records


def lost(sent: list[Message], records: list[Record]) -> int:
    return len({m.value for m in sent} - {r.value for r in records})


def in_order(sent: list[Message], records: list[Record]) -> bool:
    """Per key, the first appearances of the values are in the order in which they were sent."""
    for key in {m.key for m in sent}:
        first = list(dict.fromkeys(r.value for r in records if r.key == key))
        if first != [m.value for m in sent if m.key == key]:
            return False
    return True


# ---- Connect ---------------------------------------------------------------------------------------------------------


@scenario("connect")
def connect(run: Run) -> Seen:
    found = run.client.cluster()
    same(sorted(found["brokers"]), sorted(wire.broker_ids(run.client.bootstrap)), "node ids")
    return {"any brokers": len(found["brokers"]) > 0}


@scenario("describe-cluster")
def describe_cluster(run: Run) -> Seen:
    first, second = run.client.cluster(), run.client.cluster()
    if first.get("cluster_id") is None:
        raise Absent(f"{run.client.name} does not tell the cluster id")
    same(second["cluster_id"], first["cluster_id"], "cluster id asked twice")
    check(first["controller"] in first["brokers"], f"controller {first['controller']} is none of {first['brokers']}")
    run.remember("cluster", "id", first["cluster_id"])
    return {"length of the id": len(first["cluster_id"])}


# ---- Topics ----------------------------------------------------------------------------------------------------------


@scenario("metadata-unknown-topic")
def metadata_unknown_topic(run: Run) -> Seen:
    topic = run.name("asked-for")
    try:
        answer = f"{run.client.partitions(topic)} partition(s)"
    except Refused as error:
        answer = error.name
    time.sleep(0.5)  # a client may have asked the broker to create it, which the broker does in its own time
    created = topic in run.client.topics()
    if created and answer in ("UNKNOWN_TOPIC_OR_PARTITION", "1 partition(s)"):
        answer = "not yet there, or just created"
    return {"answer": answer, "created by asking": created}


@scenario("create-topic")
def create_topic(run: Run) -> Seen:
    topic = run.name("three")
    run.client.create_topics({topic: 3})
    run.settle(topic, 3)
    run.remember("topics", topic, 3)
    return {"partitions": until(lambda: run.client.partitions(topic)), "listed": topic in run.client.topics()}


@scenario("create-topic-refusals")
def create_topic_refusals(run: Run) -> Seen:
    create, topic = run.client.create_topics, run.topic("taken")
    too_many = len(wire.broker_ids(run.client.bootstrap)) + 2
    return {
        "same name again": refusal(lambda: create({topic: 1})),
        "no partitions": refusal(lambda: create({run.name("empty"): 0})),
        "more replicas than brokers": refusal(lambda: create({run.name("wide"): 1}, replication=too_many)),
        "a blank in the name": refusal(lambda: create({run.name("a b"): 1})),
        "a name of 250": refusal(lambda: create({"x" * 250: 1})),
        "unknown config": refusal(lambda: create({run.name("odd"): 1}, {"no.such.config": "1"})),
        "bad config value": refusal(lambda: create({run.name("odd"): 1}, {"retention.ms": "soon"})),
    }


@scenario("create-partitions")
def create_partitions(run: Run) -> Seen:
    topic = run.topic("grows", 1)
    run.client.produce(topic, numbered(5))
    run.client.add_partitions(topic, 4)
    run.settle(topic, 4)
    run.client.produce(topic, numbered(5, partition=3))
    records = run.client.read(topic, {0: 0, 3: 0}, 10)
    run.remember("topics", topic, 4)
    return {
        "partitions": run.client.partitions(topic),
        "records": counts(records),
        "fewer": refusal(lambda: run.client.add_partitions(topic, 2)),
        "of an unknown topic": refusal(lambda: run.client.add_partitions(run.name("nowhere"), 2)),
    }


@scenario("delete-topic")
def delete_topic(run: Run) -> Seen:
    topic = run.topic("short-lived")
    run.client.produce(topic, numbered(5))
    run.client.delete_topics([topic])
    check(until(lambda: topic not in run.client.topics()), "the topic is still listed")
    unknown = refusal(lambda: run.client.delete_topics([topic]))
    until(lambda: created_again(run, topic))
    round_trip(run, topic, numbered(3, "again"))
    return {"deleted again": unknown}


@scenario("auto-create")
def auto_create(run: Run) -> Seen:
    topic = run.name("by-producing")
    run.client.produce(topic, [Message(b"first", partition=None)])
    records = run.client.read(topic, {0: 0}, 1)
    run.remember("topics", topic, 1)
    return {"values": texts(records), "end of partition 0": wire.offset(run.client.bootstrap, topic, 0)}


@scenario("partitions-100")
def partitions_100(run: Run) -> Seen:
    topic = run.topic("hundred", 100)
    sent = [Message(b"p%d-%d" % (p, i), partition=p) for i in range(2) for p in range(100)]
    records = round_trip(run, topic, sent, starts=dict.fromkeys(range(100), 0))
    return {"partitions": len(counts(records)), "records": len(records)}


@scenario("topics-200")
def topics_200(run: Run) -> Seen:
    names = {run.name(f"many-{i:03}"): 1 for i in range(200)}
    run.client.create_topics(names)
    listed = until(lambda: len(names.keys() & run.client.topics()) == 200)
    for name in names:
        run.settle(name, 1)
    last = sorted(names)[-1]
    run.client.produce(last, numbered(3))
    read = texts(run.client.read(last, {0: 0}, 3))
    run.client.delete_topics(list(names))
    gone = until(lambda: not names.keys() & run.client.topics())
    return {"all listed": listed, "read from the last": read, "all gone": gone}


# ---- Configs and records ---------------------------------------------------------------------------------------------

TOPIC_CONFIGS = (
    "cleanup.policy",
    "compression.type",
    "delete.retention.ms",
    "file.delete.delay.ms",
    "flush.messages",
    "flush.ms",
    "index.interval.bytes",
    "max.compaction.lag.ms",
    "max.message.bytes",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.type",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "min.insync.replicas",
    "preallocate",
    "retention.bytes",
    "retention.ms",
    "segment.bytes",
    "segment.index.bytes",
    "segment.jitter.ms",
    "segment.ms",
    "unclean.leader.election.enable",
)
BROKER_CONFIGS = (
    "auto.create.topics.enable",
    "compression.type",
    "default.replication.factor",
    "log.retention.hours",
    "log.segment.bytes",
    "message.max.bytes",
    "min.insync.replicas",
    "num.partitions",
)


@scenario("describe-configs")
def describe_configs(run: Run) -> Seen:
    topic = run.topic("configured", retention_ms="7200000", cleanup_policy="compact,delete")
    configs = run.client.configs(topic)
    run.remember("configs", topic, {"retention.ms": "7200000", "cleanup.policy": "compact,delete"})
    return {
        "topic": chosen(configs, *TOPIC_CONFIGS),
        "unknown topic": told(lambda: run.client.configs(run.name("nowhere"))),
    }


@scenario("describe-broker-configs")
def describe_broker_configs(run: Run) -> Seen:
    node = run.client.cluster()["brokers"][0]
    return chosen(run.client.broker_configs(node), *BROKER_CONFIGS)


@scenario("alter-configs")
def alter_configs(run: Run) -> Seen:
    topic = run.topic("altered", retention_ms="7200000")
    run.client.replace_configs(topic, {"max.message.bytes": "5000"})
    until(lambda: run.client.configs(topic)["max.message.bytes"] == "5000")
    kept = chosen(run.client.configs(topic), "max.message.bytes", "retention.ms")
    run.remember("configs", topic, kept)
    return {**kept, "unknown config": refusal(lambda: run.client.replace_configs(topic, {"no.such.config": "1"}))}


@scenario("alter-configs-incremental")
def alter_configs_incremental(run: Run) -> Seen:
    topic = run.topic("altered-in-steps", retention_ms="7200000", segment_bytes="2000000")
    run.client.change_configs(topic, {"max.message.bytes": "6000"}, remove=("segment.bytes",))
    until(lambda: run.client.configs(topic)["max.message.bytes"] == "6000")
    kept = chosen(run.client.configs(topic), "max.message.bytes", "retention.ms", "segment.bytes")
    run.remember("configs", topic, kept)
    bad = refusal(lambda: run.client.change_configs(topic, {"retention.ms": "soon"}))
    unknown = refusal(lambda: run.client.change_configs(run.name("nowhere"), {"retention.ms": "1"}))
    return {**kept, "bad value": bad, "unknown topic": unknown}


@scenario("delete-records")
def delete_records(run: Run) -> Seen:
    topic = run.topic("trimmed")
    run.client.produce(topic, numbered(10))
    run.client.delete_records(topic, {0: 6})
    earliest = run.client.offset(topic, 0, "earliest")
    records = run.client.read(topic, {0: 6}, 4)
    too_far = refusal(lambda: run.client.delete_records(topic, {0: 11}))
    run.remember("offsets", topic, {"earliest": 6, "latest": 10})
    keep(run, topic, records)
    return {"earliest": earliest, "offsets": [r.offset for r in records], "beyond the end": too_far}


# ---- Produce ---------------------------------------------------------------------------------------------------------


def acks(level: str) -> None:
    @scenario(f"acks-{level}")
    def produce_with_acks(run: Run) -> Seen:
        topic = run.topic(f"acks-{level}", 2)
        sent = numbered(50) + numbered(50, partition=1)
        records = round_trip(run, topic, sent, offsets_known=level != "0", starts={0: 0, 1: 0}, acks=level)
        return {"records": counts(records)}


for level in ("0", "1", "all"):
    acks(level)


def codec(name: str) -> None:
    @scenario(f"codec-{name}")
    def produce_with_codec(run: Run) -> Seen:
        topic = run.topic(f"codec-{name}")
        records = round_trip(run, topic, numbered(200, size=500), codec=name, linger_ms=50)
        used = {batch.codec for batch in wire.batches(run.client.bootstrap, topic, 0)}
        same(used, {CODEC_IDS[name]}, "codecs of the batches in the log")
        return {"records": len(records), "codec in the log": name}


for name in CODEC_IDS:
    codec(name)


@scenario("idempotence")
def idempotence(run: Run) -> Seen:
    topic, partitions = run.topic("idempotent", 3), 3
    sent = [Message(b"%06d" % i, partition=i % partitions) for i in range(3000)]
    records = round_trip(run, topic, sent, starts=dict.fromkeys(range(partitions), 0), idempotent=True, batch_bytes=500)
    found = wire.batches(run.client.bootstrap, topic, 0)
    check(all(batch.producer_id >= 0 for batch in found), "batches without a producer id")
    producers = {batch.producer_id for batch in found}
    return {"records": counts(records), "many batches": len(found) > 10, "producer ids": len(producers)}


@scenario("many-in-flight")
def many_in_flight(run: Run) -> Seen:
    topic = run.topic("in-flight", 4)
    sent = [Message(b"%06d" % i * 10, partition=i % 4) for i in range(5000)]
    records = round_trip(run, topic, sent, starts=dict.fromkeys(range(4), 0), batch_bytes=1000, in_flight=5)
    return {"records": counts(records)}


@scenario("keys-choose-partitions")
def keys_choose_partitions(run: Run) -> Seen:
    topic = run.topic("keyed", 8)
    keys = [b"alpha", b"beta", b"gamma", b"delta", "größe".encode()]
    run.client.produce(topic, [Message(b"%d" % i, key=key, partition=None) for i in range(2) for key in keys])
    records = run.client.read(topic, dict.fromkeys(range(8), 0), 2 * len(keys))
    found: dict[str, set[int]] = {}
    for record in records:
        found.setdefault(repr(record.key), set()).add(record.partition)
    check(all(len(chosen) == 1 for chosen in found.values()), f"a key lies in several partitions: {found}")
    keep(run, topic, records)
    return {key: chosen.pop() for key, chosen in sorted(found.items())}


@scenario("null-key")
def null_key(run: Run) -> Seen:
    records = round_trip(run, run.topic("null-key"), [Message(b"v", key=None), Message(b"v", key=b"")])
    return {"keys": [shown(r.key) for r in records]}


@scenario("empty-value")
def empty_value(run: Run) -> Seen:
    records = round_trip(run, run.topic("empty"), [Message(b"", key=b"k"), Message(b"x", key=b"k")])
    return {"values": [shown(r.value) for r in records]}


@scenario("tombstone")
def tombstone(run: Run) -> Seen:
    topic = run.topic("tombstones", cleanup_policy="compact")
    records = round_trip(run, topic, [Message(b"x", key=b"k"), Message(None, key=b"k")])
    return {"values": [shown(r.value) for r in records]}


@scenario("headers")
def headers(run: Run) -> Seen:
    wanted = (("trace", b"1"), ("trace", b"2"), ("empty", b""), ("größe", "ß".encode()))
    records = round_trip(run, run.topic("headers"), [Message(b"with", headers=wanted), Message(b"without")])
    return {"headers": [[key, shown(value)] for key, value in records[0].headers], "none": len(records[1].headers)}


@scenario("header-null-value")
def header_null_value(run: Run) -> Seen:
    records = round_trip(run, run.topic("header-null"), [Message(b"x", headers=(("null", None), ("some", b"x")))])
    return {"headers": [[key, shown(value)] for key, value in records[0].headers]}


@scenario("unicode")
def unicode(run: Run) -> Seen:
    values = ["grüße", "日本語", "🦆🦆", "\u0000zero".replace("\u0000", "·"), "עברית", "e\u0301"]
    records = round_trip(run, run.topic("unicode"), [Message(v.encode(), key=v[:1].encode()) for v in values])
    return {"values": texts(records)}


@scenario("value-1mb")
def value_1mb(run: Run) -> Seen:
    value = bytes(33 + i % 90 for i in range(1000)) * 1000
    sent = [Message(value), Message(b"small"), Message(value[::-1])]
    records = round_trip(run, run.topic("large"), sent, request_bytes_max=2_000_000)
    return {"sizes": [len(r.value or b"") for r in records]}


@scenario("too-large")
def too_large(run: Run) -> Seen:
    topic = run.topic("small-only", max_message_bytes="10000")
    write = run.client.produce
    error = refusal(lambda: write(topic, [Message(b"x" * 20_000)], request_bytes_max=3_000_000, patience=10))
    huge = run.topic("default-limit")
    error_default = refusal(lambda: write(huge, [Message(b"x" * 1_500_000)], request_bytes_max=3_000_000, patience=10))
    records = round_trip(run, topic, [Message(b"x" * 5_000)])
    return {"over the topic's limit": error, "over the default limit": error_default, "after it": len(records)}


@scenario("invalid-topic-name")
def invalid_topic_name(run: Run) -> Seen:
    return {"error": refusal(lambda: run.client.produce(run.name("a b"), [Message(b"x")], patience=3))}


@scenario("timestamps-create")
def timestamps_create(run: Run) -> Seen:
    times = [1_600_000_000_000, 1_500_000_000_000, 1_700_000_000_123]
    records = round_trip(run, run.topic("create-time", retention_ms="-1"), [Message(b"t", timestamp=t) for t in times])
    same([r.timestamp for r in records], times, "timestamps")
    return {"timestamps": times, "log append time": [r.log_append_time for r in records]}


@scenario("timestamps-append")
def timestamps_append(run: Run) -> Seen:
    topic = run.topic("append-time", message_timestamp_type="LogAppendTime")
    before = int(time.time() * 1000) - 1000
    records = round_trip(run, topic, numbered(5))
    after = int(time.time() * 1000) + 1000
    check(all(before <= r.timestamp <= after for r in records), "timestamps that are not the time of the append")
    marked = {batch.log_append_time for batch in wire.batches(run.client.bootstrap, topic, 0)}
    return {"log append time": [r.log_append_time for r in records], "marked in the log": sorted(marked)}


# ---- Consume ---------------------------------------------------------------------------------------------------------


@scenario("offsets")
def offsets(run: Run) -> Seen:
    topic = run.topic("offsets", 2)
    ask = run.client.offset
    empty = [ask(topic, 1, "earliest"), ask(topic, 1, "latest")]
    run.client.produce(topic, numbered(7))
    run.remember("offsets", topic, {"earliest": 0, "latest": 7})
    return {"empty": empty, "earliest": ask(topic, 0, "earliest"), "latest": ask(topic, 0, "latest")}


@scenario("offsets-by-time")
def offsets_by_time(run: Run) -> Seen:
    topic, base = run.topic("hourly", retention_ms="-1"), 1_700_000_000_000
    run.client.produce(topic, [Message(b"hour %d" % i, timestamp=base + i * HOUR) for i in range(10)])
    wanted = {"before all": -1, "first": 0, "a little later": 1, "an exact one": 5 * HOUR, "last": 9 * HOUR}
    found = {name: run.client.offset(topic, 0, base + shift) for name, shift in wanted.items()}
    found["after all"] = run.client.offset(topic, 0, base + 9 * HOUR + 1)
    run.remember("offsets", topic, {"earliest": 0, "latest": 10, str(base + 5 * HOUR): 5})
    return found


@scenario("consume-by-time")
def consume_by_time(run: Run) -> Seen:
    topic = run.topic("by-time")
    run.client.produce(topic, numbered(5, "before"))
    time.sleep(0.02)
    moment = int(time.time() * 1000)
    time.sleep(0.02)
    run.client.produce(topic, numbered(5, "after"))
    start = run.client.offset(topic, 0, moment)
    check(start is not None, "no offset for a time with records after it")
    return {"offset": start, "values": texts(run.client.read(topic, {0: start or 0}, 5))}


@scenario("consume-from-offset")
def consume_from_offset(run: Run) -> Seen:
    topic = run.topic("seek")
    run.client.produce(topic, numbered(20), linger_ms=50)
    consumer = run.client.consumer(topic, {0: 15})
    try:
        tail = sorted(consumer.take(5, 10))
        consumer.seek({0: 3})
        middle = sorted(consumer.take(2, 10))[:2]
    finally:
        consumer.close()
    return {"from 15": [r.offset for r in tail], "then from 3": [r.offset for r in middle]}


@scenario("read-past-end")
def read_past_end(run: Run) -> Seen:
    topic = run.topic("past-end")
    run.client.produce(topic, numbered(3))
    consumer = run.client.consumer(topic, {0: 3})
    try:
        nothing = consumer.take(1, 1.0)
        run.client.produce(topic, numbered(1, "late"))
        late = consumer.take(1, 10)
    finally:
        consumer.close()
    return {"at the end": len(nothing), "then": [[r.offset, texts([r])[0]] for r in late]}


@scenario("long-poll")
def long_poll(run: Run) -> Seen:
    topic = run.topic("long-poll")
    arrived: list[tuple[float, list[Record]]] = []

    def wait_for_one() -> None:
        consumer = run.client.consumer(topic, {0: 0}, max_wait_ms=10_000)
        try:
            records = consumer.take(1, 12)
            arrived.append((time.monotonic(), records))
        finally:
            consumer.close()

    waiting = threading.Thread(target=wait_for_one, daemon=True)
    waiting.start()
    time.sleep(2)  # the consumer is surely in its long poll by now
    written = time.monotonic()
    run.client.produce(topic, numbered(1))
    waiting.join(20)
    check(arrived and arrived[0][1], "the record did not arrive")
    check(arrived[0][0] - written < 2.0, f"the record arrived after {arrived[0][0] - written:.1f} s")
    return {"records": len(arrived[0][1]), "within 2 s": True}


@scenario("out-of-range")
def out_of_range(run: Run) -> Seen:
    topic = run.topic("range")
    run.client.produce(topic, numbered(5))
    first = run.client.read(topic, {0: 100}, 5, reset="earliest")
    error = refusal(lambda: run.client.read(topic, {0: 100}, 1, wait=5, reset="none"))
    return {"reset to earliest": [r.offset for r in first], "no reset": error}


@scenario("tiny-fetches")
def tiny_fetches(run: Run) -> Seen:
    topic = run.topic("tiny")
    run.client.produce(topic, numbered(20, size=3000), batch_bytes=1000)
    records = run.client.read(topic, {0: 0}, 20, partition_bytes=1000)
    return {"records": len(records)}


@scenario("read-committed")
def read_committed(run: Run) -> Seen:
    topic = run.topic("committed")
    run.client.produce(topic, numbered(10))
    records = run.client.read(topic, {0: 0}, 10, isolation="read_committed")
    return {"offsets": [r.offset for r in records]}


@scenario("two-at-once")
def two_at_once(run: Run) -> Seen:
    topic = run.topic("shared")
    found: list[Record] = []
    jobs = [threading.Thread(target=run.client.produce, args=(topic, numbered(500, who)), daemon=True) for who in "ab"]
    jobs.append(threading.Thread(target=lambda: found.extend(run.client.read(topic, {0: 0}, 1000, 30)), daemon=True))
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(40)
    for who in "ab":
        mine = [r.value for r in found if (r.value or b"").startswith(who.encode())]
        same(mine, [m.value for m in numbered(500, who)], f"what {who} wrote, in order")
    same([r.offset for r in found], list(range(1000)), "offsets")
    return {"records": len(found)}


# ---- After a restart -------------------------------------------------------------------------------------------------


@scenario("after-restart-cluster")
def after_restart_cluster(run: Run) -> Seen:
    if run.client.cluster().get("cluster_id") is None:
        raise Absent(f"{run.client.name} does not tell the cluster id")
    same(run.client.cluster()["cluster_id"], run.remembered("cluster")["id"], "cluster id")
    return {"same id": True}


@scenario("after-restart-topics")
def after_restart_topics(run: Run) -> Seen:
    wanted = run.remembered("topics")
    listed = run.client.topics()
    same(sorted(wanted.keys() - listed), [], "topics that are gone")
    same({topic: run.client.partitions(topic) for topic in wanted}, wanted, "partitions")
    deleted = [topic for topic in listed if topic.startswith(run.name("many-"))]
    return {"topics": len(wanted), "deleted ones back": len(deleted)}


@scenario("after-restart-records")
def after_restart_records(run: Run) -> Seen:
    wanted = run.remembered("records")
    for topic, kept in wanted.items():
        starts = {int(partition): start for partition, start in kept["starts"].items()}
        records = run.client.read(topic, starts, kept["count"])
        same(len(records), kept["count"], f"records in {topic}")
        same(digest(records), kept["digest"], f"fingerprint of the records in {topic}")
    return {"topics": len(wanted)}


@scenario("after-restart-configs")
def after_restart_configs(run: Run) -> Seen:
    run.client.configs(run.name("configured"))  # absent without admin calls
    for topic, wanted in run.remembered("configs").items():
        configs = run.client.configs(topic)
        same({name: configs.get(name) for name in wanted}, wanted, f"configs of {topic}")
    return {"topics": len(run.remembered("configs"))}


@scenario("after-restart-offsets")
def after_restart_offsets(run: Run) -> Seen:
    for topic, wanted in run.remembered("offsets").items():
        found = {when: run.client.offset(topic, 0, int(when) if when.isdigit() else when) for when in wanted}
        same(found, wanted, f"offsets of {topic}")
    return {"topics": len(run.remembered("offsets"))}


@scenario("after-restart-produce")
def after_restart_produce(run: Run) -> Seen:
    topic = run.name("null-key")
    run.client.produce(topic, numbered(3, "later"))
    return {"new": [[r.offset, texts([r])[0]] for r in run.client.read(topic, {0: 2}, 3)]}


# ---- Helpers ---------------------------------------------------------------------------------------------------------


def numbered(count: int, tag: str = "r", partition: int = 0, size: int = 12) -> list[Message]:
    return [Message(f"{tag}{i:06}".ljust(size, ".").encode(), partition=partition) for i in range(count)]


def round_trip(
    run: Run,
    topic: str,
    sent: list[Message],
    *,
    starts: dict[int, int] | None = None,
    offsets_known: bool = True,
    **options: object,
) -> list[Record]:
    """Write `sent` to an empty topic, read it back: the same, in order, without gaps, at the acknowledged offsets."""
    acknowledged = run.client.produce(topic, sent, **options)
    records = run.client.read(topic, starts or {0: 0}, len(sent))
    for partition in starts or {0: 0}:
        wanted = [m for m in sent if m.partition == partition]
        found = [r for r in records if r.partition == partition]
        same([r.value for r in found], [m.value for m in wanted], f"values in partition {partition}")
        same([r.key for r in found], [m.key for m in wanted], f"keys in partition {partition}")
        same([r.headers for r in found], [m.headers for m in wanted], f"headers in partition {partition}")
        same([r.offset for r in found], list(range(len(wanted))), f"offsets in partition {partition}")
        told = [o for o, m in zip(acknowledged, sent, strict=True) if m.partition == partition and o is not None]
        if offsets_known and told:
            same(told, [r.offset for r in found], f"acknowledged offsets in partition {partition}")
    keep(run, topic, records)
    return records


def keep(run: Run, topic: str, records: list[Record]) -> None:
    """Remember the records for `after-restart-records`."""
    starts: dict[str, int] = {}
    for record in sorted(records, reverse=True):
        starts[str(record.partition)] = record.offset
    run.remember("records", topic, {"starts": starts, "count": len(records), "digest": digest(records)})


def created_again(run: Run, topic: str) -> bool:
    """Kafka may still be deleting the old topic of that name."""
    run.client.create_topics({topic: 1})
    run.settle(topic, 1)
    return True


def chosen(configs: dict[str, str], *names: str) -> dict[str, str]:
    return {name: configs.get(name, "not described") for name in names}


def told(call: Callable[[], object]) -> str:
    """Like `refusal`, for clients that swallow the error."""
    try:
        call()
    except Refused as error:
        return error.name
    return "the client tells no error"


def counts(records: list[Record]) -> dict[str, int]:
    found: dict[str, int] = {}
    for record in records:
        found[str(record.partition)] = found.get(str(record.partition), 0) + 1
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def texts(records: list[Record]) -> list[str]:
    return [(record.value or b"").decode() for record in records]


def shown(value: bytes | None) -> str:
    return "null" if value is None else repr(value.decode())
