"""A strict reader of Prometheus' text format 0.0.4, written from its description: an oracle for what /metrics says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)")
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """A name and its labels."""

    name: str
    labels: Labels

    def __str__(self) -> str:
        return self.name + (
            "{" + ",".join(f'{name}="{value}"' for name, value in self.labels) + "}" if self.labels else ""
        )


class Page:
    """What one scrape told."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.samples: dict[Sample, float] = {}

    def value(self, name: str, **labels: object) -> float:
        """Of the sample with exactly these labels; KeyError when there is none."""
        wanted = {key: str(value) for key, value in labels.items()}
        return next(
            value for sample, value in self.samples.items() if sample.name == name and dict(sample.labels) == wanted
        )

    def of(self, name: str) -> Mapping[Labels, float]:
        """All samples of a name."""
        return {sample.labels: value for sample, value in self.samples.items() if sample.name == name}


def parse(data: bytes) -> Page:
    """Raises AssertionError for what Prometheus would not take, or would take for something else."""
    page, current, kind, finished = Page(), "", "", set[str]()
    text = data.decode()
    assert text.endswith("\n")
    lines = text.split("\n")[:-1]
    for number, line in enumerate(lines):
        where = f"line {number + 1}: {line[:200]}"
        if line.startswith("# HELP "):
            if current:
                finished.add(current)
            current = line.split(" ", 3)[2]
            assert re.fullmatch(_NAME, current) and current not in finished, where
            assert lines[number + 1].startswith(f"# TYPE {current} "), where
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == current and kind in ("counter", "gauge", "histogram", "summary", "untyped"), where
            assert lines[number - 1].startswith(f"# HELP {name} "), where
            page.kinds[name] = kind
            continue
        found = _SAMPLE.fullmatch(line)
        assert found, where
        assert found[1] in [current + suffix for suffix in _SUFFIXES.get(kind, ("",))], where
        sample = Sample(found[1], _labels(found[2] or "", where))
        assert sample not in page.samples, f"twice: {where}"
        page.samples[sample] = float(found[3])
    _check_histograms(page)
    return page


def _labels(text: str, where: str) -> Labels:
    labels, at = [], 0
    while at < len(text):
        found = _LABEL.match(text, at)
        assert found and (found[3] or found.end() == len(text)), where
        labels.append((found[1], re.sub(r"\\.", lambda escape: _ESCAPES[escape[0]], found[2])))
        at = found.end()
    assert len({name for name, _ in labels}) == len(labels), where
    return tuple(labels)


def _check_histograms(page: Page) -> None:
    for name in (name for name, kind in page.kinds.items() if kind == "histogram"):
        classes: dict[Labels, list[tuple[float, float]]] = {}
        for labels, value in page.of(f"{name}_bucket").items():
            rest = tuple(pair for pair in labels if pair[0] != "le")
            classes.setdefault(rest, []).append((float(dict(labels)["le"]), value))
        for rest, rows in classes.items():
            assert rows == sorted(rows) and rows[-1][0] == float("inf"), (name, rest)
            assert [count for _, count in rows] == sorted(count for _, count in rows), (name, rest)
            assert rows[-1][1] == page.of(f"{name}_count")[rest], (name, rest)
