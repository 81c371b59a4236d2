r"""Formats of records, as rpk and kcat have them.

    %v %s  value          %t  topic       %T %d  timestamp, ms since the epoch      %%  a percent sign
    %k     key            %p  partition   %h     headers, name=value,name=value     \n \t \r \0 \\ \xNN
    %K %V %S  length of key, value (-1: null)    %o  offset
    %v{hex} %k{hex} %v{base64} %k{base64}        bytes that are not text

Writing, a format turns a record into bytes (`Output`). Reading, it takes a line apart (`Input`): %k %v %h and what
stands between them; the last field takes the rest of the line.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Sequence
from typing import NamedTuple

_TOKEN = re.compile(
    r"%(?P<field>[a-zA-Z%])(?:\{(?P<encoding>hex|base64)\})?"
    r"|\\(?:x(?P<byte>[0-9a-fA-F]{2})|(?P<escape>.))"
)
_ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}

Headers = Sequence[tuple[str, bytes | None]]


class Shown(NamedTuple):
    """A record, as formats see it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Parsed(NamedTuple):
    """What a line of input says; None: the format does not speak of it."""

    key: bytes | None
    value: bytes | None
    headers: Headers


_FIELDS: dict[str, Callable[[Shown], bytes]] = {
    "v": lambda r: r.value or b"",
    "s": lambda r: r.value or b"",
    "k": lambda r: r.key or b"",
    "t": lambda r: r.topic.encode(),
    "p": lambda r: b"%d" % r.partition,
    "o": lambda r: b"%d" % r.offset,
    "d": lambda r: b"%d" % r.timestamp_ms,
    "T": lambda r: b"%d" % r.timestamp_ms,
    "h": lambda r: b",".join(name.encode() + b"=" + (value or b"") for name, value in r.headers),
    "K": lambda r: b"%d" % (-1 if r.key is None else len(r.key)),
    "V": lambda r: b"%d" % (-1 if r.value is None else len(r.value)),
    "S": lambda r: b"%d" % (-1 if r.value is None else len(r.value)),
    "%": lambda r: b"%",
}
_ENCODINGS: dict[str, Callable[[bytes], bytes]] = {"hex": lambda data: data.hex().encode(), "base64": b64encode}
_DECODINGS: dict[str, Callable[[bytes], bytes]] = {
    "hex": lambda text: bytes.fromhex(text.decode("ascii")),
    "base64": lambda text: b64decode(text, validate=True),
}


class Output:
    """A compiled format: `output(record) -> bytes`. Raises ValueError for a format that makes no sense."""

    def __init__(self, text: str) -> None:
        self._parts = [_writer(part) for part in _split(text)]

    def __call__(self, record: Shown) -> bytes:
        """The record in this format."""
        return b"".join(part if isinstance(part, bytes) else part(record) for part in self._parts)


class Input:
    """A compiled format: `parse(line) -> Parsed`. A line break at its end is implied."""

    def __init__(self, text: str) -> None:
        parts = _split(text)
        while parts and parts[-1] == b"\n":
            parts.pop()
        self._decoders: dict[str, Callable[[bytes], bytes]] = {}
        fields = [part for part in parts if isinstance(part, tuple)]
        pattern = b"".join(
            re.escape(part) if isinstance(part, bytes) else self._group(part, last=part is fields[-1]) for part in parts
        )
        self._pattern = re.compile(pattern, re.DOTALL)

    def parse(self, line: bytes) -> Parsed:
        """Take a line (without its line break) apart. Raises ValueError when it does not fit."""
        match = self._pattern.fullmatch(line)
        if match is None:
            raise ValueError(f"does not fit the format: {line[:80]!r}")
        found: dict[str, bytes] = match.groupdict()
        try:
            found.update({name: decode(found[name]) for name, decode in self._decoders.items()})
        except (ValueError, Base64Error) as error:
            raise ValueError(f"{error}: {line[:80]!r}") from None
        return Parsed(found.get("k"), found.get("v"), _headers(found.get("h", b"")))

    def _group(self, part: tuple[str, str | None], *, last: bool) -> bytes:
        field, encoding = ("v" if part[0] == "s" else part[0]), part[1]
        if field == "%":
            return b"%"
        if field not in ("k", "v", "h"):
            raise ValueError(f"%{field} has no meaning for input")
        if encoding:
            self._decoders[field] = _DECODINGS[encoding]
        return b"(?P<%s>.*%s)" % (field.encode(), b"" if last else b"?")


def parse_header(text: str) -> tuple[str, bytes]:
    """ "name:value" of -H. Raises ValueError."""
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise ValueError(f"{text!r} is not NAME:VALUE")
    return name, value.encode()


def json_fields(record: Shown) -> dict[str, object]:
    """The record as kcat -J writes it; bytes that are not UTF-8 as {"base64": ...}."""
    headers: list[object] = []
    for name, value in record.headers:
        headers += [name, _json_text(value)]
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "ts": record.timestamp_ms,
        "headers": headers,
        "key": _json_text(record.key),
        "payload": _json_text(record.value),
    }


def _json_text(data: bytes | None) -> object:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(data).decode()}


def _headers(text: bytes) -> Headers:
    pairs = [part.partition(b"=") for part in text.split(b",") if part]
    return [(name.decode(errors="replace"), value) for name, _, value in pairs]


def _split(text: str) -> list[bytes | tuple[str, str | None]]:
    """Literals and (field, encoding)."""
    parts: list[bytes | tuple[str, str | None]] = []
    position = 0
    for match in _TOKEN.finditer(text):
        if match.start() > position:
            parts.append(text[position : match.start()].encode())
        position = match.end()
        if match["field"]:
            if match["field"] not in _FIELDS:
                raise ValueError(f"%{match['field']} is not a field; there are {', '.join('%' + f for f in _FIELDS)}")
            parts.append((match["field"], match["encoding"]))
        elif match["byte"]:
            parts.append(bytes.fromhex(match["byte"]))
        else:
            parts.append(_ESCAPES.get(match["escape"], match["escape"].encode()))
    if position < len(text):
        parts.append(text[position:].encode())
    return parts


def _writer(part: bytes | tuple[str, str | None]) -> bytes | Callable[[Shown], bytes]:
    if isinstance(part, bytes):
        return part
    read = _FIELDS[part[0]]
    if part[1] is None:
        return read
    encode = _ENCODINGS[part[1]]
    return lambda record: encode(read(record))
