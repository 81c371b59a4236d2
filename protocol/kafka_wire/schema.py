"""How a message is declared: an annotated class with a field specifier for each field.

    @struct
    class ListOffsetsPartition:
        partition_index: int = int32()
        current_leader_epoch: int = int32(since=4, default=-1)

    @message(key=2, versions=(1, 10), flexible=6)
    class ListOffsetsRequest:
        topics: list[ListOffsetsTopic] = array(ListOffsetsTopic)

A specifier says how the field travels: its kind, the versions that carry it, the version from which it may be null,
its tag if it is a tagged field (KIP-482). The decorated class has slots, a keyword-only constructor in which every
field has a default, equality and a repr. The type checker (PEP 681) demands a field unless `default=` is written in its
declaration: so a field that some version lacks states its default, and one that must not be forgotten states none.

A tagged struct is None when absent: absent means that all of its fields have their defaults.
The codecs are compiled from these declarations by `codegen`, per version, on first use; so is the constructor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar, dataclass_transform, overload

T = TypeVar("T")

VERSION_MAX: Final = 32767
# Tags from here up are kbroker's own additions to Kafka's messages: Kafka numbers its tags from 0, one by one, and who
# does not know a tag skips it (KIP-482). What has such a tag is optional to every client and broker.
OWN_TAG_MIN: Final = 10_000
_UNSET: Final[Any] = object()

# kind -> struct format; all other kinds (string, bytes, records, array, struct) have a length or a body of their own
FIXED: Final = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "float64": "d",
    "uuid": "16s",
}


class Field:
    """One field's declaration; `name` is set by the class it belongs to."""

    __slots__ = ("name", "kind", "since", "until", "nullable", "tag", "default", "item")

    def __init__(
        self,
        kind: str,
        since: int,
        until: int,
        nullable: int | None,
        tag: int | None,
        default: Any,
        item: str | type | None = None,
    ) -> None:
        self.name = ""
        self.kind = kind
        self.since = since  # first and last version that carry the field
        self.until = until
        self.nullable = nullable  # first version in which null is allowed, None = never
        self.tag = tag  # None: the field is not tagged
        self.default = default
        self.item = item  # of an array: the element's kind or class; of a struct: its class

    def has(self, version: int) -> bool:
        """Whether the field exists in a version."""
        return self.since <= version <= self.until

    def can_be_null(self, version: int) -> bool:
        """Whether null is legal in a version."""
        return self.nullable is not None and version >= self.nullable

    def fresh_default(self) -> Any:
        """The default, as a value of its own where it is mutable."""
        if isinstance(self.default, list):
            return list(self.default)
        if self.default is _UNSET:  # a struct that is neither tagged nor null: one with all defaults
            assert isinstance(self.item, type)
            return self.item()
        return self.default


def _specifier(kind: str, zero: Any) -> Callable[..., Any]:
    def specify(
        *,
        since: int = 0,
        until: int = VERSION_MAX,
        nullable: int | None = None,
        tag: int | None = None,
        default: Any = zero,
    ) -> Any:
        return Field(kind, since, until, nullable, tag, default)

    specify.__name__ = specify.__qualname__ = kind
    return specify


boolean = _specifier("bool", False)
int8 = _specifier("int8", 0)
int16 = _specifier("int16", 0)
uint16 = _specifier("uint16", 0)
int32 = _specifier("int32", 0)
uint32 = _specifier("uint32", 0)
int64 = _specifier("int64", 0)
float64 = _specifier("float64", 0.0)
uuid = _specifier("uuid", bytes(16))  # 16 bytes as they travel
string = _specifier("string", "")
bytes_ = _specifier("bytes", b"")  # decodes to a memoryview of the frame: copy what is to be kept
records = _specifier("records", None)  # like bytes_; may also be encoded from slices of files, see codegen.encode_parts


def array(
    item: str | type,
    *,
    since: int = 0,
    until: int = VERSION_MAX,
    nullable: int | None = None,
    tag: int | None = None,
    default: Any = (),
) -> Any:
    """A list of structs (item is their class) or of values of a kind (item is its name, as "int32")."""
    return Field("array", since, until, nullable, tag, None if default is None else list(default), item)


def embed(
    item: type,
    *,
    since: int = 0,
    until: int = VERSION_MAX,
    nullable: int | None = None,
    tag: int | None = None,
    default: Any = _UNSET,
) -> Any:
    """One struct inside another. Where it is tagged or nullable, None stands for absent."""
    return Field("struct", since, until, nullable, tag, None if tag is not None else default, item)


class Layout:
    """What the codec compiler knows of a class: `layout(cls)`."""

    __slots__ = (
        "cls", "key", "versions", "flexible", "fields", "decoders", "encoders", "part_encoders", "sliced_decoders",
        "sliced_encoders",
    )  # fmt: skip

    def __init__(
        self, cls: type, key: int | None, versions: tuple[int, int], flexible: int, fields: tuple[Field, ...]
    ) -> None:
        self.cls = cls
        self.key = key  # the API key of a request or response
        self.versions = versions  # lowest and highest version; a nested struct has those of its message
        self.flexible = flexible  # first version with compact lengths and tagged fields
        self.fields = fields
        self.decoders: dict[int, Callable[..., Any]] = {}  # version -> compiled, owned by codegen
        self.encoders: dict[int, Callable[[Any], bytes]] = {}
        self.part_encoders: dict[int, Callable[[Any], list[Any]]] = {}
        self.sliced_decoders: dict[int, Callable[..., Generator[None, None, Any]]] = {}
        self.sliced_encoders: dict[int, Callable[[Any], Generator[None, None, list[Any]]]] = {}


def layout(cls: type) -> Layout:
    """The layout of a declared class."""
    found = cls.__dict__["__wire__"]
    assert isinstance(found, Layout)
    return found


@overload
def struct(cls: type[T]) -> type[T]: ...
@overload
def struct(cls: None = None) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(
    kw_only_default=True,
    field_specifiers=(
        boolean, int8, int16, uint16, int32, uint32, int64, float64, uuid, string, bytes_, records, array, embed,
    ),
)  # fmt: skip
def struct(cls: type[T] | None = None) -> type[T] | Callable[[type[T]], type[T]]:
    """Declare a struct that appears inside messages."""
    if cls is None:
        return struct
    return _declare(cls, None, (0, VERSION_MAX), 0)


@dataclass_transform(
    kw_only_default=True,
    field_specifiers=(
        boolean, int8, int16, uint16, int32, uint32, int64, float64, uuid, string, bytes_, records, array, embed,
    ),
)  # fmt: skip
def message(
    *, key: int | None = None, versions: tuple[int, int], flexible: int | None = None
) -> Callable[[type[T]], type[T]]:
    """Declare a request or response (key is its API's), or a value with versions of its own (no key).

    versions are the lowest and the highest; flexible is the first version with compact lengths and tags, None if none.
    """
    return lambda cls: _declare(cls, key, versions, VERSION_MAX + 1 if flexible is None else flexible)


def _declare(cls: type[T], key: int | None, versions: tuple[int, int], flexible: int) -> type[T]:
    """Rebuild a declaration as a class with slots."""
    fields = []
    for name in cls.__annotations__:
        spec = cls.__dict__.get(name)
        assert isinstance(spec, Field), f"{cls.__qualname__}.{name} has no field specifier"
        spec.name = sys.intern(name)
        fields.append(spec)
    body: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__annotations__": cls.__annotations__,
        "__slots__": tuple(cls.__annotations__),
        "__match_args__": (),
        "__init__": _first_init,
        "__repr__": _repr,
        "__eq__": _eq,
        "__hash__": None,
    }
    made: Any = type(cls.__name__, (), body)
    made.__wire__ = Layout(made, key, versions, flexible, tuple(fields))
    return made  # type: ignore[no-any-return]


def _first_init(self: Any, **values: Any) -> None:
    """The constructor until the first object is made: it compiles the real one, so that a declaration costs nothing."""
    cls = type(self)
    cls.__init__ = _compile_init(cls)
    cls.__init__(self, **values)


def _compile_init(cls: type) -> Any:
    env: dict[str, Any] = {"UNSET": _UNSET}
    params, body = [], []
    for n, field in enumerate(layout(cls).fields):
        if isinstance(field.default, list) or field.default is _UNSET:
            env[f"fresh{n}"] = list if field.default == [] else field.fresh_default
            params.append(f"{field.name}=UNSET")
            body.append(f"    self.{field.name} = fresh{n}() if {field.name} is UNSET else {field.name}")
        else:
            env[f"default{n}"] = field.default
            params.append(f"{field.name}=default{n}")
            body.append(f"    self.{field.name} = {field.name}")
    head = f"def __init__(self{', *, ' if params else ''}{', '.join(params)}):"
    exec(compile("\n".join([head, *(body or ["    pass"])]), f"<{cls.__name__} constructor>", "exec"), env)
    return env["__init__"]


def maker(cls: type[T], *names: str) -> Callable[..., T]:
    """A function that makes an object from the values of these fields, by position; the others have their defaults.

    It takes a third of the time the constructor takes: for what is made for every request.
    """
    env: dict[str, Any] = {"new": object.__new__, "cls": cls}
    lines = [f"def make({', '.join(names)}):", "    made = new(cls)"]
    for n, field in enumerate(layout(cls).fields):
        value = field.name
        if value not in names:
            is_fresh = isinstance(field.default, list) or field.default is _UNSET
            env[f"default{n}"] = field.fresh_default if is_fresh else field.default
            value = "[]" if field.default == [] else f"default{n}()" if is_fresh else f"default{n}"
        lines.append(f"    made.{field.name} = {value}")
    exec(compile("\n".join([*lines, "    return made"]), f"<{cls.__name__} maker>", "exec"), env)
    return env["make"]  # type: ignore[no-any-return]


def _repr(self: Any) -> str:
    values = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in layout(type(self)).fields)
    return f"{type(self).__name__}({values})"


def _eq(self: Any, other: object) -> bool:
    if type(other) is not type(self):
        return False
    return all(getattr(self, f.name) == getattr(other, f.name) for f in layout(type(self)).fields)
