"""What a command tells: aligned text for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


class Quantity(str):
    """A number with its unit: stands in a table as a number does."""

    __slots__ = ()


RIGHT_ALIGNED = (int, float, Quantity)

# What a terminal takes for a command, or does not show as it is: control characters, and those that turn the direction
# of writing. Names of groups, members and transactions are whatever a client made them.
_UNSEEN = (*range(0x20), *range(0x7F, 0xA0), *range(0x200E, 0x2010), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_VISIBLE = {code: ascii(chr(code))[1:-1] for code in _UNSEEN}
_IN_JSON = {code: f"\\u{code:04x}" for code in _UNSEEN if code >= 0x20}  # json writes the others like this itself


def visible(text: str) -> str:
    """One line, in which everything is shown and nothing is done: "\\x1b[31m" for the command to go on in red."""
    return text.translate(_VISIBLE)


def visible_lines(text: str) -> str:
    """The same, line by line."""
    return "\n".join(map(visible, text.split("\n")))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns two blanks apart; numbers to the right, as are their headings. None is an empty cell."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max([len(heading), *(len(row[i]) for row in cells)]) for i, heading in enumerate(headings)]
    numeric = [
        bool(rows) and all(row[i] is None or isinstance(row[i], RIGHT_ALIGNED) for row in rows)
        for i in range(len(headings))
    ]
    lines = []
    for row in [list(headings), *cells]:
        parts = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def json_text(value: Any) -> str:
    """Indented JSON, names as they are, but for what a terminal would not show."""
    import json

    return json.dumps(value, indent=2, ensure_ascii=False).translate(_IN_JSON)


def plural(count: int, noun: str) -> str:
    """ "1 record", "2 records", "2 batches"."""
    return f"{count} {noun}" + ("" if count == 1 else "es" if noun.endswith("ch") else "s")


def bytes_text(count: int | None) -> Quantity | None:
    """ "812 B", "1.4 KB", "37.0 GB"; None for an unknown number."""
    if count is None:
        return None
    size, units = float(count), ["B", "KB", "MB", "GB", "TB", "PB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return Quantity(f"{count} B" if count < 1000 else f"{size:.1f} {units[0]}")


def format_option(command: Any) -> Any:
    """The -o and --format of commands that print something."""
    return click.option(
        "-o",
        "--format",
        "style",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="table for people, json for programs.",
    )(command)


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, list | tuple):
        return visible(",".join(map(str, cell)))
    return visible(str(cell))
