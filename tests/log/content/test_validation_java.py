"""What `odd_batches` says of Kafka, judged by Kafka's own LogValidator, where Java and the jars are."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from kafka_wire import compression as codecs
from tests.log.content.odd_batches import AFTER_MS, BEFORE_MS, KAFKA, KAFKA_FIELDS, KAFKA_RECORDS, Odd, batch_of, record
from tests.log.tools import NOW

HERE = Path(__file__).parent
JARS = sorted(HERE.parents[1].glob(".compat/apache-kafka-*/*.jar"))

pytestmark = [
    pytest.mark.java,
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("java") and JARS), reason="no Java, or no jars of Apache Kafka"),
]


def judge(batches: Iterable[bytes], *, policy: str = "delete", times: str = "CreateTime") -> list[str]:
    """Kafka's answers, timestamps relative to NOW."""
    arguments = [times, policy, str(NOW), str(BEFORE_MS), str(AFTER_MS)]
    java = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", ":".join(map(str, JARS))]
    data = b"".join(struct.pack(">i", len(each)) + each for each in batches) + struct.pack(">i", -1)
    done = subprocess.run(
        [*java, str(HERE / "BatchJudge.java"), *arguments], input=data, stdout=subprocess.PIPE, check=True, timeout=60
    )
    return [relative(line) for line in done.stdout.decode().splitlines()]


def relative(line: str) -> str:
    code, _, rest = line.partition(" ")
    return f"0 {int(rest) - NOW}" if code == "0" and rest.lstrip("-").isdigit() else line


ALL: dict[str, Odd] = {**KAFKA, **KAFKA_RECORDS, **KAFKA_FIELDS}


@pytest.mark.parametrize("codec", range(5))
def test_kafka_answers_as_recorded(codec: int) -> None:
    answers = judge(batch_of(odd.payload, odd.count, codec, **odd.fields) for odd in ALL.values())
    expected = {name: odd.packed if codec else odd.plain for name, odd in ALL.items()}
    assert dict(zip(ALL, answers, strict=True)) == expected


def test_kafka_names_null_keys_of_a_compacted_topic() -> None:
    assert judge([batch_of(record() + record(offset=1, key=None), 2)], policy="compact") == ["87 1"]


def test_kafka_knows_no_such_payloads() -> None:
    broken = [batch_of(b"this is no such thing " * 3, 1, codec, packed=True) for codec in range(1, 8)]
    cut = [batch_of(codecs.compress(codec, record(value=b"abc" * 99))[:-3], 1, codec, packed=True) for codec in (1, 3)]
    assert judge([*broken, *cut]) == ["-1"] * 9


def test_kafka_frames_batches_so() -> None:
    fine = batch_of(record(), 1)
    cases = [b"", fine[:12], fine[:60], fine[:-1], fine + fine, fine + b"x", fine[:16] + b"\x03" + fine[17:]]
    assert judge(cases) == ["87", "87", "87", "87", "87", "0 0", "2"]
