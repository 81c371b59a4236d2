"""What an expression means: whether a record matches, and what a match says about the record's tags.

Every test looks at the values that its operand has in the record:

    key      the key, unless it is null
    tags     the tags
    a name   the value of each header of that name, in any order, but for those that are null

IN        one of the values is one of those named
PREFIX    one of the values begins with the one named
NOT_IN    there are values, and none of them is one of those named
EXISTS    there is a key; there are tags; there is a header of that name, be its value null

So a test of what is missing or null is false, and `not` of it is true. Values are bytes and are compared as bytes: text
as UTF-8, numbers as the text they are written in.

A record costs one pass over its headers and, for each test, one look into a set (a search among sorted values, for a
prefix of a header that is there often), whatever the record: neither record nor expression can make the other slow.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeAlias

from kbroker.filters.syntax import All, Any, Kind, Not, Operand, Operator, Test, Tree, parse_tree
from kbroker.filters.tags import TAGS_HEADER, split_tags

FEW = 8  # values that are looked through one by one
SORTED_AT_ONCE = 4096  # values: all other threads wait for it


class Values(set[bytes]):
    """The values of an operand in a record."""

    __slots__ = ("_ordered",)

    _ordered: list[list[bytes]]  # some thousand in each

    def begin_with(self, prefix: bytes) -> bool:
        """Whether one of them does."""
        if len(self) <= FEW:
            return any(value.startswith(prefix) for value in self)
        try:
            ordered = self._ordered
        except AttributeError:
            rest = iter(self)
            ordered = self._ordered = []
            while some := sorted(islice(rest, SORTED_AT_ONCE)):
                ordered.append(some)
        for some in ordered:
            at = bisect_left(some, prefix)
            if at < len(some) and some[at].startswith(prefix):
                return True
        return False


Found: TypeAlias = "list[Values | None]"  # by slot: each operand of an expression has one; None: it is not there
Matcher: TypeAlias = Callable[[Found], bool]

_KEY, _TAGS, _TAGS_HEADER = Operand(Kind.KEY), Operand(Kind.TAGS), Operand(Kind.HEADER, TAGS_HEADER)


class Expression:
    """A condition on a record. Made by `parse`; never changes; equal to another that was written differently only in
    blanks, quotes, escapes, the case of words and needless parentheses.
    """

    __slots__ = ("_key_slot", "_matcher", "_names", "_tags_header_slot", "_tags_slot", "text", "tree")

    def __init__(self, text: str, tree: Tree) -> None:
        slots: dict[Operand, int] = {}
        self.text, self.tree = text, tree
        self._matcher = _compile(tree, slots)
        self._key_slot, self._tags_slot = slots.get(_KEY), slots.get(_TAGS)
        self._tags_header_slot = -1 if self._tags_slot is None else _slot(_TAGS_HEADER, slots)
        self._names: dict[str, int | None] = {o.name: slot for o, slot in slots.items() if o.kind is Kind.HEADER}

    def matches(self, key: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> bool:
        """Whether a record of this key and these headers (name, value) matches.

        A name's bytes that are not UTF-8 are surrogate escapes, as in `kafka_wire.records`.
        """
        found: Found = [None] * (len(self._names) + 2)
        slot_of = self._names.get
        for name, value in headers:
            if (slot := slot_of(name)) is not None:
                values = found[slot]
                if values is None:
                    values = found[slot] = Values()
                if value is not None:
                    values.add(value)
        if key is not None and self._key_slot is not None:
            found[self._key_slot] = Values((key,))
        if self._tags_slot is not None and (lists := found[self._tags_header_slot]):
            found[self._tags_slot] = Values(tag for each in lists for tag in split_tags(each)) or None
        return self._matcher(found)

    @property
    def reads_key(self) -> bool:
        """Whether it looks at the key: where not, any key will do."""
        return self._key_slot is not None

    def tags(self) -> frozenset[bytes] | None:
        """Tags of which every matching record has at least one; None: a match says nothing about its tags.

        Never empty. So what has none of these tags need not be looked at; what has one is still to be judged.
        """
        return _implied(self.tree, False)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"parse({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return self.tree == other.tree if isinstance(other, Expression) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.tree)

    def __reduce__(self) -> tuple[Callable[[str], Expression], tuple[str]]:
        return parse, (self.text,)


def parse(text: str) -> Expression:
    """The expression that `text` says; `str` of it is `text`. Raises FilterSyntaxError, which names the position."""
    return Expression(text, parse_tree(text))


# the tree as functions ----------------------------------------------------------------------------------------------


def _slot(operand: Operand, slots: dict[Operand, int]) -> int:
    return slots.setdefault(operand, len(slots))


def _compile(tree: Tree, slots: dict[Operand, int]) -> Matcher:
    """The function that says whether what was found matches. Gives each operand a slot."""
    match tree:
        case Test(operand, operator, values):
            return _TESTS[operator](_slot(operand, slots), values)
        case Not(part):
            inner = _compile(part, slots)
            return lambda found: not inner(found)
        case All(parts):
            return _all([_compile(part, slots) for part in parts])
        case Any(parts):
            return _any([_compile(part, slots) for part in parts])


def _in(slot: int, wanted: frozenset[bytes]) -> Matcher:
    def test(found: Found) -> bool:
        values = found[slot]
        return values is not None and not values.isdisjoint(wanted)  # so said, it goes through the smaller of both

    return test


def _not_in(slot: int, wanted: frozenset[bytes]) -> Matcher:
    def test(found: Found) -> bool:
        values = found[slot]
        return values is not None and len(values) > 0 and values.isdisjoint(wanted)

    return test


def _prefix(slot: int, wanted: frozenset[bytes]) -> Matcher:
    (prefix,) = wanted

    def test(found: Found) -> bool:
        values = found[slot]
        return values is not None and values.begin_with(prefix)

    return test


def _exists(slot: int, _: frozenset[bytes]) -> Matcher:
    return lambda found: found[slot] is not None


_TESTS: dict[Operator, Callable[[int, frozenset[bytes]], Matcher]] = {
    Operator.IN: _in,
    Operator.NOT_IN: _not_in,
    Operator.PREFIX: _prefix,
    Operator.EXISTS: _exists,
}


def _all(parts: list[Matcher]) -> Matcher:
    def test(found: Found) -> bool:
        for part in parts:  # noqa: SIM110
            if not part(found):
                return False
        return True

    return test


def _any(parts: list[Matcher]) -> Matcher:
    def test(found: Found) -> bool:
        for part in parts:  # noqa: SIM110
            if part(found):
                return True
        return False

    return test


# what a match implies -----------------------------------------------------------------------------------------------


def _implied(tree: Tree, negated: bool) -> frozenset[bytes] | None:
    """Tags of which a record has one wherever `tree` holds (where it does not hold, if `negated`)."""
    match tree:
        case Test(operand, operator, values):
            return values if operand == _TAGS and operator is Operator.IN and not negated else None
        case Not(part):
            return _implied(part, not negated)
        case All(parts) | Any(parts):
            each = [_implied(part, negated) for part in parts]
            said = [tags for tags in each if tags is not None]
            if isinstance(tree, All) != negated:  # all of them hold: the one that says most
                return min(said, key=len, default=None)
            return frozenset().union(*said) if len(said) == len(each) else None
