"""The table of truth in docs/filtering.md is what the language does."""

from __future__ import annotations

from kbroker.filters import parse
from tests.docs.pages import table

PAGE = "filtering.md"
HEADERS: dict[str, list[tuple[str, bytes | None]]] = {
    "not there": [("other", b"de")],
    "null": [("country", None)],
    "empty": [("country", b"")],
    "`de`": [("country", b"de")],
    "`at`": [("country", b"at")],
    "`at`, `de`": [("country", b"at"), ("country", b"de")],
}


def test_the_table_of_truth_is_true() -> None:
    (_, *states), *rows = table(PAGE, "test")
    assert states == list(HEADERS) and len(rows) >= 9
    for text, *cells in rows:
        expression = parse(text.strip("`"))
        said = ["yes" if expression.matches(None, HEADERS[state]) else "no" for state in states]
        assert said == cells, text
