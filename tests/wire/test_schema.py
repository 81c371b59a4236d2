"""Declarations as classes: constructor, defaults, equality, repr, slots."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kafka_wire.schema import array, bytes_, embed, int32, layout, maker, message, string, struct, uuid


@struct
class Part:
    index: int = int32()
    epoch: int = int32(since=2, default=-1)


@message(key=99, versions=(1, 3), flexible=2)
class Order:
    """A message."""

    name: str = string()
    note: str | None = string(nullable=0, default=None)
    parts: list[Part] = array(Part, default=[])
    numbers: list[int] | None = array("int32", nullable=0, default=None)
    part: Part = embed(Part)
    maybe: Part | None = embed(Part, nullable=0, default=None)
    hint: Part | None = embed(Part, since=2, tag=0, default=None)
    id: bytes = uuid(since=3, default=bytes(16))
    data: bytes = bytes_()


def test_every_field_has_a_default() -> None:
    order = Order()  # type: ignore[call-arg]
    assert (order.name, order.note, order.parts, order.numbers) == ("", None, [], None)
    assert (order.part, order.maybe, order.hint) == (Part(index=0), None, None)
    assert (order.id, order.data) == (bytes(16), b"")


def test_mutable_defaults_are_not_shared() -> None:
    one, two = Order(name="1", part=Part(index=1), data=b""), Order(name="2", part=Part(index=2), data=b"")
    one.parts.append(Part(index=7))
    assert two.parts == []
    first, second = Order(), Order()  # type: ignore[call-arg]
    first.part.index = 5
    assert second.part.index == 0


def test_the_constructor_takes_the_declared_names_only() -> None:
    for wrong in ({"nam": "x"}, {"name": "x", "more": 1}):
        with pytest.raises(TypeError):
            Order(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Part(1)  # type: ignore[misc]


def test_a_maker_makes_what_the_constructor_makes() -> None:
    make = maker(Order, "note", "name")
    assert make("n", "x") == Order(name="x", note="n")  # type: ignore[call-arg]
    assert type(make("n", "x")) is Order
    assert make("", "").parts is not make("", "").parts
    assert make("", "").part is not make("", "").part


def test_equality_is_by_content_and_class() -> None:
    assert Part(index=1) == Part(index=1, epoch=-1)
    assert Part(index=1) != Part(index=2)
    other: object = (1, -1)
    assert Part(index=1) != other
    with pytest.raises(TypeError):
        hash(Part(index=1))


def test_a_repr_shows_all_fields() -> None:
    assert repr(Part(index=3)) == "Part(index=3, epoch=-1)"


def test_slots_refuse_misspelt_fields() -> None:
    with pytest.raises(AttributeError):
        Part(index=1).indx = 2  # type: ignore[attr-defined]


def test_the_layout_tells_what_was_declared() -> None:
    found = layout(Order)
    assert (found.key, found.versions, found.flexible, found.cls) == (99, (1, 3), 2, Order)
    hint = next(field for field in found.fields if field.name == "hint")
    assert (hint.tag, hint.since, hint.item) == (0, 2, Part)
    assert [v for v in range(5) if hint.has(v)] == [2, 3, 4]
    assert Order.__doc__ == "A message."


def test_a_field_without_a_specifier_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match=r"Wrong\.count"):

        @struct
        class Wrong:
            count: int = 0


@pytest.mark.slow
def test_type_checkers_know_the_fields(tmp_path: Path) -> None:
    source = tmp_path / "user.py"
    source.write_text(
        "from kafka_wire.messages.produce_fetch import FetchPartition, FetchTopic, PartitionProduceResponse\n"
        "good = FetchPartition(partition=0, fetch_offset=1, partition_max_bytes=2)\n"
        "answer = PartitionProduceResponse(index=0)\n"
        "answer.error_code = 3\n"
        "FetchPartition(partition=0, fetch_offset=1)\n"
        "FetchPartition(partition='0', fetch_offset=1, partition_max_bytes=2)\n"
        "FetchTopic(topc='x', partitions=[good])\n"
        "answer.offset\n"
    )
    root = Path(__file__).parents[2]
    pytest.importorskip("mypy")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--explicit-package-bases",
        "--config-file",
        str(root / "pyproject.toml"),
    ]
    run = subprocess.run([*command, str(source)], cwd=root, capture_output=True, text=True)
    lines = [line.partition("error: ")[2] for line in run.stdout.splitlines() if "error: " in line]
    assert len(lines) == 4, run.stdout + run.stderr
    assert "partition_max_bytes" in lines[0] and "partition" in lines[1] and "topc" in lines[2] and "offset" in lines[3]
