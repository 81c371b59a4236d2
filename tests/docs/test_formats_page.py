"""docs/formats.md names every file that a broker makes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.process import broker_process
from tests.docs.pages import DOCS, ROOT, Block
from tests.docs.running import Reader

LOAD = """
kbroker topic create plain keyed -p 2
kbroker topic create late tagged -c kbroker.delay.enable=true -c kbroker.tags.enable=true
kbroker topic create lagging --view-of plain --lag 1h
echo one | kbroker topic produce plain
echo one | kbroker topic produce late --delay 1h
kbroker topic consume plain -g readers -n 1
"""


def names() -> Iterator[re.Pattern[str]]:
    """Of the tree with which the page begins."""
    tree = (DOCS / "formats.md").read_text(encoding="utf-8").partition("```\n")[2].partition("```")[0]
    for line in tree.splitlines()[1:]:
        first, *others = re.split(r"  +", line.strip(), maxsplit=1)[0].split(", ")
        for name in (first, *(f"{first}{other}" if other[0] == "-" else other for other in others)):
            pattern = re.escape(Path(name).name).replace(r"\*", ".*")
            yield re.compile(re.sub(r"\d{20}", r"\\d{20}", pattern))


@pytest.mark.slow
def test_a_file_that_a_broker_makes_is_on_the_page(tmp_path: Path) -> None:
    found = set[str]()
    with broker_process("--data-dir", str(tmp_path)) as address:
        Reader(ROOT, address).run(Block(0, "sh", LOAD))
        found |= {path.name for path in tmp_path.rglob("*") if path.is_file()}
    found |= {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {"coord.db", "meta.properties", "boot-id", "schedule"} <= found
    known = list(names())
    assert not [name for name in sorted(found) if not any(pattern.fullmatch(name) for pattern in known)]
