"""A config that is documented as effective is read somewhere, and one that is read is documented as effective.

The source itself is looked at: what is read is named in it as a whole (`get_int("num.partitions")`), made of parts
(`f"consumer.{key}"`), or a field of a TopicConfig (`config.retention_ms`). A broker's key that gives topics and groups
their default is read when theirs is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from kbroker.config import TABLE, ConfigError, ConfigKey, Scope, load
from kbroker.config.docs import documentation, is_refused

SOURCE = Path(__file__).parents[2] / "kbroker"
TABLES = {"topic_keys.py", "broker_keys.py", "inert_keys.py", "table.py", "checks.py", "docs.py"}  # they tell of keys
PREFIX_MIN = len("consumer.")  # of a name made of parts: the rest is anything
ALL_KEYS = [key for scope in Scope for key in TABLE[scope].values()]
BESIDE = {SOURCE / room for room in ("cli", "testing", "client")}  # what names keys there makes the broker do nothing


@cache
def mentioned() -> tuple[frozenset[str], frozenset[str], list[re.Pattern[str]]]:
    """Texts, attributes, and texts made of parts, of all of the broker but the tables."""
    texts, attributes, patterns = set(), set(), []
    for path in SOURCE.rglob("*.py"):
        if path.name in TABLES or BESIDE & {*path.parents}:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        given = {id(name) for name in given_values(tree)}
        for node in ast.walk(tree):
            if id(node) in given:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
            elif isinstance(node, ast.Attribute) and path.parent.name != "config":
                attributes.add(node.attr)
            elif isinstance(node, ast.JoinedStr) and (pattern := made_of_parts(node)):
                patterns.append(pattern)
    return frozenset(texts), frozenset(attributes), patterns


def given_values(tree: ast.AST) -> Iterator[ast.AST]:
    """The names in {"name": "value"}: what a topic is made with is not read there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            yield from (name for name, value in zip(node.keys, node.values, strict=True) if name and is_text(value))


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def made_of_parts(node: ast.JoinedStr) -> re.Pattern[str] | None:
    parts = [re.escape(part.value) if isinstance(part, ast.Constant) else r"[a-z.]+" for part in node.values]
    first = node.values[0]
    if (
        not isinstance(first, ast.Constant)
        or len(first.value) < PREFIX_MIN
        or not re.fullmatch(r"[a-z.]+", first.value)
    ):
        return None
    return re.compile("".join(parts))


def is_named(key: ConfigKey) -> bool:
    texts, attributes, patterns = mentioned()
    if key.scope is Scope.TOPIC and key.attribute in (attributes | texts):
        return True
    return key.name in texts or any(pattern.fullmatch(key.name) for pattern in patterns)


def heirs(key: ConfigKey) -> Iterator[ConfigKey]:
    """The topic and group keys that a broker's key is the default of."""
    for scope in (Scope.TOPIC, Scope.GROUP):
        for heir in TABLE[scope].values():
            if any(synonym.name == key.name for synonym in heir.synonyms):
                yield heir


@pytest.mark.parametrize("key", ALL_KEYS, ids=lambda key: f"{key.scope.name}-{key.name}")
def test_what_has_an_effect_is_read_and_the_other_way_round(key: ConfigKey) -> None:
    is_read = is_named(key) or any(is_named(heir) for heir in heirs(key) if key.scope is Scope.BROKER)
    assert key.effect == is_read, "nothing reads it: effect=False" if key.effect else "it is read: effect=True"
    said = documentation(key).startswith(("Accepted, without effect", "Not accepted"))
    assert said == (not key.effect)


@pytest.mark.parametrize("key", [key for key in ALL_KEYS if is_refused(key)], ids=lambda key: key.name)
def test_what_is_said_to_be_refused_is(key: ConfigKey) -> None:
    assert documentation(key).startswith("Not accepted")
    with pytest.raises(ConfigError, match="kbroker cannot load Java classes"):
        load(file={key.name: "org.example.Class"})
