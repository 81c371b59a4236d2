"""A page of the docs as a test reads it: its blocks of code with what they print, its headings, links and tables.

A comment on the line above a block says what is done with it; a reader of the page does not see it:

    <!-- not run: it needs a Docker daemon -->    nobody carries it out, for that reason
    <!-- file: pom.xml -->                        it is written into the page's directory
    <!-- broker -->                               it starts a broker that stays; what follows talks to that one

A block of `text` that follows one of code at once is what that prints, on stdout and stderr. In it, `…` stands for what
differs from run to run; a line of nothing else for any lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CODE = ("sh", "python", "java", "go", "js")  # what a reader would carry out
NOT_RUN, FILE, BROKER = "not run", "file", "broker"
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```\n", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- ([a-z ]+?)(?:: (.+?))? -->\n\s*\Z")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A block of code; `expected` is the block of text that follows it at once, `mark` what the comment above says."""

    line: int
    language: str
    code: str
    expected: str | None = None
    mark: str = ""
    what: str = ""  # the rest of the mark: a reason, a file's name


def blocks(text: str) -> list[Block]:
    """The blocks of code of a page, and whatever else a mark makes a file."""
    fences = list(_FENCE.finditer(text))
    found = []
    for number, fence in enumerate(fences):
        language, code = fence[2], unindented(fence[3], fence[1])
        mark, what = mark_above(text, fence.start())
        if language in CODE or mark:
            after = fences[number + 1] if number + 1 < len(fences) else None
            follows = after is not None and after[2] == "text" and text[fence.end() : after.start()] == "\n"
            expected = unindented(after[3], after[1]) if after and follows else None
            found.append(Block(text.count("\n", 0, fence.start()) + 1, language, code, expected, mark, what))
    return found


def mark_above(text: str, end: int) -> tuple[str, str]:
    """What the comment says that ends where the block begins; nothing, if there is none."""
    found = _MARK.search(text, text.rfind("\n\n", 0, end) + 1, end)
    assert found is None or found[1] in (NOT_RUN, FILE, BROKER), f"no such mark: {found[1]}"
    return (found[1], found[2] or "") if found else ("", "")


def unindented(code: str, margin: str) -> str:
    return "".join(line.removeprefix(margin) for line in code.splitlines(keepends=True))


def without_code(text: str) -> str:
    """The prose of a page: neither blocks nor `code`."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))


def links(text: str) -> Iterator[str]:
    """Where a page's links lead."""
    return (found[1] for found in _LINK.finditer(without_code(text)))


def anchors(text: str) -> set[str]:
    """The names by which headings are linked to, made as GitHub makes them."""
    headings = (found[1] for found in _HEADING.finditer(_FENCE.sub("", text)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


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
