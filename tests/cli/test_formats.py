"""Formats of records: what goes out, and that what goes out can be read back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.cli.topics.formats import Input, Output, Parsed, Shown, json_line, parse_header

RECORD = Shown("demo", 3, 42, 1700, b"key", b"value", (("a", b"1"), ("b", None)))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"%v\n", b"value\n"),
        ("%s", b"value"),
        ("%t-%p@%o %d %T", b"demo-3@42 1700 1700"),
        ("%k|%h|", b"key|a=1,b=|"),
        ("%K %V %S", b"3 5 5"),
        ("100%% %v", b"100% value"),
        (r"\t\x41\\\0", b"\tA\\\0"),
        ("%k{hex} %v{base64}", b"6b6579 dmFsdWU="),
        ("", b""),
    ],
)
def test_output(pattern: str, text: bytes) -> None:
    assert Output(pattern)(RECORD) == text


def test_null_is_empty_with_length_minus_one() -> None:
    assert Output("%k,%K,%v,%V")(RECORD._replace(key=None, value=None)) == b",-1,,-1"


@pytest.mark.parametrize("pattern", ["%q", "%v %x"])
def test_unknown_field(pattern: str) -> None:
    with pytest.raises(ValueError, match="is not a field"):
        Output(pattern)


@pytest.mark.parametrize(
    ("pattern", "line", "parsed"),
    [
        ("%v", b"a b", Parsed(None, b"a b", [])),
        (r"%v\n", b"a", Parsed(None, b"a", [])),
        (r"%k\t%v", b"a\tb\tc", Parsed(b"a", b"b\tc", [])),
        ("%k: %v", b": ", Parsed(b"", b"", [])),
        ("[%h] %v", b"[x=1,y=] z", Parsed(None, b"z", [("x", b"1"), ("y", b"")])),
        ("%k{hex} %v{base64}", b"6b aGk=", Parsed(b"k", b"hi", [])),
    ],
)
def test_input(pattern: str, line: bytes, parsed: Parsed) -> None:
    assert Input(pattern).parse(line) == parsed


@pytest.mark.parametrize(("pattern", "line"), [("%k:%v", b"no colon"), ("%v{hex}", b"xy"), ("%v{base64}", b"*")])
def test_input_that_does_not_fit(pattern: str, line: bytes) -> None:
    with pytest.raises(ValueError):
        Input(pattern).parse(line)


def test_input_has_no_offset() -> None:
    with pytest.raises(ValueError, match="no meaning for input"):
        Input("%o %v")


@given(st.binary(), st.binary())
def test_what_goes_out_comes_back(key: bytes, value: bytes) -> None:
    line = Output("%k{hex} %v{hex}")(RECORD._replace(key=key, value=value))
    assert Input("%k{hex} %v{hex}").parse(line)[:2] == (key, value)


def test_header() -> None:
    assert parse_header("a:b:c") == ("a", b"b:c")
    with pytest.raises(ValueError):
        parse_header(":b")


def test_json() -> None:
    fields = json.loads(json_line(RECORD._replace(key=None, value=b"\xff")))
    assert fields["key"] is None
    assert fields["payload"] == {"base64": "/w=="}
    assert fields["headers"] == ["a", "1", "b", None]
