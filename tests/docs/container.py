"""A container as the Dockerfile of docs/examples/docker describes it, without Docker: namespaces of Linux.

The root file system is this machine's, under an overlay that takes every change; a network, host name and processes of
its own. Of the Dockerfile's last stage each COPY, RUN, ENV, USER, WORKDIR, ENTRYPOINT, CMD and HEALTHCHECK is carried
out as it stands, save what needs a registry: packages are not fetched, /opt/kbroker is the code that is tested.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docs/examples/docker"
HOSTNAME = "4f6e2b1c9d0a"  # as Docker makes them up
START_S = 30.0
UP = "/.up"  # is there when the container runs
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CLONE_NEWNET = 0x40000000

T = TypeVar("T")


class Image(NamedTuple):
    """The last stage of the Dockerfile."""

    copies: list[tuple[str, str]]
    runs: list[str]
    environment: dict[str, str]
    user: int
    workdir: str
    entrypoint: list[str]
    command: list[str]
    health: list[str]


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction of a Dockerfile and its arguments, on one line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield word, rest.strip()


@functools.cache
def image() -> Image:
    """What docker would make of it."""
    all_of = list(instructions((DOCKER / "Dockerfile").read_text(encoding="utf-8")))
    last = all_of[max(n for n, (word, _) in enumerate(all_of) if word == "FROM") :]
    of = functools.partial(_arguments, last)
    environment = dict(pair.split("=", 1) for rest in of("ENV") for pair in shlex.split(rest))
    copies = [tuple(rest.split()) for rest in of("COPY") if not rest.startswith("--from")]
    return Image(
        copies=copies,  # type: ignore[arg-type]
        runs=[rest for rest in of("RUN") if not rest.startswith("apt-get")],
        environment=environment,
        user=int(of("USER")[-1]),
        workdir=of("WORKDIR")[-1],
        entrypoint=json.loads(of("ENTRYPOINT")[-1]),
        command=json.loads(of("CMD")[-1]),
        health=json.loads(of("HEALTHCHECK")[-1].partition("CMD ")[2]),
    )


def _arguments(of: Sequence[tuple[str, str]], word: str) -> list[str]:
    return [rest for each, rest in of if each == word]


@functools.cache
def why_not() -> str:
    """Why there can be no containers here; "": there can be."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "containers without Docker need Linux and root"
    try:
        with container(["true"], hosts=()) as made:
            made.wait(START_S)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no namespaces here: {error}"
    return "" if made.process.returncode == 0 else f"no namespaces here: {made.log}"


_SET_UP = """\
set -e
place=$1
mount -t tmpfs tmpfs "$place"
cd "$place"
mkdir up work root
mount -t overlay overlay -o "lowerdir=/,upperdir=up,workdir=work" root
cd root
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmpfs tmp
hostname "$2"
shift 2
exec "$@"
"""
_UP = "import fcntl, socket, struct; s = socket.socket(); fcntl.ioctl(s, 0x8914, struct.pack('16sh', b'lo', 1))"
_TINI = """\
#!/bin/sh
# Stands for tini: this test is not about it.
[ "$1" = -- ] && shift
exec "$@"
"""


class Container:
    """One that runs."""

    def __init__(self, process: subprocess.Popen[str], root: Path) -> None:
        self.process = process
        self.root = root
        self.log = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log += line

    def wait(self, seconds: float) -> int:
        """Its exit status."""
        status = self.process.wait(seconds)
        self._reader.join(seconds)
        return status

    def wait_for(self, pattern: str, seconds: float = START_S) -> str:
        """Until a line of the log matches, as a module of Testcontainers waits."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = next((line for line in self.log.splitlines() if re.match(pattern, line)), None)
            if found is not None:
                return found
            assert self.process.poll() is None, self.log
            time.sleep(0.02)
        raise AssertionError(f"no line like {pattern} in {self.log}")

    def put(self, path: str, content: str, mode: int = 0o755) -> None:
        """`docker cp`: as root, from outside."""
        part = f"{path}.part"
        done = self.run(
            ["sh", "-c", f"cat > {part} && chmod {mode:o} {part} && mv {part} {path}"], user=0, stdin=content
        )
        assert done.returncode == 0, done.stderr

    def run(
        self, command: Sequence[str], *, user: int | None = None, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """`docker exec`."""
        of = image()
        child = self._child()
        inner = _as_user(of.user if user is None else user, of.workdir, {**of.environment, **environment}, command)
        entered = ["nsenter", "-t", str(child), "-m", "-u", "-i", "-n", "-p", f"--root=/proc/{child}/root", *inner]
        return subprocess.run(entered, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    def _child(self) -> int:
        """The process that is number 1 in there."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            children = path.read_text().split()
            if children and Path(f"/proc/{children[0]}/root{UP}").exists():
                return int(children[0])
            time.sleep(0.01)
        raise AssertionError(f"it did not come up: {self.log}")

    def inside(self, function: Callable[[], T]) -> T:
        """What function returns, called in the container's network: its threads have it, too."""
        with ThreadPoolExecutor(1) as executor, open(f"/proc/{self._child()}/ns/net", "rb") as network:
            return executor.submit(_in_network, network.fileno(), function).result(60)

    def publish(self, port: int, to: int) -> None:
        """`docker run -p PORT:TO`, seen from localhost in there."""
        self.inside(lambda: _forward(port, to))

    def kill(self) -> None:
        """All that is in it: with its first process the others end."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(OSError):
            for pid in children.read_text().split():
                os.kill(int(pid), signal.SIGKILL)

    def signal(self, number: int) -> None:
        """`docker stop` begins with SIGTERM to the first process."""
        os.kill(self._child(), number)


def _in_network(descriptor: int, function: Callable[[], T]) -> T:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    return function()


def _forward(port: int, to: int) -> None:
    """Pass connections on, in threads that end with the test."""
    listening = socket.create_server(("127.0.0.1", port))

    def accept() -> None:
        with suppress(OSError):
            while True:
                one, _ = listening.accept()
                other = socket.create_connection(("127.0.0.1", to))
                for source, target in ((one, other), (other, one)):
                    threading.Thread(target=_pump, args=(source, target), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError), source, target:
        while data := source.recv(65536):
            target.sendall(data)


@contextmanager
def container(
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    entrypoint: Sequence[str] | None = None,
    user: int | None = None,
    hosts: Sequence[str] = ("kafka", "broker"),
    before: str = "true",
) -> Iterator[Container]:
    """`docker run`. hosts: names of this container; before: what root does in it first."""
    of = image()
    place = Path(tempfile.mkdtemp(prefix="kbroker-container-"))
    first = [*(of.entrypoint if entrypoint is None else entrypoint), *(of.command if command is None else command)]
    everything = {**of.environment, **(environment or {})}
    main = shlex.join(_as_user(of.user if user is None else user, of.workdir, everything, first))
    inside = "\n".join(
        [
            "set -e",
            f"{sys.executable} -c {shlex.quote(_UP)}",
            "sed -i '/^[^:]*:[^:]*:1000:/d' /etc/passwd",  # as in the image that the Dockerfile begins with
            f"echo 127.0.0.1 localhost {HOSTNAME} {' '.join(hosts)} > /etc/hosts",
            *(f"cp -a {ROOT / source}/. {target}" for source, target in of.copies),
            f"mkdir -p /opt/kbroker/bin; printf '%s' {shlex.quote(_kbroker())} > /opt/kbroker/bin/kbroker",
            f"printf '%s' {shlex.quote(_TINI)} > /usr/local/bin/tini",
            "chmod 755 /opt/kbroker/bin/kbroker /usr/local/bin/tini",
            f"chmod go+x {shlex.join(_passages())}",
            *(f"({run})" for run in of.runs),
            f"({before})",
            f": > {UP}",
            f"exec {main}",
        ]
    )
    outside = ["unshare", "-m", "-p", "-n", "-u", "-i", "-f", "--kill-child", "sh", "-c", _SET_UP, "sh", str(place)]
    started = [*outside, HOSTNAME, "chroot", str(place / "root"), "sh", "-c", inside]
    process = subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    made = Container(process, place / "root")
    try:
        yield made
    finally:
        made.kill()
        made.wait(START_S)
        shutil.rmtree(place, ignore_errors=True)


def _kbroker() -> str:
    path = f"{ROOT}:{ROOT / 'protocol'}"
    return f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} -m kbroker "$@"\n'


def _passages() -> list[str]:
    """The folders through which others than root must get to come to Python and the code."""
    ends = [ROOT, Path(sys.executable), Path(sys.executable).resolve(), Path(sys.prefix).resolve()]
    return sorted({str(folder) for end in ends for folder in (*end.parents, end) if folder != Path("/")})


def _as_user(user: int, workdir: str, environment: Mapping[str, str], command: Sequence[str]) -> list[str]:
    path = environment.get("PATH", "$PATH").replace("$PATH", PATH)
    settings = [f"{name}={value}" for name, value in {**environment, "PATH": path}.items()]
    switched = ["setpriv", f"--reuid={user}", "--regid=0", "--clear-groups"]
    return ["env", "-i", "-C", workdir, *settings, *switched, *command]
