"""What `bench.py` prints, and the section of docs/performance.md that it writes between its two markers.

Each row shows one line per figure: kbroker, Kafka, their ratio, the goal and whether it was met; and once per row the
brokers' own CPU per request and per MB, which the noise of a shared machine hardly touches.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import apache_kafka
from brokers import ROOT, Sample
from rows import Figure, Row

PAGE = ROOT / "docs" / "performance.md"
BEGIN = "<!-- bench: everything from here to the end marker is written by compat/perf/bench.py -->"
END = "<!-- bench: end -->"
HEAD = ("work", "figure", "kbroker", "Kafka", "bare path", "ratio", "goal", "met", "CPU µs/request", "CPU ms/MB")

NEW_PAGE = f"""# Performance

kbroker beside Apache Kafka: same machine, same run, same load. Look at the ratios and at the CPU; absolute figures
belong to the machine. `make bench` takes them again and rewrites the section below.

{BEGIN}
{END}
"""

READING = """
Ratio is kbroker / Kafka, or where the figure says so kbroker / bare path: for rates more is better, for times, memory
and CPU less is. CPU is the broker's own, user and system time of all its threads during the measured window, as
kbroker / Kafka / bare path. The bare path (`compat/perf/bare.py`) is a server on the same Python and trio that only
decodes, checks the CRC, appends and answers: what is left for a broker to reach. MB are 10^6 bytes. Medians.
"""


@dataclass
class Outcome:
    """What became of a row: a median sample for each broker that ran it, a reason for each that failed."""

    row: Row
    samples: dict[str, Sample] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def value(self, broker: str, key: str) -> float | None:
        return self.samples.get(broker, {}).get(key)

    def pair(self, key: str, beside: str = "kafka") -> tuple[float | None, float | None]:
        ours = self.value("kbroker", key)
        return ours if ours is not None else self.value("sink", key), self.value(beside, key)


def number(value: float | None) -> str:
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def cells(outcome: Outcome, figure: Figure, first: bool) -> tuple[str, ...]:
    ours, other = outcome.pair(figure.key, figure.beside)
    ratio = f"{ours / other:.2f}" if ours is not None and other else "–"
    lost = "kbroker" in outcome.failed
    met = None if ours is None or figure.goal is None else figure.goal.met(ours, other)
    cpu = [of_all(outcome, key) if first else "" for key in ("cpu_us_request", "cpu_ms_mb")]
    goal = figure.goal.text if figure.goal else ""
    verdict = "NO" if met is False or lost and goal else "yes" if met else ""
    values = (
        ("kbroker", ours),
        ("kafka", outcome.value("kafka", figure.key)),
        ("bare", outcome.value("bare", figure.key)),
    )
    shown = ["failed" if name in outcome.failed else number(value) for name, value in values]
    return (outcome.row.title if first else "", figure.unit, *shown, ratio, goal, verdict, *cpu)


def of_all(outcome: Outcome, key: str) -> str:
    """kbroker / Kafka / the bare path, where that takes part."""
    values = [*outcome.pair(key), *([outcome.value("bare", key)] if outcome.row.bare else [])]
    return "" if set(values) == {None} else " / ".join(map(number, values))


def table(outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    lines = []
    for outcome in outcomes:
        for at, figure in enumerate(outcome.row.figures):
            lines.append(cells(outcome, figure, first=at == 0))
    return lines


def line(outcome: Outcome) -> str:
    """One row while the others still run."""
    shown = []
    for figure in outcome.row.figures:
        ours, kafka = outcome.pair(figure.key)
        before = f" (before {number(outcome.value('before', figure.key))})" if "before" in outcome.samples else ""
        bare = f" / {number(outcome.value('bare', figure.key))}" if outcome.row.bare else ""
        shown.append(f"{number(ours)} / {number(kafka)}{bare} {figure.unit}{before}")
    shown += [f"{broker} FAILED: {reason}" for broker, reason in outcome.failed.items()]
    return f"{outcome.row.name}: {'; '.join(shown)}"


def text(outcomes: list[Outcome], notes: list[str]) -> str:
    lines = [HEAD, *table(outcomes)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(["", *body, "", *failures(outcomes), *notes, *machine()])


def markdown(outcomes: list[Outcome], notes: list[str]) -> str:
    rows = [HEAD, ("---",) * len(HEAD), *table(outcomes)]
    body = [f"| {' | '.join(row)} |" for row in rows]
    items = [f"- {item}" for item in [*machine(), *notes, *failures(outcomes)]]
    return "\n".join([*items, READING, *body])


def failures(outcomes: list[Outcome]) -> list[str]:
    failed = [(outcome.row.name, *entry) for outcome in outcomes for entry in outcome.failed.items()]
    return [f"{row} failed on {broker}: {' '.join(reason.split())}" for row, broker, reason in failed]


def write(outcomes: list[Outcome], notes: list[str]) -> None:
    """Replace what stands between the markers; the rest of the page is somebody's prose."""
    page = PAGE.read_text() if PAGE.exists() else NEW_PAGE
    if BEGIN not in page or END not in page:
        page = f"{page.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = page.partition(BEGIN)
    PAGE.parent.mkdir(exist_ok=True)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{markdown(outcomes, notes)}\n\n{END}{after}")
    print(f"written: {PAGE.relative_to(ROOT)}")


def machine() -> list[str]:
    """What the figures were taken on; nothing that names the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        f"Machine: {cpu_model()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, "
        f"{platform.system()} {platform.release()}; the load generator shares the cores with the broker.",
        f"Versions: kbroker {version('kbroker')} (trio {version('trio')}); "
        f"Apache Kafka {apache_kafka.VERSION} on {java_version()}, KRaft, one node, 1 GB heap, G1.",
    ]


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for entry in info.read_text().splitlines():
            if entry.startswith("model name"):
                return entry.partition(":")[2].strip()
    return platform.machine()


def version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def java_version() -> str:
    if shutil.which("java") is None:
        return "no Java"
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=30).stderr
    return f"Java {said.split(chr(34))[1]}" if '"' in said else "Java"
