"""The compiled codecs: the shapes a field can have, and B2: no input makes them do anything but raise ProtocolError."""

from __future__ import annotations

import random
import struct as structs
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_samples import all_messages, sample

from kafka_wire.codegen import decode, decoder, encode, encode_parts, encoder
from kafka_wire.encoding import OWN_PART_SIZE
from kafka_wire.errors import ErrorCode, ProtocolError
from kafka_wire.messages.metadata import ApiVersionsResponse, FinalizedFeatureKey, MetadataRequest, MetadataResponse
from kafka_wire.messages.produce_fetch import (
    FetchableTopicResponse,
    FetchPartitionData,
    FetchResponse,
    LeaderIdAndEpoch,
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
    TopicProduceResponse,
)
from kafka_wire.schema import (
    array,
    boolean,
    bytes_,
    embed,
    float64,
    int8,
    int16,
    int32,
    int64,
    layout,
    message,
    string,
    struct,
    uint16,
    uint32,
    uuid,
)


@struct
class Item:
    text: str = string(default="")
    number: int = int16(since=1, default=-1)
    late: bool = boolean(since=2, tag=3, default=False)


@struct
class Late:
    """A struct that has nothing at all in version 0."""

    number: int = int8(since=1, default=0)


@message(versions=(0, 3), flexible=2)
class Everything:
    yes: bool = boolean(default=False)
    a: int = int8(default=0)
    b: int = int16(default=0)
    c: int = uint16(default=0)
    d: int = int32(default=0)
    e: int = uint32(default=0)
    f: int = int64(default=0)
    g: float = float64(default=0.0)
    id: bytes = uuid(default=bytes(16))
    text: str = string(default="")
    maybe_text: str | None = string(nullable=1, default="")
    data: Any = bytes_(default=b"")
    maybe_data: Any = bytes_(nullable=0, default=None)
    item: Item = embed(Item, default=None)
    maybe_item: Item | None = embed(Item, nullable=0, default=None)
    items: list[Item] = array(Item, default=[])
    maybe_items: list[Item] | None = array(Item, nullable=1, default=[])
    nothings: list[Late] = array(Late, default=[])
    texts: list[str] = array("string", default=[])
    blobs: list[Any] = array("bytes", default=[])
    flags: list[bool] = array("bool", default=[])
    ports: list[int] = array("uint16", default=[])
    ids: list[bytes] = array("uuid", default=[])
    bytes8: list[int] = array("int8", default=[])
    shorts: list[int] = array("int16", default=[])
    ints: list[int] = array("int32", default=[])
    longs: list[int] | None = array("int64", nullable=0, default=None)
    gone: int = int32(until=1, default=7)
    tag_text: str | None = string(since=2, tag=0, nullable=0, default=None)
    tag_item: Item | None = embed(Item, since=2, tag=1, default=None)
    tag_ints: list[int] = array("int32", since=3, tag=2, default=[])
    tag_id: bytes = uuid(since=2, tag=9, default=bytes(16))


def full(version: int) -> Everything:
    item = Item(text="ü", number=5) if version else Item(text="ü")
    return Everything(
        yes=True, a=-1, b=-2, c=65535, d=-3, e=2**32 - 1, f=-(2**63), g=1.5, id=bytes(range(16)),
        text="x" * 200, maybe_text=None if version else "", data=b"d" * 200, maybe_data=b"", item=item,
        maybe_item=item, items=[item, Item()], maybe_items=None if version else [], nothings=[Late(), Late()],
        texts=["", "a"], blobs=[b"", b"b"], flags=[True, False], ports=[1, 65535], ids=[bytes(16), bytes(range(16))],
        bytes8=[-1, 1], shorts=list(range(20)), ints=[1, -1] * 100, longs=[2**62],
    )  # fmt: skip


@pytest.mark.parametrize("version", range(4))
def test_every_shape_of_field_comes_back(version: int) -> None:
    for one in (full(version), Everything(item=Item())):
        data = encode(one, version)
        again = decode(Everything, version, data)
        assert again == one
        assert encode(again, version) == data
        assert decode(Everything, version, memoryview(b"abc" + data), 3) == one
        assert decode(Everything, version, bytearray(data)) == one


def test_fields_a_version_lacks_have_their_defaults() -> None:
    one = Everything(item=Item(number=3), gone=1, tag_text="t", tag_ints=[1])
    zero = decode(Everything, 0, encode(one, 0))
    assert (zero.gone, zero.tag_text, zero.tag_ints, zero.item.number) == (1, None, [], -1)
    two = decode(Everything, 2, encode(one, 2))
    assert (two.gone, two.tag_text, two.tag_ints, two.item.number) == (7, "t", [], 3)
    three = decode(Everything, 3, encode(one, 3))
    assert (three.tag_text, three.tag_ints) == ("t", [1])


def test_tagged_fields_are_written_only_when_they_differ_from_their_default() -> None:
    assert encode(ProduceResponse(responses=[]), 10) == b"\1" + bytes(4) + b"\0"
    response = ApiVersionsResponse(
        finalized_features_epoch=5,
        finalized_features=[FinalizedFeatureKey(name="f", max_version_level=2, min_version_level=1)],
        zk_migration_ready=False,
    )
    data = encode(response, 3)
    assert data[7:] == b"\2" + b"\1\x08" + (5).to_bytes(8, "big") + b"\2\x08" + b"\2\2f\0\2\0\1\0"
    assert decode(ApiVersionsResponse, 3, data) == response


def test_a_tagged_struct_is_none_when_absent() -> None:
    def answer(leader: LeaderIdAndEpoch | None) -> ProduceResponse:
        partition = PartitionProduceResponse(index=0, current_leader=leader)
        return ProduceResponse(responses=[TopicProduceResponse(name="t", partition_responses=[partition])])

    for leader in (None, LeaderIdAndEpoch(leader_id=3, leader_epoch=4)):
        assert decode(ProduceResponse, 10, encode(answer(leader), 10)) == answer(leader)
    assert decode(ProduceResponse, 9, encode(answer(LeaderIdAndEpoch()), 9)) == answer(None)


def test_unknown_tags_are_skipped() -> None:
    data = encode(Everything(item=Item(), tag_text="t"), 2)
    assert data.endswith(b"\1\0\2\2t")
    more = data[:-5] + b"\3\0\2\2t" + b"\x05\0" + b"\xc8\1\3abc"
    assert decode(Everything, 2, more) == Everything(item=Item(), tag_text="t")


def test_bytes_after_the_message_are_ignored() -> None:
    assert decode(MetadataRequest, 1, encode(MetadataRequest(topics=None), 1) + b"rubbish").topics is None


def test_records_are_views_of_the_frame_that_can_be_patched() -> None:
    request = ProduceRequest(
        acks=1,
        timeout_ms=1,
        topic_data=[TopicProduceData(name="t", partition_data=[PartitionProduceData(index=0, records=b"batch")])],
    )
    for version in (7, 9):
        frame = bytearray(b"head" + encode(request, version))
        records = decode(ProduceRequest, version, frame, 4).topic_data[0].partition_data[0].records
        assert type(records) is memoryview and records.obj is frame
        records[0:1] = b"B"
        assert b"Batch" in frame


def test_an_error_code_is_an_int() -> None:
    answer = PartitionProduceResponse(index=0, error_code=ErrorCode.NOT_LEADER_OR_FOLLOWER)
    response = ProduceResponse(responses=[TopicProduceResponse(name="t", partition_responses=[answer])])
    assert decode(ProduceResponse, 9, encode(response, 9)) == response


def test_versions_that_are_not_declared_are_refused() -> None:
    with pytest.raises(ProtocolError, match="FetchResponse has no version 99"):
        decoder(FetchResponse, 99)
    with pytest.raises(ValueError, match="no version 3"):
        encoder(FetchResponse, 3)


def test_a_codec_is_compiled_once() -> None:
    assert decoder(FetchResponse, 12) is decoder(FetchResponse, 12)
    assert encoder(FetchResponse, 12) is encoder(FetchResponse, 12)


# ---- parts


def fetch_response(*records: Any) -> FetchResponse:
    partitions = [FetchPartitionData(partition_index=n, records=each) for n, each in enumerate(records)]
    return FetchResponse(responses=[FetchableTopicResponse(topic="t", partitions=partitions)])


@pytest.mark.parametrize("version", [4, 11, 12])
def test_parts_join_to_the_same_bytes(version: int) -> None:
    big = bytearray(b"z" * OWN_PART_SIZE)
    response = fetch_response(b"small", None, b"", memoryview(big), b"small", (b"a", big, b"c"))
    whole = fetch_response(b"small", None, b"", bytes(big), b"small", b"a" + bytes(big) + b"c")
    parts = encode_parts(response, version)
    assert b"".join(parts) == encode(whole, version)
    assert parts[1].obj is big and parts[3] is big  # large buffers are not copied
    assert len(parts) == 5


def test_a_message_without_records_is_one_part() -> None:
    assert encode_parts(MetadataResponse(), 9) == [encode(MetadataResponse(), 9)]


# ---- B2: malformed input


def check(cls: type, version: int, data: bytes) -> None:
    try:
        decode(cls, version, data)
    except ProtocolError:
        pass


@pytest.mark.parametrize("version", range(4))
def test_B2_every_truncation_is_a_protocol_error(version: int) -> None:
    data = encode(full(version), version)
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            decode(Everything, version, data[:length])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3), st.integers(0, 10**6), st.binary(min_size=1, max_size=6))
def test_B2_no_mutation_raises_anything_else(version: int, place: int, patch: bytes) -> None:
    data = bytearray(encode(full(version), version))
    place %= len(data)
    data[place : place + len(patch)] = patch
    check(Everything, version, bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3), st.binary(max_size=300))
def test_B2_no_rubbish_raises_anything_else(version: int, data: bytes) -> None:
    check(Everything, version, data)


@pytest.mark.slow
def test_B2_no_message_in_any_version_lets_damage_through() -> None:
    rng = random.Random(7)
    for cls, version in all_messages():
        data = encode(sample(cls, version, rng), version)
        for _ in range(12):
            damaged = bytearray(data)
            for _ in range(rng.randint(1, 3)):
                if damaged:
                    damaged[rng.randrange(len(damaged))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            check(cls, version, bytes(damaged))
            check(cls, version, data[: rng.randint(0, len(data))])


def test_B2_counts_are_bounded_before_anything_is_allocated() -> None:
    tracemalloc.start()
    try:
        for count in (2**31 - 1, 100_000_000):
            for cls, version, data in (
                (MetadataRequest, 1, structs.pack(">i", count) + bytes(100)),
                (MetadataRequest, 9, b"\xff\xff\xff\xff\x07" + bytes(100)),
                (ApiVersionsResponse, 0, structs.pack(">hi", 0, count) + bytes(100)),
                (Everything, 0, encode(Everything(item=Item()), 0)[:-12] + structs.pack(">i", count) + bytes(8)),
            ):
                with pytest.raises(ProtocolError):
                    decode(cls, version, data)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_B2_elements_without_a_size_are_capped_by_the_bytes_left() -> None:
    data = encode(Everything(item=Item(), nothings=[Late()] * 3), 0)
    assert len(decode(Everything, 0, data).nothings) == 3
    place = data.index(structs.pack(">i", 3))
    with pytest.raises(ProtocolError, match="nothings is longer than the message"):
        decode(Everything, 0, data[:place] + structs.pack(">i", 1000) + data[place + 4 :])


def test_B2_null_only_where_it_is_allowed() -> None:
    with pytest.raises(ProtocolError, match="topics is null"):
        decode(MetadataRequest, 0, structs.pack(">i", -1))
    with pytest.raises(ProtocolError, match="topics has a negative length"):
        decode(MetadataRequest, 1, structs.pack(">i", -2))
    with pytest.raises(ProtocolError, match="name is null"):
        decode(MetadataRequest, 9, b"\2\0\0\0\0\0")
    with pytest.raises(ProtocolError, match="transactional_id has a negative length"):
        decode(ProduceRequest, 3, structs.pack(">hhii", -2, 1, 1, 0))


def test_B2_strings_are_utf_8_and_not_too_long() -> None:
    with pytest.raises(ProtocolError, match="not UTF-8"):
        decode(MetadataRequest, 0, structs.pack(">ih", 1, 2) + b"\xff\xfe")
    with pytest.raises(ProtocolError, match="name is too long"):
        decode(MetadataRequest, 9, b"\2" + b"\x82\x80\x02" + b"x" * 40000)


def test_B2_a_tagged_field_has_the_size_it_says() -> None:
    data = encode(Everything(item=Item(), tag_text="t"), 2)
    for size in (1, 3):
        with pytest.raises(ProtocolError, match="tag_text"):
            decode(Everything, 2, data[:-3] + bytes([size]) + data[-2:] + bytes(4))
    with pytest.raises(ProtocolError):
        decode(Everything, 2, data[:-5] + b"\1\x20\x7f")


def test_the_layouts_of_all_messages_are_sound() -> None:
    for cls, _ in all_messages():
        tags = [field.tag for field in layout(cls).fields if field.tag is not None]
        assert len(tags) == len(set(tags))
