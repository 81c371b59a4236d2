"""The records of `__transaction_state`: what is written by hand is what the declared format says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_wire.codegen import encoder
from kafka_wire.errors import ProtocolError
from kbroker.transactions.states import TransactionState as S
from kbroker.transactions.storage import (
    NEVER_STORED,
    TOPIC_BYTES,
    Entry,
    PartitionsSchema,
    TransactionLogKey,
    TransactionLogValue,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
    measured,
)
from kbroker.turns import at_once

ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
int64s = st.integers(0, 2**63 - 1)
maybe_ids = st.integers(-1, 2**63 - 1)
entries = st.builds(
    Entry,
    state=st.sampled_from([state for state in S if state not in NEVER_STORED]),
    producer_id=int64s,
    producer_epoch=st.integers(0, 32_767),
    last_epoch=st.just(-1),
    previous_producer_id=maybe_ids,
    next_producer_id=maybe_ids,
    timeout_ms=st.integers(1, 2**31 - 1),
    partitions=st.dictionaries(
        st.text("abc.-_019", min_size=1, max_size=249), st.sets(st.integers(0, 2**31 - 1), min_size=1, max_size=40),
        max_size=6,
    ),
    start_ms=maybe_ids,
    updated_ms=int64s,
    client_version=st.integers(0, 2),
)  # fmt: skip


def declared(entry: Entry, version: int) -> bytes:
    """The value as its declaration has it written."""
    rows = [PartitionsSchema(topic=topic, partition_ids=list(found)) for topic, found in entry.partitions.items()]
    value = TransactionLogValue(
        producer_id=entry.producer_id,
        previous_producer_id=entry.previous_producer_id,
        next_producer_id=entry.next_producer_id,
        producer_epoch=entry.producer_epoch,
        transaction_timeout_ms=entry.timeout_ms,
        transaction_status=entry.state,
        transaction_partitions=None if entry.state is S.EMPTY else rows,
        transaction_last_update_timestamp_ms=entry.updated_ms,
        transaction_start_timestamp_ms=entry.start_ms,
        client_transaction_version=entry.client_version,
    )
    return version.to_bytes(2, "big") + encoder(TransactionLogValue, version)(value)


@given(entries, st.integers(0, 1))
def test_what_is_written_is_the_declared_format_and_is_read_again(entry: Entry, version: int) -> None:
    value = at_once(encode_value(entry, version))
    assert value == declared(entry, version)
    expected = entry._replace(partitions={} if entry.state is S.EMPTY else entry.partitions)
    if version == 0:
        expected = expected._replace(previous_producer_id=-1, next_producer_id=-1, client_version=0)
    assert at_once(decode_value(value)) == expected
    assert at_once(measured(entry.partitions)) + 128 >= len(value)


@given(ids)
def test_a_key_is_its_id(transactional_id: str) -> None:
    key = encode_key(transactional_id)
    assert key == b"\0\0" + encoder(TransactionLogKey, 0)(TransactionLogKey(transactional_id=transactional_id))
    assert decode_key(key) == transactional_id


def test_a_key_of_another_version_is_passed_over() -> None:
    assert decode_key(b"\0\1\0\1x") is None and decode_key(b"\0") is None


ENTRY = Entry(S.ONGOING, 7, 1, -1, -1, -1, 60_000, {"t": {0}}, 1, 2, 0)


@pytest.mark.parametrize("version", [0, 1])
def test_a_record_that_cannot_be_is_refused(version: int) -> None:
    good = at_once(encode_value(ENTRY, version))
    cases: dict[str, Any] = {
        "a later version": b"\0\2" + good[2:],
        "a negative version": b"\xff\xff" + good[2:],
        "nothing": b"",
        "a state of the future": at_once(encode_value(ENTRY._replace(state=9), version)),  # type: ignore[arg-type]
        "a negative state": good[:16] + b"\xff" + good[17:],
        "a dead id": at_once(encode_value(ENTRY._replace(state=S.DEAD), version)),
        "no producer id": at_once(encode_value(ENTRY._replace(producer_id=-1), version)),
        "no epoch": at_once(encode_value(ENTRY._replace(producer_epoch=-1), version)),
        **{f"the first {size} bytes": good[:size] for size in range(2, len(good))},
    }
    for what, value in cases.items():
        with pytest.raises(ProtocolError):
            raise AssertionError((what, at_once(decode_value(value))))


def test_very_many_partitions_are_written_and_read_in_turns() -> None:
    partitions = {f"topic-{n:05}": {n, n + 1} for n in range(20_000)}
    entry = ENTRY._replace(partitions=partitions)
    for version in (0, 1):
        pauses, value = _pauses(encode_value(entry, version))
        assert pauses >= 300
        pauses, read = _pauses(decode_value(value))
        assert pauses >= 300 and read == entry
    pauses, size = _pauses(measured(partitions))
    assert pauses >= 200 and size == 20_000 * (TOPIC_BYTES + 11 + 8)


@pytest.mark.parametrize("version", [0, 1])
def test_a_topic_of_very_many_partitions_is_written_in_turns(version: int) -> None:
    entry = ENTRY._replace(partitions={"t": set(range(100_000)), "u": {7}})
    pauses, value = _pauses(encode_value(entry, version))
    assert pauses >= 48 and value == declared(entry, version)
    assert at_once(decode_value(value)) == entry


def _pauses(work: Any) -> tuple[int, Any]:
    pauses = 0
    while True:
        try:
            next(work)
            pauses += 1
        except StopIteration as stop:
            return pauses, stop.value
