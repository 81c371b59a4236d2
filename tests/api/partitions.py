"""The partitions of a broker in memory, for tests that write what no client may."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kafka_wire.records import read_header
from kbroker.log.derived.transactions import Marker
from kbroker.replication.partition import Partition
from tests.api.test_produce import batch

Find = Callable[[str, int], Partition]


@pytest.fixture
def led(monkeypatch: pytest.MonkeyPatch) -> Find:
    """Finds the partition of a name that a broker in this test leads."""
    known: dict[tuple[str, int], Partition] = {}
    lead = Partition.lead

    def noting(partition: Partition, *arguments: object) -> None:
        known[partition.topic, partition.index] = partition
        lead(partition, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Partition, "lead", noting)
    return lambda topic, index: known[topic, index]


class Producer:
    """A transactional producer whose coordinator says yes to everything."""

    def __init__(self, producer_id: int, now_ms: int) -> None:
        self.id = producer_id
        self.now_ms = now_ms
        self.sequences: dict[tuple[str, int], int] = {}

    def write(self, partition: Partition, *values: bytes) -> int:
        """Append a batch to a partition; its base offset."""
        key = partition.topic, partition.index
        sequence = self.sequences.get(key, 0)
        self.sequences[key] = sequence + len(values)
        data = batch(*values, producer_id=self.id, producer_epoch=0, base_sequence=sequence, transactional=True)
        header = read_header(data)
        return partition.write(data, header, self.now_ms, partition.verification(header)).base_offset

    def commit(self, *partitions: Partition) -> None:
        for partition in partitions:
            partition.write_marker(Marker(self.id, 0, 0, True), self.now_ms)

    def abort(self, *partitions: Partition) -> None:
        for partition in partitions:
            partition.write_marker(Marker(self.id, 0, 0, False), self.now_ms)
