"""Pages are true: a reader who carries one out from top to bottom sees what it says.

Every block of code of the README and of docs/how-to/ is carried out, or says why not; NOT_RUN_MAX only shrinks. The
marks by which a page says so are those of `pages.py`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cli.process import broker_process
from tests.docs.pages import BROKER, CODE, DOCS, FILE, NOT_RUN, ROOT, Block, all_blocks, blocks
from tests.docs.running import PORTS, Lacking, Reader, is_as_said, run, starts_a_broker

STORIES: dict[str, Callable[[Any], list[str]]] = {
    "delayed-delivery.md": sorted,  # of three partitions, as the page says
    "views.md": list,
}
ELSEWHERE = (
    "clusters.md",
    "coordination.md",
    "etcd.md",
    "recovery.md",
)  # how-to pages that were there before the folder
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *(DOCS / name for name in ELSEWHERE), *sorted((DOCS / "how-to").glob("*.md")))
}
NOT_RUN_MAX = {  # blocks of a page that nobody carries out
    "docs/how-to/docker.md": 2,
    "README.md": 1,
    "docs/clusters.md": 6,
    "docs/etcd.md": 4,
    "docs/recovery.md": 2,
    "docs/how-to/go.md": 2,
    "docs/how-to/move-from-kafka.md": 1,
    "docs/how-to/node.md": 1,
}
NOT_CODE = {"text", "toml", "properties", "yaml", "json", "xml", "gradle", "dockerfile", "ini", "promql"}
UNFENCED = re.compile(r"\n\n    (?=(kbroker|make|pip|docker|python3?|curl|\S*bin/kbroker)\b).*")


@pytest.mark.slow
@pytest.mark.parametrize("page", STORIES)
def test_a_story_carried_out_prints_what_it_says(page: str) -> None:
    arranged = STORIES[page]
    with broker_process() as address:
        for block in blocks(page):
            printed = [line.rstrip() for line in run(block, address).splitlines()]
            if block.expected is not None:
                assert arranged(printed) == arranged(block.expected.splitlines()), f"line {block.line} of the page"


@pytest.fixture(scope="module")
def shared_broker() -> Iterator[str]:
    """For all pages that start none."""
    with broker_process() as address:
        yield address


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_carried_out_prints_what_it_says(page: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    ahead = [block for block in all_blocks(PAGES[page]) if block.mark != NOT_RUN]
    own = starts_a_broker(ahead)
    reader = Reader(tmp_path, free_address() if own else request.getfixturevalue("shared_broker"))
    try:
        lacking = carry_out(ahead, reader)
    finally:
        reader.end_what_is_left()
    if lacking:
        pytest.skip("; ".join(sorted(lacking)))  # all the rest has been carried out


def carry_out(page: list[Block], reader: Reader) -> set[str]:
    """From top to bottom; what was left out, as this machine lacks it."""
    lacking = set()
    with ExitStack() as brokers:
        for block in page:
            try:
                if block.mark == FILE:
                    reader.write(block)
                    continue
                said = brokers.enter_context(reader.broker(block)) if block.mark == BROKER else reader.run(block)
            except Lacking as reason:
                lacking.add(str(reason))
                continue
            if block.expected is not None:
                wanted = reader.normal(block.expected)
                assert is_as_said(said, wanted), f"line {block.line} says\n{wanted}\nand this is\n{said}"
    return lacking


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_is_known_to_be_code_or_not(page: str) -> None:
    languages = set(re.findall(r"^ *```(\S*)\n(?:.*?\n)?? *```$", PAGES[page], re.MULTILINE | re.DOTALL))
    assert languages <= {*CODE, *NOT_CODE}
    assert not UNFENCED.findall(PAGES[page]), "code that is indented is not carried out: put it into a block"


def not_run() -> Iterator[tuple[str, Block]]:
    for page, text in PAGES.items():
        yield from ((page, block) for block in all_blocks(text) if block.mark == NOT_RUN)


@pytest.mark.parametrize("reason", sorted({block.what for _, block in not_run()}))
def test_a_block_that_is_not_run_says_why(reason: str) -> None:
    where = [f"{page}:{block.line}" for page, block in not_run() if block.what == reason]
    assert reason, f"no reason: {where}"
    pytest.skip(f"not run, {reason}: {', '.join(where)}")


@pytest.mark.parametrize("page", PAGES)
def test_blocks_that_are_not_run_only_become_fewer(page: str) -> None:
    found = sum(1 for name, _ in not_run() if name == page)
    assert found <= NOT_RUN_MAX.get(page, 0), "carry it out, or raise NOT_RUN_MAX and say why in the commit"
    assert found >= NOT_RUN_MAX.get(page, 0), "lower NOT_RUN_MAX"


def free_address() -> str:
    """With the next ports free as well, for a cluster and for HTTP."""
    while True:
        with ExitStack() as open_ones:
            probes = [open_ones.enter_context(socket.socket()) for _ in range(PORTS + 1)]
            probes[0].bind(("127.0.0.1", 0))
            port = probes[0].getsockname()[1]
            try:
                for n, probe in enumerate(probes[1:], 1):
                    probe.bind(("127.0.0.1", port + n))
            except (OSError, OverflowError):
                continue
            return f"127.0.0.1:{port}"
