"""A real client's consumer group (kafka-python) against a real broker that is killed in between."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient

from tests.cli.test_start import start, wait_ready

pytestmark = pytest.mark.slow
TIMEOUT_MS = 20_000


def consumer(address: str, **options: Any) -> Any:
    return KafkaConsumer(
        "t", bootstrap_servers=address, group_id="readers", auto_offset_reset="earliest", enable_auto_commit=False,
        consumer_timeout_ms=TIMEOUT_MS, **options,
    )  # fmt: skip


def take(source: Any, count: int) -> list[bytes]:
    """The next records' values; fewer when they do not come in time."""
    taken = []
    for record in source:
        taken.append(record.value)
        if len(taken) == count:
            break
    return taken


def test_G2_a_group_goes_on_where_it_committed_when_the_broker_was_killed(tmp_path: Path) -> None:
    arguments = ["start", "--data-dir", str(tmp_path), "--topic", "t:3"]
    process = start(*arguments, "--listen", "127.0.0.1:0")
    try:
        address = wait_ready(process)
        producer = KafkaProducer(bootstrap_servers=address)
        for n in range(60):
            producer.send("t", b"%d" % n, partition=n % 3).get(10)
        reader = consumer(address)
        first = take(reader, 30)
        assert len(first) == 30
        reader.commit()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start(*arguments, "--listen", address)
        assert wait_ready(process) == address
        rest = take(reader, 30)
        assert sorted(map(int, first + rest)) == list(range(60)), "none twice, none missing"
        reader.commit()
        admin = KafkaAdminClient(bootstrap_servers=address)
        offsets = admin.list_group_offsets(["readers"])["readers"]
        assert {place.partition: found.offset for place, found in offsets.items()} == {0: 20, 1: 20, 2: 20}
        for client in (reader, producer, admin):
            client.close()
    finally:
        process.kill()
        process.wait()
