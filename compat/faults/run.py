#!/usr/bin/env python3
"""Real brokers under real faults: `python compat/faults/run.py` or `make test-faults`.

Three brokers, three replicas, min.insync.replicas 2; clients with default settings write 1,000 records a second with
acks=all and read them. Then something is done to the brokers, undone, and looked at: whatever was acknowledged is
there, once, in its order; all replicas hold the same bytes; within 30 s all are in sync; and no error reached an
application. README.md has the table.

    run.py                              every fault once
    run.py --only F2,F4 --repeat 3      some, three times each
    run.py --coordination etcd          three servers of etcd in place of SQLite; F8 needs it
    run.py --target kafka               three brokers of Apache Kafka instead: is it the test that is wrong?
    run.py --clients confluent-kafka,kafka-python,java
    run.py --full                       as long and as often as the table of faults says: an hour and more
    run.py --set NAME=VALUE             a property of the brokers
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import apache_kafka  # noqa: E402
from faults import FAULTS, Fault  # noqa: E402
from loads import PRODUCERS, java_command  # noqa: E402
from trial import Failed, Plan, Skipped, trial_of  # noqa: E402


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    options = arguments()
    outcomes: Counter[str] = Counter()
    for number in range(options.repeat):
        for fault in chosen(options.only):
            plan = Plan(
                options.target, options.coordination, options.clients, options.rate, seed=options.seed + number,
                full=options.full, properties=dict(pair.split("=", 1) for pair in options.set),
            )  # fmt: skip
            outcome, words = carry_out(fault, plan)
            outcomes[outcome] += 1
            print(f"{fault.name:4} {outcome:7} {words}", flush=True)
    print(f"\nfaults: {outcomes['ok']} passed, {outcomes['FAILED']} failed, {outcomes['skipped']} skipped")
    return 1 if outcomes["FAILED"] else 0


def arguments() -> argparse.Namespace:
    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=names, default=(), help="F1,F2 …; default: all")
    parser.add_argument("--repeat", type=int, default=1, help="how often each")
    parser.add_argument("--target", choices=("kbroker", "kafka"), default="kbroker")
    parser.add_argument("--coordination", choices=("sqlite", "etcd"), default="sqlite")
    parser.add_argument("--clients", type=names, default=("confluent-kafka",), help=", ".join(PRODUCERS))
    parser.add_argument("--rate", type=int, default=1000, help="records a second")
    parser.add_argument("--seed", type=int, default=1, help="other moments")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    if unknown := {*options.only} - {fault.name for fault in FAULTS}:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    if unknown := {*options.clients} - set(PRODUCERS):
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    return options


def chosen(only: tuple[str, ...]) -> list[Fault]:
    return [fault for fault in FAULTS if not only or fault.name in only]


def clients_of(fault: Fault, plan: Plan) -> tuple[str, ...]:
    """Whose load it is under; without those beside that cannot be had."""
    if not fault.under_load:
        return ()
    beside = [client for client in fault.beside if client not in plan.clients and is_here(client)]
    return (*plan.clients, *beside)


def is_here(client: str) -> bool:
    try:
        return client != "java" or bool(java_command("Load"))
    except apache_kafka.Unavailable:
        return False


def carry_out(fault: Fault, plan: Plan) -> tuple[str, str]:
    """One fault on a new cluster: what became of it, and the words for it."""
    began, told, wrong = time.monotonic(), [fault.title], []
    try:
        with trial_of(fault.name, plan, [list(each) for each in fault.placement], proxied=fault.proxied) as trial:
            try:
                if fault.prepare:
                    fault.prepare(trial)
                trial.up(clients_of(fault, plan))
                fault.act(trial)
                trial.whole()
                trial.judge()
            finally:
                told += [str(each) for each in trial.measures]
                wrong += trial.wrong + [str(each) for each in trial.measures if not each.is_good]
                told += [f"{load.ledger.total:,} acknowledged to {load.name_of_client}" for load in trial.producers]
    except (Skipped, apache_kafka.Unavailable) as reason:
        return "skipped", f"{fault.title}: {reason}"
    except (Failed, RuntimeError, OSError) as reason:
        wrong.append(f"{type(reason).__name__}: {reason}")
    words = "; ".join([*told, f"{time.monotonic() - began:.0f} s"])
    return ("FAILED", "\n     ".join([words, *wrong])) if wrong else ("ok", words)


if __name__ == "__main__":
    os.chdir(HERE.parent.parent)
    sys.exit(main())
