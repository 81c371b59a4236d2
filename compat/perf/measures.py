"""How each row is measured: functions that take a broker and a scale, do the work once, and return a sample.

Rows whose brokers stay up (produce, fetch, polls) only load them; rows about starting, stopping and recovering get a
broker that is not running, and leave one that is not running.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util
from pathlib import Path

import wire
from apache_kafka import find_or_fetch
from brokers import Broker, Failed, Sample, Scale, load

Measure = Callable[[Broker, Scale], Sample]


def traffic(mode: str, **flags: object) -> Measure:
    """A run of the load generator; each kind of traffic has a topic of its own."""
    topic = "-".join([mode, *(str(value) for value in flags.values())])

    def measure(broker: Broker, scale: Scale) -> Sample:
        sample = load(broker, mode, **{"topic": topic, "seconds": scale.seconds, "warmup": scale.warmup, **flags})
        if mode == "produce":
            release(broker, topic)
        return sample

    return measure


def release(broker: Broker, topic: str) -> None:
    """Write out what a run has produced and give its page cache back, so that the next run gets the same pages.

    Without this each run fills memory that was never used, and on a virtual machine the first touch of a page costs ten
    times the write (measured: 2.8 ms a MB against 0.25), which would be most of what a large-batch row shows.
    """
    os.sync()
    if not hasattr(os, "posix_fadvise"):
        return
    for file in broker.directory.rglob(f"{topic}-*/*.log"):
        handle = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


BATCH_15_KB = {"record_bytes": 100, "records_per_batch": 140}
BATCH_900_KB = {"record_bytes": 1000, "records_per_batch": 890}


def fetch(**flags: object) -> Measure:
    """Read the same 400 MB of 15 KB batches around and around; the first fetch row of a broker writes them."""
    read = traffic("fetch", topic="fetch-data", partitions=4, **flags)

    def measure(broker: Broker, scale: Scale) -> Sample:
        if "fetch-data" not in broker.memo:
            written = {"max_megabytes": scale.count(400), "seconds": 30, "warmup": 0.3}
            shape = {"conns": 4, "inflight": 2, "partitions": 4, **BATCH_15_KB}
            broker.memo["fetch-data"] = load(broker, "produce", topic="fetch-data", **shape, **written)
        return read(broker, scale)

    return measure


def start_up(broker: Broker, scale: Scale) -> Sample:
    broker.wipe()
    with broker.launch() as began:
        sample = load(broker, "first", topic="first", since=began, timeout="60s")
    time.sleep(2 * scale.warmup)
    sample |= broker.watch(2 * scale.seconds)
    broker.kill()
    return sample


def cluster_idle(broker: Broker, scale: Scale) -> Sample:
    """A cluster from nothing to all who know each other; then its idleness, with a topic."""
    broker.wipe()
    began = time.monotonic()
    broker.start()
    sample: Sample = {"first_seconds": time.monotonic() - began}
    wire.create_topic(broker.bootstrap, "idle", 6, replicas=3)
    time.sleep(4 * scale.warmup)
    sample |= broker.watch(4 * scale.seconds)
    broker.kill()
    return sample


def failover(broker: Broker, scale: Scale) -> Sample:
    """The longest time between two acknowledgements of a partition, as its leader is restarted, and as it is killed."""
    broker.wipe()
    broker.start()
    shape = {"topic": "outage", "partitions": 6, "replicas": 3, "acks": -1, "record_bytes": 100, "warmup": 1}
    sample: Sample = {}
    for name, seconds in (("stop", 6), ("kill", 15)):
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(load, broker, "outage", seconds=seconds, **shape)
            time.sleep(2)
            leader = next(each.leader for each in wire.partitions(broker.bootstrap, "outage") if each.index == 0)
            member = broker.cluster[leader]
            member.stop() if name == "stop" else member.kill()
            if name == "stop":
                member.start()
            sample[f"{name}_seconds"] = under_way.result()["max"] / 1e6
    broker.kill()
    return sample


def partitions(broker: Broker, scale: Scale) -> Sample:
    """5,000 partitions in three steps, a clean stop, and the start after it."""
    broker.wipe()
    broker.start()
    load(broker, "create", topic="warm", partitions=4, write=True)
    steps = {
        "wide_1000": load(broker, "create", topic="wide-1000", partitions=scale.count(1000), write=True),
        "wide_3000": load(broker, "create", topic="wide-3000", partitions=scale.count(3000), write=True),
        "topics_1000": load(broker, "create", topic="one", topics=scale.count(1000)),
    }
    broker.stop()
    with broker.launch() as began:
        ready = load(broker, "ready", since=began, expect=scale.count(1000) * 2 + scale.count(3000) + 4)
    broker.kill()
    return {
        "wide_1000": steps["wide_1000"]["write_seconds"],
        "wide_3000": steps["wide_3000"]["write_seconds"],
        "topics_1000": steps["topics_1000"]["seconds"],
        "restart": ready["first_seconds"],
    }


def recovery(broker: Broker, scale: Scale) -> Sample:
    broker.wipe()
    broker.start()
    written = {"max_megabytes": scale.count(1000), "seconds": 60, "warmup": 0.3}
    load(broker, "produce", topic="big", conns=2, inflight=2, **BATCH_900_KB, **written)
    broker.kill()
    with broker.launch() as began:
        sample = load(broker, "ready", since=began, expect=1)
    broker.kill()
    return sample


def idle_connections(broker: Broker, scale: Scale) -> Sample:
    before = broker.rss_mb()
    sample = load(broker, "idle", conns=scale.count(1000), seconds=2 * scale.seconds, warmup=2 * scale.warmup)
    if before is not None:
        sample["rss_growth_mb"] = sample["rss_mb"] - before
    return sample


def polls(broker: Broker, scale: Scale) -> Sample:
    flags = {"conns": scale.count(500), "partitions": 16, "warmup": 1.0, "seconds": max(1.0, scale.seconds)}
    return load(broker, "poll", topic="polled", **flags)


def greedy(kind: str) -> Measure:
    """A good client's longest wait, and how much memory the greedy one takes."""

    def measure(broker: Broker, scale: Scale) -> Sample:
        before = broker.rss_mb()
        flags = {"greed": kind, "topics": scale.count(1000), "seconds": 5 * scale.seconds, "timeout": "60s"}
        sample = load(broker, "greedy", topic="greedy", warmup=scale.warmup, **flags)
        found = {"max_ms": sample["max"] / 1000}
        return found if before is None else {**found, "rss_growth_mb": max(0.0, sample["rss_mb"] - before)}

    return measure


def group_join(broker: Broker, scale: Scale) -> Sample:
    sample = load(broker, "join", group="join", groups=500, seconds=scale.seconds, warmup=scale.warmup)
    return latency_ms(sample)


def group_rebalance(broker: Broker, scale: Scale) -> Sample:
    """One more member joins ten, in one new group after the other."""
    flags = {"members": 10, "groups": 100, "seconds": scale.seconds, "warmup": scale.warmup}
    return latency_ms(load(broker, "rebalance", group="rebalance", **flags))


def group_heartbeats(broker: Broker, scale: Scale) -> Sample:
    """2,000 groups of 5 members, a heartbeat of each every 3 s; the window is two such rounds."""
    groups, members, interval_seconds = scale.count(2000), 5, 3
    flags = {"groups": groups, "members": members, "interval": f"{interval_seconds}s", "conns": 20}
    times = {"seconds": 3 * scale.seconds, "warmup": 2 * scale.warmup}
    sample = load(broker, "heartbeats", group="heartbeats", **flags, **times)
    due = groups * members / interval_seconds
    if sample["rate"] < 0.9 * due:
        raise Failed(f"{sample['rate']:.0f} heartbeats/s where {due:.0f} were due: the CPU of fewer would flatter")
    return sample | latency_ms(sample)


def group_replay(broker: Broker, scale: Scale) -> Sample:
    """100,000 committed offsets, kill -9, and the time until the coordinators of all groups answer OffsetFetch."""
    broker.wipe()
    broker.start()
    shape = {"groups": scale.count(1000), "partitions": 100, "topic": "committed", "group": "committed"}
    committed = load(broker, "commits", conns=4, warmup=0, **shape)
    broker.kill()
    with broker.launch() as began:
        sample = load(broker, "loaded", since=began, **shape)
    broker.kill()
    loaded = {key: sample[key] for key in ("first_seconds", "load_seconds")}
    return {**loaded, "commit_seconds": committed["seconds"]}


def latency_ms(sample: Sample) -> Sample:
    """Only the latencies: where the broker's CPU would include other work than what was timed."""
    return {f"{key}_ms": sample[key] / 1000 for key in ("p50", "p99")}


def transactional_ids(broker: Broker, scale: Scale) -> Sample:
    """Many producers with a transactional id each, each of which has committed a transaction; and the start after it.

    The broker has warmed up with some of them before its memory is looked at.
    """
    broker.wipe()
    broker.start()
    wire.create_topic(broker.bootstrap, "committed-to", 1)
    commit_once_each(broker, "warm", 200)
    before = broker.rss_mb()
    began, count = time.monotonic(), scale.count(10_000)
    commit_once_each(broker, "id", count)
    sample: Sample = {"begin_seconds": time.monotonic() - began, "rss_mb": broker.rss_mb()}
    if before is not None:
        sample["rss_growth_mb"] = sample["rss_mb"] - before
    broker.kill()
    broker.start()
    commit_once_each(broker, "warm", 200)
    sample["rss_again_mb"] = broker.rss_mb()
    broker.kill()
    return sample


FIND_COORDINATOR, INIT_PRODUCER_ID, ADD_PARTITIONS, END_TRANSACTION = 10, 22, 24, 26
BEGIN_SECONDS_MAX = 30.0


def commit_once_each(broker: Broker, prefix: str, count: int) -> None:
    """A transaction with one partition of each id, in the oldest versions of the requests."""
    names = [wire.text(f"{prefix}-{number}") for number in range(count)]
    end = time.monotonic() + BEGIN_SECONDS_MAX
    while wire.Reader(wire.ask(broker.bootstrap, FIND_COORDINATOR, 1, names[0] + b"\1")[4:]).int16():
        if time.monotonic() > end:  # its topic is made on this occasion
            raise Failed("there is no transaction coordinator")
        time.sleep(0.05)
    producers = []
    for answer in asked(broker, INIT_PRODUCER_ID, [name + struct.pack(">i", 60_000) for name in names], no_error):
        producers.append(answer[6:16])
    partition = struct.pack(">i", 1) + wire.text("committed-to") + struct.pack(">ii", 1, 0)
    each = list(zip(names, producers, strict=True))
    asked(broker, ADD_PARTITIONS, [name + producer + partition for name, producer in each], is_added)
    asked(broker, END_TRANSACTION, [name + producer + b"\1" for name, producer in each], no_error)


def no_error(answer: bytes) -> bool:
    """Behind the throttle time comes the error code."""
    return answer[4:6] == b"\0\0"


def is_added(answer: bytes) -> bool:
    """The last field is the error code of the only partition."""
    return answer[-2:] == b"\0\0"


def asked(broker: Broker, key: int, bodies: list[bytes], is_good: Callable[[bytes], bool]) -> list[bytes]:
    """The answers; who is refused asks again: a coordinator may be loading, a transaction ending."""
    answers: dict[int, bytes] = {}
    end = time.monotonic() + BEGIN_SECONDS_MAX
    while left := [number for number in range(len(bodies)) if number not in answers]:
        if time.monotonic() > end:
            raise Failed(f"{len(left)} requests of API {key} are refused")
        for number, answer in zip(left, wire.ask_all(broker.bootstrap, key, 0, [bodies[n] for n in left]), strict=True):
            if is_good(answer):
                answers[number] = answer
    return [answers[number] for number in range(len(bodies))]


def memory(broker: Broker, scale: Scale) -> Sample:
    return {"rss_mb": broker.rss_mb()}


def installed_size(broker: Broker, scale: Scale) -> Sample:
    """What installing it puts on the disk: Kafka's jars without Java, or our wheel and those it needs."""
    if broker.name == "kafka":
        return {"installed_mb": du(Path(find_or_fetch()).parent)}
    if not is_installed("kbroker"):
        raise Failed("kbroker runs from the checkout, its wheel is not installed")
    return {"installed_mb": sum(distribution_mb(name) for name in requirements("kbroker", set()))}


def requirements(name: str, seen: set[str]) -> set[str]:
    if name not in seen:
        seen.add(name)
        for requirement in metadata.distribution(name).requires or []:
            needed, _, condition = requirement.partition(";")
            wanted = needed.strip().split(">")[0].split("=")[0].split("<")[0].split("!")[0].split("[")[0].strip()
            if "extra ==" not in condition and is_installed(wanted):
                requirements(wanted, seen)
    return seen


def is_installed(name: str) -> bool:
    try:
        return bool(metadata.distribution(name))
    except metadata.PackageNotFoundError:
        return False  # needed on another platform


def distribution_mb(name: str) -> float:
    if name == "kbroker":  # may be installed as a link to the checkout
        return sum(du(Path(util.find_spec(part).origin or "").parent) for part in ("kbroker", "kafka_wire"))
    files = metadata.distribution(name).files or []
    return sum(Path(file.locate()).stat().st_size for file in files if file.suffix != ".pyc") / 1e6


def du(folder: Path) -> float:
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return sum(file.stat().st_size for file in files) / 1e6
