"""Bring etcd servers for the tests to .compat/etcd/<name>/etcd: Debian's by apt-get, a current one built by Go.

    python tools/etcd_servers.py

What cannot be had is told, and the tests skip it by name. What is there already is kept.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".compat" / "etcd"
GO_VERSION = "v3.7.3"
GO_MAIN = """package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
"""


def debian(target: Path) -> None:
    """The package etcd-server, unpacked and not installed: no service is started, and nobody need be root."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            run("apt-get", "download", "-q", "etcd-server", cwd=folder)
        except subprocess.CalledProcessError:
            run("apt-get", "update", "-q", cwd=folder)
            run("apt-get", "download", "-q", "etcd-server", cwd=folder)
        (package,) = Path(folder).glob("*.deb")
        run("dpkg", "-x", str(package), "content", cwd=folder)
        shutil.copy(Path(folder) / "content/usr/bin/etcd", target)


def current(target: Path) -> None:
    """The server as a Go module, with a main of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "main.go").write_text(GO_MAIN)
        run("go", "mod", "init", "etcd", cwd=folder)
        run("go", "get", f"go.etcd.io/etcd/server/v3@{GO_VERSION}", cwd=folder)
        run("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(target), ".", cwd=folder)


SERVERS: dict[str, Callable[[Path], None]] = {"debian": debian, "current": current}


def run(*command: str, cwd: str) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)


def main() -> int:
    for name, bring in SERVERS.items():
        target = FOLDER / name / "etcd"
        try:
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                bring(target)
            told = subprocess.run([target, "--version"], check=True, capture_output=True, text=True).stdout
            print(f"{name}: {told.splitlines()[0]}")
        except (OSError, subprocess.CalledProcessError) as error:
            why = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            print(f"{name}: cannot be had: {why[-1] if why else error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
