"""The brokers under test, and the load generator that is turned on them.

    Broker     one of kbroker, kafka, bare, before or sink in a directory: launch, stop, kill, wipe, and start again;
               of kbroker and kafka also several that are one cluster
    load()     one run of the load generator against it: the generator's figures and the broker's own CPU and memory

A broker's CPU is what the kernel counted for its process between the generator's "start" and "stop" marks
(/proc/PID/stat, all threads), so it leaves out the generator, the set-up and the warm-up. Where there is no /proc the
figures are simply missing, and the report says so.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".compat" / "perf"
sys.path.insert(0, str(HERE.parent))
import clusters  # noqa: E402
import wire  # noqa: E402
from apache_kafka import ApacheKafka  # noqa: E402
from clusters import Cluster  # noqa: E402
from kbroker_process import Run  # noqa: E402

Sample = dict[str, Any]
HAS_PROC = Path("/proc/self/stat").exists()
LOAD = CACHE / "load"


@dataclass(frozen=True)
class Scale:
    """How much of everything. `share` shrinks the rows that are bounded by a count and not by time."""

    repeat: int = 0  # of every row; 0: as the row says
    seconds: float = 2.0
    warmup: float = 0.7
    share: float = 1.0

    def count(self, full: int) -> int:
        return max(1, round(full * self.share))


FULL, QUICK = Scale(), Scale(repeat=1, seconds=0.4, warmup=0.2, share=0.04)


class Failed(Exception):
    """This measurement could not be taken; the message says why. The others go on."""


def build_load() -> None:
    """Compile the load generator into the cache folder; Go itself skips what is unchanged."""
    if shutil.which("go") is None:
        sys.exit("no `go` on this machine: the load generator cannot be built")
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", "build", "-o", str(LOAD), "."], cwd=HERE / "load", check=True, timeout=300)


class Side(Protocol):
    """What Broker needs of a broker; ApacheKafka is one, Child another, and a Cluster of any number."""

    def start(self, timeout: float) -> object: ...
    def stop(self, timeout: float) -> None: ...
    def kill(self) -> None: ...


class Child:
    """A broker that is one command and says on its output when it is ready."""

    def __init__(self, directory: Path, command: list[str], ready: bytes, checkout: Path = ROOT) -> None:
        self.command, self.ready, self.log_file = command, ready, directory / "broker.log"
        self.checkout = checkout
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float) -> None:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self.log_file.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            path = os.pathsep.join([str(self.checkout), str(self.checkout / "protocol")])
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.checkout,
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
        end = time.monotonic() + timeout
        while self.ready not in self.log_file.read_bytes():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise Failed(f"did not get ready: {self.log_file.read_text(errors='replace')[-400:].strip()}")
            time.sleep(0.005)

    def stop(self, timeout: float) -> None:
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        self._end(signal.SIGKILL, 10)

    def _end(self, how: signal.Signals, timeout: float) -> None:
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@dataclass(frozen=True)
class Pythons:
    """What runs brokers in Python: an interpreter, and the checkout that kbroker is compared with, if there is one."""

    python: Path
    before: Path | None = None


CLUSTER = {"min.insync.replicas": "2"}


def make_side(name: str, directory: Path, port: int, pythons: Pythons, count: int) -> Side:
    listen, data = f"127.0.0.1:{port}", str(directory / "data")
    python = str(pythons.python)
    checkout = pythons.before or ROOT if name == "before" else ROOT
    if count > 1:
        kind, properties = "kafka" if name == "kafka" else "kbroker", CLUSTER if count > 2 else None
        return clusters.make(kind, directory, count, properties, run=Run([python, "-m", "kbroker"], checkout))
    if name == "kafka":
        return ApacheKafka(directory, port)
    if name in ("kbroker", "before"):
        command = [python, "-m", "kbroker", "start", "--listen", listen, "--data-dir", data]
        return Child(directory, command, b"ready in", checkout)
    if name == "bare":
        return Child(directory, [python, str(HERE / "bare.py"), "--listen", listen, "--dir", data], b"ready")
    return Child(directory, [str(LOAD), "sink", "-addr", listen, "-records-per-batch", "140"], b"ready")


def processes(side: Side) -> list[subprocess.Popen[bytes]]:
    """Those of it that run."""
    parts = side.members.values() if isinstance(side, Cluster) else [side]
    started = (part.process for part in parts)
    return [process for process in started if process is not None and process.poll() is None]


class Broker:
    """A broker, or `count` that are one cluster, in a directory. CPU and memory are of all its processes together.

    `memo` is where rows keep what they set up in its data.
    """

    def __init__(self, name: str, directory: Path, pythons: Pythons, count: int = 1) -> None:
        self.name, self.directory, self.count = name, directory, count
        port = wire.free_port()
        self.side = make_side(name, directory, port, pythons, count)
        self.bootstrap = self.side.servers if isinstance(self.side, Cluster) else f"127.0.0.1:{port}"
        self.memo: Sample = {}

    @property
    def cluster(self) -> Cluster:
        if not isinstance(self.side, Cluster):
            raise Failed(f"{self.name} is no cluster")
        return self.side

    @contextmanager
    def launch(self, timeout: float = 240) -> Iterator[int]:
        """Start it; the body runs while it starts and gets the nanosecond at which its process began."""
        with ThreadPoolExecutor(1) as pool:
            started = pool.submit(self.side.start, timeout=timeout)
            while not processes(self.side) and not started.done():
                time.sleep(0.0005)
            try:
                yield time.time_ns()
            finally:
                started.result()

    def start(self) -> None:
        with self.launch():
            pass

    def stop(self) -> None:
        self.side.stop(timeout=120)

    def kill(self) -> None:
        self.side.kill()

    def wipe(self) -> None:
        """Forget everything: the next start is the first."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.memo.clear()

    @property
    def running(self) -> bool:
        return bool(processes(self.side))

    @property
    def pids(self) -> list[int]:
        if not self.running:
            raise Failed(f"{self.name} is not running")
        return [process.pid for process in processes(self.side)]

    def cpu_seconds(self) -> float | None:
        """User and system time of its processes since they began, all threads."""
        if not HAS_PROC:
            return None
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids]
        return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float | None:
        if not HAS_PROC:
            return None
        found = [Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2] for pid in self.pids]
        return sum(int(each.split()[0]) for each in found) * 1024 / 1e6

    def watch(self, seconds: float) -> Sample:
        """Its CPU and memory while nobody asks anything."""
        before = self.cpu_seconds()
        time.sleep(seconds)
        return derive({"seconds": seconds, **self.usage(before)})

    def usage(self, cpu_before: float | None) -> Sample:
        cpu = self.cpu_seconds()
        used = None if cpu is None or cpu_before is None else cpu - cpu_before
        return {"cpu_seconds": used, "rss_mb": self.rss_mb()}


def load(broker: Broker, mode: str, limit: float = 180, **flags: object) -> Sample:
    """Run the load generator in one mode and return what it saw, with the broker's own use of the machine."""
    command = [str(LOAD), mode, "-addr", broker.bootstrap]
    command += [f"-{name.replace('_', '-')}={value}" for name, value in flags.items()]
    return run_marked(broker, command, json.loads, limit)


def run_marked(broker: Broker, command: list[str], parse: Callable[[str], Sample], limit: float) -> Sample:
    """Run a client that marks its measured window with "start" and "stop" lines on stderr.

    A client without marks (the Java tools) is measured from its beginning to its end.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killer = threading.Timer(limit, process.kill)
    killer.start()
    said: list[str] = []
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.extend(process.stdout or []))
    reader.start()
    before, usage = broker.cpu_seconds(), None
    try:
        for line in process.stderr or []:
            if line == "start\n":
                before = broker.cpu_seconds()
            elif line == "stop\n":
                usage = broker.usage(before)
            else:
                said.append(line)
        process.wait(limit)
        reader.join()
        usage = usage or broker.usage(before)
    finally:
        killer.cancel()
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise Failed(f"{Path(command[0]).name} ended with {process.returncode}: {''.join(said)[-300:].strip()}")
    sample = derive({**parse("".join(output)), **usage})
    if sample.get("errors"):
        raise Failed(f"{sample['errors']} errors, first: {sample.get('first_error')}")
    return sample


def derive(sample: Sample) -> Sample:
    """Add the ratios that rows show: MB are 10^6 bytes, CPU is the broker's own."""
    seconds, cpu = sample.get("seconds"), sample.get("cpu_seconds")
    if sample.get("bytes") and seconds:
        sample.setdefault("mb_s", sample["bytes"] / 1e6 / seconds)
    if cpu is not None:
        if seconds:
            sample["cpu_percent"] = 100 * cpu / seconds
        if sample.get("requests"):
            sample["cpu_us_request"] = 1e6 * cpu / sample["requests"]
        if sample.get("bytes"):
            sample["cpu_ms_mb"] = 1e9 * cpu / sample["bytes"]
    return sample
