"""The filter language: the table of cases shared with its other implementations, a naive second one, and its bounds."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.filters import Expression, FilterSyntaxError, parse, split_tags, tags, tags_of
from kbroker.filters.expression import SORTED_AT_ONCE, Values
from kbroker.filters.syntax import DEPTH_MAX, LENGTH_MAX, TESTS_MAX

CASES = json.loads((Path(__file__).parent.parent / "data/filter_cases.json").read_text(encoding="utf-8"))
Headers: TypeAlias = "list[tuple[str, bytes | None]]"


def to_bytes(value: Any) -> bytes | None:
    if value is None:
        return None
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else str(value).encode()


@pytest.mark.parametrize(("text", "key", "headers", "expected"), CASES["matches"])
def test_matches_as_the_table_of_cases_says(text: str, key: Any, headers: Any, expected: bool) -> None:
    found = parse(text).matches(to_bytes(key), [(name, to_bytes(value)) for name, value in headers])
    assert found is expected


@pytest.mark.parametrize(("text", "position"), CASES["errors"])
def test_an_error_names_its_position_and_what_was_expected(text: str, position: int) -> None:
    with pytest.raises(FilterSyntaxError, match=rf"^filter, position {position}: expected .+, found ") as caught:
        parse(text)
    assert caught.value.position == position
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("country = 3", """position 11: expected a string in quotes, found '3' (a value is text, as in "3")"""),
        ("country = de", """position 11: expected a string in quotes, found 'de' (a value is text, as in "3")"""),
        ("a exists und b", "position 10: expected and, or or the end, found 'und'"),
        ("IN = 'x'", '(a header of that name is written header("IN"))'),
        ("a exists and", "position 13: expected key, tags, the name of a header, not or (, found the end"),
        ("a < 'x'", "position 3: expected =, !=, has, in, not in, prefix or exists, found '<'"),
        ("a = 'x" + "y" * 500, "found \"'x" + "y" * 38 + '..."'),
        ("a = 'x\ud800'", "position 7: expected a character, found half of one (a surrogate)"),
    ],
)
def test_an_error_says_what_to_write(text: str, message: str) -> None:
    with pytest.raises(FilterSyntaxError) as caught:
        parse(text)
    assert message in str(caught.value)


# a second implementation: walks a tree of its own for each record, and writes the text from it ------------------------

Naive: TypeAlias = "tuple[Any, ...]"
NAMES = ["a", "b", "kbroker-tags", "in", "Ab-1.x", "", "ü:"]
TEXTS = [b"", b"a", b"ab", b"A", b"\xff", b"a,b", b" a", 'ü"'.encode(), b"'", b"\\"]
TAGS = [b"a", b"ab", b"\xff", b"a b", 'ü"'.encode()]
WORDS = {"key", "tags", "header", "in", "not", "and", "or", "has", "prefix", "exists"}


def naive_values(operand: str | None, key: bytes | None, headers: Headers) -> list[bytes]:
    if operand is None:
        return [] if key is None else [key]
    if operand == "TAGS":
        lists = [value for name, value in headers if name == "kbroker-tags" and value is not None]
        return [tag.strip(b" \t") for each in lists for tag in each.split(b",") if tag.strip(b" \t")]
    return [value for name, value in headers if name == operand[1:] and value is not None]


def naive(tree: Naive, key: bytes | None, headers: Headers) -> bool:
    kind = tree[0]
    if kind == "not":
        return not naive(tree[1], key, headers)
    if kind in ("and", "or"):
        return (all if kind == "and" else any)([naive(part, key, headers) for part in tree[1]])
    values = naive_values(tree[1], key, headers)
    if kind == "exists":
        return bool(values) if tree[1] in (None, "TAGS") else any(name == tree[1][1:] for name, _ in headers)
    if kind == "prefix":
        return any(value[: len(tree[2])] == tree[2] for value in values)
    hits = [value for value in values if value in tree[2]]
    return bool(hits) if kind == "in" else bool(values) and not hits


class Writer:
    """Writes a tree as a text, in one of the many ways."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def write(self, tree: Naive, inside: str = "") -> str:
        kind = tree[0]
        if kind == "not":
            return self.bracket("not", self.word("not") + " " + self.write(tree[1], "not"), inside)
        if kind in ("and", "or"):
            text = f" {self.word(kind)}{self.blank()} ".join(self.write(part, kind) for part in tree[1])
            return self.bracket(kind, text, inside)
        operand = self.operand(tree[1])
        if kind == "exists":
            return f"{operand} {self.word('exists')}"
        if kind == "prefix":
            return f"{operand} {self.word('prefix')} {self.string(tree[2])}"
        sign = {"in": ["=", self.word(" has ")], "not in": ["!="]}[kind]
        if len(tree[2]) == 1 and self.rng.random() < 0.7:
            return f"{operand}{self.blank()}{self.rng.choice(sign)}{self.blank()}{self.string(tree[2][0])}"
        return f"{operand} {self.word(kind)}{self.blank()}({','.join(self.string(each) for each in tree[2])})"

    def bracket(self, kind: str, text: str, inside: str) -> str:
        binds = ["", "or", "and", "not"]
        needed = binds.index(kind) < binds.index(inside)
        return f"({self.blank()}{text})" if needed or self.rng.random() < 0.2 else text

    def operand(self, operand: str | None) -> str:
        if operand is None or operand == "TAGS":
            return self.word("tags" if operand else "key")
        name = operand[1:]
        bare = name.isascii() and name.replace("-", "").replace(".", "").isalnum() and name.lower() not in WORDS
        if bare and self.rng.random() < 0.8:
            return name
        return f"{self.word('header')}{self.blank()}({self.blank()}{self.string(name.encode())})"

    def string(self, value: bytes) -> str:
        quote = self.rng.choice("\"'")
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return quote + "".join(f"\\x{byte:02x}" for byte in value) + quote
        return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote

    def word(self, word: str) -> str:
        return self.rng.choice([word, word, word.upper(), word.title()])

    def blank(self) -> str:
        return self.rng.choice(["", "", " ", "\n\t "])


OPERANDS = st.sampled_from([None, *(":" + name for name in NAMES)])


def comparisons(operands: st.SearchStrategy[str | None], texts: list[bytes]) -> st.SearchStrategy[Naive]:
    lists = st.lists(st.sampled_from(texts), min_size=1, max_size=3)
    return (
        st.tuples(st.sampled_from(["in", "not in"]), operands, lists)
        | st.tuples(st.just("prefix"), operands, st.sampled_from(texts))
        | st.tuples(st.just("exists"), operands)
    )


def larger(parts: st.SearchStrategy[Naive]) -> st.SearchStrategy[Naive]:
    several = st.tuples(st.sampled_from(["and", "or"]), st.lists(parts, min_size=2, max_size=3))
    return st.tuples(st.just("not"), parts) | several


TREES = st.recursive(comparisons(OPERANDS, TEXTS) | comparisons(st.just("TAGS"), TAGS), larger, max_leaves=8)
HEADERS: st.SearchStrategy[Headers] = st.lists(
    st.tuples(st.sampled_from(NAMES), st.none() | st.sampled_from(TEXTS) | st.sampled_from([b"a, ab", b"\xff,x"])),
    max_size=6,
)
KEYS = st.none() | st.sampled_from(TEXTS)
RECORDS = st.lists(st.tuples(KEYS, HEADERS), min_size=1, max_size=5)


@given(TREES, RECORDS, st.randoms(use_true_random=False))
def test_matches_what_a_naive_implementation_matches(
    tree: Naive, records: list[tuple[bytes | None, Headers]], rng: random.Random
) -> None:
    expression = parse(Writer(rng).write(tree))
    assert [expression.matches(*each) for each in records] == [naive(tree, *each) for each in records]


@given(TREES, st.randoms(use_true_random=False))
def test_it_is_the_same_expression_however_it_is_written(tree: Naive, rng: random.Random) -> None:
    one, other = parse(Writer(rng).write(tree)), parse(Writer(rng).write(tree))
    assert one == other and hash(one) == hash(other)
    assert parse(str(one)) == one == pickle.loads(pickle.dumps(one))


@given(TREES, RECORDS, st.randoms(use_true_random=False))
def test_a_match_has_one_of_the_tags_that_it_implies(
    tree: Naive, records: list[tuple[bytes | None, Headers]], rng: random.Random
) -> None:
    expression = parse(Writer(rng).write(tree))
    tags = expression.tags()
    assert tags is None or tags
    for key, headers in records:
        if tags is not None and expression.matches(key, headers):
            assert tags & tags_of(headers)


@given(TREES, st.randoms(use_true_random=False), st.data())
def test_a_text_that_was_cut_or_changed_is_an_expression_or_a_syntax_error(
    tree: Naive, rng: random.Random, data: st.DataObject
) -> None:
    text = Writer(rng).write(tree)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    check_any(text[:start] + data.draw(st.text(max_size=3)) + text[end:])


@given(st.text() | st.lists(st.sampled_from([*WORDS, "(", ")", ",", "=", "!=", '"x"', "'", "a"])).map(" ".join))
def test_any_text_is_an_expression_or_a_syntax_error(text: str) -> None:
    check_any(text)


def check_any(text: str) -> None:
    try:
        expression = parse(text)
    except FilterSyntaxError as error:
        assert 1 <= error.position <= len(text) + 1
    else:
        assert parse(str(expression)) == expression
        assert isinstance(expression.matches(b"", [("a", None)]), bool)


# tags -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("tags has 'a'", {"a"}),
        ("tags in ('a', 'b')", {"a", "b"}),
        ("tags has 'a' or tags has 'b'", {"a", "b"}),
        ("tags has 'a' and x exists", {"a"}),
        ("tags in ('a', 'b') and tags has 'c'", {"c"}),
        ("tags has 'a' or x exists", None),
        ("tags != 'a'", None),
        ("not tags has 'a'", None),
        ("not not tags has 'a'", {"a"}),
        ("not (not tags has 'a' or x exists)", {"a"}),
        ("not (not tags has 'a' and not tags has 'b')", {"a", "b"}),
        ("not (not tags has 'a' and x exists)", None),
        ("tags prefix 'a'", None),
        ("tags exists", None),
        ("kbroker-tags = 'a'", None),
        ("header('tags') = 'a'", None),
        ("key = 'a'", None),
    ],
)
def test_tags_are_those_of_which_every_match_has_one(text: str, tags: set[str] | None) -> None:
    assert parse(text).tags() == (tags and {tag.encode() for tag in tags})


class Watched(bytes):
    """Notes how much was split in one go."""

    longest = 0

    def split(self, *args: Any) -> list[bytes]:
        Watched.longest = max(Watched.longest, len(self))
        return super().split(*args)

    def __getitem__(self, key: Any) -> Any:
        return Watched(super().__getitem__(key))


def test_a_long_value_is_split_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "SPLIT_BYTES", 10)
    for value in (b"eu,us," * 5, b", a ,b" * 9, b"0123456789,0123456789", b"0" * 40 + b",,", b"eu,us,vip,", b"," * 30):
        assert split_tags(Watched(value)) == {tag.strip() for tag in value.split(b",")} - {b""}
    assert Watched.longest <= 40, "a piece ends with the first tag that fills it"
    monkeypatch.undo()
    assert len(split_tags(Watched(b"%d," * 50_000 % tuple(range(50_000))))) == 50_000
    assert Watched.longest <= tags.SPLIT_BYTES + 10


def test_many_values_are_sorted_some_at_a_time() -> None:
    values = Values(b"%d" % n for n in range(10 * SORTED_AT_ONCE))
    assert values.begin_with(b"40") and values.begin_with(b"%d" % (10 * SORTED_AT_ONCE - 1))
    assert not values.begin_with(b"a") and not values.begin_with(b"%d" % (10 * SORTED_AT_ONCE))
    assert max(map(len, values._ordered)) == SORTED_AT_ONCE and sum(map(len, values._ordered)) == len(values)


def test_tags_are_split_at_commas_and_blanks_around_them_do_not_count() -> None:
    assert split_tags(b" a,\tb c ,,a, ") == {b"a", b"b c"}
    assert split_tags(b"") == split_tags(b" , ") == set()
    headers = [("kbroker-tags", b"a"), ("x", b"y"), ("kbroker-tags", None), ("kbroker-tags", b"b")]
    assert tags_of(headers) == {b"a", b"b"}


def test_it_says_whether_it_reads_the_key() -> None:
    assert parse("a exists or key = 'x'").reads_key
    assert not parse("a exists or header('key') = 'x'").reads_key


# bounds ---------------------------------------------------------------------------------------------------------------


def position_of_error(text: str) -> int:
    with pytest.raises(FilterSyntaxError) as caught:
        parse(text)
    return caught.value.position


def test_length_depth_and_tests_are_bounded() -> None:
    assert parse(fill := "a = '" + "x" * (LENGTH_MAX - 6) + "'")
    assert position_of_error(fill + " ") == LENGTH_MAX + 1
    assert parse("(" * DEPTH_MAX + "a exists" + ")" * DEPTH_MAX)
    assert position_of_error("(" * (DEPTH_MAX + 1) + "a exists") == DEPTH_MAX + 1
    assert parse("not " * DEPTH_MAX + "a exists")
    assert position_of_error("not " * (DEPTH_MAX + 1) + "a exists") == 4 * DEPTH_MAX + 1
    assert position_of_error("(" * LENGTH_MAX) == DEPTH_MAX + 1
    assert parse(" and ".join(["a exists"] * TESTS_MAX))
    assert position_of_error(" or ".join(["a exists"] * (TESTS_MAX + 1))) == 12 * TESTS_MAX + 1


class Counted(bytes):
    """Bytes that count how often one of them is hashed or looked at."""

    touched = 0

    def __hash__(self) -> int:
        Counted.touched += 1
        return super().__hash__()

    def startswith(self, *args: Any) -> bool:
        Counted.touched += 1
        return super().startswith(*args)

    def __lt__(self, other: bytes) -> bool:
        Counted.touched += 1
        return super().__lt__(other)


@pytest.mark.parametrize("test", ["= '{}'", "!= '{}'", "in ('{}', 'y')", "not in ('{}', 'y')", "prefix '{}'", "exists"])
def test_neither_record_nor_expression_makes_the_other_slow(test: str) -> None:
    """The most headers of one name, the most tests of it: not one times the other."""
    count = 20_000
    headers: list[tuple[str, bytes | None]] = [("x", Counted(b"value %d" % each)) for each in range(count)]
    expression = parse(" and ".join(f"not x {test.format(number)}" for number in range(TESTS_MAX)))
    Counted.touched = 0
    expression.matches(None, headers)
    assert Counted.touched <= count * 20  # sorting takes count * log2(count)


def test_an_expression_shows_itself() -> None:
    expression = parse("a  =  'x'")
    assert str(expression) == "a  =  'x'" and repr(expression) == """parse("a  =  'x'")"""
    assert expression != "a  =  'x'" and isinstance(expression, Expression)
