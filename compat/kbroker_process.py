"""kbroker as a user starts it: `kbroker start --listen … --data-dir …` in its own process.

Owns: the process, and in its directory `data/` and `broker.log`. The same calls as `ApacheKafka`, so that the driver
treats both alike.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Run:
    """How the command is called: its words, and the checkout whose sources count, if not those that are installed."""

    command: list[str]
    checkout: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        if self.checkout is None:
            return dict(os.environ)
        return {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.checkout), str(self.checkout / "protocol")])}


class Kbroker:
    """One broker; start, stop and kill may be repeated and keep the data."""

    def __init__(
        self,
        directory: str | Path,
        port: int,
        properties: dict[str, str] | None = None,
        features: dict[str, int] | None = None,
        options: Sequence[str] = (),
        run: Run | None = None,
    ) -> None:
        """`options` are further words of the command. `listeners` among the properties take the place of the port."""
        self.directory, self.port = Path(directory), port
        self.properties = properties or {}
        self.features = features or {}
        self.options = options
        self.run = run or Run(find())
        self.bootstrap = f"127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError("kbroker is not running")
        return self.process.pid

    @property
    def log_file(self) -> Path:
        return self.directory / "broker.log"

    def start(self, timeout: float = 30.0) -> float:
        """Start and wait for the line that says ready; the seconds it took. The first time features are set, too."""
        first = not (self.directory / "data").exists()
        self.directory.mkdir(parents=True, exist_ok=True)
        began, said = time.monotonic(), self._said_so_far()
        command = [*self.run.command, "start", "--data-dir", str(self.directory / "data"), *self.options]
        command += [] if "listeners" in self.properties else ["--listen", self.bootstrap]
        command += [part for name, value in self.properties.items() for part in ("--override", f"{name}={value}")]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.run.checkout,
                env=self.run.environment,
            )
        while time.monotonic() - began < timeout:
            if b"ready in" in self.log_file.read_bytes()[said:]:
                took = time.monotonic() - began
                if first:
                    self._set_features()
                return took
            if self.process.poll() is not None:
                raise RuntimeError(f"kbroker ended with {self.process.returncode}: {self._last_lines(said)}")
            time.sleep(0.01)
        self.kill()
        raise RuntimeError(f"kbroker was not ready within {timeout:.0f} s: {self._last_lines(said)}")

    def stop(self, timeout: float = 30.0) -> None:
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """kill -9: nothing is flushed, nothing is said."""
        self._end(signal.SIGKILL, 10.0)

    def _set_features(self) -> None:
        """Whatever the levels of a new cluster are."""
        for name, level in self.features.items():
            asked = ["-b", self.bootstrap, "--feature", f"{name}={level}"]
            raised = subprocess.run([*find(), "feature", "upgrade", *asked], capture_output=True, timeout=30)
            if raised.returncode:
                subprocess.run([*find(), "feature", "downgrade", "--unsafe", *asked], check=True, timeout=30)

    def _said_so_far(self) -> int:
        return self.log_file.stat().st_size if self.log_file.exists() else 0

    def _last_lines(self, start: int) -> str:
        return " | ".join(self.log_file.read_bytes()[start:].decode(errors="replace").splitlines()[-3:])

    def _end(self, how: signal.Signals, timeout: float) -> None:
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10.0)
            raise RuntimeError(f"kbroker did not stop within {timeout:.0f} s and was killed") from None


def find() -> list[str]:
    """The command: beside this Python, in the checkout's environment, or as a module."""
    for place in (Path(sys.executable).parent, ROOT / ".venv" / "bin"):
        if (place / "kbroker").exists():
            return [str(place / "kbroker")]
    return [sys.executable, "-m", "kbroker"]
