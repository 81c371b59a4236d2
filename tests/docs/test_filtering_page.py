"""docs/filtering.md is true: every block of code is run against one broker; the table of truth is checked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.filters import parse
from tests.cli.process import broker_process
from tests.docs.pages import Block, blocks, table

PAGE = "filtering.md"
ROOT = Path(__file__).parents[2]
ADDRESS = "localhost:9092"
CLIENTS = ("confluent_kafka", "aiokafka")  # which have an environment of their own under .compat, made by `make compat`
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


def python_of(block: Block) -> str:
    """The interpreter that has the client of a block."""
    for client in CLIENTS:
        if f"from {client} " in block.code:
            found = sorted(ROOT.glob(f".compat/{client}/env-????????/bin/python"))
            if not found:
                pytest.skip(f"no {client} here: make compat fetches it")
            return str(found[-1])
    return sys.executable


def run(block: Block, address: str) -> str:
    """What it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    python = os.pathsep.join([str(ROOT), str(ROOT / "protocol")])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python, "KBROKER_BROKERS": address}
    command = ["sh", "-ec"] if block.language == "sh" else [python_of(block), "-c"]
    code = block.code.replace(ADDRESS, address)
    done = subprocess.run([*command, code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks(PAGE)[1:], ids=lambda block: f"line {block.line}")
def test_a_block_of_code_prints_what_the_page_says(block: Block, broker: str) -> None:
    assert block.expected is not None, "only the first block has nothing to show"
    assert run(block, broker) == block.expected
