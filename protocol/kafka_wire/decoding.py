"""Writes decoders: see `codegen` for what the written code may rely on."""

from __future__ import annotations

import struct as _struct
from collections.abc import Callable, Generator
from typing import Any

from kafka_wire.errors import ProtocolError
from kafka_wire.primitives import Buffer, read_uvarint
from kafka_wire.schema import FIXED, Field, layout
from kafka_wire.source import (
    COUNTS,
    INTEGERS,
    SLICE,
    SLICE_INTEGERS,
    Source,
    default_expression,
    element_field,
    fields_of,
)

STRING_MAX = 32767  # Kafka refuses longer strings, in compact form too

_ARRAYS = {kind: [_struct.Struct(f">{n}{FIXED[kind]}").unpack_from for n in COUNTS] for kind in INTEGERS}


def compile_decoder(cls: type, version: int, *, in_slices: bool = False) -> Callable[..., Any]:
    """`decode(buf, pos=0)` of a message; in slices, a generator that returns it."""
    source = Source(f"{cls.__name__} v{version}", version, version >= layout(cls).flexible, in_slices)
    source.depth = 2
    _decode_struct(source, cls, "o")
    _flush_unpack(source)
    source("if pos > end: raise IndexError")
    source("return o")
    source.depth = 1
    source("except (IndexError, StructError):")
    source("    " + source.fail("ends inside a field") + " from None")
    source("except UnicodeDecodeError:")
    source("    " + source.fail("a string is not UTF-8") + " from None")
    head = "def decode(buf, pos=0):\n    try:\n        view = memoryview(buf); end = len(buf)"
    head += "\n        if type(buf) is memoryview: buf = bytes(buf)"
    if in_slices:
        head += f"\n        turn = {SLICE}"
        source("if False: yield")  # a generator, even if there is no array in it
    source.env["StructError"] = _struct.error
    return source.build(head, "decode")  # type: ignore[no-any-return]


def _decode_struct(source: Source, cls: type, target: str) -> None:
    plain, tagged, absent = fields_of(cls, source)
    _flush_unpack(source)
    source(f"{target} = new({source.const(cls, cls.__name__)})")
    source.env["new"] = object.__new__
    for field in [*absent, *tagged]:
        source(f"{target}.{field.name} = {default_expression(source, field)}")
    for field in plain:
        _decode_field(source, field, f"{target}.{field.name}")
    if source.flexible:
        count = source.name("n")
        source.run.append(("B", count))
        _flush_unpack(source)
        reader = source.const(_TagReader(cls, tagged, source), f"tags_{cls.__name__}")
        read = f"yield from {reader}.in_slices" if source.in_slices else reader
        source(f"if {count}: pos = {read}({target}, buf, view, pos - 1)")


def _flush_unpack(source: Source) -> None:
    """Write the unpacking of the collected run."""
    run, source.run = source.run, []
    if not run:
        return
    formats = "".join(form for form, _ in run)
    if formats == "B":
        source(f"{run[0][1]} = buf[pos]; pos += 1")
        return
    compiled = _struct.Struct(">" + formats)
    targets = ", ".join(target for _, target in run) + ("," if len(run) == 1 else "")
    source(f"{targets} = {source.const(compiled.unpack_from, 'unpack_' + formats)}(buf, pos); pos += {compiled.size}")


def _decode_field(source: Source, field: Field, target: str) -> None:
    """Write the reading of one field into target, an assignable expression."""
    null = field.can_be_null(source.version)
    if field.kind in FIXED:
        source.run.append((FIXED[field.kind], target))
    elif field.kind == "string":
        _decode_sliced(source, field.name, target, "h", null, "buf[pos:{stop}].decode()")
    elif field.kind in ("bytes", "records"):
        _decode_sliced(source, field.name, target, "i", null, "view[pos:{stop}]")
    elif field.kind == "array":
        _decode_array(source, field, target, null)
    else:
        assert isinstance(field.item, type)
        _decode_embedded(source, field.item, target, null)


def _decode_sliced(source: Source, name: str, target: str, form: str, null: bool, taken: str) -> None:
    """A string or bytes: a length, then a slice of the buffer."""
    length, stop = source.name("n"), source.name("e")
    source.run.append(("B" if source.flexible else form, length))
    _flush_unpack(source)
    if source.flexible:
        limit = STRING_MAX + 1 if form == "h" else 1 << 31
        source(f"if {length} > 127:")
        source("    more = buf[pos]; pos += 1")
        source(f"    if more < 128: {length} += (more << 7) - 128")
        source("    else:")
        source(f"        {length}, pos = read_uvarint(buf, pos - 2)")
        source(f"        if {length} > {limit}: {source.fail(f'{name} is too long')}")
        is_null, take = f"not {length}", f"{stop} = pos + {length} - 1; "
    else:
        is_null, take = f"{length} < 0", f"{stop} = pos + {length}; "
    take += f"{target} = {taken.format(stop=stop)}; pos = {stop}"
    if not null:
        source(f"if {is_null}: {source.fail(f'{name} is null')}")
        source(take)
        return
    source(f"if {is_null}:")
    if not source.flexible:
        source(f"    if {length} != -1: {source.fail(f'{name} has a negative length')}")
    source(f"    {target} = None")
    source(f"else: {take}")


def _decode_array(source: Source, field: Field, target: str, null: bool) -> None:
    count, values = source.name("n"), source.name("a")
    source.run.append(("B" if source.flexible else "i", count))
    _flush_unpack(source)
    if source.flexible:
        source(f"if {count} > 127: {count}, pos = read_uvarint(buf, pos - 1)")
        source(f"{count} -= 1")
    if null:
        source(f"if {count} < 0:")
        source(f"    if {count} != -1: {source.fail(f'{field.name} has a negative length')}")
        source(f"    {target} = None")
        source("else:")
        source.depth += 1
    else:
        source(f"if {count} < 0: {source.fail(f'{field.name} is null')}")
    smallest = _size_min(field.item, source.version, source.flexible)
    size = count if smallest <= 1 else f"{count} * {smallest}"
    source(f"if {size} > end - pos: {source.fail(f'{field.name} is longer than the message')}")
    if isinstance(field.item, str) and field.item in INTEGERS:
        kind = field.item
        table = source.const(_ARRAYS[kind], f"unpack_{kind}s")
        unpack = source.const(_struct.unpack_from, "unpack_from")
        source(f"if {count} < {len(COUNTS)}: {target} = list({table}[{count}](buf, pos)); pos += {size}")
        source("else:")
        source.depth += 1
        if source.in_slices:
            _decode_integers_in_slices(source, kind, count, values)
            source(f"{target} = {values}")
            source(f"{values} += {unpack}(f'>{{{count}}}{FIXED[kind]}', buf, pos); pos += {size}")
        else:
            source(f"{target} = list({unpack}(f'>{{{count}}}{FIXED[kind]}', buf, pos)); pos += {size}")
        source.depth -= 1
    else:
        _decode_items(source, field, target, count, values)
    if null:
        source.depth -= 1


def _decode_integers_in_slices(source: Source, kind: str, count: str, values: str) -> None:
    """The most of a long array, with pauses; the rest is left to be read."""
    some = _struct.Struct(f">{SLICE_INTEGERS}{FIXED[kind]}")
    unpack = source.const(some.unpack_from, f"unpack_many_{kind}s")
    source(f"{values} = []")
    source(f"while {count} > {SLICE_INTEGERS}:")
    source(f"    {values} += {unpack}(buf, pos); pos += {some.size}; {count} -= {SLICE_INTEGERS}; yield")


def _decode_items(source: Source, field: Field, target: str, count: str, values: str) -> None:
    element = source.name("x")
    source(f"{target} = {values} = []")
    source(f"while {count}:")
    source.depth += 1
    source(f"{count} -= 1")
    source.pause()
    if isinstance(field.item, type):
        _decode_struct(source, field.item, element)
    else:
        assert field.item is not None
        _decode_field(source, element_field(field.name, field.item), element)
    _flush_unpack(source)
    source(f"{values}.append({element})")
    source.depth -= 1


def _decode_embedded(source: Source, cls: type, target: str, null: bool) -> None:
    inner = source.name("s")
    if null:
        there = source.name("n")
        source.run.append(("b", there))
        _flush_unpack(source)
        source(f"if {there} < 0: {target} = None")
        source("else:")
        source.depth += 1
    _decode_struct(source, cls, inner)
    _flush_unpack(source)
    source(f"{target} = {inner}")
    if null:
        source.depth -= 1


def _size_min(item: str | type | None, version: int, flexible: bool) -> int:
    """The fewest bytes that one array element or struct can take."""
    if isinstance(item, str):
        if item in FIXED:
            return _struct.calcsize(">" + FIXED[item])
        return 1 if flexible else {"string": 2}.get(item, 4)
    assert item is not None
    size = 1 if flexible else 0
    for field in layout(item).fields:
        if field.has(version) and field.tag is None:
            if field.kind == "struct":
                size += 1 if field.can_be_null(version) else _size_min(field.item, version, flexible)
            else:
                size += _size_min(field.kind, version, flexible)
    return size


class _TagReader:
    """Reads the tagged fields of a struct; each one's decoder is compiled when it is first met."""

    def __init__(self, cls: type, tagged: list[Field], source: Source) -> None:
        self.label = f"{cls.__name__} v{source.version}"
        self.version = source.version
        self.fields = {field.tag: field for field in tagged}
        self.decoders: dict[int, Callable[..., tuple[Any, int]]] = {}

    def __call__(self, target: Any, buf: Buffer, view: memoryview, pos: int) -> int:
        count, pos = read_uvarint(buf, pos)
        for _ in range(count):
            pos = self._read(target, buf, view, pos)
        return pos

    def in_slices(self, target: Any, buf: Buffer, view: memoryview, pos: int) -> Generator[None, None, int]:
        """The same with pauses, as there may be any number of unknown tags. A tag's own value is read in one go."""
        count, pos = read_uvarint(buf, pos)
        for n in range(count):
            pos = self._read(target, buf, view, pos)
            if n % SLICE == SLICE - 1:
                yield
        return pos

    def _read(self, target: Any, buf: Buffer, view: memoryview, pos: int) -> int:
        tag, pos = read_uvarint(buf, pos)
        size, pos = read_uvarint(buf, pos)
        field = self.fields.get(tag)
        if field is not None:
            value, stop = self._decoder(field)(buf, view, pos, len(buf))
            if stop != pos + size:
                raise ProtocolError(f"{self.label}: {field.name} does not have the size it says")
            setattr(target, field.name, value)
        return pos + size

    def _decoder(self, field: Field) -> Callable[..., tuple[Any, int]]:
        assert field.tag is not None
        try:
            return self.decoders[field.tag]
        except KeyError:
            source = Source(self.label, self.version, True)
            _decode_field(source, field, "value")
            _flush_unpack(source)
            source("return value, pos")
            made: Callable[..., tuple[Any, int]] = source.build("def decode(buf, view, pos, end):", "decode")
            return self.decoders.setdefault(field.tag, made)
