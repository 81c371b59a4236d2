"""Regular expressions in RE2's syntax, matched against whole names in time proportional to the name.

    text ──parse──▶ tree ──emit──▶ program ──simulate, all states at once──▶ yes or no

Kafka evaluates what clients send with RE2/J (KIP-848, KIP-1152), because no expression of theirs must be able to stall
the broker. Python's `re` can be stalled by `(a+)+b`, so it is not used: the program is run as RE2 does, without
backtracking, and steps taken once are remembered. There are, as in RE2, no backreferences, lookarounds, atomic groups,
conditionals or possessive repeats. An expression has to match the whole name. Many names are matched in turns.

\\d, \\w, \\s and [[:alpha:]] are ASCII, as in RE2; \\p{...} knows the general categories, no scripts. ^ and $ are the
ends of the name, also under (?m). Bounds: the text, the depth of parentheses, the program, the remembered steps, the
work of matching many names; a repeat up to 1000 (RE2's).
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, TypeAlias

from kbroker.turns import Work, at_once

TEXT_MAX = 1024
DEPTH_MAX = 64
PROGRAM_MAX = 1_500
EMITTED_MAX = 4_000  # parts of the tree, each as often as it is repeated: (){1000} makes no program, but work
REPEAT_MAX = 1_000
REMEMBERED_BYTES = 1024 * 1024  # of steps that an expression remembers, roughly
COMPILED_MAX = 32
TOIL_A_PAUSE = 200  # between two pauses: characters, and places looked at
TOIL_MAX = 20_000_000  # of matching many names: some ten seconds, in turns

Ranges: TypeAlias = "tuple[tuple[str, str], ...]"  # first and last character of each


def _ranges(*pairs: str) -> Ranges:
    return tuple((pair[0], pair[-1]) for pair in pairs)


_WORD = frozenset(string.ascii_letters + string.digits + "_")
_CLASSES: dict[str, Ranges] = {
    "d": _ranges("09"),
    "w": _ranges("09", "AZ", "_", "az"),
    "s": _ranges("\t\n", "\f", "\r", " "),
}
_POSIX: dict[str, Ranges] = {
    "alnum": _ranges("09", "AZ", "az"),
    "alpha": _ranges("AZ", "az"),
    "ascii": _ranges("\0\x7f"),
    "blank": _ranges("\t", " "),
    "cntrl": _ranges("\0\x1f", "\x7f"),
    "digit": _ranges("09"),
    "graph": _ranges("!~"),
    "lower": _ranges("az"),
    "print": _ranges(" ~"),
    "punct": _ranges("!/", ":@", "[`", "{~"),
    "space": _ranges("\t\r", " "),
    "upper": _ranges("AZ"),
    "word": _ranges("09", "AZ", "_", "az"),
    "xdigit": _ranges("09", "AF", "af"),
}
_CATEGORIES = frozenset(
    major + minor
    for major, minors in {
        "L": "ultmo", "M": "nce", "N": "dlo", "P": "cdseifo", "S": "mcko", "Z": "slp", "C": "cfos"
    }.items()
    for minor in ("", *minors)
)  # fmt: skip
_CONTROL = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}
_OPERATORS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_ASSERTIONS = {"A": "^", "z": "$", "b": "b", "B": "B"}


class InvalidRegex(ValueError):
    """The text is not a regular expression in RE2's syntax, or too large. Says why."""


class TooCostly(Exception):
    """Names cannot be matched with this expression in a reasonable time. Says why."""


class _Item(NamedTuple):
    """The characters in some ranges and of a general category; or all others."""

    ranges: Ranges
    category: str = ""
    negated: bool = False

    @property
    def only(self) -> str | None:
        """Its character, if it is a single one."""
        is_single = len(self.ranges) == 1 and self.ranges[0][0] == self.ranges[0][1] and not self.negated
        return self.ranges[0][0] if is_single else None

    def has(self, char: str) -> bool:
        found = any(low <= char <= high for low, high in self.ranges)
        if self.category and not found:
            found = unicodedata.category(char).startswith(self.category)
        return found != self.negated


class _Chars(NamedTuple):
    """The characters of some items, or all others. fold: letter case aside."""

    items: tuple[_Item, ...]
    negated: bool = False
    fold: bool = False

    def has(self, char: str) -> bool:
        """Whether a character is one of them; the empty one, at the end of a name, is none."""
        if not char:
            return False
        both = {char, char.swapcase()} if self.fold else (char,)
        return any(item.has(each) for each in both if len(each) == 1 for item in self.items) != self.negated


class _Assert(NamedTuple):
    kind: str  # ^ $ b B


class _All(NamedTuple):
    parts: list[_Node]


class _Any(NamedTuple):
    parts: list[_Node]


class _Repeat(NamedTuple):
    part: _Node
    low: int
    high: int | None  # None: no limit


_Node: TypeAlias = "_Chars | _Assert | _All | _Any | _Repeat"


class _Parser:
    """Recursive descent over the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.fold = False  # (?i)
        self.dot_all = False  # (?s)

    def parse(self) -> _Node:
        node = self._alternatives()
        if self.at < len(self.text):
            raise InvalidRegex("unexpected )")
        return node

    def _peek(self, size: int = 1) -> str:
        return self.text[self.at : self.at + size]

    def _next(self) -> str:
        if self.at >= len(self.text):
            raise InvalidRegex("unexpected end")
        self.at += 1
        return self.text[self.at - 1]

    def _take(self, expected: str) -> bool:
        found = self.text.startswith(expected, self.at)
        self.at += len(expected) * found
        return found

    def _alternatives(self) -> _Node:
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else _Any(parts)

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self.at < len(self.text) and self._peek() not in "|)":
            if self._take("\\Q"):
                end = self.text.find("\\E", self.at)
                literal = self.text[self.at :] if end < 0 else self.text[self.at : end]
                self.at = len(self.text) if end < 0 else end + 2
                parts.extend(self._literal(char) for char in literal)
                continue
            parts.append(self._repeated())
        return parts[0] if len(parts) == 1 else _All(parts)

    def _repeated(self) -> _Node:
        if self._peek() in "*+?":
            raise InvalidRegex(f"missing argument to repetition operator: {self._peek()}")
        node = self._atom()
        bounds = self._bounds()
        if bounds is not None:
            self._take("?")  # lazy or greedy: the name matches or does not
            if self._bounds() is not None:
                raise InvalidRegex("invalid nested repetition operator")
            node = _Repeat(node, *bounds)
        return node

    def _bounds(self) -> tuple[int, int | None] | None:
        """A repetition operator, if there is one. {...} that is none is literal, as in RE2."""
        operator = self._peek()
        if operator in _OPERATORS:
            self.at += 1
            return _OPERATORS[operator]
        if operator != "{":
            return None
        end = self.text.find("}", self.at)
        if end < 0:
            return None
        low, comma, high = self.text[self.at + 1 : end].partition(",")
        if not _is_number(low) or (high and not _is_number(high)):
            return None
        if len(low) > 4 or len(high) > 4 or max(int(low), int(high or 0)) > REPEAT_MAX:
            raise InvalidRegex(f"bad repetition operator: {self.text[self.at : end + 1][:20]}")
        if high and int(high) < int(low):
            raise InvalidRegex(f"bad repetition operator: {self.text[self.at : end + 1]}")
        self.at = end + 1
        return int(low), (int(high) if high else None) if comma else int(low)

    def _atom(self) -> _Node:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return self._class()
        if char == ".":
            return _Chars(() if self.dot_all else (_LINE_END,), negated=True)
        if char in "^$":
            return _Assert(char)
        return self._escape() if char == "\\" else self._literal(char)

    def _literal(self, char: str) -> _Chars:
        return _Chars((_Item(((char, char),)),), fold=self.fold)

    def _group(self) -> _Node:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise InvalidRegex("expression nests too deeply")
        flags = self.fold, self.dot_all
        if self._take("?") and self._extension():
            self.depth -= 1
            return _All([])  # (?i): from here to the end of the group around it
        node = self._alternatives()
        if not self._take(")"):
            raise InvalidRegex("missing closing )")
        self.fold, self.dot_all = flags
        self.depth -= 1
        return node

    def _extension(self) -> bool:
        """What follows (?. True: flags that stand alone, closed already."""
        if self._peek(2) in ("P<", "<a") or (self._peek() == "<" and self._peek(2) not in ("<=", "<!")):
            self._take("P")
            name = self.text[self.at + 1 :].partition(">")[0]
            if not name or not set(name) <= _WORD or len(name) + self.at + 1 >= len(self.text):
                raise InvalidRegex("invalid named capture")
            self.at += len(name) + 2
            return False
        on = True
        start = self.at
        while True:
            char = self._next()
            if char == "i":
                self.fold = on
            elif char == "s":
                self.dot_all = on
            elif char == "-" and on:
                on = False
            elif char == ":":
                return False
            elif char == ")" and self.at > start + 1:
                return True
            elif char not in "mU":  # which change nothing here: a name is one line, and matches or does not
                raise InvalidRegex(f"invalid or unsupported Perl syntax: (?{self.text[start : self.at]}")

    def _escape(self) -> _Node:
        char = self._next()
        if char in _ASSERTIONS:
            return _Assert(_ASSERTIONS[char])
        self.at -= 1
        return _Chars((self._escaped(),), fold=self.fold)

    def _escaped(self) -> _Item:
        """What stands after a backslash, in a class or outside."""
        char = self._next()
        if char.lower() in _CLASSES:
            return _Item(_CLASSES[char.lower()], negated=char.isupper())
        if char in "pP":
            return self._unicode(char == "P")
        if char == "x":
            return _single(self._hex())
        if char in _CONTROL:
            return _single(_CONTROL[char])
        if char == "0":
            digits = self.text[self.at : self.at + 2]
            octal = digits[: len(digits) - len(digits.lstrip("01234567"))]
            self.at += len(octal)
            return _single(chr(int(octal or "0", 8)))
        if char.isascii() and not char.isalnum():
            return _single(char)
        raise InvalidRegex(f"invalid escape sequence: \\{char}")

    def _unicode(self, negated: bool) -> _Item:
        name = self._next()
        if name == "{":
            end = self.text.find("}", self.at)
            if end < 0:
                raise InvalidRegex("invalid character class range: \\p{")
            name, self.at = self.text[self.at : end], end + 1
        if name.startswith("^"):
            name, negated = name[1:], not negated
        if name not in _CATEGORIES:
            raise InvalidRegex(f"invalid character class range: \\p{{{name[:20]}}}")
        return _Item((), name, negated)

    def _hex(self) -> str:
        if self._take("{"):
            end = self.text.find("}", self.at)
            digits = self.text[self.at : end] if end >= 0 else ""
            self.at = end + 1
        else:
            digits = self.text[self.at : self.at + 2]
            self.at += 2
            if len(digits) < 2:
                digits = ""
        if not digits or len(digits) > 6 or not set(digits) <= set(string.hexdigits) or int(digits, 16) > 0x10FFFF:
            raise InvalidRegex("invalid escape sequence: \\x")
        return chr(int(digits, 16))

    def _class(self) -> _Chars:
        negated = self._take("^")
        items: list[_Item] = []
        while not items or not self._take("]"):
            if self.at >= len(self.text):
                raise InvalidRegex("missing closing ]")
            items.append(self._class_item())
        return _Chars(tuple(items), negated, self.fold)

    def _class_item(self) -> _Item:
        if self._take("[:"):
            end = self.text.find(":]", self.at)
            name = self.text[self.at : end] if end >= 0 else ""
            found = _POSIX.get(name.removeprefix("^"))
            if found is None:
                raise InvalidRegex(f"invalid character class range: [:{name[:20]}:]")
            self.at = end + 2
            return _Item(found, negated=name.startswith("^"))
        low = self._class_char()
        if self._peek() != "-" or self._peek(2) in ("-]", "-"):
            return low
        self.at += 1
        high = self._class_char()
        if low.only is None or high.only is None or low.only > high.only:
            raise InvalidRegex("invalid character class range")
        return _Item(((low.only, high.only),))

    def _class_char(self) -> _Item:
        char = self._next()
        return self._escaped() if char == "\\" else _single(char)


_LINE_END = _Item((("\n", "\n"),))


def _single(char: str) -> _Item:
    return _Item(((char, char),))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


class _Step(NamedTuple):
    """One instruction. `chars` and goes on, or `kind` holds and goes on (also to `other`)."""

    chars: _Chars | None
    kind: str  # "": always
    to: int
    other: int = -1


_MATCH = 0  # where the end of the program goes


class _Program:
    """Instructions; `to` of the last is _MATCH."""

    def __init__(self, root: _Node) -> None:
        self.steps = [_Step(None, "match", _MATCH)]
        self._emitted = 0
        self.start = self._emit(root, _MATCH)

    def _add(self, step: _Step) -> int:
        self.steps.append(step)
        if len(self.steps) > PROGRAM_MAX:
            raise InvalidRegex("expression is too large")
        return len(self.steps) - 1

    def _emit(self, node: _Node, to: int) -> int:
        """Code that matches node and then goes on at `to`; where it begins."""
        self._emitted += 1
        if self._emitted > EMITTED_MAX:
            raise InvalidRegex("expression is too large")
        if isinstance(node, _Chars):
            return self._add(_Step(node, "", to))
        if isinstance(node, _Assert):
            return self._add(_Step(None, node.kind, to))
        if isinstance(node, _All):
            for part in reversed(node.parts):
                to = self._emit(part, to)
            return to
        if isinstance(node, _Any):
            start = self._emit(node.parts[-1], to)
            for part in reversed(node.parts[:-1]):
                start = self._add(_Step(None, "", self._emit(part, to), start))
            return start
        return self._emit_repeat(node, to)

    def _emit_repeat(self, node: _Repeat, to: int) -> int:
        if node.high is None:
            loop = self._add(_Step(None, "", to, to))
            self.steps[loop] = _Step(None, "", self._emit(node.part, loop), to)
            to = loop
        else:
            end = to
            for _ in range(node.high - node.low):
                to = self._add(_Step(None, "", self._emit(node.part, to), end))
        for _ in range(node.low):
            to = self._emit(node.part, to)
        return to


class Regex:
    """One expression. Raises InvalidRegex."""

    __slots__ = ("_program",)

    def __init__(self, text: str) -> None:
        self._program = _compiled(text)

    def matches(self, name: str) -> bool:
        """Whether the whole name matches."""
        return bool(at_once(self.matching((name,))))

    def matching(self, names: Iterable[str]) -> Work[list[str]]:
        """Those of the names that match."""
        return self._program.matching(names)


class _Machine:
    """Runs a program over names: the set of places in it, as bits of a number, after each character."""

    __slots__ = ("_steps", "_start", "_seen", "_seen_max", "_toil")

    def __init__(self, program: _Program) -> None:
        self._steps = program.steps
        self._start = 1 << program.start
        self._seen: dict[tuple[int, str, str], int] = {}
        self._seen_max = REMEMBERED_BYTES // (300 + len(program.steps) // 4)
        self._toil = 0  # since the last pause: characters, and places in the program where a step was not remembered

    def matching(self, names: Iterable[str]) -> Work[list[str]]:
        """Those of the names that match. Raises TooCostly."""
        found, left = [], TOIL_MAX
        for name in names:
            places, before = self._start, ""
            for char in chain(name, ("",)):  # not looked at before its turn: a name may be long
                places = self._step(places, before, char)
                while self._toil > TOIL_A_PAUSE:
                    self._toil -= TOIL_A_PAUSE
                    left -= TOIL_A_PAUSE
                    if left < 0:
                        raise TooCostly("it takes too long to match so many names")
                    yield
                if not places:
                    break
                before = char
            if places:
                found.append(name)
        return found

    def _step(self, places: int, before: str, char: str) -> int:
        """Where those places lead with the next character; at the end of the name (""), to the match or nowhere."""
        # Of what came before, assertions see only this much.
        key = (places, before if before in ("", "_") else "_" if before in _WORD else ".", char)
        found = self._seen.get(key)
        self._toil += 1
        if found is None:
            if len(self._seen) >= self._seen_max:
                self._seen.clear()
            found = self._seen[key] = self._lead(places, before, char)
        return found

    def _lead(self, places: int, before: str, char: str) -> int:
        steps, reached = self._steps, 0
        known: dict[int, bool] = {}  # a class that is repeated is looked at once
        todo = [place for place in range(len(steps)) if places >> place & 1]
        seen = set(todo)
        for place in todo:  # which grows
            if place == _MATCH:
                reached |= not char
                continue
            step = steps[place]
            if step.chars is not None:
                class_id = id(step.chars)
                if class_id not in known:
                    known[class_id] = step.chars.has(char)
                if known[class_id]:
                    reached |= 1 << step.to
                continue
            if step.kind and not _holds(step.kind, before, char):
                continue
            for to in (step.to, step.other) if not step.kind else (step.to,):
                if to not in seen:
                    seen.add(to)
                    todo.append(to)
        self._toil += 4 * len(todo)
        return reached


def _holds(kind: str, before: str, after: str) -> bool:
    if kind == "^":
        return not before
    if kind == "$":
        return not after
    return ((before in _WORD) != (after in _WORD)) == (kind == "b")


@lru_cache(maxsize=COMPILED_MAX)
def _compiled(text: str) -> _Machine:
    if len(text) > TEXT_MAX:
        raise InvalidRegex(f"expression is longer than {TEXT_MAX} characters")
    return _Machine(_Program(_Parser(text).parse()))
