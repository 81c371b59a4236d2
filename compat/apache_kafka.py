"""Apache Kafka on this machine: fetched with Maven, formatted, started and stopped. What kbroker is held against.

    kafka = ApacheKafka("/tmp/somewhere", port=29092)     # or `with ApacheKafka(...) as kafka:`
    kafka.start()                                         # returns once the broker answers Metadata with itself
    kafka.kill(); kafka.start()                           # kill -9, then the same data again
    kafka.stop()

    python compat/apache_kafka.py --port 29092 --dir /tmp/somewhere [--set name=value] …    # until Ctrl-C

Owns: the jars (`.compat/apache-kafka-<version>/` in the checkout, fetched once) and, per instance, one directory with
`server.properties`, `data/` and `broker.log`. One node, broker and controller in one process (KRaft), loopback only,
the same heap and collector flags as Kafka's own start script, one replica for the internal topics. `clusters.py` makes
several of them one cluster.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

sys.path.insert(0, str(Path(__file__).resolve().parent))
import wire

VERSION = os.environ.get("COMPAT_KAFKA_VERSION", "4.3.0")
CACHE = Path(__file__).resolve().parent.parent / ".compat"
CLUSTER_ID = "a2Jyb2tlci1jb21wYXQtMQ"

# Kafka's bin/kafka-run-class.sh: KAFKA_JVM_PERFORMANCE_OPTS.
JVM_FLAGS = (
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>kbroker.compat</groupId><artifactId>jars</artifactId><version>1</version>
  <dependencies>{dependencies}</dependencies>
</project>
"""
DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
LOGGING = "org.slf4j:slf4j-simple:1.7.36"


class Unavailable(Exception):
    """Apache Kafka cannot be had here; the message says why."""


class ApacheKafka:
    """One Kafka broker in its own directory; start, stop and kill may be repeated and keep the data."""

    def __init__(
        self,
        directory: str | Path,
        port: int,
        properties: dict[str, str] | None = None,
        heap: str = "1g",
        features: dict[str, int] | None = None,
    ) -> None:
        self.directory, self.port, self.heap = Path(directory), port, heap
        self.bootstrap = f"127.0.0.1:{port}"
        self.properties = properties or {}
        self.features = features or {}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError("Apache Kafka is not running")
        return self.process.pid

    @property
    def log_file(self) -> Path:
        return self.directory / "broker.log"

    def start(self, timeout: float = 60.0) -> float:
        """Start and wait until the broker serves; the seconds it took."""
        classpath = find_or_fetch()
        if not self._properties_file.exists():
            self._format(classpath)
        began = time.monotonic()
        with self.log_file.open("ab") as log:
            command = self._java(classpath, "kafka.Kafka", str(self._properties_file))
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        while time.monotonic() - began < timeout:
            if self.process.poll() is not None:
                raise RuntimeError(f"Apache Kafka ended with {self.process.returncode}: {self.log_file}")
            if self._serves():
                return time.monotonic() - began
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(f"Apache Kafka did not serve within {timeout:.0f} s: {self.log_file}")

    def stop(self, timeout: float = 30.0) -> None:
        """Shut down cleanly; killed if that takes longer than `timeout`."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """kill -9: nothing is flushed, nothing is said."""
        self._end(signal.SIGKILL, 10.0)

    def __enter__(self) -> ApacheKafka:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _properties_file(self) -> Path:
        return self.directory / "server.properties"

    def _java(self, classpath: str, *arguments: str) -> list[str]:
        return ["java", f"-Xmx{self.heap}", f"-Xms{self.heap}", *JVM_FLAGS, "-cp", classpath, *arguments]

    def _format(self, classpath: str) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        draft = self.directory / "server.properties.new"
        draft.write_text("".join(f"{name}={value}\n" for name, value in self._settings().items()))
        command = ["format", "--cluster-id", CLUSTER_ID, "--config", str(draft)]
        if "controller.quorum.voters" not in self.properties:  # one node that is all there is
            command.append("--standalone")
        for name, level in self.features.items():
            command += ["--feature", f"{name}={level}"]
        done = subprocess.run(
            self._java(classpath, "kafka.tools.StorageTool", *command), capture_output=True, text=True, timeout=60
        )
        if done.returncode != 0:
            raise RuntimeError(f"formatting Kafka's storage failed: {done.stdout}{done.stderr}")
        draft.rename(self._properties_file)

    def _settings(self) -> dict[str, str]:
        alone = {} if "controller.quorum.voters" in self.properties else self._alone()
        return {
            "process.roles": "broker,controller",
            "controller.listener.names": "CONTROLLER",
            **alone,
            "log.dirs": str(self.directory / "data"),
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            **self.properties,
        }

    def _alone(self) -> dict[str, str]:
        """As the only node, with a port more."""
        controller = wire.free_port(avoid=(self.port,))
        listeners = f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}"
        return {
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "listeners": listeners,
            "advertised.listeners": listeners,
        }

    def _serves(self) -> bool:
        try:
            return bool(wire.broker_ids(self.bootstrap))
        except (OSError, IndexError, ValueError):
            return False

    def _end(self, how: signal.Signals, timeout: float) -> None:
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10.0)


def find_or_fetch(version: str = VERSION) -> str:
    """The classpath of Apache Kafka `version`; the first call on a machine runs Maven."""
    if shutil.which("java") is None:
        raise Unavailable("no `java` on this machine")
    return fetch_jars([f"org.apache.kafka:kafka_2.13:{version}", LOGGING], CACHE / f"apache-kafka-{version}")


def fetch_jars(artifacts: list[str], jars: Path) -> str:
    """The classpath of these artifacts (`group:artifact:version`) and what they need, kept in `jars`."""
    if not jars.is_dir():
        _fetch(artifacts, jars)
    return str(jars / "*")


def _fetch(artifacts: list[str], jars: Path) -> None:
    if shutil.which("mvn") is None:
        raise Unavailable(f"no `mvn` on this machine to fetch {artifacts[0]} with")
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        dependencies = "".join(DEPENDENCY.format(*each.split(":")) for each in artifacts)
        Path(work, "pom.xml").write_text(POM.format(dependencies=dependencies))
        command = ["mvn", "-q", "-B", "-f", f"{work}/pom.xml", "dependency:copy-dependencies"]
        command += ["-DincludeScope=runtime", f"-DoutputDirectory={work}/jars"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"Maven did not fetch {artifacts[0]} within 300 s") from None
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip().splitlines()
            raise Unavailable(f"Maven could not fetch {artifacts[0]}: {said[0] if said else 'no message'}")
        Path(work, "jars").rename(jars)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--port", type=int, default=0, help="default: a free one")
    options.add_argument("--dir", default=None, help="default: a temporary one, removed at the end")
    options.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a broker property")
    options.add_argument("--heap", default="1g")
    chosen = options.parse_args()
    directory = chosen.dir or tempfile.mkdtemp(prefix="apache-kafka-")
    properties = dict(pair.split("=", 1) for pair in chosen.set)
    kafka = ApacheKafka(directory, chosen.port or wire.free_port(), properties, chosen.heap)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        took = kafka.start()
        print(f"Apache Kafka {VERSION} on {kafka.bootstrap}, pid {kafka.pid}, ready in {took:.2f} s", flush=True)
        kafka.process.wait()  # type: ignore[union-attr]
    except KeyboardInterrupt:
        pass
    finally:
        kafka.stop()
        if not chosen.dir:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    try:
        main()
    except Unavailable as reason:
        sys.exit(str(reason))
