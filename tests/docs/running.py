"""Carrying out a block of a page as its reader would, against a broker that is not at the page's address."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import Block

ROOT = Path(__file__).parents[2]
ADDRESS = "localhost:9092"
CLIENTS = ("confluent_kafka", "aiokafka")  # which have an environment of their own under .compat, made by `make compat`


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
