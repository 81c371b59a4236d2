"""The parts of a record in JSON: every form, and every mistake in words."""

from __future__ import annotations

import pytest

from kbroker.cli.json_records import as_bytes, as_headers, as_object, is_bytes


def test_bytes_are_text_null_or_base64() -> None:
    assert [as_bytes(told, "key") for told in ("\u00e4", "", None, {"base64": "AP8="})] == [
        b"\xc3\xa4", b"", None, b"\x00\xff"
    ]  # fmt: skip
    assert not any(map(is_bytes, (1, True, [], {}, {"base64": "", "more": 1})))


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (1, 'key: neither text, null nor {"base64": "..."}'),
        ({"base64": "*"}, "key: what base64 says is not Base64"),
        ({"base64": None}, "key: what base64 says is not Base64"),
        ("\ud800", "key: half of a character (\\uD800 to \\uDFFF) is not text"),
    ],
)
def test_what_are_no_bytes(told: object, why: str) -> None:
    with pytest.raises(ValueError) as wrong:
        as_bytes(told, "key")
    assert str(wrong.value) == why


@pytest.mark.parametrize(
    "told",
    [{"a": "1", "b": None}, ["a", "1", "b", None], [{"key": "a", "value": "1"}, {"key": "b", "value": None}]],
)
def test_headers_have_three_forms(told: object) -> None:
    assert as_headers(told) == (("a", b"1"), ("b", None))


def test_a_name_may_come_twice() -> None:
    assert as_headers(["a", "1", "a", "2"], lambda value, what: what.encode()) == (
        ("a", b"header a"), ("a", b"header a")
    )  # fmt: skip
    assert as_headers(None) == as_headers([]) == as_headers({}) == ()


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (["a"], "headers: expected names and values"),
        (7, "headers: expected names and values"),
        ("", "headers: expected names and values"),
        ([1, "a"], "headers: a name is not text"),
        ({"\ud800": "a"}, "headers: half of a character"),
        ({"a": 1}, "header a: neither text"),
    ],
)
def test_what_are_no_headers(told: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        as_headers(told)


@pytest.mark.parametrize(
    ("line", "why"), [("{", "not JSON, column 2: '{'"), (b"\xff", "not JSON: "), ("[]", r"not a JSON object: '\[\]'")]
)
def test_what_is_no_object(line: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        as_object(line)
