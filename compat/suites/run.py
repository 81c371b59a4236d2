"""Clients' own integration tests, from their released sources, against kbroker started as a user starts it.

    python compat/suites/run.py                      every suite, one after the other
    python compat/suites/run.py kafka_python         one
    … --target HOST:PORT                             any broker; its settings must be those of `suite.toml`
    … --kafka                                        Apache Kafka instead: is a failure kbroker's at all?
    … --only test_group,test_paused                  some tests by name
    … --grow                                         add tests that pass by now to allow.txt

A suite is a folder:

    suite.toml    where it comes from, which files, what it runs with, the broker settings it counts on
    allow.txt     the tests that pass; the list only grows. One that does not pass makes the exit status 1
    FINDINGS.md   every other test, by name in backticks, with the reason. A test in neither makes the exit status 1
    missing/      files that the source archive lacks, laid over it

Nothing is kept of what is fetched but under `.compat/suites/`. A test may take 60 s, a suite 5 minutes.

Owns: `.compat/suites/<suite>/` (source, environment, `outcomes.jsonl`, `pytest.log`) and the broker it starts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import wire
from apache_kafka import CACHE, VERSION, ApacheKafka, Unavailable, find_or_fetch
from kbroker_process import Kbroker
from toolchains import Client, Missing, execute, install

HERE = Path(__file__).resolve().parent
TEST_SECONDS_MAX = 60
SUITE_SECONDS_MAX = 300.0
Outcomes = dict[str, dict[str, str]]


@dataclass
class Suite(Client):
    """One folder; it has a client's environment and besides the source of its tests."""

    sdist: str = ""
    sha256: str = ""
    keep: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    kafka: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return CACHE / "suites" / self.name

    @property
    def source(self) -> Path:
        return self.cache / self.sdist.replace("==", "-")

    @property
    def python(self) -> str:
        return self.expand(["{python}"])[0]

    def prepare(self) -> None:
        """Environment and source, or Missing."""
        self.cache.mkdir(parents=True, exist_ok=True)
        if not self.environment.exists():
            install(self)
        if not self.source.exists():
            fetch(self)
        shutil.copytree(self.folder / "missing", self.source, dirs_exist_ok=True)

    def allowed(self) -> list[str]:
        lines = (self.folder / "allow.txt").read_text().splitlines()
        return [each for each in lines if each and not each.startswith("#")]

    def explained(self, test: str) -> bool:
        return f"`{function(test)}`" in (self.folder / "FINDINGS.md").read_text()


def main() -> int:
    options = arguments()
    status = 0
    for suite in read_suites(options.suites):
        suite.prepare()
        with broker(suite, options) as (label, bootstrap):
            print(f"{suite.title} on {label} at {bootstrap}", file=sys.stderr)
            found = carry_out(suite, bootstrap, options.only)
        status |= conclude(suite, found, options)
    return status


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="folders; default: all")
    parser.add_argument("--target", metavar="HOST:PORT", help="a running broker")
    parser.add_argument("--kafka", action="store_true", help=f"Apache Kafka {VERSION} in place of kbroker")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="tests, comma separated")
    parser.add_argument("--grow", action="store_true", help="add tests that pass by now to allow.txt")
    options = parser.parse_args()
    if options.grow and (options.kafka or options.target):
        parser.error("--grow is about kbroker")
    return options


def read_suites(wanted: list[str]) -> Iterator[Suite]:
    for name in wanted or sorted(path.parent.name for path in HERE.glob("*/suite.toml")):
        said = tomllib.loads((HERE / name / "suite.toml").read_text())
        yield Suite(name=name, folder=HERE / name, **said)


# ---- The source ------------------------------------------------------------------------------------------------------


def fetch(suite: Suite) -> None:
    """The parts of the source archive that the suite keeps, once the archive is the expected one."""
    with tempfile.TemporaryDirectory(dir=suite.cache) as work:
        asked = ["--no-deps", "--no-binary", ":all:", "--dest", work, suite.sdist]
        execute([suite.python, "-m", "pip", "download", "-q", "--disable-pip-version-check", *asked], suite.cache)
        archive = next(Path(work).glob("*.tar.gz"))
        if (digest := hashlib.sha256(archive.read_bytes()).hexdigest()) != suite.sha256:
            raise Missing(f"{archive.name} is not the expected one: sha256 {digest}")
        with tarfile.open(archive) as packed:
            kept = [each for each in packed if each.name.split("/")[1:2] and each.name.split("/")[1] in suite.keep]
            packed.extractall(work, members=kept, filter="data")
        archive.with_name(archive.name.removesuffix(".tar.gz")).rename(suite.source)


# ---- The broker ------------------------------------------------------------------------------------------------------


@contextmanager
def broker(suite: Suite, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """What it is called and its address; one that is started here gets an empty directory and is ended."""
    if options.target:
        if not serves(options.target):
            sys.exit(f"no broker answers at {options.target}")
        yield "the target", options.target
        return
    directory = Path(tempfile.mkdtemp(prefix="suite-"))
    started: Kbroker | ApacheKafka
    if options.kafka:
        find_or_fetch()
        started = ApacheKafka(directory, wire.free_port(), suite.properties | suite.kafka)
    else:
        started = Kbroker(directory, wire.free_port(), suite.properties)
    try:
        start(started)
        yield f"Apache Kafka {VERSION}" if options.kafka else "kbroker", started.bootstrap
    finally:
        started.kill()
        shutil.rmtree(directory, ignore_errors=True)


def start(started: Kbroker | ApacheKafka) -> None:
    try:
        started.start()
    except RuntimeError as problem:
        sys.exit(f"the broker did not start: {problem}")


def serves(bootstrap: str) -> bool:
    try:
        return bool(wire.broker_ids(bootstrap))
    except (OSError, IndexError, ValueError):
        return False


# ---- The tests -------------------------------------------------------------------------------------------------------


def carry_out(suite: Suite, bootstrap: str, only: list[str]) -> Outcomes:
    """Run pytest in the source; the tests that ended, with what became of them."""
    told = suite.cache / "outcomes.jsonl"
    told.unlink(missing_ok=True)
    said = {name: value.format(bootstrap=bootstrap) for name, value in suite.environ.items()}
    said |= {"SUITE_OUTCOMES": str(told), "SUITE_ONLY": ",".join(only), "PYTHONPATH": str(HERE)}
    limits = [f"--timeout={TEST_SECONDS_MAX}", "--timeout-method=signal"]
    command = [suite.python, "-m", "pytest", "-q", "-c", "pyproject.toml", "-p", "outcomes", "-p", "no:cacheprovider"]
    command += [*limits, *suite.files]
    with (suite.cache / "pytest.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=suite.source,
            env={**os.environ, **said},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            process.wait(SUITE_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            print(f"the suite was ended after {SUITE_SECONDS_MAX:.0f} s", file=sys.stderr)
        finally:
            end_session(process)
    lines = told.read_text().splitlines() if told.exists() else []
    return {each["test"]: each for each in map(json.loads, lines)}


def function(test: str) -> str:
    """`test_x.py::test_y[1]` is a case of `test_y`."""
    return test.rpartition("::")[2].partition("[")[0]


def end_session(process: subprocess.Popen[bytes]) -> None:
    """pytest and whatever its tests started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)


# ---- The verdict -----------------------------------------------------------------------------------------------------


def conclude(suite: Suite, found: Outcomes, options: argparse.Namespace) -> int:
    """Compare with the two lists, print what differs; the exit status."""
    allowed = [each for each in suite.allowed() if not options.only or function(each) in options.only]
    passed = [test for test, each in found.items() if each["result"] == "passed"]
    lost = [test for test in allowed if test not in passed]
    other = [test for test in found if test not in passed and test not in allowed]
    expected = [test for test in other if suite.explained(test)]
    unexplained = [test for test in other if test not in expected]
    new = [test for test in passed if test not in allowed]

    for test in expected:
        print(f"expected    {told(test, found)}")
    for test in lost:
        print(f"UNEXPECTED  {told(test, found)}")
    for test in unexplained:
        print(f"UNEXPLAINED {told(test, found)}")
    for test in new:
        elsewhere = options.kafka or options.target
        print(f"new         {test}: passes" + ("" if elsewhere else "; it belongs in allow.txt, not in FINDINGS.md"))
    if options.grow and new:
        grow(suite, new)
    wrong = len(lost) + len(unexplained)
    print(f"\n{suite.title}: {len(passed)} passed, {len(expected)} expected not to, {wrong} unexpected")
    if wrong or not found:  # not found: pytest did not get as far as a test
        print(f"what pytest said: {suite.cache / 'pytest.log'}")
    return 1 if wrong or not found else 0


def told(test: str, found: Outcomes) -> str:
    each = found.get(test, {"result": "did not run", "why": ""})
    return f"{test}: {each['result']}" + (f": {each['why'][:200]}" if each["why"] else "")


def grow(suite: Suite, new: list[str]) -> None:
    file = suite.folder / "allow.txt"
    comments = [line for line in file.read_text().splitlines() if line.startswith("#")]
    file.write_text("\n".join([*comments, *sorted({*suite.allowed(), *new})]) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    try:
        sys.exit(main())
    except (Missing, Unavailable) as reason:
        sys.exit(f"cannot run here: {reason}")
