"""Prometheus' text format 0.0.4: samples of one metric stand together, behind its HELP and TYPE lines. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from kbroker.http.metrics.table import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LINES_A_PIECE, SAMPLES_A_PIECE = 200, 50  # some 50 us: of what is gathered, and of what is still to be

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def escaped(value: str) -> str:
    """A label's value, as it stands in quotes."""
    return value.translate(_ESCAPES)


def labelled(metric: Metric, *values: object) -> str:
    """The labels of one sample, as many as there are values."""
    if not values:
        return ""
    pairs = zip(metric.labels, values, strict=False)
    return "{" + ",".join([f'{name}="{escaped(str(value))}"' for name, value in pairs]) + "}"


def single(metric: Metric, value: float) -> bytes:
    """A metric with one sample and no labels."""
    return f"{metric.head}{metric.name} {number(value)}\n".encode()


def singles(rows: Iterable[tuple[Metric, float | None]]) -> Iterator[bytes]:
    """Several of them; None: not known, and left out."""
    for metric, value in rows:
        if value is not None:
            yield single(metric, value)


def number(value: float) -> str:
    """A value: whole numbers without a point."""
    return str(int(value)) if value == int(value) else repr(float(value))


def family(metric: Metric, labels: Iterable[str], values: Iterable[int]) -> Iterator[bytes]:
    """All samples of a metric: whole numbers, each with its labels (`labelled`)."""
    yield metric.head.encode()
    name, samples = metric.name, zip(labels, values, strict=True)
    while some := list(islice(samples, LINES_A_PIECE)):
        yield "".join([f"{name}{label} {value}\n" for label, value in some]).encode()


def lines(metric: Metric, samples: Iterable[str]) -> Iterator[bytes]:
    """All samples of a metric; each is what follows the name (or "_sum" and the like), without the end of the line.

    An empty one is no sample, but a pause: so much work was done without one.
    """
    yield metric.head.encode()
    some: list[str] = []
    for sample in samples:
        if sample:
            some.append(f"{metric.name}{sample}\n")
        if not sample or len(some) >= SAMPLES_A_PIECE:
            yield "".join(some).encode()
            some.clear()
    yield "".join(some).encode()
