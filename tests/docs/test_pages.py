"""Pages that tell one story are true: a reader who carries one out from top to bottom sees what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.process import broker_process
from tests.docs.pages import blocks
from tests.docs.running import run

PAGES: dict[str, Callable[[Any], list[str]]] = {
    "delayed-delivery.md": sorted,  # of three partitions, as the page says
    "views.md": list,
}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_carried_out_prints_what_it_says(page: str) -> None:
    arranged = PAGES[page]
    with broker_process() as address:
        for block in blocks(page):
            printed = [line.rstrip() for line in run(block, address).splitlines()]
            if block.expected is not None:
                assert arranged(printed) == arranged(block.expected.splitlines()), f"line {block.line} of the page"
