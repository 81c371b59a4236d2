"""Which Python the broker runs on in a benchmark: the fastest build of 3.11 or later that is here, and how fast it is.

Builds differ by 12 to 17 %: those of pyenv are made without profile-guided optimisation, unless one asks for it, those
of Debian with it. Flags do not always tell, so a fixed loop is timed on each. The chosen one gets a virtual environment
with kbroker in `.compat/perf/`, made by the pip that runs here, so it needs none of its own.
"""

from __future__ import annotations

import glob
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".compat" / "perf"
PROBE = """
import sys, time
if sys.version_info < (3, 11): sys.exit(1)
def loop(n, d={"a": 1}, out=[]):
    for i in range(n):
        d["a"] = i & 7
        out.append((i, d["a"]))
        if len(out) > 99: out.clear()
times = []
for _ in range(5):
    began = time.process_time(); loop(200_000); times.append(time.process_time() - began)
print(min(times) * 1000, sys.version.split("\\n")[0], sep="\\t")
"""
WORTH = 0.95  # another build must take so much less of the time


@dataclass(frozen=True)
class Interpreter:
    """A Python, its version in words, and the CPU milliseconds of a fixed loop on it."""

    path: str
    version: str
    loop_ms: float


def found() -> list[Interpreter]:
    """Every Python from 3.11 on that is here, the one that runs this first."""
    paths = [sys.executable, *sorted(glob.glob("/usr/bin/python3.[0-9]*")), *glob.glob("/usr/local/bin/python3.[0-9]*")]
    probed = [probe(path) for path in dict.fromkeys(paths) if not path.endswith("-config")]
    return [interpreter for interpreter in probed if interpreter is not None]


def probe(path: str) -> Interpreter | None:
    try:
        said = subprocess.run([path, "-c", PROBE], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    loop_ms, _, version = said.strip().partition("\t")
    return Interpreter(path, version, float(loop_ms))


def choose(interpreters: list[Interpreter]) -> Interpreter:
    """The one that runs this, unless another is clearly faster."""
    fastest = min(interpreters, key=lambda each: each.loop_ms)
    return fastest if fastest.loop_ms < WORTH * interpreters[0].loop_ms else interpreters[0]


def environment(chosen: Interpreter) -> Path:
    """A Python with kbroker installed from this checkout. Raises OSError, SubprocessError when it cannot be made."""
    if chosen.path == sys.executable:
        return Path(sys.executable)
    home = CACHE / f"python-{chosen.version.split()[0]}"
    python = home / "bin" / "python"
    if not (home / "bin" / "kbroker").exists():
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([chosen.path, "-m", "venv", "--without-pip", str(home)], check=True, timeout=120)
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--editable", str(ROOT)]
        subprocess.run(pip, check=True, timeout=600)
    return python


def prepare(notes: list[str]) -> Path:
    """The Python for the brokers of this run; what it is goes into the notes."""
    interpreters = found()
    chosen = choose(interpreters)
    try:
        python = environment(chosen)
    except (OSError, subprocess.SubprocessError) as error:
        notes.append(f"The faster Python {chosen.version} could not be used: {error}.")
        chosen, python = interpreters[0], Path(sys.executable)
    others = ", ".join(f"{each.loop_ms:.0f} ms on {each.version}" for each in interpreters if each is not chosen)
    notes.append(
        f"Brokers in Python run on {chosen.version}; a fixed loop takes {chosen.loop_ms:.0f} ms on it"
        + (f" ({others})." if others else ".")
    )
    return python
