"""A codec while it is being written: the lines so far, the constants they use, and what both directions share.

`decoding` and `encoding` write into a Source; `codegen` is the way in.
"""

from __future__ import annotations

from typing import Any

from kafka_wire.errors import ProtocolError
from kafka_wire.primitives import read_uvarint, uvarint
from kafka_wire.schema import Field, layout

SLICE_INTEGERS = 1024  # of an array of integers, the same
SLICE = 64  # array elements that a codec in slices goes through between two pauses
INTEGERS = ("int8", "int16", "int32", "int64")  # arrays of these are read and written by one call
COUNTS = range(16)  # array lengths for which that call's format is made in advance


class Source:
    """Lines of a function being written, the constants they use, and the fields of fixed size not yet written out."""

    def __init__(self, label: str, version: int, flexible: bool, in_slices: bool = False) -> None:
        self.label = label
        self.version = version
        self.flexible = flexible
        self.in_slices = in_slices  # the function is a generator that pauses in long arrays
        self.lines: list[str] = []
        self.depth = 1
        self.env: dict[str, Any] = {"ProtocolError": ProtocolError, "uvarint": uvarint, "read_uvarint": read_uvarint}
        self.run: list[tuple[str, str]] = []  # (struct format, target or expression)
        self.names = 0

    def __call__(self, line: str) -> None:
        """Write a line at the present depth."""
        self.lines.append("    " * self.depth + line)

    def name(self, prefix: str) -> str:
        """A name that is not used yet."""
        self.names += 1
        return f"{prefix}{self.names}"

    def const(self, value: Any, name: str) -> str:
        """The name under which the written code finds a value."""
        name = name.replace("?", "o")
        while self.env.get(name, value) is not value:
            name = self.name(name)
        self.env[name] = value
        return name

    def pause(self, before: str = "") -> None:
        """Once in every array element: maybe let the caller do something else. before: a statement for each pause."""
        if self.in_slices:
            self("turn -= 1")
            self("if not turn:")
            if before:
                self(f"    {before}")
            self(f"    turn = {SLICE}; yield")

    def fail(self, what: str) -> str:
        """The statement that rejects the message."""
        return f"raise ProtocolError({f'{self.label}: {what}'!r})"

    def build(self, head: str, name: str) -> Any:
        """Compile the lines under a head, and return what the head defines."""
        exec(compile("\n".join([head, *self.lines]), f"<{self.label}>", "exec"), self.env)
        return self.env[name]


def fields_of(cls: type, source: Source) -> tuple[list[Field], list[Field], list[Field]]:
    """A class's fields in the source's version: untagged, tagged, absent."""
    plain, tagged, absent = [], [], []
    for field in layout(cls).fields:
        if not field.has(source.version):
            absent.append(field)
        elif field.tag is None:
            plain.append(field)
        else:
            tagged.append(field)
    return plain, tagged, absent


def default_expression(source: Source, field: Field) -> str:
    """An expression for a field's default, a new one each time where it is mutable."""
    if field.default is None or type(field.default) in (int, bool, str) or field.default == []:
        return repr(field.default)
    if isinstance(field.default, bytes | float):
        return source.const(field.default, f"default_{field.name}")
    return source.const(field.fresh_default, f"default_{field.name}") + "()"


def element_field(name: str, kind: str) -> Field:
    """A field that stands for the elements of an array."""
    field = Field(kind, 0, 1 << 15, None, None, None)
    field.name = f"an element of {name}"
    return field
