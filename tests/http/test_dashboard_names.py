"""Every metric that dashboards for Kafka ask for is there; tests/data/metrics says whose names these are."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbroker.cli.groups.timeline import METRIC
from kbroker.http.metrics.table import METRICS
from tests.http.tools import told_broker

DATA = Path(__file__).parent.parent / "data" / "metrics"


@pytest.mark.parametrize("path", sorted(DATA.glob("*.txt")), ids=lambda path: path.stem)
async def test_every_name_is_exported(path: Path) -> None:
    names = path.read_text(encoding="utf-8").split()
    async with told_broker({"t": 1}) as told:
        page = await told.metrics()
    assert len(names) >= 12
    assert [name for name in names if name not in page.kinds] == []


async def test_all_that_is_exported_is_in_the_table_and_all_of_it_is_exported() -> None:
    async with told_broker({"t": 1}) as told:
        page = await told.metrics()
    assert page.kinds == {name: metric.kind for name, metric in METRICS.items()}


def test_the_name_that_the_command_line_promises_is_there() -> None:
    assert METRIC in METRICS
