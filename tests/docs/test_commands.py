"""A command that the docs show is one that kbroker has, with options that it knows, also where it is not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kbroker.cli import cli
from tests.docs.pages import DOCS, ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), *sorted((DOCS / "how-to").glob("*.md"))]
# Behind a prompt of code: at the beginning of a line, of `code` or of what comes behind a pipe.
COMMAND = re.compile(
    r"(?:^\s*(?:- run: |- |\$ )?|`|\| |&& |\bssh \S+ )((?:\.venv/bin/)?kbroker(?: [^`\n]*)?)", re.MULTILINE
)
END = {"|", ">", ">>", "<", "&&", "&", ";", "2>&1", "||"}


def commands(page: Path) -> Iterator[list[str]]:
    """Their words; what is no command but prose begins otherwise, or is a sentence."""
    text = page.read_text(encoding="utf-8")
    for found in COMMAND.finditer(text):
        try:
            words = shlex.split(found[1], comments=True)
        except ValueError:  # a quotation mark in prose, or a command that goes on in the next line
            words = found[1].split()
        end = next((at for at, word in enumerate(words) if word in END), len(words))
        if end > 1 and (words[1].startswith("-") or words[1] in cli.list_commands(click.Context(cli))):
            yield words[1:end]


def problem(words: list[str]) -> str:
    """What of a command kbroker does not know."""
    command: click.Command = cli
    context = click.Context(cli)
    rest = words if not words[0].startswith("-") else ["start", *words]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        if found is None:
            return "" if not rest[0].isalpha() else f"no command {rest[0]}"  # `kbroker topic ...`
        command, rest = found, rest[1:]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    known |= {"-h", "--help", "--version"}
    options = (word.partition("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word))
    unknown = [name for name in options if name not in known and not (name[:2] in known and name[1] != "-")]
    return f"no option {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one(page: Path) -> None:
    wrong = [f"kbroker {' '.join(words)}: {said}" for words in commands(page) if (said := problem(words))]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_command_is_found() -> None:
    assert problem(["topic", "craete", "t"]) and problem(["topic", "create", "t", "--partition", "3"])
    assert not problem(["topic", "create", "t", "-p3"]) and not problem(["--listen", "x:1"])
    assert sum(1 for page in PAGES for _ in commands(page)) > 150
