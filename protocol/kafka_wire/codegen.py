"""Messages to bytes and back: a codec per class and version, written as straight-line Python on first use.

    decode(FetchRequest, 12, frame, pos)      encode(response, 12)      encode_parts(response, 12)

What the written code does, and why it may:

- Neighbouring fields of fixed size, and the first byte of the length that follows them, are unpacked (packed) by one
  call. A compact length of one byte, nearly every one, costs a comparison.
- Structs are unrolled into their parent; objects are made without running a constructor.
- A frame bounds everything. A string or bytes field slices the frame, so it never holds more than arrived; an array's
  count is checked against the bytes left before anything is allocated. The position only ever grows: whoever reads past
  the end next is stopped by IndexError or struct.error, and the last line checks the position once for all slices.
- Every way of being malformed ends as ProtocolError. Bytes after the message are ignored, as Kafka ignores them.

Bytes and records decode to memoryviews of the buffer. Tagged fields (KIP-482) are read out of line, since nearly all
messages have none; unknown tags are skipped; fields that have their default are not written.
"""

from __future__ import annotations

import struct as _struct
from collections.abc import Callable
from typing import Any, TypeVar

from kafka_wire.errors import ProtocolError
from kafka_wire.primitives import Buffer, read_uvarint, uvarint
from kafka_wire.schema import FIXED, Field, Layout, layout

T = TypeVar("T")

OWN_PART_SIZE = 16384  # bytes of records this long are sent from where they are, shorter ones are copied
_STRING_MAX = 32767  # Kafka refuses longer strings, in compact form too

# One of these per count saves building a format for the short arrays of replicas.
_COUNTS = range(16)
_INTEGERS = ("int8", "int16", "int32", "int64")
_ARRAYS = {kind: [_struct.Struct(f">{n}{FIXED[kind]}") for n in _COUNTS] for kind in _INTEGERS}
_ARRAY_UNPACK = {kind: [s.unpack_from for s in structs] for kind, structs in _ARRAYS.items()}
_ARRAY_PACK = {kind: [s.pack for s in structs] for kind, structs in _ARRAYS.items()}


def decode(cls: type[T], version: int, buf: Buffer, pos: int = 0) -> T:
    """The message of a class and version that begins at pos. Raises ProtocolError for anything malformed."""
    found: Callable[..., T] = decoder(cls, version)
    return found(buf, pos)


def encode(message: object, version: int) -> bytes:
    """The bytes of a message. Fields that the version lacks are left out."""
    return encoder(type(message), version)(message)


def encode_parts(message: object, version: int) -> list[Any]:
    """Like encode, but in parts, so that records need not be copied or even read.

    The value of a `records` field may be a buffer; any other object with a length (a slice of a file); or a list or
    tuple of those. What is not a buffer is put into the parts as it is, and so is a large buffer; all else is joined.
    """
    return part_encoder(type(message), version)(message)


def decoder(cls: type[T], version: int) -> Callable[..., T]:
    """The compiled `decode(buf, pos=0)` of a class and version. Raises ProtocolError for a version it does not have."""
    made: Layout = cls.__wire__  # type: ignore[attr-defined]
    try:
        return made.decoders[version]
    except KeyError:
        if not made.versions[0] <= version <= made.versions[1]:
            raise ProtocolError(f"{cls.__name__} has no version {version}") from None
        return made.decoders.setdefault(version, _compile_decoder(cls, version))


def encoder(cls: type, version: int) -> Callable[[Any], bytes]:
    """The compiled `encode(message)` of a class and version. Raises ValueError for a version it does not have."""
    made: Layout = cls.__wire__  # type: ignore[attr-defined]
    try:
        return made.encoders[version]
    except KeyError:
        _check_version(made, version)
        return made.encoders.setdefault(version, _compile_encoder(cls, version, parts=False))


def part_encoder(cls: type, version: int) -> Callable[[Any], list[Any]]:
    """The compiled `encode_parts(message)` of a class and version."""
    made: Layout = cls.__wire__  # type: ignore[attr-defined]
    try:
        return made.part_encoders[version]
    except KeyError:
        _check_version(made, version)
        if _has_records(cls, version):
            made.part_encoders[version] = _compile_encoder(cls, version, parts=True)
        else:
            whole = encoder(cls, version)
            made.part_encoders[version] = lambda message: [whole(message)]
        return made.part_encoders[version]


def _check_version(made: Layout, version: int) -> None:
    if not made.versions[0] <= version <= made.versions[1]:
        raise ValueError(f"{made.cls.__name__} has no version {version}")


def _has_records(cls: type, version: int) -> bool:
    fields = [f for f in layout(cls).fields if f.has(version)]
    return any(f.kind == "records" or (isinstance(f.item, type) and _has_records(f.item, version)) for f in fields)


class _Source:
    """Lines of a function being written, the constants they use, and the fields of fixed size not yet written out."""

    def __init__(self, label: str, version: int, flexible: bool) -> None:
        self.label = label
        self.version = version
        self.flexible = flexible
        self.lines: list[str] = []
        self.depth = 1
        self.env: dict[str, Any] = {"ProtocolError": ProtocolError, "uvarint": uvarint, "read_uvarint": read_uvarint}
        self.run: list[tuple[str, str]] = []  # (struct format, target or expression)
        self.names = 0

    def __call__(self, line: str) -> None:
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

    def fail(self, what: str) -> str:
        """The statement that rejects the message."""
        return f"raise ProtocolError({f'{self.label}: {what}'!r})"

    def build(self, head: str, name: str) -> Any:
        exec(compile("\n".join([head, *self.lines]), f"<{self.label}>", "exec"), self.env)
        return self.env[name]


def _present(cls: type, source: _Source) -> tuple[list[Field], list[Field], list[Field]]:
    """A class's fields in this version: untagged, tagged, absent."""
    plain, tagged, absent = [], [], []
    for field in layout(cls).fields:
        if not field.has(source.version):
            absent.append(field)
        elif field.tag is None:
            plain.append(field)
        else:
            tagged.append(field)
    return plain, tagged, absent


# ---- decoding


def _compile_decoder(cls: type, version: int) -> Callable[..., Any]:
    source = _Source(f"{cls.__name__} v{version}", version, version >= layout(cls).flexible)
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
    source.env["StructError"] = _struct.error
    return source.build(head, "decode")  # type: ignore[no-any-return]


def _decode_struct(source: _Source, cls: type, target: str) -> None:
    plain, tagged, absent = _present(cls, source)
    _flush_unpack(source)
    source(f"{target} = new({source.const(cls, cls.__name__)})")
    source.env["new"] = object.__new__
    for field in [*absent, *tagged]:
        source(f"{target}.{field.name} = {_default_expression(source, field)}")
    for field in plain:
        _decode_field(source, field, f"{target}.{field.name}")
    if source.flexible:
        count = source.name("n")
        source.run.append(("B", count))
        _flush_unpack(source)
        reader = source.const(_TagReader(cls, tagged, source), f"tags_{cls.__name__}")
        source(f"if {count}: pos = {reader}({target}, buf, view, pos - 1)")


def _default_expression(source: _Source, field: Field) -> str:
    if field.default is None or type(field.default) in (int, bool, str) or field.default == []:
        return repr(field.default)
    if isinstance(field.default, bytes | float):
        return source.const(field.default, f"default_{field.name}")
    return source.const(field.fresh_default, f"default_{field.name}") + "()"


def _flush_unpack(source: _Source) -> None:
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


def _decode_field(source: _Source, field: Field, target: str) -> None:
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


def _decode_sliced(source: _Source, name: str, target: str, form: str, null: bool, taken: str) -> None:
    """A string or bytes: a length, then a slice of the buffer."""
    length, stop = source.name("n"), source.name("e")
    source.run.append(("B" if source.flexible else form, length))
    _flush_unpack(source)
    if source.flexible:
        limit = _STRING_MAX + 1 if form == "h" else 1 << 31
        source(f"if {length} > 127:")
        source(f"    {length}, pos = read_uvarint(buf, pos - 1)")
        source(f"    if {length} > {limit}: {source.fail(f'{name} is too long')}")
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


def _decode_array(source: _Source, field: Field, target: str, null: bool) -> None:
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
    if isinstance(field.item, str) and field.item in _ARRAYS:
        kind = field.item
        table = source.const(_ARRAY_UNPACK[kind], f"unpack_{kind}s")
        unpack = source.const(_struct.unpack_from, "unpack_from")
        source(f"if {count} < {len(_COUNTS)}: {target} = list({table}[{count}](buf, pos))")
        source(f"else: {target} = list({unpack}(f'>{{{count}}}{FIXED[kind]}', buf, pos))")
        source(f"pos += {size}")
    else:
        _decode_items(source, field, target, count, values)
    if null:
        source.depth -= 1


def _decode_items(source: _Source, field: Field, target: str, count: str, values: str) -> None:
    element = source.name("x")
    source(f"{target} = {values} = []")
    source(f"while {count}:")
    source.depth += 1
    source(f"{count} -= 1")
    if isinstance(field.item, type):
        _decode_struct(source, field.item, element)
    else:
        assert field.item is not None
        _decode_field(source, _element(field.name, field.item), element)
    _flush_unpack(source)
    source(f"{values}.append({element})")
    source.depth -= 1


def _element(name: str, kind: str) -> Field:
    """A field that stands for the elements of an array."""
    field = Field(kind, 0, 1 << 15, None, None, None)
    field.name = f"an element of {name}"
    return field


def _decode_embedded(source: _Source, cls: type, target: str, null: bool) -> None:
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

    def __init__(self, cls: type, tagged: list[Field], source: _Source) -> None:
        self.label = f"{cls.__name__} v{source.version}"
        self.version = source.version
        self.fields = {field.tag: field for field in tagged}
        self.decoders: dict[int, Callable[..., tuple[Any, int]]] = {}

    def __call__(self, target: Any, buf: Buffer, view: memoryview, pos: int) -> int:
        count, pos = read_uvarint(buf, pos)
        for _ in range(count):
            tag, pos = read_uvarint(buf, pos)
            size, pos = read_uvarint(buf, pos)
            field = self.fields.get(tag)
            if field is not None:
                value, stop = self._decoder(field)(buf, view, pos, len(buf))
                if stop != pos + size:
                    raise ProtocolError(f"{self.label}: {field.name} does not have the size it says")
                setattr(target, field.name, value)
            pos += size
        return pos

    def _decoder(self, field: Field) -> Callable[..., tuple[Any, int]]:
        assert field.tag is not None
        try:
            return self.decoders[field.tag]
        except KeyError:
            source = _Source(self.label, self.version, True)
            _decode_field(source, field, "value")
            _flush_unpack(source)
            source("return value, pos")
            made: Callable[..., tuple[Any, int]] = source.build("def decode(buf, view, pos, end):", "decode")
            return self.decoders.setdefault(field.tag, made)


# ---- encoding


def _compile_encoder(cls: type, version: int, parts: bool) -> Callable[[Any], Any]:
    source = _Source(f"{cls.__name__} v{version}", version, version >= layout(cls).flexible)
    source.env["join"] = b"".join
    source.env["ONE"] = [bytes([n]) for n in range(128)]
    source.env["put_records"] = _put_records
    _encode_struct(source, cls, "o", parts)
    _flush_pack(source)
    if parts:
        source("parts.append(join(out))")
        source("return parts")
        return source.build("def encode(o):\n    parts = []; out = []; w = out.append", "encode")  # type: ignore[no-any-return]
    source("return join(out)")
    return source.build("def encode(o):\n    out = []; w = out.append", "encode")  # type: ignore[no-any-return]


def _put_records(value: Any, out: list[Any], parts: list[Any]) -> None:
    """Put the value of a records field into the parts; what was written before it goes first."""
    for each in value if isinstance(value, list | tuple) else (value,):
        if len(each) < OWN_PART_SIZE and isinstance(each, bytes | bytearray | memoryview):
            out.append(each)
            continue
        if out:
            parts.append(b"".join(out))
            out.clear()
        parts.append(each)


def _encode_struct(source: _Source, cls: type, obj: str, parts: bool) -> None:
    plain, tagged, _ = _present(cls, source)
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


def _is_default(source: _Source, field: Field, value: str) -> str:
    if field.default is None:
        return f"{value} is None"
    if field.default == []:
        return f"not {value}"
    return f"{value} == {_default_expression(source, field)}"


def _flush_pack(source: _Source, length: str = "") -> None:
    """Write the packing of the collected run; with a length, which takes one byte or more, behind it."""
    run, source.run = source.run, []
    if length and not run:
        source(f"w(ONE[{length}] if {length} < 128 else uvarint({length}))")
    elif length:
        source(f"if {length} < 128: w({_pack(source, [*run, ('B', length)])})")
        source(f"else: w({_pack(source, run)}); w(uvarint({length}))")
    elif run:
        source(f"w({_pack(source, run)})")


def _pack(source: _Source, run: list[tuple[str, str]]) -> str:
    formats = "".join(form for form, _ in run)
    if not formats.strip("x"):
        return repr(bytes(len(formats)))
    arguments = ", ".join(expression for form, expression in run if form != "x")
    return f"{source.const(_struct.Struct('>' + formats).pack, 'pack_' + formats)}({arguments})"


def _encode_length(source: _Source, length: str, form: str) -> None:
    """A length, in compact form when flexible (there: one more than it is, 0 for null)."""
    if source.flexible:
        _flush_pack(source, length)
    else:
        source.run.append((form, length))


def _encode_field(source: _Source, field: Field, value: str, parts: bool) -> None:
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


def _encode_string(source: _Source, value: str, null: bool) -> None:
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


def _encode_bytes(source: _Source, value: str, null: bool, in_parts: bool) -> None:
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


def _encode_array(source: _Source, field: Field, value: str, null: bool, parts: bool) -> None:
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
    if isinstance(field.item, str) and field.item in _ARRAYS:
        kind, count = field.item, f"len({values})"
        table = source.const(_ARRAY_PACK[kind], f"pack_{kind}s")
        pack = source.const(_struct.pack, "pack")
        source(f"if {count} < {len(_COUNTS)}: w({table}[{count}](*{values}))")
        source(f"else: w({pack}(f'>{{{count}}}{FIXED[kind]}', *{values}))")
        return
    source(f"for {element} in {values}:")
    source.depth += 1
    before = len(source.lines)
    if isinstance(field.item, type):
        _encode_struct(source, field.item, element, parts)
    else:
        assert field.item is not None
        _encode_field(source, _element(field.name, field.item), element, parts)
    _flush_pack(source)
    if len(source.lines) == before:  # a struct none of whose fields this version has
        source("pass")
    source.depth -= 1


def _encode_embedded(source: _Source, cls: type, value: str, null: bool, parts: bool) -> None:
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

    def __init__(self, cls: type, tagged: list[Field], source: _Source) -> None:
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
        source = _Source(self.label, self.version, True)
        source.env["join"] = b"".join
        source.env["ONE"] = [bytes([n]) for n in range(128)]
        _encode_field(source, field, "value", False)
        _flush_pack(source)
        source("return join(out)")
        return source.build("def encode(value):\n    out = []; w = out.append", "encode")  # type: ignore[no-any-return]
