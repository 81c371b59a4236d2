"""The same language as an interceptor of Java's consumer: its own tests, by Maven, with a broker."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from kafka import KafkaProducer

from tests.cli.process import broker_process

PROJECT = Path(__file__).parents[2] / "docs/examples/java-filter"
SHORT_LIVED = "-Xshare:auto -XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
UNREACHABLE = ("Could not transfer", "Could not resolve", "could not be resolved", "offline mode")

pytestmark = [
    pytest.mark.java,
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("java") and shutil.which("mvn")), reason="no Java, or no Maven"),
]


def test_javas_interceptor_passes_the_same_table_and_lets_commits_be_right(tmp_path: Path) -> None:
    with broker_process("--topic", "filtered:1") as address:
        producer = KafkaProducer(bootstrap_servers=address)
        for offset in range(100):
            tags = b"eu" if offset % 10 == 0 else b"vip"
            producer.send("filtered", b"value", partition=0, headers=[("kbroker-tags", tags)])
        producer.close()
        command = ["mvn", "-B", "-f", str(PROJECT / "pom.xml"), f"-Ddirectory={tmp_path}", "test"]
        command += [f"-Dbootstrap={address}", "-Dtopic=filtered", f"-DargLine={SHORT_LIVED}"]
        environment = {**os.environ, "MAVEN_OPTS": SHORT_LIVED}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
        )
    if done.returncode and any(words in done.stdout for words in UNREACHABLE):
        pytest.skip("Maven cannot fetch what the tests need")
    assert done.returncode == 0, done.stdout
    assert "Skipped: 0" in done.stdout
