"""docs/retention.md is true: it is carried out from top to bottom, with a broker started as the page says."""

from __future__ import annotations

import re

import pytest

from kbroker.config import Scope
from kbroker.config.table import find
from tests.cli.process import broker_process
from tests.docs.pages import DOCS, blocks
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


@pytest.mark.slow
def test_the_page_carried_out_prints_what_it_says() -> None:
    with broker_process("--override", "log.retention.check.interval.ms=1000") as address:
        for block in blocks(PAGE):
            assert run(block, address) == block.expected, f"line {block.line} of the page"
