"""A real process on a real disk, killed with -9 under load, twenty times: all that was acknowledged is there, once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kbroker.config import BrokerConfig, TopicConfig
from kbroker.env.real import real_env
from kbroker.log.directory import LogDirectory
from kbroker.log.recovery import Crash
from tests.log.tools import TOPIC_ID, contents, log_for

pytestmark = [pytest.mark.slow]

KILLS = 20
CONFIG = TopicConfig(segment_bytes=3_000_000, index_interval_bytes=4096)

WRITER = """
import sys
from kafka_wire.records import build_batch
from kbroker.config import BrokerConfig
from kbroker.env.real import real_env
from kbroker.log.directory import LogDirectory
from tests.log.test_kill import CONFIG, value
from tests.log.tools import TOPIC_ID, log_for

env = real_env(sys.argv[1])
directory = LogDirectory(env, BrokerConfig())
directory.open()
log = log_for(directory, "orders", 0, TOPIC_ID, CONFIG)
producer = log.producers.by_id.get(1)
sequence = producer.batches[-1].last_sequence + 1 if producer else 0
assert sequence == log.end.value, (sequence, log.end.value)
while True:
    batch = build_batch([(-1, b"k", value(sequence))], producer_id=1, producer_epoch=0, base_sequence=sequence)
    done = log.append(batch, leader_epoch=0, now_ms=env.clock.data_ms())
    assert done.base_offset == sequence
    sequence += 1
    sys.stdout.write(f"{done.base_offset}\\n")
    sys.stdout.flush()
"""


def value(sequence: int) -> bytes:
    """Sizes that make many small batches and some that a kill may catch half written."""
    return b"%d:" % sequence + b"v" * (200_000 if sequence % 50 == 0 else sequence * 7919 % 3000)


def test_twenty_kills_under_load_lose_and_repeat_nothing(tmp_path: Path) -> None:
    acknowledged = 0
    for kill in range(KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
        )  # fmt: skip
        assert writer.stdout is not None and writer.stderr is not None
        line = writer.stdout.readline()
        assert line, writer.stderr.read()
        for _ in range(100 + kill * 37):
            line = writer.stdout.readline() or line
        writer.kill()
        line = ([line, *writer.stdout.readlines()])[-1]
        writer.wait()
        writer.stderr.close()
        acknowledged = int(line) + 1 if line.endswith("\n") else acknowledged
    directory = LogDirectory(real_env(str(tmp_path)), BrokerConfig())
    directory.open()
    assert directory.crash is Crash.PROCESS
    log = log_for(directory, "orders", 0, TOPIC_ID, CONFIG)
    found = contents(log)
    assert len(found) >= acknowledged > KILLS * 100
    assert found == [(offset, value(offset)) for offset in range(len(found))]
