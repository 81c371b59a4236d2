"""What docs/how-to/troubleshooting.md explains is said by kbroker, word by word, or is an error of Kafka's."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from kafka_wire.errors import ErrorCode
from tests.docs.pages import DOCS, ROOT

HEADINGS = re.findall(r"^### (.*`.*)$", (DOCS / "how-to/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
QUOTED = [(heading, quoted) for heading in HEADINGS for quoted in re.findall(r"`([^`]+)`", heading)]
GAP = "…"


@cache
def messages() -> str:
    """Every text in the source, one a line, with a gap where a value is put in."""
    texts = []
    for path in (*(ROOT / "kbroker").rglob("*.py"), *(ROOT / "protocol").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[.\d]*[a-z]|\{\w+\}", GAP, node.value))
    return "\n".join(text.replace("\n", " ") for text in texts)


def is_said(quoted: str) -> bool:
    """As one text of the source, or as one that tells the reason by another: "group …: member … is out: …"."""
    ends = [found.start() for found in re.finditer(": ", quoted)]
    return is_a_text(quoted) or any(is_a_text(quoted[:end]) and is_said(quoted[end + 2 :]) for end in ends)


def is_a_text(quoted: str) -> bool:
    pieces = [re.escape(piece) for piece in re.split(rf"\s*{GAP}\s*", quoted) if len(piece) > 1]
    return re.search(r"[^\n]*".join(pieces), messages()) is not None


@pytest.mark.parametrize(("heading", "quoted"), QUOTED, ids=lambda text: text[:40])
def test_a_message_that_is_explained_exists(heading: str, quoted: str) -> None:
    if re.fullmatch(r"[A-Z_]+", quoted):
        assert quoted in ErrorCode.__members__
    elif "`: `" in heading:
        assert quoted == ErrorCode[heading.partition("`: `")[0].strip("`")].text
    else:
        assert is_said(quoted), "no such text in the source: what does kbroker say now?"


def test_what_nobody_says_is_not_found() -> None:
    assert not is_said("the broker is … tired")
