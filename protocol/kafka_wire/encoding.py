"""Writes encoders, whole and in parts: see `codegen`."""

from __future__ import annotations

import struct as _struct
from collections.abc import Callable
from typing import Any

from kafka_wire.primitives import uvarint
from kafka_wire.schema import FIXED, Field, layout
from kafka_wire.source import COUNTS, INTEGERS, SLICE, Source, default_expression, element_field, fields_of

_SEQUENCES = (list, tuple)  # `list | tuple` would be made anew at each call
_BUFFERS = (bytes, bytearray, memoryview)
OWN_PART_SIZE = 16384  # bytes of records this long are sent from where they are, shorter ones are copied
PIECES_MAX = 4096  # strings and packed numbers that an encoder in slices keeps apart: each takes 50 bytes besides

_ARRAYS = {kind: [_struct.Struct(f">{n}{FIXED[kind]}").pack for n in COUNTS] for kind in INTEGERS}


def compile_encoder(cls: type, version: int, parts: bool, *, in_slices: bool = False) -> Callable[[Any], Any]:
    """`encode(message)`, which returns bytes, or with parts a list of them and of what is no bytes.

    In slices: a generator that returns it.
    """
    source = Source(f"{cls.__name__} v{version}", version, version >= layout(cls).flexible, in_slices)
    source.env["join"] = b"".join
    source.env["ONE"] = [bytes([n]) for n in range(128)]
    source.env["put_records"] = _put_records
    _encode_struct(source, cls, "o", parts)
    _flush_pack(source)
    head = "def encode(o):\n    out = []; w = out.append"
    if parts:
        head += "; parts = []"
    if in_slices:
        head += f"; turn = {SLICE}"
        source("if False: yield")  # a generator, even if there is no array in it
    if parts:
        source("parts.append(join(out))")
        source("return parts")
    else:
        source("return join(out)")
    return source.build(head, "encode")  # type: ignore[no-any-return]


def _put_records(value: Any, out: list[Any], parts: list[Any]) -> None:
    """Put the value of a records field into the parts; what was written before it goes first."""
    for each in value if isinstance(value, _SEQUENCES) else (value,):
        if len(each) < OWN_PART_SIZE and isinstance(each, _BUFFERS):
            out.append(each)
            continue
        if out:
            parts.append(b"".join(out))
            out.clear()
        parts.append(each)


def _encode_struct(source: Source, cls: type, obj: str, parts: bool) -> None:
    plain, tagged, _ = fields_of(cls, source)
    for field in plain:
        _encode_field(source, field, f"{obj}.{field.name}", parts)
    if not source.flexible:
        return
    if not tagged:
        source.run.append(("x", ""))
        return
    tagged.sort(key=lambda field: field.tag or 0)
    unset = " and ".join(_is_default(source, field, f"{obj}.{field.name}") for field in tagged)
    run = source.run
    source.run = [*run, ("x", "")]
    source(f"if {unset}:")
    source.depth += 1
    _flush_pack(source)
    source.depth -= 1
    source("else:")
    source.depth += 1
    source.run = run
    _flush_pack(source)
    source(f"{source.const(_TagWriter(cls, tagged, source), f'tags_{cls.__name__}')}({obj}, w)")
    source.depth -= 1


def _is_default(source: Source, field: Field, value: str) -> str:
    if field.default is None:
        return f"{value} is None"
    if field.default == []:
        return f"not {value}"
    return f"{value} == {default_expression(source, field)}"


def _flush_pack(source: Source, length: str = "") -> None:
    """Write the packing of the collected run; with a length, which takes one byte or more, behind it."""
    run, source.run = source.run, []
    if length and not run:
        source(f"w(ONE[{length}] if {length} < 128 else uvarint({length}))")
    elif length:
        source(f"if {length} < 128: w({_pack(source, [*run, ('B', length)])})")
        source(f"else: w({_pack(source, run)}); w(uvarint({length}))")
    elif run:
        source(f"w({_pack(source, run)})")


def _pack(source: Source, run: list[tuple[str, str]]) -> str:
    formats = "".join(form for form, _ in run)
    if not formats.strip("x"):
        return repr(bytes(len(formats)))
    arguments = ", ".join(expression for form, expression in run if form != "x")
    return f"{source.const(_struct.Struct('>' + formats).pack, 'pack_' + formats)}({arguments})"


def _encode_length(source: Source, length: str, form: str) -> None:
    """A length, in compact form when flexible (there: one more than it is, 0 for null)."""
    if source.flexible:
        _flush_pack(source, length)
    else:
        source.run.append((form, length))


def _encode_field(source: Source, field: Field, value: str, parts: bool) -> None:
    """Write the writing of one field's value, an expression."""
    null = field.can_be_null(source.version)
    if field.kind in FIXED:
        source.run.append((FIXED[field.kind], value))
    elif field.kind == "string":
        _encode_string(source, value, null)
    elif field.kind in ("bytes", "records"):
        _encode_bytes(source, value, null, parts and field.kind == "records")
    elif field.kind == "array":
        _encode_array(source, field, value, null, parts)
    else:
        assert isinstance(field.item, type)
        _encode_embedded(source, field.item, value, null, parts)


def _encode_string(source: Source, value: str, null: bool) -> None:
    text, length = source.name("t"), source.name("n")
    more = " + 1" if source.flexible else ""
    if null:
        source(f"{text} = {value}")
        source(f"if {text} is None: {text} = b''; {length} = {0 if source.flexible else -1}")
        source(f"else: {text} = {text}.encode(); {length} = len({text}){more}")
    else:
        source(f"{text} = {value}.encode(); {length} = len({text}){more}")
    _encode_length(source, length, "h")
    _flush_pack(source)
    source(f"w({text})")


def _encode_bytes(source: Source, value: str, null: bool, in_parts: bool) -> None:
    data, length = source.name("t"), source.name("n")
    more = " + 1" if source.flexible else ""
    source(f"{data} = {value}")
    size = f"len({data})"
    if in_parts:
        size = f"(sum(map(len, {data})) if type({data}) is list or type({data}) is tuple else len({data}))"
    if null:
        source(f"if {data} is None: {data} = b''; {length} = {0 if source.flexible else -1}")
        source(f"else: {length} = {size}{more}")
    else:
        source(f"{length} = {size}{more}")
    _encode_length(source, length, "i")
    _flush_pack(source)
    if in_parts:
        source(f"if {data}: put_records({data}, out, parts)")
    else:
        source(f"w({data})")


def _encode_array(source: Source, field: Field, value: str, null: bool, parts: bool) -> None:
    values, length, element = source.name("a"), source.name("n"), source.name("x")
    more = " + 1" if source.flexible else ""
    source(f"{values} = {value}")
    if null:
        source(f"if {values} is None: {values} = (); {length} = {0 if source.flexible else -1}")
        source(f"else: {length} = len({values}){more}")
    else:
        source(f"{length} = len({values}){more}")
    _encode_length(source, length, "i")
    _flush_pack(source)
    if isinstance(field.item, str) and field.item in INTEGERS:
        kind, count = field.item, f"len({values})"
        table = source.const(_ARRAYS[kind], f"pack_{kind}s")
        pack = source.const(_struct.pack, "pack")
        source(f"if {count} < {len(COUNTS)}: w({table}[{count}](*{values}))")
        source(f"else: w({pack}(f'>{{{count}}}{FIXED[kind]}', *{values}))")
        return
    source(f"for {element} in {values}:")
    source.depth += 1
    source.pause(before=f"if len(out) > {PIECES_MAX}: parts.append(join(out)); out.clear()")
    before = len(source.lines)
    if isinstance(field.item, type):
        _encode_struct(source, field.item, element, parts)
    else:
        assert field.item is not None
        _encode_field(source, element_field(field.name, field.item), element, parts)
    _flush_pack(source)
    if len(source.lines) == before:  # a struct none of whose fields this version has
        source("pass")
    source.depth -= 1


def _encode_embedded(source: Source, cls: type, value: str, null: bool, parts: bool) -> None:
    inner = source.name("s")
    source(f"{inner} = {value}")
    if null:
        _flush_pack(source)
        source(f"if {inner} is None: w(b'\\xff')")
        source("else:")
        source.depth += 1
        source.run.append(("b", "1"))
    _encode_struct(source, cls, inner, parts)
    _flush_pack(source)
    if null:
        source.depth -= 1


class _TagWriter:
    """Writes the tagged fields of a struct that do not have their default."""

    def __init__(self, cls: type, tagged: list[Field], source: Source) -> None:
        self.fields = tagged
        self.encoders: list[Callable[[Any], bytes]] = []
        self.label = f"{cls.__name__} v{source.version}"
        self.version = source.version

    def __call__(self, obj: Any, write: Callable[[bytes], None]) -> None:
        if not self.encoders:
            self.encoders = [self._compile(field) for field in self.fields]
        written = []
        for field, encode_value in zip(self.fields, self.encoders, strict=True):
            value = getattr(obj, field.name)
            if value != field.default:
                data = encode_value(value)
                written.append(uvarint(field.tag or 0) + uvarint(len(data)) + data)
        write(uvarint(len(written)) + b"".join(written))

    def _compile(self, field: Field) -> Callable[[Any], bytes]:
        source = Source(self.label, self.version, True)
        source.env["join"] = b"".join
        source.env["ONE"] = [bytes([n]) for n in range(128)]
        _encode_field(source, field, "value", False)
        _flush_pack(source)
        source("return join(out)")
        return source.build("def encode(value):\n    out = []; w = out.append", "encode")  # type: ignore[no-any-return]


def has_records(cls: type, version: int) -> bool:
    """Whether a message of this version holds records, so that it may be encoded in parts."""
    fields = [f for f in layout(cls).fields if f.has(version)]
    return any(f.kind == "records" or (isinstance(f.item, type) and has_records(f.item, version)) for f in fields)
