r"""What may be written in the filter language, and the tree it makes.

    expression = conjunction { "or" conjunction }
    conjunction = factor { "and" factor }
    factor     = "not" factor | "(" expression ")" | test
    test       = operand ( ("=" | "!=" | "has") string | ["not"] "in" "(" string { "," string } ")"
                         | "prefix" string | "exists" )
    operand    = "key" | "tags" | word | "header" "(" string ")"
    word       = letter or _, then letters, digits, _ . -            the name of a header
    string     = "..." or '...', with the escapes \\ \" \' and \xHH, a byte

The words of the language may be in upper or lower case; in header names and strings, upper and lower case differ. A
header whose name is a word of the language, or holds other characters, is written header("...").

`=` is `in` of one string, and so is `has`; `!=` is `not in` of one. So the tree knows four tests: IN, NOT_IN, PREFIX,
EXISTS. Nested parts of the same kind are one: `a and (b and c)` is `a and b and c`.

An expression is bounded in length, depth (parentheses and `not` within each other) and tests. Parsing it is linear.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple, NoReturn, TypeAlias

from kbroker.filters.tags import BLANKS

LENGTH_MAX = 16 * 1024  # characters
DEPTH_MAX = 32
TESTS_MAX = 64


class FilterSyntaxError(ValueError):
    """A text that is no expression: at `position` (characters, from 1) stands `found`, and not what was `expected`."""

    def __init__(self, position: int, expected: str, found: str) -> None:
        super().__init__(f"filter, position {position}: expected {expected}, found {found}")
        self.position, self.expected, self.found = position, expected, found

    def __reduce__(self) -> tuple[type[FilterSyntaxError], tuple[int, str, str]]:
        return FilterSyntaxError, (self.position, self.expected, self.found)


class Kind(Enum):
    """What of a record a test looks at."""

    KEY = "key"
    TAGS = "tags"
    HEADER = "header"


class Operand(NamedTuple):
    """What a test looks at; `name` is that of a header."""

    kind: Kind
    name: str = ""


class Operator(Enum):
    """How a test looks at it."""

    IN = "in"
    NOT_IN = "not in"
    PREFIX = "prefix"
    EXISTS = "exists"


class Test(NamedTuple):
    """One comparison. `values`: of IN and NOT_IN one or more, of PREFIX one, of EXISTS none."""

    operand: Operand
    operator: Operator
    values: frozenset[bytes] = frozenset()


class Not(NamedTuple):
    """What holds where `part` does not."""

    part: Tree


class All(NamedTuple):
    """What holds where each of two or more parts holds. None of them is an All."""

    all_of: tuple[Tree, ...]


class Any(NamedTuple):
    """What holds where one of two or more parts holds. None of them is an Any."""

    any_of: tuple[Tree, ...]


Tree: TypeAlias = Test | Not | All | Any

_WORDS = frozenset(("and", "or", "not", "in", "prefix", "has", "exists", "key", "tags", "header"))
_OPERATORS = frozenset(("=", "!=", "has", "in", "not", "prefix", "exists"))
_NAME: Final = "a name"
_STRING: Final = "a string in quotes"
_END: Final = "the end"
_OPERAND: Final = "key, tags, the name of a header, not or ("
_OPERATOR: Final = "=, !=, has, in, not in, prefix or exists"
_TAG: Final = "a tag (not empty, without commas, without blanks around it)"
_SHOWN_MAX = 40  # characters of what was found

_blanks = re.compile(r"[ \t\r\n]*").match
_word = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*").match
_plain = {'"': re.compile(r'[^"\\]*').match, "'": re.compile(r"[^'\\]*").match}
_escape = re.compile(r"\\(?:([\\\"'])|x([0-9A-Fa-f]{2}))").match


def parse_tree(text: str) -> Tree:
    """The tree of an expression. Raises FilterSyntaxError."""
    if len(text) > LENGTH_MAX:
        raise FilterSyntaxError(LENGTH_MAX + 1, f"at most {LENGTH_MAX} characters", f"{len(text)}")
    parser = _Parser(text)
    tree = parser.expression()
    if parser.token.kind != _END:
        parser.fail("and, or or the end")
    return tree


class _Token(NamedTuple):
    """`kind`: a word of the language, in lower case; "a name", any other word; "a string", with its bytes as `value`;
    a sign; "the end".
    """

    kind: str
    start: int
    end: int
    value: bytes = b""


class _Parser:
    """Reads from left to right, one token ahead. Each method begins at `token` and leaves it after what it has read."""

    def __init__(self, text: str) -> None:
        self.text, self.depth, self.tests = text, 0, 0
        self.token = self.read(0)

    def expression(self) -> Tree:
        """conjunction { "or" conjunction }"""
        parts = [self.conjunction()]
        while self.token.kind == "or":
            self.advance()
            parts.append(self.conjunction())
        if len(parts) == 1:
            return parts[0]
        return Any(tuple(each for part in parts for each in (part.any_of if isinstance(part, Any) else (part,))))

    def conjunction(self) -> Tree:
        """factor { "and" factor }"""
        parts = [self.factor()]
        while self.token.kind == "and":
            self.advance()
            parts.append(self.factor())
        if len(parts) == 1:
            return parts[0]
        return All(tuple(each for part in parts for each in (part.all_of if isinstance(part, All) else (part,))))

    def factor(self) -> Tree:
        """What `not` makes of a factor, an expression in parentheses, or a test."""
        if self.token.kind not in ("not", "("):
            return self.test()
        if self.depth == DEPTH_MAX:
            self.fail(f"at most {DEPTH_MAX} parentheses and nots within each other")
        self.depth += 1
        opening = self.advance()
        if opening.kind == "(":
            part = self.expression()
            self.take(")", "and, or or )")
        else:
            part = Not(self.factor())
        self.depth -= 1
        return part

    def test(self) -> Tree:
        """An operand, and what is asked of it."""
        if self.tests == TESTS_MAX:
            self.fail(f"at most {TESTS_MAX} tests")
        self.tests += 1
        operand = self.operand()
        operator = self.token.kind
        if operator not in _OPERATORS:
            self.fail(_OPERATOR)
        self.advance()
        if operator == "exists":
            return Test(operand, Operator.EXISTS)
        if operator == "prefix":
            return Test(operand, Operator.PREFIX, frozenset((self.take(_STRING, _STRING).value,)))
        if operator == "not":
            self.take("in", "in")
        values = self.list_of(operand) if operator in ("in", "not") else frozenset((self.value(operand),))
        return Test(operand, Operator.NOT_IN if operator in ("!=", "not") else Operator.IN, values)

    def operand(self) -> Operand:
        """The key, the tags or a header."""
        token = self.token
        if token.kind == _NAME:
            self.advance()
            return Operand(Kind.HEADER, self.text[token.start : token.end])
        if token.kind in ("key", "tags"):
            self.advance()
            return Operand(Kind(token.kind))
        if token.kind != "header":
            self.fail(_OPERAND)
        self.advance()
        self.take("(", '( as in header("name")')
        token = self.take(_STRING, _STRING)
        self.take(")", ")")
        try:
            return Operand(Kind.HEADER, token.value.decode())
        except UnicodeDecodeError:
            self.fail("the name of a header, in UTF-8", token)

    def list_of(self, operand: Operand) -> frozenset[bytes]:
        """Values in parentheses."""
        self.take("(", "( and strings in quotes")
        values = {self.value(operand)}
        while self.token.kind == ",":
            self.advance()
            values.add(self.value(operand))
        self.take(")", ", or )")
        return frozenset(values)

    def value(self, operand: Operand) -> bytes:
        """A whole value. A tag that no record can have is told at once, for it would never match."""
        token = self.take(_STRING, _STRING)
        value = token.value
        if operand.kind is Kind.TAGS and (not value or b"," in value or value.strip(BLANKS) != value):
            self.fail(_TAG, token)
        return value

    def take(self, kind: str, expected: str) -> _Token:
        if self.token.kind != kind:
            self.fail(expected)
        return self.advance()

    def advance(self) -> _Token:
        token = self.token
        self.token = self.read(token.end)
        return token

    def read(self, position: int) -> _Token:
        """The token at or after `position`."""
        text = self.text
        start = _end(_blanks(text, position))
        if start == len(text):
            return _Token(_END, start, start)
        sign = text[start]
        if word := _word(text, start):
            lower = word[0].lower()
            return _Token(lower if lower in _WORDS else _NAME, start, word.end())
        if sign in "\"'":
            return self.string(start)
        if text.startswith("!=", start):
            return _Token("!=", start, start + 2)
        return _Token(sign, start, start + 1)

    def string(self, start: int) -> _Token:
        """The string whose opening quote stands at `start`."""
        text, quote = self.text, self.text[start]
        parts, position = bytearray(), start + 1
        while True:
            plain = _plain[quote](text, position)
            assert plain is not None
            parts += self.encoded(plain)
            position = plain.end()
            if text.startswith(quote, position):
                return _Token(_STRING, start, position + 1, value=bytes(parts))
            if position == len(text):
                raise FilterSyntaxError(start + 1, "a string with its closing quote", _shown(text[start:]))
            escape = _escape(text, position)
            if escape is None:
                found = _shown(text[position : position + 4])
                raise FilterSyntaxError(position + 1, r"one of the escapes \\ \" \' \xHH", found)
            parts += escape[1].encode() if escape[1] else bytes((int(escape[2], 16),))
            position = escape.end()

    def encoded(self, plain: re.Match[str]) -> bytes:
        """Plain characters of a string, in UTF-8."""
        try:
            return plain[0].encode()
        except UnicodeEncodeError as error:
            position = plain.start() + error.start
            raise FilterSyntaxError(position + 1, "a character", "half of one (a surrogate)") from None

    def fail(self, expected: str, token: _Token | None = None) -> NoReturn:
        """Not what was `expected` is at `token`, or at the next one."""
        token = token or self.token
        found = self.text[token.start : token.end]
        if token.kind == _END:
            raise FilterSyntaxError(token.start + 1, expected, _END)
        hint = ""
        if expected is _OPERAND and token.kind in _WORDS:
            hint = f' (a header of that name is written header("{found}"))'
        elif expected is _STRING and token.kind != _STRING:
            hint = ' (a value is text, as in "3")'
        raise FilterSyntaxError(token.start + 1, expected, _shown(found) + hint)


def _end(match: re.Match[str] | None) -> int:
    assert match is not None, "the pattern matches the empty string too"
    return match.end()


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "...")
