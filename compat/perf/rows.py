"""What is measured: the table `ROWS`. To add a row, write a function that measures it once and add an entry.

A row measures a broker once per repetition and returns a sample (a dictionary of numbers); its figures are the numbers
of the sample that are shown, each with a unit and a goal. A ratio is always kbroker / Kafka.

    shared     the row runs on brokers that live through the whole run, both at once; the one not asked is idle
    apart      the row gets a broker that is not running, starts and stops it itself, and has the machine to itself
    counts     rows of clusters: so many brokers of each side, all on this machine
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import clients
import delays
import measures
from brokers import Broker, Sample, Scale
from compaction import compaction as measure_compaction
from measures import BATCH_15_KB, BATCH_900_KB, fetch, traffic
from views import views as measure_views

Missing = Callable[[], str | None]


@dataclass(frozen=True)
class Goal:
    text: str
    met: Callable[[float, float | None], bool | None]  # kbroker, Kafka; None: cannot be told


@dataclass(frozen=True)
class Figure:
    key: str
    unit: str
    goal: Goal | None = None
    beside: str = "kafka"  # the broker that the ratio and the goal are about


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    measure: Callable[[Broker, Scale], Sample]
    figures: tuple[Figure, ...]
    apart: bool = False
    repeat: int = 3  # in a full run
    bare: bool = False  # the bare path can do it, too
    counts: tuple[int, int] = (1, 1)  # brokers of kbroker's cluster, and of Kafka's
    missing: Missing = lambda: None  # why this row cannot run on this machine


def at_least(ratio: float) -> Goal:
    return Goal(f"≥ {ratio:g}x", lambda ours, kafka: None if kafka is None else ours >= ratio * kafka)


def at_most(ratio: float, text: str = "") -> Goal:
    return Goal(text or f"≤ {ratio:g}x", lambda ours, kafka: None if kafka is None else ours <= ratio * kafka)


def faster(times: float) -> Goal:
    """For a duration: so many times shorter than Kafka's."""
    return at_most(1 / times, f"≤ {1 / times:.2g}x ({times:g} times faster)")


def below(limit: float, unit: str) -> Goal:
    return Goal(f"≤ {limit:g} {unit}", lambda ours, kafka: ours <= limit)


def above(limit: float, unit: str) -> Goal:
    return Goal(f"≥ {limit:g} {unit}", lambda ours, kafka: ours >= limit)


def rate(goal: Goal | None = None) -> Figure:
    return Figure("rate", "requests/s", goal)


def mb_s(goal: Goal | None = None) -> Figure:
    return Figure("mb_s", "MB/s", goal)


def cpu_request(goal: Goal | None = None) -> Figure:
    return Figure("cpu_us_request", "µs CPU a request", goal)


def cpu_mb(goal: Goal | None = None) -> Figure:
    return Figure("cpu_ms_mb", "ms CPU a MB", goal)


def near_bare(times: float, figure: Callable[[Goal | None], Figure] = cpu_request) -> Figure:
    """CPU of at most so many times what the bare path needs."""
    made = figure(at_most(times, f"≤ {times:g}x the bare path"))
    return replace(made, unit=f"{made.unit}, beside the bare path", beside="bare")


def java(verb: str, record_bytes: int, measure: measures.Measure, goal: Goal) -> Row:
    title = f"Java {verb.title()}rPerformance, {record_bytes:,} B"
    return client(f"java-{verb}-{record_bytes}", title, measure, (mb_s(goal),), clients.java_missing)


def client(name: str, title: str, measure: measures.Measure, figures: tuple[Figure, ...], missing: Missing) -> Row:
    """A row of somebody's client, which takes its time: twice is what a bounded run can give it."""
    return Row(name, title, measure, figures, repeat=2, missing=missing)


def confluent(verb: str, record_bytes: int, records: int, speed: Goal | None, cpu: Goal | None) -> Row:
    measure = clients.python(f"confluent-{verb}", record_bytes, records)
    figures = (mb_s(speed), cpu_mb(cpu))
    title = f"confluent-kafka {verb}, {record_bytes:,} B"
    return client(f"confluent-{verb}-{record_bytes}", title, measure, figures, NO_CONFLUENT)


def transactions(
    name: str, size: int, record_bytes: int, commits: Callable[..., measures.Measure], count: int, missing: Missing
) -> Row:
    figures = (
        Figure("rate", "transactions/s", at_least(1.5 if size == 1 else 1.0)),
        Figure("cpu_us_request", "µs CPU a transaction", at_most(1.0)),
        Figure("overhead_us", "µs more than without transactions"),
        Figure("overhead_cpu_us", "µs CPU more"),
    )
    title = f"{name}: transactions of {size} x {record_bytes:,} B"
    measure = clients.transactions(commits, size, record_bytes, count)
    short = name.partition("-")[0].lower()
    return client(f"{short}-transactions-{size}-{record_bytes}", title, measure, figures, missing)


def greedy(kind: str, what: str) -> Row:
    figures = (
        Figure("max_ms", "ms, a good client's longest wait", below(250, "ms")),
        Figure("rss_growth_mb", "MB more memory", below(60, "MB")),
    )
    return Row(f"greedy-{kind}", f"beside a greedy client: {what}", measures.greedy(kind), figures, repeat=2)


def compaction(record_bytes: int, megabytes: int, speed: Goal | None) -> Row:
    figures = (
        Figure("mb_s", "MB/s of dirty log", speed),
        Figure("p99", "µs, p99 of produce 100 B, acks=1, beside it"),
        Figure("p99_times", "times as long as without it", below(2, "times")),
    )
    title = f"compaction, {record_bytes:,} B records"
    return Row(f"compaction-{record_bytes}", title, measure_compaction(record_bytes, megabytes), figures, repeat=2)


def views(record_bytes: int, megabytes: int) -> Row:
    figures = (
        Figure("send_us_mb", "µs of CPU per MB to send the source"),
        Figure("exact_us_mb", "µs of CPU per MB of the source through an exact view"),
        Figure("exact_percent", "% of sending it", below(5, "%")),
        Figure("prune_us_mb", "µs of CPU per MB of the source through a view that prunes"),
        Figure("prune_percent", "% of sending it", below(5, "%")),
    )
    title = f"views by tag, 1 % matching, {record_bytes:,} B records (kbroker alone)"
    return Row(f"views-{record_bytes}", title, measure_views(record_bytes, megabytes), figures, repeat=2)


def delayed(count: int) -> Row:
    figures = (
        Figure("p99", "ms late, p99", below(250, "ms")),
        Figure("p50", "ms late, p50"),
        Figure("early", "early", below(0, "of them")),
        Figure("rate", "deliveries/s, of what is due together", above(5000, "deliveries/s")),
    )
    name, span = f"delayed-{count}", round(count / delays.RATE)
    missing = partial(delays.missing, name) if count > 10_000 else lambda: None
    return Row(
        name,
        f"delayed delivery, {count:,} due within {span} s",
        delays.delays(count),
        figures,
        repeat=1,
        missing=missing,
    )


NO_CONFLUENT = clients.python_missing("confluent_kafka", "confluent-kafka")
NO_KAFKA_PYTHON = clients.python_missing("kafka", "kafka-python")
ONE = {"record_bytes": 100}
THREE, TWO_BESIDE_ONE = (3, 3), (2, 1)
ALL_OF_THREE = {"acks": -1, "replicas": 3}
LATENCY_MS = (Figure("p50_ms", "ms, p50"), Figure("p99_ms", "ms, p99", at_most(0.8)))

# fmt: off
ROWS = (
    Row("start", "start", measures.start_up, (
        Figure("first_seconds", "s from process start to the first acks=all acknowledgement", faster(10)),
        Figure("rss_mb", "MB of memory, idle", below(45, "MB")),
        Figure("cpu_percent", "% of a core, idle", below(0.5, "%")),
    ), apart=True, repeat=2),
    Row("installed", "installed size", measures.installed_size, (
        Figure("installed_mb", "MB (Kafka: jars, without Java)", below(25, "MB")),
    ), apart=True, repeat=1),
    Row("partitions", "many partitions", measures.partitions, (
        Figure("wide_1000", "s to create a topic of 1,000 partitions, all writable", faster(5)),
        Figure("wide_3000", "s to create a topic of 3,000 partitions, all writable", faster(5)),
        Figure("topics_1000", "s to create 1,000 topics one by one", faster(10)),
        Figure("restart", "s from start to metadata with those 5,000 partitions, after a clean stop", faster(5)),
    ), apart=True, repeat=2),
    Row("recovery", "recovery", measures.recovery, (
        Figure("first_seconds", "s from start to ready, after kill -9 with 1 GB of log", below(1, "s")),
    ), apart=True, repeat=2),
    Row("group-replay", "100,000 committed offsets (1,000 groups × 100 partitions)", measures.group_replay, (
        Figure("first_seconds", "s from start to all of them answered, after kill -9", below(3, "s")),
        Figure("load_seconds", "s of it after the broker's first answer"),
        Figure("commit_seconds", "s to commit them, 4 connections"),
    ), apart=True, repeat=2),
    Row("transactional-ids", "10,000 transactional ids, each with a transaction", measures.transactional_ids, (
        Figure("rss_growth_mb", "MB more memory", below(40, "MB")),
        Figure("begin_seconds", "s until all had committed, pipelined"),
        Figure("rss_again_mb", "MB of memory with them after kill -9"),
    ), apart=True, repeat=1),
    Row("produce-1", "produce 100 B, 1 connection, ping-pong, acks=1", traffic("produce", **ONE), (
        rate(at_least(1.0)), Figure("p99", "µs, p99", at_most(0.8)), cpu_request(at_most(0.7)), near_bare(1.15),
    ), bare=True),
    Row("produce-16", "produce 100 B, 16 connections, acks=1", traffic("produce", conns=16, partitions=16, **ONE), (
        rate(at_least(0.9)), cpu_request(at_most(0.7)), near_bare(1.1),
    ), bare=True),
    Row("produce-pipelined", "produce 100 B, 1 connection, 16 in flight", traffic("produce", inflight=16, **ONE), (
        rate(at_least(5)), cpu_request(at_most(0.25)),
    ), bare=True),
    Row("produce-all", "produce 100 B, 1 connection, ping-pong, acks=all", traffic("produce", acks=-1, **ONE), (
        rate(at_least(1.0)),
    )),
    Row("produce-15k", "produce 15 KB batches, 4 connections × 4 in flight",
        traffic("produce", conns=4, inflight=4, partitions=4, max_megabytes=1500, **BATCH_15_KB), (
        mb_s(at_least(1.4)), cpu_mb(at_most(0.5)),
    ), bare=True),
    Row("produce-900k", "produce 0.9 MB batches, 2 × 2",
        traffic("produce", conns=2, inflight=2, partitions=2, max_megabytes=1500, **BATCH_900_KB), (
        mb_s(at_least(1.0)), cpu_mb(at_most(0.8)), near_bare(1.1, cpu_mb),
    ), bare=True),
    Row("fetch-1m", "fetch 1 MB, 1 connection, data in the page cache",
        fetch(max_bytes=1 << 20, partition_bytes=1 << 20), (mb_s(at_least(1.2)),), bare=True),
    Row("fetch-64k", "fetch 64 KB, 4 connections",
        fetch(conns=4, max_bytes=64 << 10, partition_bytes=64 << 10), (
        mb_s(at_least(1.1)), cpu_request(at_most(0.6)),
    ), bare=True),
    Row("fetch-16k", "fetch 16 KB, 16 connections",
        fetch(conns=16, max_bytes=16 << 10, partition_bytes=16 << 10), (
        rate(at_least(0.85)), cpu_request(at_most(0.8)),
    ), bare=True),
    Row("e2e", "end to end (produce → long-polling consumer), 1,000/s", traffic("e2e", rate=1000, **ONE), (
        Figure("p50", "µs, p50", at_most(0.8)), Figure("p99", "µs, p99", at_most(0.3)),
    )),
    Row("idle-1000", "1,000 idle connections", measures.idle_connections, (
        Figure("rss_growth_mb", "MB more memory", below(30, "MB")),
        Figure("cpu_percent", "% of a core", below(0.5, "%")),
        Figure("connect_seconds", "s until all were connected"),
    ), repeat=2),
    Row("poll-500", "500 consumers long-polling 500 ms each", measures.polls, (
        Figure("cpu_percent", "% of a core", at_most(0.35)),
    ), repeat=2),
    compaction(1_000, 200, above(30, "MB/s")),
    compaction(100, 60, None),
    views(1_000, 400),
    views(100, 200),
    delayed(10_000),
    delayed(100_000),
    Row("memory", "memory after the load above", measures.memory, (Figure("rss_mb", "MB", below(60, "MB")),)),
    greedy("metadata", "7,000 pipelined Metadata about 1,000 topics"),
    greedy("unread", "20 connections that ask as much and read nothing"),
    greedy("offsets", "ListOffsets of 100,000 partitions, over and over"),
    Row("cluster-start", "three brokers", measures.cluster_idle, (
        Figure("first_seconds", "s until all three know each other", faster(2)),
        Figure("rss_mb", "MB of memory, idle, all three", below(150, "MB")),
        Figure("cpu_percent", "% of a core, idle, all three", below(2, "%")),
    ), apart=True, repeat=2, counts=THREE),
    Row("cluster-failover", "three brokers, RF 3, acks=all: longest gap of a partition", measures.failover, (
        Figure("stop_seconds", "s, the leader is restarted in order", below(1, "s")),
        Figure("kill_seconds", "s, the leader is killed (kill -9), session 6 s", below(8, "s")),
    ), apart=True, repeat=1, counts=THREE),
    Row("cluster-produce-all", "three brokers, RF 3: produce 100 B, 1 connection, ping-pong, acks=all",
        traffic("produce", **ALL_OF_THREE, **ONE), (
        rate(at_least(1.0)), Figure("p99", "µs, p99"), cpu_request(),
    ), counts=THREE),
    Row("cluster-produce-15k", "three brokers, RF 3: produce 15 KB batches, 6 connections × 4 in flight, acks=all",
        traffic("produce", conns=6, inflight=4, partitions=6, max_megabytes=500, **ALL_OF_THREE, **BATCH_15_KB), (
        mb_s(at_least(1.5)), cpu_mb(),
    ), counts=THREE),
    Row("two-produce-16", "two brokers beside one: produce 100 B, 16 connections, acks=1",
        traffic("produce", conns=16, partitions=16, **ONE), (
        rate(at_least(1.0)), cpu_request(),
    ), counts=TWO_BESIDE_ONE),
    Row("two-produce-15k", "two brokers beside one: produce 15 KB batches, 4 connections × 4 in flight",
        traffic("produce", conns=4, inflight=4, partitions=4, max_megabytes=1500, **BATCH_15_KB), (
        mb_s(at_least(1.5)), cpu_mb(),
    ), counts=TWO_BESIDE_ONE),
    Row("two-fetch-64k", "two brokers beside one: fetch 64 KB, 4 connections",
        fetch(conns=4, max_bytes=64 << 10, partition_bytes=64 << 10), (
        mb_s(at_least(1.0)), cpu_request(),
    ), counts=TWO_BESIDE_ONE),
    Row("group-join", "first member of a new group: FindCoordinator to assignment", measures.group_join, (
        Figure("p50_ms", "ms, p50"), Figure("p99_ms", "ms, p99", below(20, "ms")),
    ), repeat=2),
    Row("group-rebalance", "rebalance: one more member joins 10", measures.group_rebalance, (
        Figure("p50_ms", "ms, p50, from the last JoinGroup to the last assignment"),
        Figure("p99_ms", "ms, p99", below(200, "ms")),
    ), repeat=2),
    Row("group-heartbeats", "2,000 groups of 5 members, a heartbeat each every 3 s", measures.group_heartbeats, (
        Figure("cpu_percent", "% of a core", below(30, "%")), Figure("rate", "heartbeats/s"),
        Figure("p99_ms", "ms, p99"),
    ), repeat=1),
    client("group-first-confluent", "confluent-kafka: new group to first message",
        clients.python("confluent-first", 100, 10), (Figure("p50_ms", "ms, p50", below(156, "ms")),), NO_CONFLUENT),
    client("group-first-kafka-python", "kafka-python: new group to first message",
        clients.python("kafka-python-first", 100, 10), (Figure("p50_ms", "ms, p50", below(180, "ms")),),
        NO_KAFKA_PYTHON),
    java("produce", 100, clients.java_produce(100, 500_000), at_least(1.3)),
    java("produce", 1_000, clients.java_produce(1_000, 200_000), at_least(1.3)),
    java("produce", 10_000, clients.java_produce(10_000, 20_000), at_least(1.3)),
    java("consume", 100, clients.java_consume(100, 500_000), at_least(1.2)),
    java("consume", 1_000, clients.java_consume(1_000, 200_000), at_least(1.2)),
    java("consume", 10_000, clients.java_consume(10_000, 20_000), at_least(1.2)),
    client("java-e2e", "Java EndToEndLatency, 100 B", clients.java_end_to_end, (
        Figure("p50_ms", "ms, p50"), Figure("p99_ms", "ms, p99", at_most(0.5)), Figure("p999_ms", "ms, p99.9"),
    ), clients.java_missing),
    confluent("produce", 100, 1_000_000, None, None),
    confluent("produce", 1_000, 300_000, at_least(1.3), None),
    confluent("produce", 10_000, 30_000, None, None),
    confluent("consume", 100, 1_000_000, None, None),
    confluent("consume", 1_000, 300_000, at_least(1.1), None),
    confluent("consume", 10_000, 30_000, None, None),
    transactions("confluent-kafka", 1, 100, clients.confluent_commits, 1_000, NO_CONFLUENT),
    transactions("confluent-kafka", 750, 100, clients.confluent_commits, 600, NO_CONFLUENT),
    transactions("confluent-kafka", 750, 1_000, clients.confluent_commits, 400, NO_CONFLUENT),
    transactions("Java", 1, 100, clients.java_commits, 1_000, clients.java_missing),
    transactions("Java", 750, 100, clients.java_commits, 600, clients.java_missing),
    client("java-transactions-stream", "Java: transactions of 750 x 1,000 B, where else nobody waits",
        clients.java_stream(750, 1_000, 300), (
        Figure("rate", "transactions/s", at_least(1.0)),
        Figure("overhead_percent", "% more time than without", below(15, "%")),
        Figure("overhead_cpu_percent", "% more CPU than without"),
    ), clients.java_missing),
    client("kafka-python-produce", "kafka-python idempotent produce, 100 B",
        clients.python("kafka-python-produce", 100, 50_000), (Figure("records_s", "records/s", at_least(1.1)),),
        NO_KAFKA_PYTHON),
    client("kafka-python-get", "kafka-python send().get(), 100 B",
        clients.python("kafka-python-get", 100, 3_000), LATENCY_MS, NO_KAFKA_PYTHON),
    client("confluent-flush", "confluent-kafka produce and flush, 100 B",
        clients.python("confluent-flush", 100, 5_000), LATENCY_MS, NO_CONFLUENT),
)
