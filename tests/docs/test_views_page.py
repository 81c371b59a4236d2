"""docs/views.md is true: a reader who carries it out from top to bottom sees what it says."""

from __future__ import annotations

import pytest

from tests.cli.process import broker_process
from tests.docs.pages import blocks
from tests.docs.test_filtering_page import run

PAGE = "views.md"


@pytest.mark.slow
def test_the_page_carried_out_prints_what_it_says() -> None:
    with broker_process() as address:
        for block in blocks(PAGE):
            shown = run(block, address)
            if block.expected is not None:
                assert [line.rstrip() for line in shown.splitlines()] == block.expected.splitlines(), block.line
