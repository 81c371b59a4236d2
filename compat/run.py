"""The driver: carries the list of `scenarios.md` out with every client at hand and prints the table.

    python compat/run.py                          kbroker, started as a user starts it
    python compat/run.py --target HOST:PORT       any broker; what needs power over the broker is absent
    python compat/run.py --kafka                  Apache Kafka beside it (Maven); what is seen must be the same
    python compat/run.py --kafka --no-kbroker --record      write down anew what is seen on Apache Kafka
    … --clients aiokafka,kcat --only tombstone,headers --json result.json
    … --feature transaction.version=1             the cluster at another level than a new one has
    … --brokers 3                                 a cluster of three, whose first broker is the one that clients know

A verdict is `ok`, `FAIL`, or `absent`: the client has no such feature and says why. A scenario also fails when `seen`
differs from what the same client saw on Apache Kafka, in this run (`--kafka`) or as written down in
`<client>/kafka.json`, also for other feature levels where these differ. Exit status 1 if anything failed, a runner left
a scenario out, or, with CI=true, a required client could not run.

The order on one broker: each client's restarts under load, one client after the other; each client's list, some clients
at a time (`--at-once`); then the broker is stopped and started once; each client's scenarios under "After a restart".

Owns: the brokers and runners it starts, and `.compat/logs/`. How a client is declared is told in `toolchains.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent))
import clusters
import wire
from apache_kafka import CACHE, VERSION, ApacheKafka, Unavailable, find_or_fetch
from clusters import Cluster
from kbroker_process import Kbroker
from toolchains import Client, at_hand, read_clients
from verdicts import POWERLESS, Line, Lines, Results, Scenarios, counted, details, judge, line, read_scenarios, table

HERE = Path(__file__).resolve().parent
SILENCE_SECONDS_MAX = 75.0  # a runner ends a scenario after 60 s itself
PHASE_SECONDS_MAX = 300.0  # for one client, so that a broker that answers nothing does not cost an hour
# These are the broker's to choose or to allow, and Kafka's own are too long to wait for.
TIMES = {
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "6000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.heartbeat.interval.ms": "500",
}
FEATURES = {"transaction.version": 2}  # as a new cluster of Apache Kafka 4.3 has it


class Broker(Protocol):
    bootstrap: str

    def start(self) -> float: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...


def main() -> int:
    options = arguments()
    scenarios = read_scenarios((HERE / "scenarios.md").read_text())
    if options.only:
        scenarios = scenarios.only(options.only)
    clients, skipped = at_hand(read_clients(HERE, options.clients))
    outcomes: dict[str, Results] = {}
    for label, broker in brokers(options):
        print(f"{label} at {broker.bootstrap}", file=sys.stderr)
        outcomes[label] = on_broker(broker, clients, scenarios.of(label), options.at_once)
    if options.record:
        for client in clients:
            client.record(outcomes["kafka"][client.name], options.level)
    if options.json:
        Path(options.json).write_text(json.dumps(outcomes, indent=1, ensure_ascii=False) + "\n")
    columns = judged(clients, outcomes, options.level)
    print(table(scenarios.all, columns), details(columns), sep="\n\n")
    return conclude(columns, skipped)


def arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    def feature(text: str) -> tuple[str, int]:
        name, _, number = text.partition("=")
        return name, int(number)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", metavar="HOST:PORT", help="a running broker")
    parser.add_argument("--clients", type=names, default=[], help="folders, comma separated; default: all")
    parser.add_argument("--only", type=names, default=[], help="scenario ids, comma separated; default: all")
    parser.add_argument("--kafka", action="store_true", help=f"also start Apache Kafka {VERSION}")
    parser.add_argument("--no-kbroker", action="store_true", help="do not start kbroker")
    parser.add_argument("--record", action="store_true", help="write down what is seen on Apache Kafka (with --kafka)")
    parser.add_argument(
        "--feature", type=feature, action="append", default=[], metavar="NAME=LEVEL", help="of a new cluster"
    )
    parser.add_argument("--brokers", type=int, default=1, metavar="N", help="in the cluster; default: 1")
    parser.add_argument("--at-once", type=int, default=3, metavar="N", help="clients side by side; default: 3")
    parser.add_argument("--json", metavar="FILE", help="write everything that was seen")
    options = parser.parse_args()
    options.level = ", ".join(f"{name}={level}" for name, level in options.feature)
    options.feature = FEATURES | dict(options.feature)
    if options.record and not options.kafka:
        parser.error("--record writes down what is seen on Apache Kafka: it needs --kafka")
    return options


def judged(clients: list[Client], outcomes: dict[str, Results], level: str) -> Results:
    """A column per client and broker, judged by what the client saw on Apache Kafka, in this run or as written down."""
    columns: Results = {}
    for client in clients:
        there = outcomes["kafka"][client.name] if "kafka" in outcomes else client.recorded(level)
        for label, results in outcomes.items():
            title = client.title + (f" @{label}" if len(outcomes) > 1 else "")
            lines = results[client.name]
            columns[title] = {identifier: judge(found, there.get(identifier)) for identifier, found in lines.items()}
    return columns


def conclude(columns: Results, skipped: list[tuple[Client, str]]) -> int:
    """What was left out, the count, the exit status."""
    missing = [client for client, _ in skipped if client.required and os.environ.get("CI") == "true"]
    for client, reason in skipped:
        print(f"{'FAIL, could not run' if client in missing else 'skipped'}: {client.title}: {reason}")
    passed, failed, absent = counted(found for lines in columns.values() for found in lines.values())
    print(f"\ncompat: {passed} passed, {failed + len(missing)} failed, {absent} skipped")
    return 1 if failed or missing else 0


# ---- Brokers ---------------------------------------------------------------------------------------------------------


class Foreign:
    """A broker that somebody else runs."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def start(self) -> float:
        raise RuntimeError(POWERLESS)

    def stop(self) -> None:
        raise RuntimeError(POWERLESS)

    kill = stop


def brokers(options: argparse.Namespace) -> Iterator[tuple[str, Broker]]:
    """The brokers of this run, each started and stopped in its turn."""
    if options.target:
        yield options.target, Foreign(options.target)
    elif not options.no_kbroker:
        with scratch() as directory:
            yield from running("kbroker", made("kbroker", directory, options, TIMES))
    if options.kafka:
        find_or_fetch()
        with scratch() as directory:
            # After kill -9 Kafka waits for the old session to end before it registers the broker again.
            hurry = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
            yield from running("kafka", made("kafka", directory, options, hurry | TIMES))


def made(kind: str, directory: Path, options: argparse.Namespace, properties: dict[str, str]) -> Broker:
    """One broker, or a cluster of them."""
    if options.brokers > 1:
        return clusters.make(kind, directory, options.brokers, properties, features=options.feature)
    single = Kbroker if kind == "kbroker" else ApacheKafka
    return single(directory, wire.free_port(), properties, features=options.feature)


def running(label: str, broker: Broker) -> Iterator[tuple[str, Broker]]:
    try:
        broker.start()
    except RuntimeError as problem:
        sys.exit(f"{label} did not start: {problem}")
    try:
        yield label, broker
    finally:
        broker.kill()


@contextmanager
def scratch() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="compat-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def control(broker: Broker) -> Iterator[str]:
    """A socket that takes the line `kill9` or `restart`, does it, and answers `ok` once the broker serves again."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked = self.rfile.readline().strip().decode()
            self.wfile.write(f"{again(broker, kill=asked == 'kill9') or 'ok'}\n".encode())

    with socketserver.TCPServer(("127.0.0.1", wire.free_port()), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def again(broker: Broker, kill: bool) -> str | None:
    """Stop or kill the broker and start it, one of several after the other; what went wrong."""
    try:
        if isinstance(broker, Cluster):
            broker.restart(kill=kill)
        else:
            broker.kill() if kill else broker.stop()
            broker.start()
    except Exception as problem:
        return f"the broker did not come back: {problem}"
    return None


# ---- Runners ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What a runner is started with."""

    client: Client
    bootstrap: str
    prefix: str
    states: Path
    control: str | None

    def environment(self, wanted: list[str]) -> dict[str, str]:
        return {
            **os.environ,
            "COMPAT_BOOTSTRAP": self.bootstrap,
            "COMPAT_PREFIX": self.prefix,
            "COMPAT_SCENARIOS": ",".join(wanted),
            "COMPAT_STATE": str(self.states / f"{self.client.name}.json"),
            **({"COMPAT_CONTROL": self.control} if self.control else {}),
            "PYTHONPATH": str(HERE),
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def on_broker(broker: Broker, clients: list[Client], scenarios: Scenarios, at_once: int) -> Results:
    """Every client through every phase; side by side where no one kills the broker."""
    mark = f"{int(time.time()) % 1_000_000:06}"
    powerless = isinstance(broker, Foreign)
    results: Results = {client.name: {} for client in clients}
    with scratch() as states, control(broker) as address:
        works = [
            Work(client, broker.bootstrap, f"{client.name}-{mark}-", states, None if powerless else address)
            for client in clients
        ]
        for phase in (scenarios.under_load, scenarios.main + scenarios.own, scenarios.after_restart):
            restarts = phase is scenarios.after_restart and phase and not powerless
            trouble = again(broker, kill=False) if restarts else None

            def do(work: Work, phase: list[str] = phase, trouble: str | None = trouble) -> Lines:
                if powerless and phase in (scenarios.under_load, scenarios.after_restart):
                    return {identifier: line(identifier, "absent", POWERLESS) for identifier in phase}
                return carry_out(work, phase, trouble)

            with ThreadPoolExecutor(1 if phase is scenarios.under_load else at_once) as pool:
                for work, found in zip(works, pool.map(do, works), strict=True):
                    results[work.client.name].update(found)
    return results


def carry_out(work: Work, wanted: list[str], trouble: str | None) -> Lines:
    """The wanted scenarios; a runner that hangs or dies loses the one it was at and is started again for the rest."""
    found: Lines = {}
    began = time.monotonic()
    rest, deadline = list(wanted), began + PHASE_SECONDS_MAX
    while rest:
        if trouble is None and not serves(work.bootstrap):
            trouble = "the broker does not answer"
        if trouble is None and time.monotonic() > deadline:
            trouble = f"the client's {PHASE_SECONDS_MAX:.0f} s for these scenarios were over"
        if trouble:
            found |= {identifier: line(identifier, "fail", trouble) for identifier in rest}
            break
        lines, accident = run_once(work, rest, deadline)
        found |= {each["scenario"]: each for each in lines if each.get("scenario") in rest}
        rest = [identifier for identifier in rest if identifier not in found]
        if rest:
            lost = rest[:1] if accident else rest
            found |= {each: line(each, "fail", accident or "missing: no line from the runner") for each in lost}
            rest = rest[len(lost) :]
    if wanted:
        passed, failed, absent = counted(found.values())
        told = f"{passed} passed, {failed} failed, {absent} absent, {time.monotonic() - began:.0f} s"
        print(f"  {work.client.title}: {told}", file=sys.stderr)
    return found


def serves(bootstrap: str) -> bool:
    try:
        return bool(wire.broker_ids(bootstrap))
    except (OSError, IndexError, ValueError):
        return False


def run_once(work: Work, wanted: list[str], deadline: float) -> tuple[list[Line], str | None]:
    """Start the runner; its lines, and what went wrong with it if it hung or died."""
    log_file = CACHE / "logs" / f"{work.client.name}.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            work.client.expand(work.client.run),
            env=work.environment(wanted),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    lines: list[Line] = []
    try:
        for text in spoken(process, deadline):
            lines.append(json.loads(text))
        code = process.wait(10)
        return lines, f"the runner ended with status {code}, see {log_file}" if code else None
    except (ValueError, TimeoutError, subprocess.TimeoutExpired) as problem:
        return lines, f"the runner: {problem}, see {log_file}"
    finally:
        end_session(process)


def spoken(process: subprocess.Popen[bytes], deadline: float) -> Iterator[bytes]:
    """The lines of the process as they come; TimeoutError when it is silent for too long."""
    heard: queue.Queue[bytes | None] = queue.Queue()

    def listen() -> None:
        for text in process.stdout or ():
            heard.put(text)
        heard.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            text = heard.get(timeout=max(1.0, min(SILENCE_SECONDS_MAX, deadline - time.monotonic())))
        except queue.Empty:
            raise TimeoutError("no further word") from None
        if text is None:
            return
        if text.strip():
            yield text


def end_session(process: subprocess.Popen[bytes]) -> None:
    """The runner and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    try:
        sys.exit(main())
    except Unavailable as reason:
        sys.exit(f"Apache Kafka is not available: {reason}")
