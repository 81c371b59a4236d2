"""The declarations, judged three times: Kafka's JSON field by field, kafka-python and kio byte by byte.

kafka-python and kio are independent implementations, both made from Kafka's JSON; kio covers every API declared here.
A message of ours with random content is given to the judge, who reads it and writes it again: the same bytes must come
back, and kafka-python's fields must hold our values.
"""

from __future__ import annotations

import io
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from kafka.protocol.api_message import ApiMessage
from kio.index import load_entity_module
from kio.schema.index import api_key_map
from kio.serial import entity_reader, entity_writer
from kio.static.constants import EntityType
from wire_samples import all_messages, is_own, sample

from kafka_wire.api import APIS, OWN_KEY_MIN, request_class, response_class
from kafka_wire.codegen import decode, encode
from kafka_wire.messages.group_admin import DescribeGroupsRequest, DescribeGroupsResponse
from kafka_wire.messages.internal import ConsumerProtocolAssignment, ConsumerProtocolSubscription
from kafka_wire.schema import Field, layout

CLASSES = [cls for key in APIS for cls in (request_class(key), response_class(key))]
NOT_IN_KIO = {("OffsetCommitRequest", 1), ("OffsetCommitResponse", 1)}  # Kafka 4 has dropped it; kafka-python has it


def test_every_message_in_every_version_comes_back() -> None:
    for cls, version in all_messages():
        rng = random.Random(f"{cls.__name__} {version}")
        for size in (0, 1, 3):
            original = sample(cls, version, rng, size=size)
            data = encode(original, version)
            again: Any = decode(cls, version, data)
            assert again == original
            assert encode(again, version) == data


# ---- Kafka's JSON, as kafka-python ships it


def kafka_json(name: str) -> Any:
    path = resources.files("kafka.protocol.schemas.resources") / f"{name}.json"
    return json.loads(re.sub(r"(?m)^\s*//.*$", "", path.read_text())) if path.is_file() else None


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def span(text: str | None, within: tuple[int, int]) -> tuple[int, int] | None:
    """The part of a JSON version range that lies within some versions."""
    if text in (None, "none"):
        return None
    low, _, high = text.rstrip("+").partition("-")
    first, last = max(int(low), within[0]), min(within[1] if text.endswith("+") else int(high or low), within[1])
    return (first, last) if first <= last else None


def differences(cls: type, specs: list[Any], common: Any, versions: tuple[int, int], path: str) -> Iterator[str]:
    """Everything in which a class differs from the JSON of its fields, but for what is kbroker's own."""
    specs = [spec for spec in specs if span(spec["versions"], versions)]
    ours = [field for field in layout(cls).fields if not is_own(field)]
    if [field.name for field in ours] != [snake(spec["name"]) for spec in specs]:
        yield f"{path}: {[field.name for field in ours]} is not {[snake(spec['name']) for spec in specs]}"
        return
    for field, spec in zip(ours, specs, strict=True):
        where = f"{path}.{field.name}"
        present = span(spec["versions"], versions)
        assert present is not None
        yield from field_differences(field, spec, present, versions, where)
        kind = spec["type"].removeprefix("[]")
        if kind[0].isupper():
            assert isinstance(field.item, type)
            yield from differences(field.item, spec.get("fields") or common[kind], common, present, where)


def field_differences(
    field: Field, spec: Any, present: tuple[int, int], versions: tuple[int, int], where: str
) -> Iterator[str]:
    kind = spec["type"].removeprefix("[]")
    inner = "struct" if kind[0].isupper() else kind
    all_versions = range(versions[0], versions[1] + 1)
    if [v for v in all_versions if field.has(v)] != list(range(present[0], present[1] + 1)):
        yield f"{where}: versions {field.since}-{field.until}, not {present}"
    nullable = span(spec.get("nullableVersions"), present)
    theirs = [] if nullable is None else list(range(nullable[0], nullable[1] + 1))
    if [v for v in all_versions if field.has(v) and field.can_be_null(v)] != theirs:
        yield f"{where}: null since {field.nullable}, not {nullable}"
    if field.tag != spec.get("tag"):
        yield f"{where}: tag {field.tag}, not {spec.get('tag')}"
    if field.kind != ("array" if spec["type"].startswith("[]") else inner):
        yield f"{where}: {field.kind}, not {spec['type']}"
    if field.kind == "array" and inner != "struct" and field.item != kind:
        yield f"{where}: array of {field.item}, not {kind}"
    if "default" in spec and not same_default(field.default, spec["default"]):
        yield f"{where}: default {field.default!r}, not {spec['default']!r}"


def same_default(ours: Any, theirs: Any) -> bool:
    if theirs == "null":
        return ours is None
    if isinstance(ours, bool):
        return ours == (str(theirs).lower() == "true")
    if isinstance(ours, int):
        return ours == int(str(theirs), 0)
    return bool(ours == theirs)


@pytest.mark.parametrize("cls", [*CLASSES, ConsumerProtocolSubscription, ConsumerProtocolAssignment])
def test_fields_are_those_of_kafkas_json(cls: type) -> None:
    spec = kafka_json(cls.__name__)
    if spec is None:
        pytest.skip("kafka-python does not use this API; kio judges it below")
    found = layout(cls)
    common = {each["name"]: each["fields"] for each in spec.get("commonStructs", [])}
    assert list(differences(cls, spec["fields"], common, found.versions, cls.__name__)) == []
    flexible = spec.get("flexibleVersions", "none")
    assert found.flexible == (32768 if flexible == "none" else int(flexible.rstrip("+")))
    assert found.key == spec.get("apiKey")


def test_the_drafting_tool_draws_up_what_is_declared() -> None:
    tool = Path(__file__).parents[2] / "tools" / "draft_messages.py"
    for name in ("FetchRequest", "JoinGroupResponse", "DescribeTopicPartitionsResponse", "ApiVersionsResponse"):
        with resources.as_file(resources.files("kafka.protocol.schemas.resources") / f"{name}.json") as path:
            draft = subprocess.run([sys.executable, tool, path], check=True, capture_output=True, text=True).stdout
        module: dict[str, Any] = {"Buffer": Any, "Any": Any, "__name__": "draft"}
        exec("from __future__ import annotations\nfrom kafka_wire.schema import *\n" + draft, module)
        spec = kafka_json(name)
        common = {each["name"]: each["fields"] for each in spec.get("commonStructs", [])}
        cls = module[name]
        assert list(differences(cls, spec["fields"], common, layout(cls).versions, name)) == []


# ---- kafka-python


def kafka_python_classes() -> dict[str, Any]:
    found = {}
    waiting = [ApiMessage]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            found[cls.__name__] = cls
            waiting.append(cls)
    return found


def assert_same_values(ours: Any, theirs: Any, version: int) -> None:
    if isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same_values(one, other, version)
    elif hasattr(type(ours), "__wire__"):
        for field in layout(type(ours)).fields:
            value = getattr(ours, field.name)
            if is_own(field) or field.name.endswith("authorized_operations"):
                continue  # kafka-python makes a set of the operations, under another name
            left_out = field.tag is not None and value == field.default  # kafka-python may say None then
            if field.has(version) and value is not None and not left_out:
                assert_same_values(value, getattr(theirs, field.name), version)
    else:
        assert ours == (theirs.bytes if hasattr(theirs, "bytes") else theirs)


@pytest.mark.slow
def test_kafka_python_reads_and_writes_the_same_bytes() -> None:
    judges = kafka_python_classes()
    judged = set()
    for cls, version in all_messages():
        judge = judges.get(cls.__name__)
        if judge is None or version > judge.max_version:
            continue
        rng = random.Random(f"{cls.__name__} {version}")
        for size in (0, 1, 3):
            original = sample(cls, version, rng, size=size, own=False)
            if cls.__name__ == "ApiVersionsResponse":
                original.error_code = 0  # with an error kafka-python rightly expects the body of v0
            data = encode(original, version)
            theirs = judge.decode(data, version=version)
            assert_same_values(original, theirs, version)
            theirs._header = None
            assert theirs.encode(version=version) == data, (cls, version)
        judged.add((cls.__name__, version))
    assert len(judged) > 470


# ---- kio


@pytest.mark.slow
def test_kio_reads_and_writes_the_same_bytes() -> None:
    for cls, version in all_messages():
        if (cls.__name__, version) in NOT_IN_KIO or (layout(cls).key or 0) >= OWN_KEY_MIN:
            continue
        entity: Any = EntityType.request if cls.__name__.endswith("Request") else EntityType.response
        judge = getattr(load_entity_module(api_key_map[layout(cls).key or 0], version, entity), cls.__name__)
        rng = random.Random(f"{cls.__name__} {version}")
        for size in (0, 1, 3):
            data = encode(sample(cls, version, rng, size=size, calm=True, own=False), version)
            theirs, end = entity_reader(judge)(data, 0)
            assert end == len(data)
            written = io.BytesIO()
            entity_writer(judge)(written, theirs)
            assert written.getvalue() == data, (cls, version)


# ---- what is kbroker's own


def own_fields(cls: type) -> Iterator[str]:
    for field in layout(cls).fields:
        if is_own(field):
            yield f"{cls.__name__}.{field.name}"
        elif isinstance(field.item, type):
            yield from own_fields(field.item)


def test_kbrokers_own_fields_are_these() -> None:
    assert sorted({name for cls in CLASSES for name in own_fields(cls)}) == [
        "ConsumerGroupDescribeRequest.include_rebalances",
        "DescribeGroupsRequest.include_rebalances",
        "DescribedConsumerGroup.rebalances",
        "DescribedConsumerGroup.unowned_seconds",
        "DescribedGroup.rebalances",
        "DescribedGroup.unowned_seconds",
    ]


@pytest.mark.parametrize("cls", [DescribeGroupsRequest, DescribeGroupsResponse])
def test_who_does_not_know_kbrokers_own_fields_skips_them(cls: Any) -> None:
    """kafka-python reads a message with them as it reads the same message without (KIP-482). kio refuses all tags that
    it does not know; the Java client, librdkafka and Kafka itself skip them."""
    judge, added = kafka_python_classes()[cls.__name__], 0
    for seed in range(20):
        message = sample(cls, 6, random.Random(seed))
        data = encode(message, 6)
        for each in message.groups if cls is DescribeGroupsResponse else [message]:
            for field in layout(type(each)).fields:
                if is_own(field):
                    setattr(each, field.name, field.fresh_default())
        plain = encode(message, 6)
        assert judge.decode(data, version=6).to_dict() == judge.decode(plain, version=6).to_dict()
        added += len(data) - len(plain)
    assert added > 0
