"""docs/filtering.md is true: every block of code is run against one broker; the table of truth is checked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbroker.filters import parse
from tests.cli.process import broker_process
from tests.docs.pages import Block, blocks, table
from tests.docs.running import run

PAGE = "filtering.md"
HEADERS: dict[str, list[tuple[str, bytes | None]]] = {
    "not there": [("other", b"de")],
    "null": [("country", None)],
    "empty": [("country", b"")],
    "`de`": [("country", b"de")],
    "`at`": [("country", b"at")],
    "`at`, `de`": [("country", b"at"), ("country", b"de")],
}


def test_the_table_of_truth_is_true() -> None:
    (_, *states), *rows = table(PAGE, "test")
    assert states == list(HEADERS) and len(rows) >= 9
    for text, *cells in rows:
        expression = parse(text.strip("`"))
        said = ["yes" if expression.matches(None, HEADERS[state]) else "no" for state in states]
        assert said == cells, text


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """With a topic as the page's first block leaves it."""
    with broker_process() as address:
        run(blocks(PAGE)[0], address)
        yield address


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks(PAGE)[1:], ids=lambda block: f"line {block.line}")
def test_a_block_of_code_prints_what_the_page_says(block: Block, broker: str) -> None:
    assert block.expected is not None, "only the first block has nothing to show"
    assert run(block, broker) == block.expected
