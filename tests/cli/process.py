"""`kbroker start` as users start it, for tests of the commands that are its clients."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from kafka_wire.messages.metadata import MetadataRequest
from kbroker.env.features import Features
from kbroker.env.real_net import RealNet
from kbroker.testing.client import connect
from tests.server.process import ENVIRONMENT


@contextmanager
def broker_process(*options: str) -> Iterator[str]:
    """The address of a broker with topic t of two partitions; in memory, where no option says otherwise."""
    place = () if "--data-dir" in options else ("--memory",)
    with started("start", "--listen", "127.0.0.1:0", "--topic", "t:2", *place, *options) as addresses:
        yield addresses[0]


@contextmanager
def started(*arguments: str) -> Iterator[list[str]]:
    """The addresses on which `kbroker` listens: of each listener, or of the first of each broker."""
    command = [sys.executable, "-m", "kbroker", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "ready in " in line:
                break
        found = re.search(r"listening on ([^\"\n]+)", said)
        assert found, said
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a pipe nobody reads stops its writer
        yield found[1].split(", ")
    finally:
        process.terminate()
        process.wait(timeout=10)


def told_by(address: str) -> str:
    """Where the broker at this address tells its clients that it is."""
    host, _, port = address.rpartition(":")

    async def ask() -> str:
        with trio.fail_after(10):
            async with connect(RealNet(Features.detect()), host, int(port)) as client:
                answer = await client.call(MetadataRequest(topics=[]), version=12)
        return f"{answer.brokers[0].host}:{answer.brokers[0].port}"

    return trio.run(ask)
