"""Probes written by hand: coordinators, groups of both protocols, their offsets.

To add one, yield it: `single` for one request in some versions, followed by what its API looks at afterwards
(`sensible.py`), `Probe` for any steps. Then `python compat/odd/run.py --kafka` takes down what Apache Kafka answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sensible import CONSUMER, MEMBER, look_at_commits, look_at_group, single
from stage import MEMBER_ID, SUBSCRIPTION
from steps import Probe, Ref, Step, id_of

from kafka_wire.messages import consumer_groups as k
from kafka_wire.messages import group_admin as a
from kafka_wire.messages import group_offsets as o
from kafka_wire.messages import groups as g


def probes() -> Iterator[Probe]:
    """All of them."""
    yield from _groups()
    yield from _offset_commits()
    yield from _offset_fetches()
    yield from _classic_members()
    yield from _joins()
    yield from _consumer_members()


def _groups() -> Iterator[Probe]:
    for kind in (-1, 0, 1, 2, 3, 127):
        for key in ("", "group", "odd"):
            yield from single(f"type {kind} key {key!r}", g.FindCoordinatorRequest(key=key, key_type=kind), 1, 3)
            keys = [key, "second", key]
            yield from single(
                f"type {kind} keys {keys}", g.FindCoordinatorRequest(coordinator_keys=keys, key_type=kind), 4, 6
            )
    for names in ([""], ["unknown"], ["group", "group"], ["consumer"], ["member", "unknown", ""], []):
        yield from single(
            f"groups {names}", a.DescribeGroupsRequest(groups=names, include_authorized_operations=True), 0, 5, 6
        )
        yield from single(
            f"groups {names}", k.ConsumerGroupDescribeRequest(group_ids=names, include_authorized_operations=True), 0, 1
        )
    for states, types in (
        (["Stable"], []), (["stable"], []), (["Nonsense"], []), ([""], []), ([], ["classic"]), ([], ["CONSUMER"]),
        ([], ["nonsense"]), (["Empty"], ["classic"]), ([], ["share"]),
    ):  # fmt: skip
        yield from single(
            f"states {states} types {types}", a.ListGroupsRequest(states_filter=states, types_filter=types), 4, 5
        )
    for names in ([""], ["unknown-@"], ["group-@", "group-@"], ["member-@"], ["consumer-@"], []):
        yield from single(f"groups {names}", a.DeleteGroupsRequest(groups_names=names), 1, 2)
    for group in ("", "unknown-@", "member-@", "consumer-@", "group-@"):
        for topic, index in (("one", 0), ("one", 9), ("unknown", 0), ("", 0)):
            parts = [o.OffsetDeleteRequestPartition(partition_index=index)]
            topics = [o.OffsetDeleteRequestTopic(name=topic, partitions=parts)]
            request = o.OffsetDeleteRequest(group_id=group, topics=topics)
            yield from single(
                f"group {group!r} topic {topic!r} {index}", request, 0, after=[look_at_commits("group-@")]
            )


def _offset_commits() -> Iterator[Probe]:
    def committed(group: str, generation: int, member: Any, **fields: Any) -> o.OffsetCommitRequest:
        topic, index = fields.pop("to", ("one", 0))
        part = o.OffsetCommitRequestPartition(
            partition_index=index,
            committed_offset=fields.pop("offset", 7),
            committed_metadata=fields.pop("note", "m"),
        )
        topics = [o.OffsetCommitRequestTopic(name=topic, partitions=[part] * fields.pop("times", 1))]
        return o.OffsetCommitRequest(
            group_id=group, generation_id_or_member_epoch=generation, member_id=member, topics=topics, **fields
        )

    for group, member in (("group-@", ""), ("group-@", "x"), ("unknown-@", ""), ("unknown-@", "x"), ("", ""),
                          ("member-@", ""), ("member-@", "x"), ("member-@", MEMBER), ("consumer-@", ""),
                          ("consumer-@", "x"), ("consumer-@", CONSUMER)):  # fmt: skip
        for generation in (-2, -1, 0, 1, 2, 9):
            request = committed(group, generation, member)
            yield from single(
                f"{group!r} member {member!r} generation {generation}", request, 2, 9, after=[look_at_commits(group)]
            )
    yield from single("an instance id nobody has", committed("member-@", 1, MEMBER, group_instance_id="i"), 7, 9)
    for label, fields in {
        "offset -1": {"offset": -1},
        "offset -5": {"offset": -5},
        "the largest offset": {"offset": 2**63 - 1},
        "no note": {"note": None},
        "a note too long": {"note": "n" * 4097},
        "a note that just fits": {"note": "n" * 4096},
        "an unknown partition": {"to": ("one", 9)},
        "an unknown topic": {"to": ("unknown", 0)},
        "an empty topic": {"to": ("", 0)},
        "a partition twice": {"times": 2},
    }.items():
        yield from single(label, committed("group-@", -1, "", **fields), 2, 6, 9)


def _offset_fetches() -> Iterator[Probe]:
    def fetched(group: str, topics: list[tuple[str, list[int]]] | None, member: Any = None, epoch: int = -1) -> Any:
        asked = None if topics is None else [
            o.OffsetFetchRequestTopics(name=name, partition_indexes=indexes) for name, indexes in topics
        ]  # fmt: skip
        wanted = o.OffsetFetchRequestGroup(group_id=group, member_id=member, member_epoch=epoch, topics=asked)
        return o.OffsetFetchRequest(groups=[wanted])

    for label, topics in {
        "all": None, "none": [], "no partitions": [("one", [])], "unknown": [("unknown", [0]), ("one", [9, -1])],
        "twice": [("one", [0]), ("one", [0, 0])], "empty name": [("", [0])],
    }.items():  # fmt: skip
        for group in ("group", "unknown", "", "member", "consumer"):
            yield from single(f"{label} of {group!r}", fetched(group, topics), 8, 9)
            old = None if topics is None else [
                o.OffsetFetchRequestTopic(name=name, partition_indexes=indexes) for name, indexes in topics
            ]  # fmt: skip
            versions = (1, 2, 7) if old is not None else (2, 7)
            yield from single(f"{label} of {group!r}", o.OffsetFetchRequest(group_id=group, topics=old), *versions)
    for member, epoch in ((None, 0), ("x", 1), ("x", -1), (MEMBER_ID, 1), (MEMBER_ID, 0), (MEMBER_ID, 9), ("", 0)):
        for group in ("group", "member", "consumer", "unknown"):
            yield from single(f"{group!r} as {member!r} epoch {epoch}", fetched(group, None, member, epoch), 9)


def _classic_members() -> Iterator[Probe]:
    looks = [look_at_group("member-@")]
    for group, member in (("member-@", MEMBER), ("member-@", "x"), ("member-@", ""), ("unknown-@", "x"), ("", "x"),
                          ("group-@", "x"), ("consumer-@", "x"), ("consumer-@", CONSUMER)):  # fmt: skip
        for generation in (-1, 0, 1, 2):
            title = f"{group!r} member {member!r} generation {generation}"
            beat = g.HeartbeatRequest(group_id=group, generation_id=generation, member_id=member)
            yield from single(title, beat, 0, 4)
            sync = g.SyncGroupRequest(group_id=group, generation_id=generation, member_id=member)
            yield from single(title, sync, 0, 3, after=looks)
            typed = g.SyncGroupRequest(
                group_id=group, generation_id=generation, member_id=member,
                protocol_type="consumer", protocol_name="range",
            )  # fmt: skip
            yield from single(title, typed, 5, after=looks)
        yield from single(
            f"{group!r} member {member!r}", g.LeaveGroupRequest(group_id=group, member_id=member), 0, 2, after=looks
        )
        identity = g.MemberIdentity(member_id=member)
        yield from single(
            f"{group!r} member {member!r}", g.LeaveGroupRequest(group_id=group, members=[identity]), 3, 5, after=looks
        )
        twice = g.LeaveGroupRequest(group_id=group, members=[identity, identity])
        yield from single(f"{group!r} member {member!r} twice", twice, 4, after=looks)
    for kind, name in ((None, None), ("", ""), ("consumer", "other"), ("other", "range"), ("consumer", None)):
        request = g.SyncGroupRequest(
            group_id="member-@", generation_id=1, member_id=MEMBER, protocol_type=kind, protocol_name=name
        )
        yield from single(f"protocol {kind!r} {name!r}", request, 5, after=looks)
    for static in ("", "i"):
        identity = g.MemberIdentity(member_id="", group_instance_id=static)
        yield from single(
            f"instance {static!r}", g.LeaveGroupRequest(group_id="member-@", members=[identity]), 3, 5, after=looks
        )


def _joins() -> Iterator[Probe]:
    def joined(
        group: str, member: Any = "", kind: str = "consumer", names: tuple[str, ...] = ("range",), **fields: Any
    ) -> Any:
        protocols = [g.JoinGroupRequestProtocol(name=name, metadata=SUBSCRIPTION) for name in names]
        times = {"session_timeout_ms": 30_000, "rebalance_timeout_ms": 5000, **fields}
        return g.JoinGroupRequest(group_id=group, member_id=member, protocol_type=kind, protocols=protocols, **times)

    for label, request in {
        "first": joined("new-@"),
        "an empty group id": joined(""),
        "an unknown member": joined("new-@", "x"),
        "an unknown member of a group": joined("member-@", "x"),
        "the member again": joined("member-@", MEMBER),
        "the member with another protocol": joined("member-@", MEMBER, names=("other",)),
        "no protocols": joined("new-@", names=()),
        "no protocol type": joined("new-@", kind=""),
        "another protocol type": joined("member-@", kind="connect"),
        "a protocol nobody shares": joined("member-@", names=("other",)),
        "a protocol twice": joined("new-@", names=("range", "range")),
        "a group with commits": joined("group-@"),
        "a group of the other protocol": joined("consumer-@"),
        "a session too short": joined("new-@", session_timeout_ms=1),
        "a session too long": joined("new-@", session_timeout_ms=2**31 - 1),
        "a static member": joined("new-@", group_instance_id="i"),
        "a static member with an id": joined("new-@", "x", group_instance_id="i"),
        "an empty instance id": joined("new-@", group_instance_id=""),
    }.items():
        yield from single(label, request, 2, 5, 9, after=[look_at_group("new-@")])
    first = Step(joined("new-@"), 9, {"mine": "member_id"})
    second = Step(joined("new-@", Ref("mine")), 9)
    yield Probe("JoinGroup v9: with the member id it was given", (first, second, look_at_group("new-@")))
    static = Step(joined("new-@", group_instance_id="i"), 9)
    yield Probe("JoinGroup v9: a static member comes again", (static, static, look_at_group("new-@")))


def _consumer_members() -> Iterator[Probe]:
    def beat(group: str, member: Any, epoch: int, **fields: Any) -> k.ConsumerGroupHeartbeatRequest:
        return k.ConsumerGroupHeartbeatRequest(group_id=group, member_id=member, member_epoch=epoch, **fields)

    full: dict[str, Any] = {"rebalance_timeout_ms": 60_000, "subscribed_topic_names": ["one"], "topic_partitions": []}
    looks = [Step(k.ConsumerGroupDescribeRequest(group_ids=["consumer-@"], include_authorized_operations=False), 1)]
    for group in ("consumer-@", "unknown-@", "", "member-@", "group-@"):
        for member in (CONSUMER, "x", ""):
            for epoch in (-3, -2, -1, 0, 1, 2, 9):
                title = f"{group!r} member {member!r} epoch {epoch}"
                yield from single(title, beat(group, member, epoch), 1, after=looks)
                if epoch in (0, 1):
                    yield from single(f"{title} full", beat(group, member, epoch, **full), 0, 1, after=looks)
    for label, change in {
        "no timeout": {"rebalance_timeout_ms": -1},
        "timeout 0": {"rebalance_timeout_ms": 0},
        "no topics": {"subscribed_topic_names": None},
        "an empty list of topics": {"subscribed_topic_names": []},
        "a topic twice": {"subscribed_topic_names": ["one", "one"]},
        "an unknown topic": {"subscribed_topic_names": ["unknown"]},
        "an illegal topic": {"subscribed_topic_names": ["a b"]},
        "owning something": {
            "topic_partitions": [k.ConsumerGroupHeartbeatTopicPartitions(topic_id=id_of("one"), partitions=[0])]
        },
        "owning nothing at all": {"topic_partitions": None},
        "an unknown assignor": {"server_assignor": "no"},
        "an empty assignor": {"server_assignor": ""},
        "the range assignor": {"server_assignor": "range"},
        "an empty rack": {"rack_id": ""},
        "an empty instance": {"instance_id": ""},
        "an instance": {"instance_id": "i"},
        "a regex": {"subscribed_topic_names": None, "subscribed_topic_regex": "on.*"},
        "a broken regex": {"subscribed_topic_names": None, "subscribed_topic_regex": "o["},
        "an empty regex": {"subscribed_topic_names": None, "subscribed_topic_regex": ""},
        "a regex beside names": {"subscribed_topic_regex": "on.*"},
        "a long member id": {"member_id": "m" * 37},
    }.items():
        request = beat("new-@", MEMBER_ID, 0, **(full | change)) if "member_id" not in change else beat(
            "new-@", change["member_id"], 0, **full
        )  # fmt: skip
        told = Step(k.ConsumerGroupDescribeRequest(group_ids=["new-@"], include_authorized_operations=False), 1)
        yield from single(f"joining with {label}", request, 1, after=[told])
