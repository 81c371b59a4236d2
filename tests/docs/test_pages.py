"""Pages are true: a reader who carries one out from top to bottom sees what it says.

Every block of code of the README, of docs/ and of docs/how-to/ is carried out, or says why not; NOT_RUN_MAX only
shrinks. The marks by which a page says so are those of `pages.py`. Each page has a broker of its own.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest

from tests.cli.process import broker_process
from tests.docs.pages import BROKER, CODE, DOCS, FILE, NOT_RUN, ROOT, Block, blocks
from tests.docs.running import PORTS, Lacking, Reader, is_as_said, starts_a_broker

PAGES = {
    str(path.relative_to(ROOT)): text
    for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "how-to").glob("*.md")))
    if blocks(text := path.read_text(encoding="utf-8"))
}
NOT_RUN_MAX = {  # blocks of a page that nobody carries out
    "docs/how-to/docker.md": 2,
    "README.md": 1,
    "docs/clusters.md": 6,
    "docs/etcd.md": 4,
    "docs/exactly-once.md": 1,
    "docs/recovery.md": 2,
    "docs/how-to/go.md": 2,
    "docs/how-to/move-from-kafka.md": 1,
    "docs/how-to/node.md": 1,
}
NOT_CODE = {"text", "toml", "properties", "yaml", "json", "xml", "gradle", "dockerfile", "ini", "promql"}
UNFENCED = re.compile(r"\n\n    (?=(kbroker|make|pip|docker|python3?|curl|\S*bin/kbroker)\b).*")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_carried_out_prints_what_it_says(page: str, tmp_path: Path) -> None:
    ahead = [block for block in blocks(PAGES[page]) if block.mark != NOT_RUN]
    with nullcontext(free_address()) if starts_a_broker(ahead) else broker_process() as address:
        reader = Reader(tmp_path, address)
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
        yield from ((page, block) for block in blocks(text) if block.mark == NOT_RUN)


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
            probes = [open_ones.enter_context(socket.socket()) for _ in range(PORTS)]
            probes[0].bind(("127.0.0.1", 0))
            port = probes[0].getsockname()[1]
            try:
                for n, probe in enumerate(probes[1:], 1):
                    probe.bind(("127.0.0.1", port + n))
            except (OSError, OverflowError):
                continue
            return f"127.0.0.1:{port}"
