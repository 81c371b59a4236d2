#!/usr/bin/env python3
"""kbroker and Apache Kafka side by side on this machine: `python compat/perf/bench.py` or `make bench`.

    bench.py                        everything, about a quarter of an hour; writes docs/performance.md
    bench.py --quick                each row once and short, to see that it works; writes nothing
    bench.py --rows start,e2e       some rows (--list names them); writes nothing
    bench.py --before ../old        also an earlier checkout of kbroker: is any row worse than it was?
    bench.py --only kbroker         one broker; --only sink shows the load generator's own ceiling

Row by row the brokers take turns (A B A B A B), and medians are compared. Rows about starting and stopping come
first and have the machine to themselves; then all brokers stay up for the rest, and are idle while one of them works.
The bare path (bare.py) takes part in the rows of traffic: it marks what Python on trio can reach at all.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import mmap
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import interpreter  # noqa: E402
import report  # noqa: E402
from apache_kafka import Unavailable, find_or_fetch  # noqa: E402
from brokers import FULL, HAS_PROC, QUICK, Broker, Failed, Pythons, Sample, Scale, build_load, load  # noqa: E402
from report import Outcome  # noqa: E402
from rows import ROWS, Row  # noqa: E402

FAULTS = (Failed, Unavailable, RuntimeError, OSError)


def main() -> None:
    options = arguments()
    if options.list:
        print("\n".join(f"{row.name:24} {row.title}" for row in ROWS))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    scale = QUICK if options.quick else FULL
    scale = replace(scale, repeat=scale.repeat if options.repeat is None else options.repeat)
    names, notes = contenders(options.only)
    build_load()
    pythons = Pythons(interpreter.prepare(notes), options.before)
    if options.before:
        names.append("before")
    began = time.monotonic()
    rows = chosen(options.rows)
    outcomes = measure_all(rows, names, scale, notes, pythons)
    notes.append(f"{repetitions(rows, scale)} {(time.monotonic() - began) / 60:.0f} minutes in all.")
    print(report.text(outcomes, notes))
    if options.write or not (options.quick or options.rows or options.only or options.before):
        report.write(outcomes, notes)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short repetition of each row")
    parser.add_argument("--rows", help="only these rows, by name, separated by commas")
    parser.add_argument("--only", choices=("kbroker", "kafka", "bare", "sink"), help="only this broker")
    parser.add_argument("--before", type=Path, help="another checkout of kbroker, to be measured in the same run")
    parser.add_argument("--repeat", type=int, help="repetitions of every row, whatever it says")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md whatever was measured")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    return parser.parse_args()


def chosen(names: str | None) -> list[Row]:
    if not names:
        return list(ROWS)
    wanted = names.split(",")
    unknown = set(wanted) - {row.name for row in ROWS}
    if unknown:
        sys.exit(f"no such row: {', '.join(sorted(unknown))} (--list names them)")
    return [row for row in ROWS if row.name in wanted]


def contenders(only: str | None) -> tuple[list[str], list[str]]:
    """The brokers that this machine can run, and what to say about those it cannot."""
    names, notes = [only] if only else ["kbroker", "kafka", "bare"], []
    if not HAS_PROC:
        notes.append("This machine has no /proc: CPU and memory were not measured.")
    if os.getloadavg()[0] > 0.5:
        notes.append(f"The machine was busy with something else (load average {os.getloadavg()[0]:.1f} at the start).")
    if "kbroker" in names and importlib.util.find_spec("kbroker") is None:
        names.remove("kbroker")
        notes.append("kbroker is not installed for this Python and was not measured.")
    if "kafka" in names:
        try:
            find_or_fetch()
        except Unavailable as reason:
            names.remove("kafka")
            notes.append(f"Apache Kafka was not measured: {reason}.")
    if not names:
        sys.exit(" ".join(notes))
    return names, notes


def repetitions(rows: list[Row], scale: Scale) -> str:
    """How often what was measured, for the notes."""
    names: dict[int, list[str]] = {}
    for row in rows:
        names.setdefault(scale.repeat or row.repeat, []).append(row.name)
    usual = max(names, key=lambda times: len(names[times]))
    others = [f"{times} of {', '.join(names[times])}" for times in sorted(names) if times != usual]
    return "; ".join([f"Repetitions: {usual} of each row", *others]) + "."


def measure_all(rows: list[Row], names: list[str], scale: Scale, notes: list[str], pythons: Pythons) -> list[Outcome]:
    present = []
    for row in rows:
        if reason := row.missing():
            notes.append(f"Skipped {row.name}: {reason}.")
        else:
            present.append(row)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as directory:
        for row in (row for row in present if row.apart):
            with brokers([name for name in names if name != "bare"], Path(directory, row.name), pythons, row) as pair:
                outcomes.append(measure(row, pair, scale))
        shared = sorted((row for row in present if not row.apart), key=lambda row: row.counts)
        if shared:
            touch_memory()
        for counts, some in itertools.groupby(shared, lambda row: row.counts):
            rows_together = list(some)
            able = names if counts == (1, 1) else [name for name in names if name in ("kbroker", "kafka")]
            place = Path(directory, f"shared-{counts[0]}-{counts[1]}")
            with brokers(able, place, pythons, rows_together[0]) as pair:
                for broker in pair:
                    warm(broker, scale)
                outcomes += [measure(row, pair, scale) for row in rows_together]
    return sorted(outcomes, key=lambda outcome: ROWS.index(outcome.row))


def touch_memory() -> None:
    """Use a part of the memory once, so that no row pays for a virtual machine's first touch (see measures.release)."""
    size = min(4 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)
    with mmap.mmap(-1, size) as memory:
        for at in range(0, size, mmap.PAGESIZE):
            memory[at] = 1


@contextmanager
def brokers(names: list[str], directory: Path, pythons: Pythons, row: Row) -> Iterator[list[Broker]]:
    """The brokers, or clusters, not yet started; whatever happens, none outlives this block."""
    ours, kafkas = row.counts
    pair = [Broker(name, directory / name, pythons, kafkas if name == "kafka" else ours) for name in names]
    try:
        yield pair
    finally:
        for broker in pair:
            broker.wipe()


def warm(broker: Broker, scale: Scale) -> None:
    """Some seconds of every kind of work: a JVM compiles what it does often, and several share the machine."""
    broker.start()
    seconds = 3 * scale.seconds * broker.count
    kind = {"partitions": 4, "replicas": 3, "acks": -1} if broker.count > 2 else {}
    for shape in ({}, {"conns": 8, "records_per_batch": 20}):
        load(broker, "produce", topic="warm", seconds=seconds, max_megabytes=200, **shape, **kind)
    load(broker, "fetch", topic="warm", seconds=scale.seconds)


def measure(row: Row, pair: list[Broker], scale: Scale) -> Outcome:
    """One row: A B A B …; a broker that fails once is not asked again in this row."""
    outcome = Outcome(row)
    samples: dict[str, list[Sample]] = defaultdict(list)
    began = time.monotonic()
    for _ in range(scale.repeat or row.repeat):
        for broker in pair:
            if broker.name in outcome.failed or (broker.name == "bare" and not row.bare):
                continue
            try:
                if not row.apart and not broker.running:
                    broker.start()
                samples[broker.name].append(row.measure(broker, scale))
            except FAULTS as reason:
                outcome.failed[broker.name] = str(reason)
    outcome.samples = {name: medians(taken) for name, taken in samples.items() if name not in outcome.failed}
    print(f"{report.line(outcome)} [{time.monotonic() - began:.0f} s]", flush=True)
    return outcome


def medians(samples: list[Sample]) -> Sample:
    keys = [key for key, value in samples[0].items() if isinstance(value, int | float)]
    return {key: median(sample[key] for sample in samples) for key in keys}


if __name__ == "__main__":
    os.chdir(HERE.parent.parent)
    main()
