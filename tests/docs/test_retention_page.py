"""docs/retention.md is true: every block of code is run against one broker, started as the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from kbroker.config import Scope
from kbroker.config.table import find
from tests.cli.process import broker_process
from tests.docs.pages import DOCS, Block, blocks
from tests.docs.running import run

PAGE = "retention.md"


def test_every_config_of_the_tables_is_one() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    rows = re.findall(r"^\| ?(`[a-z.]+`)? \| (`[a-z.]+`)?.*\|$", text, re.MULTILINE)
    assert len(rows) > 12
    for topic, broker in rows:
        if topic:
            assert find(Scope.TOPIC, topic.strip("`")).effect, topic
        if broker:
            assert find(Scope.BROKER, broker.strip("`")).effect, broker


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with broker_process("--override", "log.retention.check.interval.ms=1000") as address:
        yield address


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks(PAGE), ids=lambda block: f"line {block.line}")
def test_a_block_of_code_prints_what_the_page_says(block: Block, broker: str) -> None:
    assert run(block, broker) == block.expected
