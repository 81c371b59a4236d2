"""Carrying out the blocks of a page as its reader would, against a broker that is not at the page's address.

Each page has a directory of its own. A page that starts a broker has ports of its own, too; the broker takes the first
of them because the environment says so, and what the page's blocks ask for is found there.
"""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.docs.pages import ROOT, Block

PORT, BROKERS = 9092, 3  # of a page's broker, or of as many
HTTP_PORT = 9644  # of metrics; the test has it behind the others
PORTS = BROKERS + 1  # of a page, one after the other
SECONDS_MAX = 60
OF_CI = ("CI", "BUILD_NUMBER")  # by these pytest tells that no person reads it, and prints more
CLIENTS = ("confluent_kafka", "aiokafka")  # in this environment, or in one of their own that `make compat` has made
GO_MODULES = {"github.com/twmb/franz-go": "franz_go", "github.com/IBM/sarama": "sarama"}
STARTS = re.compile(r"^(kbroker( start\b.*)?|make run)$", re.MULTILINE)


class Lacking(Exception):
    """A block cannot be carried out on this machine; the message says what is not here."""


class Reader:
    """Who carries out a page: in `directory`, with a broker at `address`."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory = directory
        self.address = address
        self.port = int(address.rpartition(":")[2])

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        python = os.pathsep.join([str(ROOT), str(ROOT / "protocol")])
        ours = {"PATH": path, "PYTHONPATH": python, "NO_COLOR": "1", "KBROKER_BROKERS": self.address}
        inherited = {name: value for name, value in os.environ.items() if name not in OF_CI}
        return {**inherited, **ours, "KBROKER_LISTENERS": f"PLAINTEXT://{self.address}"}

    def code(self, block: Block) -> str:
        """With the broker's address in place of the page's."""
        code = re.sub(rf"\b{HTTP_PORT}\b", str(self.port + BROKERS), block.code)
        for n in range(BROKERS):
            code = re.sub(rf"(localhost|127\.0\.0\.1):{PORT + n}\b", f"127.0.0.1:{self.port + n}", code)
        return code

    def run(self, block: Block) -> str:
        """What it prints. Raises Lacking, or AssertionError if it fails."""
        done = subprocess.run(
            self.command(block),
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS_MAX,
        )
        assert done.returncode == 0, f"line {block.line} of the page:\n{done.stdout}"
        return self.normal(done.stdout)

    def normal(self, text: str) -> str:
        """With the page's address, which need not be said, in place of the broker's, which must be."""
        text = text.replace("\r\n", "\n").replace(f" -b {self.address}", "")
        pairs = {**{PORT + n: self.port + n for n in range(BROKERS)}, HTTP_PORT: self.port + BROKERS}
        for theirs, ours in pairs.items():
            text = re.sub(rf"(localhost|127\.0\.0\.1):({theirs}|{ours})\b", f"localhost:{theirs}", text)
        return text

    def write(self, block: Block) -> None:
        """The file that a block is."""
        file = self.directory / block.what
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.code(block), encoding="utf-8")

    @contextmanager
    def broker(self, block: Block) -> Iterator[str]:
        """What the broker says on a terminal that a block starts, until it is ready. It is stopped at the end."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            ["sh", "-ec", self.code(block)],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        screen = Screen(ours)
        try:
            yield self.normal(screen.text_until("(CTRL+C"))
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(SECONDS_MAX)
            screen.close()

    def command(self, block: Block) -> list[str]:
        """By which a block is carried out."""
        code = self.code(block)
        if block.language == "sh":
            return ["sh", "-ec", code]
        if block.language == "python":
            return [python_of(code), "-c", code]
        return {"java": self.java, "go": self.go, "js": self.node}[block.language](code)

    def java(self, code: str) -> list[str]:
        jars = sorted(ROOT.glob(".compat/java_4_3/jars-*"))
        if not shutil.which("java") or not jars:
            raise Lacking("no Java, or no client for it: make compat fetches that")
        (self.directory / "Main.java").write_text(code, encoding="utf-8")
        quiet = ["-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]
        return ["java", *quiet, "-cp", f"{jars[-1]}/*", "Main.java"]

    def go(self, code: str) -> list[str]:
        folder = next((folder for module, folder in GO_MODULES.items() if module in code), "")
        if not shutil.which("go"):
            raise Lacking("no Go")
        if not (ROOT / ".compat" / folder).exists():
            raise Lacking(f"no {folder}: make compat fetches that")
        room = Path(tempfile.mkdtemp(dir=self.directory))
        (room / "main.go").write_text(code, encoding="utf-8")
        if not folder:  # nothing but the standard library
            return ["go", "run", str(room / "main.go")]
        ours = ROOT / "compat" / folder
        shutil.copy(ours / "go.sum", room)
        module = (ours / "go.mod").read_text(encoding="utf-8").replace("../go", str(ROOT / "compat/go"))
        (room / "go.mod").write_text(module, encoding="utf-8")
        return ["go", "run", "-C", str(room), "-mod=mod", "."]

    def node(self, code: str) -> list[str]:
        modules = ROOT / ".compat" / "kafkajs" / "node_modules"
        if not shutil.which("node") or not modules.exists():
            raise Lacking("no Node, or no kafkajs: make compat fetches that")
        (self.directory / "main.cjs").write_text(code, encoding="utf-8")
        return ["env", f"NODE_PATH={modules}", "KAFKAJS_NO_PARTITIONER_WARNING=1", "node", "main.cjs"]

    def end_what_is_left(self) -> None:
        """Processes of the page that are still there: a broker in the background that the page did not stop."""
        for cwd in Path("/proc").glob("[0-9]*/cwd"):
            try:
                if cwd.readlink() == self.directory:
                    os.kill(int(cwd.parent.name), signal.SIGKILL)
            except OSError:
                continue


def python_of(code: str) -> str:
    """The interpreter that has the client of a block."""
    for client in CLIENTS:
        if re.search(rf"^(from|import) {client}\b", code, re.MULTILINE) and not is_installed(client):
            found = sorted(ROOT.glob(f".compat/{client}/env-????????/bin/python"))
            if not found:
                raise Lacking(f"no {client} here: make compat fetches it")
            return str(found[-1])
    return sys.executable


def is_installed(library: str) -> bool:
    """Here, and not just a folder of that name."""
    spec = importlib.util.find_spec(library)
    return spec is not None and spec.origin is not None


def starts_a_broker(page: list[Block]) -> bool:
    return any(block.mark == "broker" or (not block.mark and STARTS.search(block.code)) for block in page)


def is_as_said(printed: str, expected: str) -> bool:
    """Whether a block printed what its page says; `…` there stands for anything in a line, alone for any lines."""
    parts = []
    for line in expected.rstrip().splitlines():
        text = ".*".join(re.escape(part) for part in line.rstrip().split("…"))
        parts.append(r"(?:.*\n)*" if line.strip() == "…" else f"{text}\n")
    lines = "".join(f"{line.rstrip()}\n" for line in printed.rstrip().splitlines())
    return re.fullmatch("".join(parts), lines) is not None


class Screen:
    """What a program writes to a terminal: read all the time, for else the program would wait for us."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text = ""
        self._changed = threading.Condition()
        self._is_gone = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def text_until(self, mark: str) -> str:
        """All of it, once the line with `mark` is whole. Raises AssertionError if the program ends before."""
        with self._changed:
            self._changed.wait_for(lambda: "\n" in self._text.partition(mark)[2] or self._is_gone, SECONDS_MAX)
            assert mark in self._text, self._text
            return self._text

    def close(self) -> None:
        """Once the program has ended."""
        self._reader.join(SECONDS_MAX)
        os.close(self._descriptor)

    def _read(self) -> None:
        while chunk := self._chunk():
            with self._changed:
                self._text += chunk.decode()
                self._changed.notify_all()
        with self._changed:
            self._is_gone = True
            self._changed.notify_all()

    def _chunk(self) -> bytes:
        try:
            return os.read(self._descriptor, 65536)
        except OSError:  # Linux says so when the other side of a terminal has gone
            return b""
