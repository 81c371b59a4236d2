"""A pytest plugin: appends to the file $SUITE_OUTCOMES one JSON line for each test as it ends.

    {"test": "test_x.py::test_y[1]", "result": "passed" | "failed" | "skipped", "why": "…", "seconds": 0.2}

$SUITE_ONLY, unless empty, names the test functions to run, comma separated; pytest's -k would take parts of names.
Runs inside a suite's environment. A line is written at once, so a hang or a crash loses no test that ended before it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RANK = {"passed": 0, "skipped": 1, "failed": 2}
_running: dict[str, dict[str, Any]] = {}


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    wanted = [name for name in os.environ.get("SUITE_ONLY", "").split(",") if name]
    if wanted:
        config.hook.pytest_deselected(items=[item for item in items if item.originalname not in wanted])
        items[:] = [item for item in items if item.originalname in wanted]


def pytest_runtest_logreport(report: Any) -> None:
    """Called after setup, call and teardown; the worst of the three is the test's result."""
    name = report.nodeid.rpartition("/")[2]
    line = _running.setdefault(name, {"test": name, "result": "passed", "why": "", "seconds": 0.0})
    line["seconds"] = round(line["seconds"] + report.duration, 2)
    if RANK[report.outcome] > RANK[line["result"]]:
        line |= {"result": report.outcome, "why": why(report)}
    if report.when == "teardown":
        with Path(os.environ["SUITE_OUTCOMES"]).open("a") as file:
            file.write(json.dumps(_running.pop(name)) + "\n")


def why(report: Any) -> str:
    """The exception's own line, or the reason of the skip."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    return (str(crash.message) if crash else str(report.longrepr)).strip().splitlines()[0]
