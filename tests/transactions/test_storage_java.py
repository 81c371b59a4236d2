"""`__transaction_state` read by Kafka's own decoder (DumpLogSegments --transaction-log-decoder), where Java is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio

from kafka_wire.records import build_batch
from kbroker.env.real import real_env
from kbroker.transactions.states import TransactionState as S
from kbroker.transactions.storage import NEVER_STORED, Entry, encode_key, encode_value
from kbroker.turns import at_once
from tests.log.test_dump_log_segments import classpath, dump
from tests.log.tools import NOW, Worker, open_log

pytestmark = [pytest.mark.java, pytest.mark.slow]

__all__ = ["classpath"]  # a fixture


def entries() -> list[Entry]:
    """One of each state, with and without what only version 1 has a place for."""
    made = []
    for state in S:
        if state not in NEVER_STORED:
            open_ = {"orders": {0, 7}, "__consumer_offsets": {3}} if state not in (S.EMPTY, S.COMPLETE_ABORT) else {}
            made.append(Entry(state, 4_000 + state, state, -1, -1, -1, 60_000, open_, NOW, NOW + 1, 0))
            made.append(made[-1]._replace(previous_producer_id=3_999, next_producer_id=5_000, client_version=2))
    return made


@pytest.mark.parametrize("version", [0, 1])
def test_kafka_reads_what_is_written(version: int, tmp_path: Path, classpath: str) -> None:
    log = open_log(real_env(str(tmp_path)).disk)
    pairs = [(encode_key(f"id-{n}"), at_once(encode_value(entry, version))) for n, entry in enumerate(entries())]
    for pair in (*pairs, (encode_key("gone"), None)):
        log.append(build_batch([pair], timestamp=NOW), leader_epoch=0, now_ms=NOW)
    trio.run(log.close, Worker())
    (file,) = (tmp_path / "orders-0").glob("*.log")
    said = dump(classpath, [file], "--transaction-log-decoder")
    rows = re.findall(r"key: (\{.*\}) payload: (.*)$", said, re.MULTILINE)
    assert len(rows) == len(pairs) + 1, said
    assert rows.pop()[1] in ("<DELETE>", "null"), said
    for number, (entry, (key, payload)) in enumerate(zip(entries(), rows, strict=True)):
        assert json.loads(key)["data"] == {"transactionalId": f"id-{number}"}
        assert json.loads(payload)["data"] == told(entry, version)


def told(entry: Entry, version: int) -> dict[str, Any]:
    """The fields by Kafka's names; tagged ones only where they are there."""
    rows = [{"topic": topic, "partitionIds": list(indexes)} for topic, indexes in entry.partitions.items()]
    fields = {
        "producerId": entry.producer_id,
        "producerEpoch": entry.producer_epoch,
        "transactionTimeoutMs": entry.timeout_ms,
        "transactionStatus": entry.state,
        "transactionPartitions": None if entry.state is S.EMPTY else rows,
        "transactionLastUpdateTimestampMs": entry.updated_ms,
        "transactionStartTimestampMs": entry.start_ms,
    }
    if version == 1 and entry.client_version:
        fields["previousProducerId"] = entry.previous_producer_id
        fields["nextProducerId"] = entry.next_producer_id
        fields["clientTransactionVersion"] = entry.client_version
    return fields
