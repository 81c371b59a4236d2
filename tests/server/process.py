"""A broker as a process of its own: started, killed, started again on the same port and directory."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {"PYTHONPATH": f"{ROOT}:{ROOT / 'protocol'}", "PATH": "/usr/bin:/bin"}
READY_SECONDS = 30.0


class BrokerProcess:
    """One broker; `start` may be called again after `kill`. nursery: for the process and the reader of its stderr."""

    def __init__(self, nursery: trio.Nursery, data_dir: Path, *options: str) -> None:
        self.nursery = nursery
        self.data_dir = data_dir
        self.options: Sequence[str] = options
        self.host, self.port = "127.0.0.1", 0
        self.process: trio.Process
        self.ready_in = ""
        self.said = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    async def start(self) -> None:
        """Start, and wait until it says that it is ready."""
        command = [sys.executable, "-m", "kbroker", "start", "--listen", f"{self.host}:{self.port}",
                   "--data-dir", str(self.data_dir), "--log-format", "json", *self.options]  # fmt: skip
        run = partial(trio.run_process, command, env=ENVIRONMENT, stderr=subprocess.PIPE, check=False)
        self.process = await self.nursery.start(run)
        is_ready = trio.Event()
        self.nursery.start_soon(self._listen, self.process, is_ready)
        with trio.fail_after(READY_SECONDS):
            await is_ready.wait()
        assert self.process.poll() is None, self.said

    async def _listen(self, process: trio.Process, is_ready: trio.Event) -> None:
        assert process.stderr is not None
        said = ""
        async for chunk in process.stderr:
            said = self.said = (said + chunk.decode())[-20_000:]
            if not is_ready.is_set() and (ready := re.search(r"ready in ([\d.]+) s", said)):
                address = re.search(r"listening on \S+:(\d+)", said)
                assert address, said
                self.port, self.ready_in = int(address[1]), ready[1]
                is_ready.set()
        is_ready.set()

    async def kill(self) -> None:
        """kill -9, this process only."""
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        return await self.process.wait()

    def resident_bytes(self) -> int:
        """Memory of the process that is in RAM."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024
