"""The records of `__consumer_offsets`, judged by Kafka's own serde, where Java and its jars are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.groups.storage.test_records import PAIRS

HERE = Path(__file__).parent
JARS = sorted(HERE.parents[2].glob(".compat/apache-kafka-*/*.jar"))

pytestmark = [
    pytest.mark.java,
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("java") and JARS), reason="no Java, or no jars of Apache Kafka"),
]


def test_kafka_reads_every_record_and_would_write_the_same() -> None:
    lines = [f"{key.hex()} {'null' if value is None else value.hex()}" for key, value in PAIRS]
    java = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", ":".join(map(str, JARS))]
    judged = subprocess.run(
        [*java, str(HERE / "GroupRecordJudge.java")],
        input="\n".join(lines) + "\n", stdout=subprocess.PIPE, text=True, check=True, timeout=60,
    ).stdout.splitlines()  # fmt: skip
    assert [line.partition(" | ")[0] for line in judged] == lines
