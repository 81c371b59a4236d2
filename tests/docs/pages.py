"""A page of the docs as a test reads it: its blocks of code with what they print, and its tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[2] / "docs"


class Block(NamedTuple):
    """A block that a reader would carry out; `expected` is the block of text that follows it at once."""

    line: int
    language: str
    code: str
    expected: str | None


def blocks(page: str) -> list[Block]:
    """Blocks of sh and python, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = []
    for match in re.finditer(
        r"^```(sh|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", text, re.MULTILINE | re.DOTALL
    ):
        found.append(Block(text.count("\n", 0, match.start()) + 1, *match.groups()))
    return found


def table(page: str, heading: str) -> list[list[str]]:
    """The rows of the table whose first cell of the first row is `heading`, that row included."""
    lines = iter((DOCS / page).read_text(encoding="utf-8").splitlines())
    rows = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if rows and not cells:
            return [rows[0], *rows[2:]]
        if rows or cells[:1] == [heading]:
            rows.append(cells)
    raise AssertionError(f"no table with the heading {heading}")
