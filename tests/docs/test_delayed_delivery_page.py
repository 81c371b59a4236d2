"""docs/delayed-delivery.md is true: every block is run, one after the other, against one broker."""

from __future__ import annotations

import pytest

from tests.cli.process import broker_process
from tests.docs.pages import blocks
from tests.docs.running import run

PAGE = "delayed-delivery.md"


@pytest.mark.slow
def test_the_order_check_goes_as_the_page_says() -> None:
    with broker_process() as address:
        for block in blocks(PAGE):
            printed = run(block, address)
            if block.expected is not None:
                lines = [sorted(text.splitlines()) for text in (printed, block.expected)]  # of three partitions
                assert lines[0] == lines[1], f"line {block.line} of the page"
