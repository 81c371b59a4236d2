"""What was seen, and what follows from it: the ids of the page, the comparison with Apache Kafka, the table. Pure.

A scenario's line, as the runner prints it, has a `result`: `ok`, `fail` or `absent`; `seen` with `ok`, `why` with the
others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

OWN = "Of kbroker alone"
POWERLESS = "no power over the broker"
WORDS = {"ok": "ok", "fail": "FAIL", "absent": "absent"}

Line = dict[str, Any]
Lines = dict[str, Line]  # scenario -> line
Results = dict[str, Lines]  # client -> scenario -> line


@dataclass(frozen=True)
class Scenarios:
    """The ids of the page, in its order; every client ends a phase before any begins the next."""

    under_load: list[str]
    main: list[str]
    after_restart: list[str]
    own: list[str]  # with the main phase, but never on Apache Kafka, which has nothing of the kind

    @property
    def all(self) -> list[str]:
        return self.under_load + self.main + self.own + self.after_restart

    def of(self, label: str) -> Scenarios:
        """Those for a broker."""
        return Scenarios(self.under_load, self.main, self.after_restart, [] if label == "kafka" else self.own)

    def only(self, wanted: list[str]) -> Scenarios:
        phases = (self.under_load, self.main, self.after_restart, self.own)
        return Scenarios(*([identifier for identifier in phase if identifier in wanted] for phase in phases))


def read_scenarios(page: str) -> Scenarios:
    """The ids: headings such as "### `tombstone`". Two sections are phases of their own, one is of kbroker alone."""
    phases: dict[str, list[str]] = {"Restart under load": [], "After a restart": [], OWN: [], "": []}
    phase = phases[""]
    for heading in re.findall(r"^(## .+|### `[a-z0-9-]+`)$", page, re.MULTILINE):
        if heading.startswith("## "):
            phase = phases.get(heading[3:], phases[""])
        else:
            phase.append(heading[5:-1])
    return Scenarios(phases["Restart under load"], phases[""], phases["After a restart"], phases[OWN])


def line(identifier: str, result: str, why: str) -> Line:
    return {"scenario": identifier, "result": result, "why": why}


def judge(found: Line, there: Line | None) -> Line:
    """A line as it counts, given what the same client saw on Apache Kafka.

    What is `ok` in itself fails when Kafka showed the client something else. `absent` fails when it was not absent
    there: a feature that only this broker takes away is not the client's lack.
    """
    if there is None or found["result"] == "fail" or there["result"] == "fail" or found.get("why") == POWERLESS:
        return found
    if found["result"] != there["result"]:
        return {**found, "result": "fail", "why": f"{described(found)}, but on Apache Kafka {described(there)}"}
    if difference := differing(found.get("seen") or {}, there.get("seen") or {}):
        return {**found, "result": "fail", "why": f"seen otherwise than on Apache Kafka: {difference}"}
    return found


def described(found: Line) -> str:
    return f"{found['result']} ({found['why']})" if found.get("why") else str(found["result"])


def differing(here: dict[str, Any], there: dict[str, Any], at: str = "") -> str:
    """The differing facts of two `seen`, in words."""
    parts = []
    for name in dict.fromkeys([*there, *here]):
        mine, its = here.get(name, "nothing"), there.get(name, "nothing")
        if isinstance(mine, dict) and isinstance(its, dict):
            parts.append(differing(mine, its, f"{at}{name} / "))
        elif mine != its:
            parts.append(f"{at}{name}: {shown(mine)}, there {shown(its)}")
    return "; ".join(part for part in parts if part)


def shown(fact: Any) -> str:
    return json.dumps(fact, ensure_ascii=False)


def table(identifiers: list[str], columns: Results) -> str:
    """Rows are scenarios, columns are clients."""
    rows = [["scenario", *columns]]
    for identifier in identifiers:
        results = [lines[identifier]["result"] if identifier in lines else "fail" for lines in columns.values()]
        rows.append([identifier, *(WORDS[result] for result in results)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def details(columns: Results) -> str:
    """Why scenarios failed, and, once per reason, why they are absent."""
    failed: list[str] = []
    absent: dict[str, list[str]] = {}
    for title, lines in columns.items():
        for identifier, found in lines.items():
            if found["result"] == "fail":
                failed.append(f"FAIL {title}: {identifier}: {found.get('why', '')}")
            elif found["result"] == "absent":
                absent.setdefault(f"{title}: {found.get('why', '')}", []).append(identifier)
    return "\n".join([*(f"absent, {why} ({', '.join(names)})" for why, names in absent.items()), *failed])


def counted(lines: Iterable[Line]) -> tuple[int, int, int]:
    """How many passed, failed, are absent."""
    results = [each["result"] for each in lines]
    return results.count("ok"), results.count("fail"), results.count("absent")
