"""Regular expressions over names: RE2's syntax; where Python's re shares it, its meaning; and linear time."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.regex import InvalidRegex, Regex

NAMES = ["foo", "foo-1", "foo.bar", "FOO", "a", "aaaa", "orders_eu", "ab12", "x"]

SAME_AS_RE = [
    "foo.*", "foo|bar", r"f(o)+(-\d)?", "(?i)foo", "[a-c]+", "[^a]+", "a{2,4}", "a{4}", "a{2,}", "^foo$", r"\bfoo\b.*",
    r"foo\.bar", "(?:foo|orders)_?.*", "(?P<x>foo).*", r"[\w.-]+", "a*?a", "", "()", "(a|)+", r"foo\B.+", r"[a\-z]+",
    "[]a]+", "(?i:f)oo", "(a|aa)+", r"\Afoo", r"[\d\D]+", r"\x66oo", "x{1}", "{a", "[^\\W_]+", "(?s).*", "a??",
]  # fmt: skip


@pytest.mark.parametrize("text", SAME_AS_RE)
def test_matches_what_re_matches(text: str) -> None:
    ours = Regex(text)
    assert [ours.matches(name) for name in NAMES] == [bool(re.fullmatch(text, name)) for name in NAMES]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[[:alpha:]]+", ["foo", "FOO", "a", "aaaa", "x"]),
        ("[[:^alpha:].]+", []),
        (r"\pL+", ["foo", "FOO", "a", "aaaa", "x"]),
        (r"\p{Lu}+", ["FOO"]),
        (r"\P{L}*foo", ["foo"]),
        (r"\Qfoo.\E.*", ["foo.bar"]),
        (r"foo\z", ["foo"]),
        ("(?<x>foo)", ["foo"]),
        ("(?U)fo+", ["foo"]),
        (r"\x{66}oo", ["foo"]),
    ],
)  # fmt: skip
def test_what_re_does_not_know(text: str, names: list[str]) -> None:
    ours = Regex(text)
    assert [name for name in NAMES if ours.matches(name)] == names


@pytest.mark.parametrize(
    "text",
    [
        "a**", "(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b", r"\1", r"(a)\1", "(a", "a)", "*a", "|*", "(?P=x)", "(?P<x",
        "(?>a)", "a*+", "[b-a]", "[a", "[", "a{1001}", "a{3,2}", "a{99999}", "[[:foo:]]", r"\p{Greek}", r"\y", "\\",
        r"\xZZ", r"\x{", "(?", "(?i", "(?P<>a)", "(?(1)a)", "(a{1000}){1000}", "(" * 100 + ")" * 100, "a" * 2000,
        "(((){1000}){1000}){1000}",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(InvalidRegex):
        Regex(text)


@given(st.text(alphabet="ab.-|*+?(){}[]^$\\1,:idPx<>=!", max_size=12), st.text(alphabet="ab1-", max_size=6))
def test_any_text_is_an_expression_or_refused(text: str, name: str) -> None:
    """And where re agrees that it is one, both agree what it means."""
    try:
        ours = Regex(text)
    except InvalidRegex:
        return
    found = ours.matches(name)
    try:
        theirs = re.compile(text)
    except re.error:
        return
    if "{," not in text and "[[" not in text and not re.search(r"\$.|\)\?\?|\\x", text):
        assert found == bool(theirs.fullmatch(name))


@pytest.mark.parametrize("text", ["(a+)+b", "(a|a)*b", ".*" * 50 + "b", "(a?){200}a{200}b", "((a{0,20}){0,20}b)"])
def test_no_expression_stalls(text: str) -> None:
    """A pause stands for a bounded piece of work; exponential would be more than anybody counts."""
    for pauses, _ in enumerate(Regex(text).matching(["a" * 249])):
        assert pauses < 5_000
    assert not Regex(text).matches("a" * 249)


@pytest.mark.parametrize(
    ("text", "name", "is_match"),
    [
        (".", "é", True), ("é", "é", True), ("(?i)É", "é", True), ("[^a]", "é", True), (r"\w", "é", False),
        (r"\W", "é", True), (r"\p{L}", "é", True), (r"\p{Lu}", "é", False), (r"\P{Lu}", "é", True),
        ("[а-я]+", "заказ", True), ("[а-я]+", "order", False), (r"\x{e9}", "é", True),
        ("[[:alpha:]]", "é", False), (".", "\n", False), ("(?s).", "\n", True), ("(?s:.).", "\n\n", False),
        (r"\s", "\t", True), (r"a\sb", "a b", True), (r"[^\d\W]+", "abc", True), (r"[^\d\W]+", "a1", False),
        ("(?i)straße", "STRAßE", True), (r"\p{So}", "\U0001f600", True), ("", "", True), (".", "", False),
        (".*", "\U0001f600" * 3, True),
    ],
)  # fmt: skip
def test_names_of_any_characters(text: str, name: str, is_match: bool) -> None:
    assert Regex(text).matches(name) == is_match


def test_a_large_class_that_is_repeated_is_looked_at_once() -> None:
    regex = Regex("[" + "".join(chr(0x400 + 2 * n) for n in range(900)) + "]{1000}")
    pauses = sum(1 for _ in regex.matching(["\u0401" * 1000, "x" * 1000]))
    assert pauses < 100


def test_a_long_name_is_looked_at_no_further_than_it_may_match() -> None:
    looked_at = []

    class Name(str):
        def __iter__(self) -> Iterator[str]:
            for char in str(self):
                looked_at.append(char)
                yield char

    assert not Regex("yes.*").matches(Name("x" * 32_000))
    assert looked_at == ["x"]
