"""Kafka's own tools for operators, against a cluster of three: what they need, they find, and what they do, happens.

    python compat/kafka_tools.py            starts `kbroker start --brokers 3`, runs the tools, tells of each step

kafka-cluster.sh, kafka-metadata-quorum.sh, kafka-log-dirs.sh, kafka-topics.sh, kafka-configs.sh,
kafka-leader-election.sh and kafka-reassign-partitions.sh are Java classes; they run here without their scripts (Java,
Maven). Exit status 1 when a step fails. Owns: the cluster's processes and one directory.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from apache_kafka import CACHE, LOGGING, VERSION, Unavailable, fetch_jars
from kbroker_process import find

READY_S = 30.0
TOOL_S = 60.0
MOVED_S = 60.0
TOPIC, PARTITIONS = "t", 6


class Failed(Exception):
    """A tool did not say what it should have said; the message is what it said."""


class Cluster:
    """Three brokers, and the tools pointed at them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.jars = fetch_jars([f"org.apache.kafka:kafka-tools:{VERSION}", LOGGING], CACHE / f"kafka-tools-{VERSION}")
        command = [*find(), "start", "--brokers", "3", "--listen", "127.0.0.1:0", "--data-dir", str(directory / "data")]
        command += ["--topic", f"{TOPIC}:{PARTITIONS}"]
        self.log = directory / "brokers.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.wait("the cluster is ready", lambda: "ready in" in self.log.read_text())
        found = re.search(r"listening on ([\d.:, ]+)", self.log.read_text())
        assert found
        self.bootstrap = found[1].replace(" ", "").strip()

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)

    def wait(self, what: str, holds: Callable[[], bool], seconds: float = READY_S) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise Failed(f"it did not come to this: {what}\n{self.log.read_text()[-2000:]}")
            time.sleep(0.2)

    def tool(self, name: str, *arguments: str) -> str:
        """What a tool prints. Raises Failed when it ends with an error."""
        command = ["java", "-Xmx128m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", self.jars]
        command += [f"org.apache.kafka.tools.{name}", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_S, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise Failed(f"{name} {' '.join(arguments)}: no end within {TOOL_S:.0f} s") from None
        said = done.stdout + done.stderr
        if done.returncode or "Exception" in said:
            raise Failed(f"{name} {' '.join(arguments)}: status {done.returncode}\n{said.strip()}")
        return said

    def asked(self, name: str, *arguments: str) -> str:
        """The same, of a tool that is told where the brokers are."""
        return self.tool(name, "--bootstrap-server", self.bootstrap, *arguments)

    def described(self) -> dict[int, dict[str, list[int]]]:
        """Leader, replicas and ISR of each partition, as kafka-topics.sh tells them."""
        said = self.asked("TopicCommand", "--describe", "--topic", TOPIC)
        rows = re.findall(r"Partition: (\d+)\s+Leader: (\d+)\s+Replicas: ([\d,]+)\s+Isr: ([\d,]+)", said)
        return {
            int(number): {
                "leader": [int(leader)],
                "replicas": [*map(int, replicas.split(","))],
                "isr": [*map(int, isr.split(","))],
            }
            for number, leader, replicas, isr in rows
        }

    def file(self, name: str, content: object) -> str:
        path = self.directory / name
        path.write_text(json.dumps(content))
        return str(path)


def expect(said: str, *patterns: str) -> None:
    for pattern in patterns:
        if not re.search(pattern, said):
            raise Failed(f"no {pattern!r} in:\n{said.strip()}")


# -- the steps ---------------------------------------------------------------------------------------------------------


def who_is_there(cluster: Cluster) -> None:
    """kafka-cluster.sh: the id, the endpoints."""
    expect(cluster.tool("ClusterTool", "cluster-id", "--bootstrap-server", cluster.bootstrap), r"Cluster ID: \S{22}")
    said = cluster.tool("ClusterTool", "list-endpoints", "--bootstrap-server", cluster.bootstrap)
    expect(said, *(rf"(?m)^{number}\s+127\.0\.0\.1" for number in (1, 2, 3)))


def who_decides(cluster: Cluster) -> None:
    """kafka-metadata-quorum.sh: the controller is the one voter."""
    said = cluster.asked("MetadataQuorumCommand", "describe", "--status")
    expect(
        said, r"LeaderId:\s+[123]", r"HighWatermark:\s+\d+", r"MaxFollowerLag:\s+0", r'CurrentVoters:\s+\[\{"id": [123]'
    )
    expect(cluster.asked("MetadataQuorumCommand", "describe", "--replication"), r"(?m)^[123]\s.*Leader")


def what_lies_where(cluster: Cluster) -> None:
    """kafka-log-dirs.sh: each broker's directory, with every replica in it."""
    said = cluster.asked("LogDirsCommand", "--describe", "--topic-list", TOPIC)
    found = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    counts = {broker["broker"]: len(broker["logDirs"][0]["partitions"]) for broker in found["brokers"]}
    if counts != {1: PARTITIONS, 2: PARTITIONS, 3: PARTITIONS}:
        raise Failed(f"replicas by broker: {counts}")


def reassign_with_a_throttle(cluster: Cluster) -> None:
    """kafka-reassign-partitions.sh: generate, execute --throttle, verify until it is done; the throttle goes."""
    topics = cluster.file("topics.json", {"version": 1, "topics": [{"topic": TOPIC}]})
    said = cluster.asked(
        "reassign.ReassignPartitionsCommand",
        "--topics-to-move-json-file",
        topics,
        "--broker-list",
        "1,2,3",
        "--generate",
    )
    expect(said, r"Proposed partition reassignment configuration")
    wanted = {number: [1 + (number + n) % 3 for n in range(2)] for number in range(PARTITIONS)}
    plan = _plan(cluster, "fewer.json", wanted)
    execute = ("reassign.ReassignPartitionsCommand", "--reassignment-json-file", plan)
    expect(
        cluster.asked(*execute, "--execute", "--throttle", "50000000"), r"Successfully started partition reassignments"
    )
    _until_verified(cluster, execute)
    replicas = {number: each["replicas"] for number, each in cluster.described().items()}
    if replicas != wanted:
        raise Failed(f"replicas: {replicas}")
    said = cluster.asked("TopicCommand", "--describe", "--topic", TOPIC)
    if "throttled" in said:
        raise Failed(f"the throttle is still there:\n{said}")


def reassign_back_with_a_new_replica(cluster: Cluster) -> None:
    """And to three replicas again: those that are added get in sync."""
    plan = _plan(
        cluster, "more.json", {number: [1 + (number + n) % 3 for n in range(3)] for number in range(PARTITIONS)}
    )
    execute = ("reassign.ReassignPartitionsCommand", "--reassignment-json-file", plan)
    cluster.asked(*execute, "--execute")
    _until_verified(cluster, execute)
    cluster.wait("all in sync", lambda: all(len(each["isr"]) == 3 for each in cluster.described().values()), MOVED_S)


def call_off(cluster: Cluster) -> None:
    """kafka-reassign-partitions.sh --list, --cancel, of nothing."""
    expect(cluster.asked("reassign.ReassignPartitionsCommand", "--list"), r"No partition reassignments found")
    plan = str(cluster.directory / "more.json")
    said = cluster.asked("reassign.ReassignPartitionsCommand", "--reassignment-json-file", plan, "--cancel")
    expect(said, r"None of the specified partition reassignments are active")


def elect_preferred(cluster: Cluster) -> None:
    """kafka-leader-election.sh: every partition is led by its first replica, or says that it need not be elected."""
    cluster.asked("LeaderElectionCommand", "--election-type", "preferred", "--all-topic-partitions")
    wrong = {n: each for n, each in cluster.described().items() if each["leader"][0] != each["replicas"][0]}
    if wrong:
        raise Failed(f"not led by the first replica: {wrong}")


def a_broker_that_is_gone(cluster: Cluster) -> None:
    """One that nobody knows cannot be forgotten."""
    try:
        cluster.tool("ClusterTool", "unregister", "--bootstrap-server", cluster.bootstrap, "--id", "77")
    except Failed as said:
        expect(str(said), r"77")
    else:
        raise Failed("broker 77 was unregistered")


STEPS = (
    who_is_there, who_decides, what_lies_where, reassign_with_a_throttle, reassign_back_with_a_new_replica, call_off,
    elect_preferred, a_broker_that_is_gone,
)  # fmt: skip


def _plan(cluster: Cluster, name: str, replicas: dict[int, list[int]]) -> str:
    rows = [{"topic": TOPIC, "partition": number, "replicas": wanted} for number, wanted in replicas.items()]
    return cluster.file(name, {"version": 1, "partitions": rows})


def _until_verified(cluster: Cluster, execute: tuple[str, ...]) -> None:
    def is_done() -> bool:
        said = cluster.asked(*execute, "--verify")
        return len(re.findall(r"is completed", said)) == PARTITIONS

    cluster.wait("the reassignment is verified", is_done, MOVED_S)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="kafka-tools-") as directory:
        try:
            cluster = Cluster(Path(directory))
        except Unavailable as reason:
            print(f"kafka tools: skipped, {reason}")
            return 0
        failures = 0
        try:
            for step in STEPS:
                began = time.monotonic()
                try:
                    step(cluster)
                    print(f"ok      {step.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
                except Failed as problem:
                    failures += 1
                    print(f"FAILED  {step.__name__}: {problem}", flush=True)
        finally:
            cluster.end()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
