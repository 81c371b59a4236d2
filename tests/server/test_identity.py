"""Whose data directory it is."""

from __future__ import annotations

import pytest

from kbroker.server.identity import StartFailed, directory_id, refuse_foreign
from kbroker.testing.broker import Machine


def test_a_directory_keeps_its_id() -> None:
    machine = Machine()
    made = directory_id(machine.env(), 1)
    assert directory_id(machine.env(), 1) == made != directory_id(Machine(seed=1).env(), 1)


def test_a_directory_serves_one_broker_only() -> None:
    machine = Machine()
    directory_id(machine.env(), 1)
    with pytest.raises(StartFailed, match="belongs to broker 1, not 2"):
        directory_id(machine.env(), 2)


async def test_a_damaged_file_is_named() -> None:
    machine = Machine()
    machine.disk.write_atomic("meta.properties", b"\xa9\xff")
    with pytest.raises(StartFailed, match="meta.properties is damaged"):
        refuse_foreign(machine.env())


def test_a_directory_of_apache_kafka_is_left_alone() -> None:
    machine = Machine()
    machine.disk.write_atomic("meta.properties", b"version=1\ncluster.id=abc\nnode.id=1\ndirectory.id=x\n")
    with pytest.raises(StartFailed, match="belongs to Apache Kafka"):
        refuse_foreign(machine.env())
