"""Varints round trip and refuse to run on; CRC-32C agrees with crcmod, and falls back on it aloud."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import crcmod.predefined
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kafka_wire import primitives
from kafka_wire.errors import ProtocolError
from kafka_wire.primitives import read_uvarint, read_varint, uvarint, varint

crcmod_crc32c = crcmod.predefined.mkPredefinedCrcFun("crc-32c")

UINT32 = st.integers(0, 2**32 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
PADDING = st.binary(max_size=3)


@settings(deadline=None)
@given(UINT32, PADDING, PADDING)
@example(127, b"", b"")
@example(128, b"", b"")
@example(2**32 - 1, b"", b"")
def test_unsigned_varints_round_trip(value: int, before: bytes, after: bytes) -> None:
    encoded = uvarint(value)
    assert len(encoded) == max(1, -(-value.bit_length() // 7))
    assert read_uvarint(before + encoded + after, len(before)) == (value, len(before) + len(encoded))


@settings(deadline=None)
@given(INT64, PADDING, PADDING)
@example(-(2**63), b"", b"")
@example(2**63 - 1, b"", b"")
def test_signed_varints_round_trip(value: int, before: bytes, after: bytes) -> None:
    encoded = varint(value)
    assert len(encoded) <= 10
    assert read_varint(before + encoded + after, len(before)) == (value, len(before) + len(encoded))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "00"), (-1, "01"), (1, "02"), (-2, "03"), (63, "7e"), (-64, "7f"), (64, "8001"), (-(2**63), "ff" * 9 + "01")],
)
def test_zigzag_is_protobufs(value: int, encoded: str) -> None:
    assert varint(value).hex() == encoded


@settings(deadline=None)
@given(st.binary(max_size=12))
def test_any_bytes_are_a_varint_or_a_protocol_error(data: bytes) -> None:
    for read, low, high, size in ((read_uvarint, 0, 2**32, 5), (read_varint, -(2**63), 2**63, 10)):
        for buf in (data, bytearray(data), memoryview(data)):
            try:
                value, pos = read(buf, 0)
            except ProtocolError:
                continue
            assert low <= value < high
            assert 0 < pos <= min(size, len(data))


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (read_uvarint, b""),
        (read_uvarint, b"\x80"),
        (read_uvarint, b"\xff\xff\xff\xff\x10"),
        (read_uvarint, b"\x80\x80\x80\x80\x80\x00"),
        (read_varint, b"\xff" * 9),
        (read_varint, b"\x80" * 9 + b"\x02"),
        (read_varint, b"\x80" * 10 + b"\x00"),
    ],
)
def test_varints_that_do_not_end_or_fit_are_refused(read: Callable[[bytes, int], object], data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(data, 0)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_crc32c_agrees_with_crcmod(data: bytes) -> None:
    expected = crcmod_crc32c(data)
    assert primitives.crc32c(data) == expected
    assert primitives.crc32c(memoryview(bytearray(b"x" + data))[1:]) == expected


def test_crc32c_has_the_value_of_rfc_3720() -> None:
    assert primitives.crc32c(bytes(32)) == 0x8A9136AA
    assert primitives.crc32c(bytes(range(32))) == 0x46DD794E


def test_of_the_wheel_only_the_extension_is_loaded_and_the_package_may_be_imported_later() -> None:
    script = """
import subprocess
import sys
from kafka_wire import primitives
assert primitives.crc32c(bytes(32)) == 0x8A9136AA and "crc32c" not in sys.modules and "argparse" not in sys.modules
import crc32c
assert crc32c.crc32c is primitives.crc32c
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


@pytest.mark.parametrize(
    "extension",
    ["raise ImportError('made for another machine')", "checksum = None", None],
    ids=["does not load", "has another name for it", "is somewhere else"],
)
def test_where_the_extension_is_not_what_it_used_to_be_the_package_is_asked(
    tmp_path: Path, extension: str | None
) -> None:
    package = tmp_path / "crc32c"
    package.mkdir()
    (package / "__init__.py").write_text("def crc32c(data): return 42\n")
    if extension is not None:
        (package / "_crc32c.py").write_text(extension)
    script = """
import sys
from kafka_wire import primitives
assert primitives.crc32c(b"") == 42 and "crc32c" in sys.modules
"""
    path = os.pathsep.join([str(tmp_path), *sys.path])
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, env={**os.environ, "PYTHONPATH": path})


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """primitives as it is imported where no crc32c can be."""
    monkeypatch.setitem(sys.modules, "crc32c", None)
    monkeypatch.delitem(sys.modules, "kafka_wire.primitives")
    yield importlib.import_module("kafka_wire.primitives")
    import kafka_wire

    sys.modules["kafka_wire.primitives"] = kafka_wire.primitives = primitives


def test_without_the_wheel_crcmod_answers_and_a_warning_says_so_once(no_wheel: ModuleType) -> None:
    imported_early = no_wheel.crc32c
    with pytest.warns(UserWarning, match="crcmod"):
        assert no_wheel.crc32c(memoryview(bytes(32))) == 0x8A9136AA
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert no_wheel.crc32c(b"") == 0
        assert imported_early(bytes(range(32))) == 0x46DD794E


def test_where_there_is_neither_the_wheel_is_what_is_missed(
    no_wheel: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "crcmod.predefined", None)
    with pytest.raises(ImportError, match="crc32c"):
        no_wheel.crc32c(b"")
