"""The driver: carries the list of `scenarios.md` out with every client at hand and prints the table.

    python compat/run.py                          kbroker, started as a user starts it
    python compat/run.py --target HOST:PORT       any broker; what needs power over the broker is absent
    python compat/run.py --kafka                  Apache Kafka beside it (Maven); what is seen must be the same
    python compat/run.py --kafka --no-kbroker --record      write down anew what is seen on Apache Kafka
    … --clients aiokafka,kcat --only tombstone,headers --json result.json

A client is a folder with a `client.toml`:

    title     = "aiokafka"                        how it is called in the table
    packages  = ["aiokafka==0.14.0"]              a Python client: installed in an environment of its own
    needs     = ["kcat"]                          executables; without them the client is skipped, by name
    build     = ["go", "build", "-o", "{cache}/runner", "."]     run in the folder before the list
    run       = ["{cache}/runner"]                default: ["{python}", "{folder}/runner.py"]
    required  = true                              with CI=true, not being able to run it is a failure

`{cache}` is the client's folder under `.compat/` in the checkout, `{python}` its environment's interpreter. What a runner
reads and prints is told at the head of `common.py`.

A scenario's verdict is `ok`, `FAIL`, or `absent`: the client has no such feature and says why. On kbroker a scenario also
fails when `seen` differs from what the same client saw on Apache Kafka, in this run (`--kafka`) or as written down in
`<client>/kafka.json`. Exit status 1 if anything failed.

The order on one broker: each client's restarts under load; each client's list; then the broker is stopped and started once;
each client's scenarios under "After a restart".
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import wire  # noqa: E402
from apache_kafka import CACHE, VERSION, ApacheKafka, Unavailable, find_or_fetch  # noqa: E402
from kbroker_process import Kbroker  # noqa: E402

SILENCE_SECONDS_MAX = 75.0  # a runner ends a scenario after 60 s itself
INSTALL_SECONDS_MAX = 300
POWERLESS = "no power over the broker"

Line = dict[str, Any]  # what a runner prints for a scenario
Results = dict[str, dict[str, Line]]  # client -> scenario -> line


class Broker(Protocol):
    bootstrap: str

    def start(self) -> float: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...


@dataclass(frozen=True)
class Scenarios:
    """The ids of the page, in its order; every client ends a phase before any begins the next."""

    under_load: list[str]
    main: list[str]
    after_restart: list[str]

    @property
    def all(self) -> list[str]:
        return self.under_load + self.main + self.after_restart

    def only(self, wanted: list[str]) -> Scenarios:
        phases = (self.under_load, self.main, self.after_restart)
        return Scenarios(*([identifier for identifier in phase if identifier in wanted] for phase in phases))


@dataclass
class Client:
    """One folder."""

    name: str
    title: str
    folder: Path
    needs: list[str] = field(default_factory=list)
    packages: list[str] | None = None
    build: list[str] | None = None
    run: list[str] = field(default_factory=lambda: ["{python}", "{folder}/runner.py"])
    required: bool = False

    @property
    def cache(self) -> Path:
        return CACHE / self.name

    @property
    def recorded_file(self) -> Path:
        return self.folder / "kafka.json"

    def recorded(self) -> dict[str, Line]:
        """What this client saw on Apache Kafka when it was last written down."""
        if not self.recorded_file.exists():
            return {}
        found: dict[str, Line] = json.loads(self.recorded_file.read_text())["scenarios"]
        return found


class Missing(Exception):
    """A client cannot run here; the message says why."""


# ---- The run ---------------------------------------------------------------------------------------------------------


def main() -> int:
    options = arguments()
    scenarios = read_scenarios((HERE / "scenarios.md").read_text())
    if options.only:
        scenarios = scenarios.only(options.only.split(","))
    clients, skipped = at_hand(read_clients(HERE, options.clients))
    outcomes: dict[str, Results] = {}
    for label, broker in brokers(options):
        print(f"{label} at {broker.bootstrap}", file=sys.stderr)
        outcomes[label] = on_broker(broker, clients, scenarios, powerless=label == options.target)
    wanted = references(clients, outcomes.get("kafka"))
    for label, results in outcomes.items():
        if label != "kafka":
            compare(results, wanted)
    return conclude(options, clients, skipped, scenarios, outcomes)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", metavar="HOST:PORT", help="a running broker")
    parser.add_argument("--clients", help="folders, comma separated; default: all")
    parser.add_argument("--only", help="scenario ids, comma separated; default: all")
    parser.add_argument("--kafka", action="store_true", help=f"also start Apache Kafka {VERSION}")
    parser.add_argument("--no-kbroker", action="store_true", help="do not start kbroker")
    parser.add_argument("--record", action="store_true", help="write down what was seen on Apache Kafka")
    parser.add_argument("--json", metavar="FILE", help="write everything that was seen")
    return parser.parse_args()


@contextmanager
def scratch() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="compat-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def brokers(options: argparse.Namespace) -> Iterator[tuple[str, Broker]]:
    """The brokers of this run, each started and stopped in its turn."""
    if options.target:
        yield options.target, Foreign(options.target)
    elif not options.no_kbroker:
        with scratch() as directory:
            yield from running("kbroker", Kbroker(directory, wire.free_port()))
    if options.kafka:
        find_or_fetch()
        with scratch() as directory:
            # After kill -9 Kafka waits for the old session to end before it registers the broker again.
            hurry = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
            yield from running("kafka", ApacheKafka(directory, wire.free_port(), hurry))


def running(label: str, broker: Kbroker | ApacheKafka) -> Iterator[tuple[str, Broker]]:
    broker.start()
    try:
        yield label, broker
        broker.stop()
    finally:
        broker.kill()


class Foreign:
    """A broker that somebody else runs."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def start(self) -> float:
        return 0.0

    def stop(self) -> None:
        pass

    kill = stop


def on_broker(broker: Broker, clients: list[Client], scenarios: Scenarios, powerless: bool) -> Results:
    """Restarts under load for every client, every client's list, a restart, every client's scenarios after it."""
    mark = f"{int(time.time()) % 1_000_000:06}"
    results: Results = {client.name: {} for client in clients}
    with scratch() as states, control(broker) as address:
        for phase in (scenarios.under_load, scenarios.main, scenarios.after_restart):
            if phase is scenarios.after_restart and phase and not powerless:
                broker.stop()
                broker.start()
            for client in clients:
                work = Work(client, broker.bootstrap, f"{client.name}-{mark}-", states, None if powerless else address)
                if powerless and phase is not scenarios.main:
                    results[client.name].update({i: line(i, "absent", POWERLESS) for i in phase})
                elif phase:
                    results[client.name].update(carry_out(work, phase))
    return results


@contextmanager
def control(broker: Broker) -> Iterator[str]:
    """A socket that takes the line `kill9` or `restart`, does it, and answers `ok` once the broker serves again."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            how = {b"kill9": broker.kill, b"restart": broker.stop}.get(self.rfile.readline().strip())
            if how is None:
                self.wfile.write(b"say kill9 or restart\n")
                return
            try:
                how()
                broker.start()
                self.wfile.write(b"ok\n")
            except Exception as problem:
                self.wfile.write(f"{problem}\n".encode())

    with socketserver.TCPServer(("127.0.0.1", wire.free_port()), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


# ---- One client ------------------------------------------------------------------------------------------------------


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


def carry_out(work: Work, wanted: list[str]) -> dict[str, Line]:
    """The wanted scenarios; a runner that hangs or dies loses the one it was at and is started again for the rest."""
    found: dict[str, Line] = {}
    rest = list(wanted)
    while rest:
        lines, trouble = run_once(work, rest)
        found |= {each["scenario"]: each for each in lines if each["scenario"] in rest}
        rest = unreported(rest, found)
        if rest and trouble:
            found[rest[0]] = line(rest[0], "fail", trouble)
            rest = rest[1:]
        elif rest:
            found |= {identifier: line(identifier, "fail", "missing: no line from the runner") for identifier in rest}
            rest = []
    print(f"  {work.client.title}: {summary(found.values())}", file=sys.stderr)
    return found


def run_once(work: Work, wanted: list[str]) -> tuple[list[Line], str | None]:
    """Start the runner; its lines, and what went wrong with it if it hung or died."""
    command = expand(work.client.run, work.client)
    log_name = CACHE / "logs" / f"{work.client.name}.log"
    log_name.parent.mkdir(parents=True, exist_ok=True)
    with log_name.open("ab") as log:
        process = subprocess.Popen(
            command,
            env=work.environment(wanted),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    lines: list[Line] = []
    try:
        for text in spoken(process):
            if text is None:
                return lines, f"no word for {SILENCE_SECONDS_MAX:.0f} s; {log_name}"
            lines.append(json.loads(text))
        code = process.wait(10)
        return lines, f"the runner ended with status {code}; {log_name}" if code else None
    except (ValueError, subprocess.TimeoutExpired) as problem:
        return lines, f"the runner: {problem}"
    finally:
        end_session(process)


def spoken(process: subprocess.Popen[bytes]) -> Iterator[str | None]:
    """The lines of the process as they come; None when it is silent for too long."""
    heard: queue.Queue[bytes | None] = queue.Queue()

    def listen() -> None:
        for text in process.stdout or ():
            heard.put(text)
        heard.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            text = heard.get(timeout=SILENCE_SECONDS_MAX)
        except queue.Empty:
            yield None
            return
        if text is None:
            return
        if text.strip():
            yield text.decode()


def end_session(process: subprocess.Popen[bytes]) -> None:
    """The runner and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)


def unreported(wanted: list[str], found: dict[str, Line]) -> list[str]:
    return [identifier for identifier in wanted if identifier not in found]


def line(identifier: str, result: str, why: str) -> Line:
    return {"scenario": identifier, "result": result, "why": why}


# ---- Clients at hand -------------------------------------------------------------------------------------------------


def read_clients(folder: Path, wanted: str | None) -> list[Client]:
    names = wanted.split(",") if wanted else sorted(path.parent.name for path in folder.glob("*/client.toml"))
    return [
        Client(name=name, folder=folder / name, **tomllib.loads((folder / name / "client.toml").read_text()))
        for name in names
    ]


def at_hand(clients: list[Client]) -> tuple[list[Client], dict[str, tuple[Client, str]]]:
    """The clients that can run here; the others with the reason."""
    ready, skipped = [], {}
    for client in clients:
        try:
            prepare(client)
            ready.append(client)
        except Missing as reason:
            skipped[client.name] = (client, str(reason))
    return ready, skipped


def prepare(client: Client) -> None:
    for program in client.needs:
        if shutil.which(program) is None:
            raise Missing(f"no `{program}` on this machine")
    client.cache.mkdir(parents=True, exist_ok=True)
    if client.packages and not environment(client).exists():
        install(client)
    if client.build:
        execute(expand(client.build, client), client.folder)


def environment(client: Client) -> Path:
    """The client's Python environment; another list of packages or another Python is another environment."""
    facts = json.dumps([client.packages, sys.version_info[:2], sys.prefix])
    return client.cache / f"env-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def install(client: Client) -> None:
    """Make the environment under another name first, so that it is either there and whole or not there."""
    place, draft = environment(client), client.cache / "env-new"
    shutil.rmtree(draft, ignore_errors=True)
    packages = client.packages or []
    if uv := shutil.which("uv"):
        execute([uv, "venv", "-q", "--python", sys.executable, str(draft)], client.cache)
        execute([uv, "pip", "install", "-q", "--python", str(draft / "bin" / "python"), *packages], client.cache)
    else:
        execute([sys.executable, "-m", "venv", str(draft)], client.cache)
        pip = [str(draft / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        execute([*pip, *packages], client.cache)
    draft.rename(place)


def execute(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"`{Path(command[0]).name}` took more than {INSTALL_SECONDS_MAX} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Missing(f"`{' '.join([Path(command[0]).name, *command[1:4]])} …`: {said[-1] if said else 'failed'}")


def expand(command: list[str], client: Client) -> list[str]:
    python = environment(client) / "bin" / "python" if client.packages else Path(sys.executable)
    return [part.format(python=python, folder=client.folder, cache=client.cache) for part in command]


# ---- What was seen ---------------------------------------------------------------------------------------------------


def read_scenarios(page: str) -> Scenarios:
    """The ids: headings such as "### `tombstone`". Two sections are phases of their own."""
    phases: dict[str, list[str]] = {"Restart under load": [], "After a restart": [], "": []}
    phase = phases[""]
    for heading in re.findall(r"^(## .+|### `[a-z0-9-]+`)$", page, re.MULTILINE):
        if heading.startswith("## "):
            phase = phases.get(heading[3:], phases[""])
        else:
            phase.append(heading[5:-1])
    return Scenarios(phases["Restart under load"], phases[""], phases["After a restart"])


def references(clients: list[Client], live: Results | None) -> Results:
    """What each client saw on Apache Kafka: in this run, else as written down."""
    return {client.name: (live or {}).get(client.name) or client.recorded() for client in clients}


def compare(results: Results, wanted: Results) -> None:
    """Turn `ok` into `fail` where the client saw something else on Apache Kafka, and `absent` where it was `ok` there."""
    for client, lines in results.items():
        for identifier, found in lines.items():
            there = wanted.get(client, {}).get(identifier)
            if there is None or found["result"] == "fail" or there["result"] == "fail":
                continue
            if found.get("why") == POWERLESS:
                continue
            if found["result"] != there["result"]:
                found.update(result="fail", why=f"{found['result']}, but on Apache Kafka {there['result']}")
            elif difference := differing(found.get("seen") or {}, there.get("seen") or {}):
                found.update(result="fail", why=f"seen otherwise than on Apache Kafka: {difference}")


def differing(here: dict[str, Any], there: dict[str, Any], at: str = "") -> str:
    """The differing facts of two `seen`, in words."""
    parts = []
    for name in dict.fromkeys([*there, *here]):
        mine, its = here.get(name, "nothing"), there.get(name, "nothing")
        if isinstance(mine, dict) and isinstance(its, dict):
            parts.append(differing(mine, its, f"{at}{name} / "))
        elif mine != its:
            parts.append(f"{at}{name}: {json.dumps(mine, ensure_ascii=False)}, there {json.dumps(its, ensure_ascii=False)}")
    return "; ".join(part for part in parts if part)


def record(clients: list[Client], results: Results) -> None:
    """Write down what was seen on Apache Kafka, beside each runner."""
    for client in clients:
        kept = {**client.recorded()}
        for identifier, found in results[client.name].items():
            kept[identifier] = {name: found[name] for name in ("result", "seen", "why") if name in found}
        page = {"kafka": VERSION, "packages": client.packages, "scenarios": kept}
        client.recorded_file.write_text(json.dumps(page, indent=1, ensure_ascii=False) + "\n")


def conclude(
    options: argparse.Namespace,
    clients: list[Client],
    skipped: dict[str, tuple[Client, str]],
    scenarios: Scenarios,
    outcomes: dict[str, Results],
) -> int:
    """Print the table and what is to be said to it; the exit status."""
    columns = {
        client.title + (f" @{label}" if len(outcomes) > 1 else ""): results[client.name]
        for client in clients
        for label, results in outcomes.items()
    }
    if options.json:
        Path(options.json).write_text(json.dumps(outcomes, indent=1, ensure_ascii=False) + "\n")
    if options.record and "kafka" in outcomes:
        record(clients, outcomes["kafka"])
    print(table(scenarios.all, columns))
    print(details(columns))
    in_ci = os.environ.get("CI") == "true"
    lacking = [client for client, _ in skipped.values() if client.required and in_ci]
    for client, reason in skipped.values():
        print(f"{'MISSING' if client in lacking else 'skipped'}: {client.title}: {reason}")
    return closing([each for lines in columns.values() for each in lines.values()], len(lacking), bool(columns))


def table(identifiers: list[str], columns: dict[str, dict[str, Line]]) -> str:
    """Rows are scenarios, columns are clients."""
    words = {"ok": "ok", "fail": "FAIL", "absent": "absent"}
    rows = [["scenario", *columns]]
    for identifier in identifiers:
        rows.append([identifier, *(words[lines[identifier]["result"]] if identifier in lines else "FAIL" for lines in columns.values())])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def details(columns: dict[str, dict[str, Line]]) -> str:
    """Why scenarios failed, and, once per reason, why they are absent."""
    failed, absent = [], {}
    for title, lines in columns.items():
        for identifier, found in lines.items():
            if found["result"] == "fail":
                failed.append(f"FAIL {title}: {identifier}: {found.get('why', '')}")
            elif found["result"] == "absent":
                absent.setdefault(f"{title}: {found.get('why', '')}", []).append(identifier)
    return "\n".join(["", *(f"absent, {why} ({', '.join(names)})" for why, names in absent.items()), *failed, ""])


def summary(lines: Any) -> str:
    results = [each["result"] for each in lines]
    return f"{results.count('ok')} passed, {results.count('fail')} failed, {results.count('absent')} absent"


def closing(lines: list[Line], lacking: int, ran: bool) -> int:
    results = [each["result"] for each in lines]
    failed = results.count("fail") + lacking
    print(f"compat: {results.count('ok')} passed, {failed} failed, {results.count('absent')} skipped")
    return 1 if failed or not ran else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unavailable as reason:
        sys.exit(f"Apache Kafka is not available: {reason}")
