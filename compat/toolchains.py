"""The clients at hand: reads their folders, installs what they need, says why one cannot run here.

A client is a folder with a `client.toml`:

    title     = "aiokafka"                        how it is called in the table
    packages  = ["aiokafka==0.14.0"]              a Python client: installed in an environment of its own
    needs     = ["kcat"]                          executables; without them the client is skipped, by name
    build     = ["go", "build", "-o", "{cache}/runner", "."]      run in the folder before the list
    run       = ["{cache}/runner"]                default: ["{python}", "{folder}/runner.py"]
    required  = true                              with CI=true, not being able to run it is a failure

`{cache}` is the client's folder under `.compat/` in the checkout, `{python}` its environment's interpreter, `{folder}`
its folder here. What a runner reads and prints is told at the head of `common.py`.

Owns: `.compat/<client>/`, kept from run to run.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apache_kafka import CACHE, VERSION
from verdicts import Line, Lines

INSTALL_SECONDS_MAX = 300


class Missing(Exception):
    """A client cannot run here; the message says why."""


@dataclass
class Client:
    """One folder."""

    name: str
    folder: Path
    title: str
    packages: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    build: list[str] = field(default_factory=list)
    run: list[str] = field(default_factory=lambda: ["{python}", "{folder}/runner.py"])
    required: bool = False

    @property
    def cache(self) -> Path:
        return CACHE / self.name

    @property
    def environment(self) -> Path:
        """Its Python environment; other packages or another Python is another environment."""
        facts = json.dumps([self.packages, sys.version_info[:2], sys.prefix])
        return self.cache / f"env-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"

    def expand(self, command: list[str]) -> list[str]:
        python = self.environment / "bin" / "python" if self.packages else sys.executable
        return [part.format(python=python, folder=self.folder, cache=self.cache) for part in command]

    def prepare(self) -> None:
        """Whatever its runner needs, or Missing."""
        for program in self.needs:
            if shutil.which(program) is None:
                raise Missing(f"no `{program}` on this machine")
        self.cache.mkdir(parents=True, exist_ok=True)
        if self.packages and not self.environment.exists():
            install(self)
        if self.build:
            execute(self.expand(self.build), self.folder)

    @property
    def page(self) -> dict[str, Any]:
        file = self.folder / "kafka.json"
        return dict(json.loads(file.read_text())) if file.exists() else {"scenarios": {}}

    def recorded(self, level: str = "") -> Lines:
        """What it saw on Apache Kafka when that was last written down; where it differs, at this feature level."""
        page = self.page
        return {**page["scenarios"], **page.get("otherwise at", {}).get(level, {})}

    def record(self, found: Lines, level: str = "") -> None:
        """Write down what it saw on Apache Kafka; what was not carried out, or failed, stays as it is."""
        page = {**self.page, "kafka": VERSION, "packages": self.packages}
        new = {identifier: facts(each) for identifier, each in found.items() if each["result"] != "fail"}
        if level:
            if others := {name: each for name, each in new.items() if page["scenarios"].get(name) != each}:
                page["otherwise at"] = {**page.get("otherwise at", {}), level: others}
        else:
            page["scenarios"] = {**page["scenarios"], **new}
        (self.folder / "kafka.json").write_text(json.dumps(page, indent=1, ensure_ascii=False) + "\n")


def facts(found: Line) -> Line:
    return {name: found[name] for name in ("result", "seen", "why") if name in found}


def read_clients(folder: Path, wanted: list[str]) -> list[Client]:
    """The wanted clients in that order, or all."""
    names = wanted or sorted(path.parent.name for path in folder.glob("*/client.toml"))
    read = {name: tomllib.loads((folder / name / "client.toml").read_text()) for name in names}
    return [Client(name=name, folder=folder / name, **said) for name, said in read.items()]


def at_hand(clients: list[Client]) -> tuple[list[Client], list[tuple[Client, str]]]:
    """The clients that can run here; the others with the reason."""
    ready, skipped = [], []
    for client in clients:
        try:
            client.prepare()
            ready.append(client)
        except Missing as reason:
            skipped.append((client, str(reason)))
    return ready, skipped


def install(client: Client) -> None:
    """Make the environment under another name and give it its own when it is whole."""
    place = client.environment.with_suffix(".new")
    shutil.rmtree(place, ignore_errors=True)
    python = str(place / "bin" / "python")
    if uv := shutil.which("uv"):
        execute([uv, "venv", "-q", "--python", sys.executable, str(place)], client.cache)
        execute([uv, "pip", "install", "-q", "--python", python, *client.packages], client.cache)
    else:
        execute([sys.executable, "-m", "venv", str(place)], client.cache)
        execute([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *client.packages], client.cache)
    place.rename(client.environment)


def execute(command: list[str], folder: Path) -> None:
    program = Path(command[0]).name
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"`{program}` took more than {INSTALL_SECONDS_MAX} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise Missing(f"`{' '.join([program, *command[1:4]])} …` failed: {said[-1]}")
