"""Codecs in slices: the same bytes and the same messages as the plain ones, and a pause every few dozen elements."""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import TypeVar

import pytest
from wire_samples import all_messages, sample

from kafka_wire.codegen import decode, decode_in_slices, encode, encode_in_slices
from kafka_wire.errors import ProtocolError
from kafka_wire.messages.group_offsets import OffsetFetchRequest, OffsetFetchRequestTopic
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_wire.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kafka_wire.primitives import uvarint
from kafka_wire.source import SLICE, SLICE_INTEGERS

T = TypeVar("T")


def finish(work: Generator[None, None, T]) -> tuple[T, int]:
    """What a generator returns, and how often it paused."""
    pauses = 0
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value, pauses
        pauses += 1


@pytest.mark.slow
def test_every_message_in_every_version_is_the_same_in_slices() -> None:
    rng = random.Random(5)
    for cls, version in all_messages():
        message = sample(cls, version, rng)
        data = encode(message, version)
        assert b"".join(map(bytes, finish(encode_in_slices(message, version))[0])) == data, (cls, version)
        again, _ = finish(decode_in_slices(cls, version, data))
        assert encode(again, version) == encode(decode(cls, version, data), version), (cls, version)


def large(count: int) -> ListOffsetsRequest:
    partitions = [ListOffsetsPartition(partition_index=n, timestamp=-1) for n in range(count)]
    return ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name="t", partitions=partitions)])


def test_both_ways_pause_in_proportion_to_the_elements() -> None:
    parts, written = finish(encode_in_slices(large(10_000), 7))
    again, read = finish(decode_in_slices(ListOffsetsRequest, 7, b"".join(parts)))
    assert len(again.topics[0].partitions) == 10_000
    assert written == read == 10_001 // SLICE


def test_long_arrays_of_integers_are_read_with_pauses() -> None:
    topic = OffsetFetchRequestTopic(name="t", partition_indexes=list(range(5 * SLICE_INTEGERS)))
    request = OffsetFetchRequest(group_id="g", topics=[topic])
    again, pauses = finish(decode_in_slices(OffsetFetchRequest, 7, encode(request, 7)))
    assert again == request and pauses == 4


def test_an_encoder_in_slices_does_not_keep_small_pieces() -> None:
    """Each takes some fifty bytes besides what it says: a long answer would be ten times as large before it is sent."""
    parts, _ = finish(encode_in_slices(large(100_000), 7))
    assert len(parts) > 10 and max(map(len, parts)) < len(b"".join(parts)) / 10


def test_a_small_message_does_not_pause() -> None:
    parts, written = finish(encode_in_slices(large(3), 7))
    assert written == 0
    assert finish(decode_in_slices(ListOffsetsRequest, 7, parts[0]))[1] == 0


def test_any_number_of_unknown_tags_pauses_too() -> None:
    count = 10_000
    plain = encode(MetadataRequest(topics=[MetadataRequestTopic(name="t")]), 12)
    assert plain[-1:] == b"\0"
    tagged = plain[:-1] + uvarint(count) + b"".join(uvarint(100 + n) + b"\1x" for n in range(count))
    found, pauses = finish(decode_in_slices(MetadataRequest, 12, tagged))
    assert found.topics[0].name == "t"
    assert pauses == count // SLICE


def test_B2_damage_is_a_protocol_error_in_slices_too() -> None:
    data = encode(large(200), 7)
    for stop in (0, 5, len(data) // 2, len(data) - 1):
        with pytest.raises(ProtocolError):
            finish(decode_in_slices(ListOffsetsRequest, 7, data[:stop]))
    with pytest.raises(ProtocolError):
        decode_in_slices(ListOffsetsRequest, 99, data)
