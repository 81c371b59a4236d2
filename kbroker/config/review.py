"""Every mistake in a configuration file, with its line: what `kbroker config check` tells. `load` ends at the first."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any, NamedTuple

from kbroker.config.consistent import check_consistent
from kbroker.config.keys import ConfigError, Scope, parse
from kbroker.config.sources import exact_text, flatten_toml, hint_at_units, load, parse_toml, property_lines
from kbroker.config.table import TABLE, find, is_ignored
from kbroker.config.values import BrokerConfig

ATTEMPTS_MAX = 200  # to find the end of one TOML value; each costs a parse of its lines
_MAY_END = ("]", "}", '"""', "'''")  # in the last line of a value of several


class Finding(NamedTuple):
    """Something to say about a line. line: from 1; 0 where no line says it alone. is_mistake: else a warning."""

    line: int
    name: str
    is_mistake: bool
    text: str


class Reviewed(NamedTuple):
    """What was found, by line, and how many settings there are."""

    findings: tuple[Finding, ...]
    settings: int


class _Line(NamedTuple):
    line: int
    name: str
    value: str | ConfigError  # an error: what stands there cannot be a value


def review(text: str, file_name: str) -> Reviewed:
    """Look at a whole file as `load` would, and go on after a mistake."""
    is_toml = file_name.lower().endswith(".toml")
    if is_toml:
        try:
            parse_toml(text)
        except ValueError as error:
            return Reviewed((broken_toml(str(error)),), 0)
    lines = list(_toml_lines(text) if is_toml else (_Line(*each) for each in property_lines(text)))
    findings, good = list[Finding](), dict[str, str]()
    seen: dict[str, int] = {}
    for each in lines:
        if each.name in seen:
            findings.append(
                Finding(
                    each.line,
                    each.name,
                    False,
                    f"{each.name} was set before, in line {seen[each.name]}: this one counts",
                )
            )
        seen[each.name] = each.line
        found = _look(each, is_toml=is_toml)
        if isinstance(found, Finding):
            findings.append(found)
        else:
            good[each.name] = found
    findings += _together(good, seen)
    return Reviewed(tuple(sorted(findings, key=lambda each: each.line or len(text))), len(lines))


def _look(each: _Line, *, is_toml: bool) -> Finding | str:
    """What is wrong with a setting; or its value."""
    if isinstance(each.value, ConfigError):
        return Finding(each.line, each.name, True, str(each.value))
    if each.name not in TABLE[Scope.BROKER] and is_ignored(each.name):
        return Finding(each.line, each.name, False, f"{each.name} is ignored: kbroker has no use for it")
    try:
        value = exact_text(each.name, each.value) if is_toml else each.value
        parse(find(Scope.BROKER, each.name), value)
    except ConfigError as error:
        hint = "" if is_toml else hint_at_units(each.name, each.value)
        return Finding(each.line, each.name, True, f"{error}{hint}")
    return value


def _together(good: dict[str, str], lines: dict[str, int]) -> Iterator[Finding]:
    """What no single setting can tell."""
    try:
        check_consistent(BrokerConfig().with_values(good))
    except ConfigError as error:
        name = next(iter(re.findall(r"[a-z0-9]+(?:\.[a-z0-9]+)+|listeners", str(error))), "")
        yield Finding(lines.get(name, 0), name, True, str(error))
        return
    for warning in load(good).warnings:
        yield Finding(0, "", False, warning)


def broken_toml(said: str) -> Finding:
    """tomllib's word about a file that is none; it ends in "(at line 3, column 7)"."""
    found = re.fullmatch(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", said)
    if found is None or found["line"] is None:
        return Finding(0, "", True, f"not TOML: {said}")
    return Finding(int(found["line"]), "", True, f"not TOML: {found['what']} (column {found['column']})")


def _toml_lines(text: str) -> Iterator[_Line]:
    """Each value of a good TOML file, with the line where its statement begins."""
    table = ""
    for line, statement, tree in toml_statements(text):
        if tree is None:
            yield _Line(
                line, "", ConfigError("a value that goes on for too many lines: what follows is not looked into")
            )
        elif statement.startswith("[["):
            name = _path(tree).removesuffix(".")
            yield _Line(line, name, ConfigError(f"{name}: a list of tables is not allowed"))
        elif not statement.startswith("["):
            yield from _flat(tree, table, line)
        table = _path(tree) if statement.startswith("[") else table


def toml_statements(text: str) -> Iterator[tuple[int, str, dict[str, Any] | None]]:
    """The statements of a good TOML file: the line where one begins, its text, what it says. None: it is too long to
    look into, as all that follows.

    tomllib keeps no lines. A statement (a value, or a table's head) is good TOML by itself: so it ends with the first
    line at which it is.
    """
    pending, began, attempts = "", 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        if not pending:
            began, attempts = number, 0
        pending += line + "\n"
        if not pending.strip() or pending.lstrip().startswith("#"):
            pending = ""
            continue
        if number > began and not any(mark in line for mark in _MAY_END):
            continue
        try:
            tree = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            attempts += 1
            if attempts == ATTEMPTS_MAX:
                yield began, pending.lstrip(), None
                return
            continue
        yield began, pending.lstrip(), tree
        pending = ""


def _flat(tree: dict[str, Any], table: str, line: int) -> Iterator[_Line]:
    try:
        for name, value in list(flatten_toml(tree, table)):
            yield _Line(line, name, value)
    except ConfigError as error:
        yield _Line(line, str(error).partition(":")[0], error)


def _path(tree: object) -> str:
    """The dotted name a table's head gives to what follows, with a dot behind it."""
    path = ""
    while isinstance(tree, dict) and tree:
        name, tree = next(iter(tree.items()))
        path += f"{name}."
    return path
