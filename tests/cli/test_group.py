"""`kbroker group` and `topic consume -g`: plans, tables and requests without a broker, then all of it with one."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result

from kafka_wire.api import ApiKey
from kafka_wire.codegen import decode, encode
from kafka_wire.frames import read_request_header, response_parts
from kafka_wire.messages.consumer_groups import (
    ConsumerGroupDescribeAssignment,
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    ConsumerGroupDescribeTopicPartitions,
    DescribedConsumerGroup,
    DescribedConsumerGroupMember,
)
from kafka_wire.messages.group_admin import (
    DescribedGroup,
    DescribedGroupMember,
    DescribeGroupsResponse,
    ListedGroup,
    ListGroupsResponse,
)
from kafka_wire.messages.internal import ConsumerProtocolAssignment, ConsumerProtocolTopicPartitions
from kafka_wire.messages.metadata import MetadataResponse, MetadataResponsePartition, MetadataResponseTopic
from kbroker.cli import cli
from kbroker.cli.client import bridge
from kbroker.cli.client.presence import Presence
from kbroker.cli.errors import Failed
from kbroker.cli.groups import reads as group_reads
from kbroker.cli.groups.group import (
    Position,
    _as_json,
    _headline,
    _lag_table,
    _member_table,
    check_partitions,
)
from kbroker.cli.groups.reads import Described, Member
from kbroker.cli.groups.seek import Step, Target, check_idle, parse_target, plan
from kbroker.cli.topics import consume_group
from kbroker.cli.topics.formats import Output, Shown
from kbroker.cli.topics.offsets import Ends
from tests.cli.process import broker_process
from tests.server.process import ENVIRONMENT


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("start", Target("start")),
        ("end", Target("end")),
        ("7", Target("at", 7)),
        ("+7", Target("current", 7)),
        ("-7", Target("current", -7)),
        ("@1700000000", Target("time", 1_700_000_000_000)),
        ("2023-11-14T22:13:20Z", Target("time", 1_700_000_000_000)),
    ],
)
def test_parse_target(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["", "x", "+", "-", "@", "1.5", "2023-99-01"])
def test_not_a_target(text: str) -> None:
    with pytest.raises(ValueError):
        parse_target(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seek", "g"], "Missing option '--to'"),
        (["seek", "g", "--to", "x"], "is not start, end, an offset"),
        (["seek", "g", "--to", "end", "--new"], "--new needs --topic"),
        (["seek", "g", "--to", "end", "-t", "t:x"], "is not TOPIC or TOPIC:PARTITION"),
        (["offset-delete", "g"], "Missing option '-t'"),
        (["delete"], "Missing argument"),
        (["descibe", "g"], "did you mean 'describe'?"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["group", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("arguments", [["-o", "5"], ["-o", "-1"], ["-p", "0"]])
def test_a_member_does_not_choose_its_offsets(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, ["topic", "consume", "t", "-g", "g", *arguments])
    assert result.exit_code == 2
    assert "kbroker group seek" in result.stderr


@pytest.mark.parametrize(
    ("target", "new"),
    [
        (Target("start"), 10),
        (Target("end"), 20),
        (Target("at", 13), 13),
        (Target("at", 3), 10),
        (Target("at", 99), 20),
        (Target("current", 2), 17),
        (Target("current", -2), 13),
        (Target("current", -99), 10),
        (Target("time", 5), 15),
        (Target("time", 6), 20),
    ],
)
def test_plan_stays_within_the_log(target: Target, new: int) -> None:
    times = {("t", 0): 15} if target.number == 5 else {}  # of time 6 there is nothing any more
    assert plan("g", target, {("t", 0): Ends(10, 20)}, times, {("t", 0): 15}) == [Step("t", 0, 10, 20, 15, new)]


def test_plan_from_nowhere() -> None:
    ends = {("t", 0): Ends(10, 20)}
    assert plan("g", Target("end"), ends, {}, {}) == [Step("t", 0, 10, 20, None, 20)]
    with pytest.raises(Failed, match="g has committed nothing for t 0"):
        plan("g", Target("current", 1), ends, {}, {})


def test_partitions_without_a_leader_and_topics_that_are_gone_are_left_out() -> None:
    led = [MetadataResponsePartition(partition_index=index, leader_id=leader) for index, leader in ((0, 1), (1, -1))]
    topics = [
        MetadataResponseTopic(name="t", partitions=led),
        MetadataResponseTopic(name="gone", error_code=3),
    ]
    client = FakeClient({3: MetadataResponse(topics=topics)}, {3: (0, 12)})
    assert group_reads.led(client, [("t", 1), ("t", 0), ("t", 7), ("gone", 0)]) == {("t", 0): 1}
    assert {each.name for each in client._manager.sent[0].topics} == {"t", "gone"}
    assert group_reads.led(client, []) == {} and len(client._manager.sent) == 1


ALICE = Member("alice-1", None, "alice", "10.0.0.1", (("t", 0),))
BOB = Member("bob-1", "bob", "bob", "10.0.0.2", ())
LIVE = Described("g", "Stable", "classic", "range", None, (BOB, ALICE), "1 at h:9092")
IDLE = LIVE._replace(state="Empty", protocol="", members=())


def test_seek_wants_a_group_without_members() -> None:
    check_idle("g", IDLE, new=False)
    check_idle("g", None, new=True)
    with pytest.raises(Failed, match="group g does not exist"):
        check_idle("g", None, new=False)
    with pytest.raises(Failed, match=r"Stable with 2 members \(alice at 10.0.0.1, bob at 10.0.0.2\): stop them first"):
        check_idle("g", LIVE, new=False)
    with pytest.raises(Failed, match="PreparingRebalance with 0 members"):
        check_idle("g", IDLE._replace(state="PreparingRebalance"), new=False)
    with pytest.raises(Failed, match="members unknown"):
        check_idle("g", LIVE._replace(members=None), new=False)


ROWS = [Position("t", 0, 7, 10, 3, ALICE), Position("u", 0, 5, None, None, None)]


def test_description() -> None:
    assert _headline(LIVE, ROWS) == "g: Stable, classic (range), 2 members, coordinator 1 at h:9092, lag 3"
    modern = LIVE._replace(kind="consumer", protocol="uniform", epoch=4)
    assert "consumer (uniform), epoch 4, 2 members" in _headline(modern, ROWS)
    unknown = _headline(modern._replace(members=None), ROWS).splitlines()
    assert "members unknown" in unknown[0]
    assert unknown[1:] == ["This broker does not describe consumer groups: who its members are is unknown."]
    assert _lag_table(LIVE, ROWS).splitlines() == [
        "GROUP  TOPIC  PARTITION  COMMITTED  END  LAG  MEMBER   HOST",
        "g      t              0          7   10    3  alice-1  10.0.0.1",
        "g      u              0          5",
        "g                                             bob-1    10.0.0.2",
    ]
    assert _member_table(LIVE).splitlines() == [
        "GROUP  MEMBER   INSTANCE  CLIENT  HOST      PARTITIONS",
        "g      alice-1            alice   10.0.0.1  t:0",
        "g      bob-1    bob       bob     10.0.0.2",
    ]
    shown = json.loads(json.dumps(_as_json(LIVE, ROWS)))
    assert (shown["type"], shown["lag"], shown["partitions"][0]["member"]) == ("classic", 3, "alice-1")
    assert shown["members"][1]["partitions"] == [{"topic": "t", "partition": 0}]
    assert _as_json(LIVE._replace(members=None), [])["members"] is None


def test_errors_of_partitions_are_told() -> None:
    class Key(NamedTuple):
        topic: str
        partition: int

    errors = {Key("t", n): SimpleNamespace(errno=code) for n, code in enumerate((0, 86, 86))}
    with pytest.raises(Failed, match=r"^g: t 1, t 2: GROUP_SUBSCRIBED_TO_TOPIC: "):
        check_partitions("g", errors)
    check_partitions("g", {Key("t", 0): SimpleNamespace(errno=0)})


class FakeManager:
    """kafka-python's connections: answers each request as a broker would, through bytes."""

    def __init__(self, answers: dict[int, object], versions: dict[int, tuple[int, int]]) -> None:
        self.answers = answers
        self.broker_version_data = SimpleNamespace(api_versions=versions)
        self.cluster = SimpleNamespace(
            broker_metadata=lambda node: SimpleNamespace(host="h", port=9092), _coordinators={"g": 1}
        )
        self.sent: list[Any] = []

    def run(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        try:
            ask(*arguments).send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("nothing here waits")

    async def send(self, request: Any, node_id: object) -> Any:
        request.with_header(correlation_id=7, client_id="me")
        frame = request.encode(framed=True, header=True)
        assert struct.unpack_from(">i", frame) == (len(frame) - 4,)
        header = read_request_header(bytearray(frame[4:]))
        assert (header.key, header.correlation_id, header.client_id) == (request.api_key, 7, "me")
        self.sent.append(decode(type(request.request), header.version, frame[4:], header.body))
        answer = b"".join(response_parts(header.key, header.version, 7, self.answers[header.key]))
        reader = request.header.get_response_class()
        assert reader.parse_header(SimpleNamespace(read=lambda: answer[4:])).correlation_id == 7
        return reader.decode(None)


class FakeClient:
    """An admin client over it; lists one share group."""

    def __init__(self, answers: dict[int, object], versions: dict[int, tuple[int, int]]) -> None:
        self._manager = FakeManager({16: LISTED, **answers}, {16: (0, 5), **versions})

    async def _find_coordinator_id(self, group: str) -> int:
        return 1


BOTH = {15: (0, 6), 69: (0, 1)}
LISTED = ListGroupsResponse(groups=[ListedGroup(group_id="shared", group_state="Stable", group_type="share")])
NOT_FOUND = DescribeGroupsResponse(groups=[DescribedGroup(group_id="g", error_code=69, error_message="no")])
NOT_FOUND_EITHER = ConsumerGroupDescribeResponse(groups=[DescribedConsumerGroup(group_id="g", error_code=69)])


@pytest.mark.parametrize("version", [0, 4, 5, 6])
def test_a_classic_group(version: int) -> None:
    assigned = ConsumerProtocolAssignment(
        assigned_partitions=[ConsumerProtocolTopicPartitions(topic="t", partitions=[1, 0])]
    )
    member = DescribedGroupMember(
        member_id="m", client_id="c", client_host="/10.0.0.1", member_assignment=b"\0\1" + encode(assigned, 1)
    )
    answer = DescribedGroup(
        group_id="g", group_state="Stable", protocol_type="consumer", protocol_data="range", members=[member]
    )
    client = FakeClient({15: DescribeGroupsResponse(groups=[answer])}, {15: (0, version)})
    found = group_reads.described(client, "g")
    expected = Member("m", None, "c", "10.0.0.1", (("t", 0), ("t", 1)))
    assert found == Described("g", "Stable", "classic", "range", None, (expected,), "1 at h:9092")
    assert client._manager.sent[0].groups == ["g"]


def test_a_kip_848_group() -> None:
    has = ConsumerGroupDescribeAssignment(
        topic_partitions=[ConsumerGroupDescribeTopicPartitions(topic_name="t", partitions=[2, 1])]
    )
    member = DescribedConsumerGroupMember(member_id="m", client_id="c", client_host="h", member_epoch=3, assignment=has)
    group = DescribedConsumerGroup(
        group_id="g", group_state="Stable", group_epoch=3, assignor_name="uniform", members=[member]
    )
    client = FakeClient({15: NOT_FOUND, 69: ConsumerGroupDescribeResponse(groups=[group])}, BOTH)
    found = group_reads.described(client, "g")
    expected = Member("m", None, "c", "h", (("t", 1), ("t", 2)), 3)
    assert found == Described("g", "Stable", "consumer", "uniform", 3, (expected,), "1 at h:9092")


@pytest.mark.parametrize(("version", "told"), [(4, False), (5, True), (6, True)])
def test_rebalances_are_asked_for(version: int, told: bool) -> None:
    group = DescribedGroup(group_id="g", group_state="Stable", rebalances=[])
    client = FakeClient({15: DescribeGroupsResponse(groups=[group])}, {15: (0, version)})
    found = group_reads.described(client, "g", rebalances=True)
    assert found is not None
    assert (found.timeline is not None, client._manager.sent[0].include_rebalances) == (told, told)
    group_reads.described(client, "g")
    assert not client._manager.sent[1].include_rebalances


def test_rebalances_of_a_kip_848_group_are_asked_for() -> None:
    group = DescribedConsumerGroup(group_id="g", group_state="Empty", rebalances=[])
    client = FakeClient({15: NOT_FOUND, 69: ConsumerGroupDescribeResponse(groups=[group])}, BOTH)
    found = group_reads.described(client, "g", rebalances=True)
    assert found is not None
    assert found.timeline == ([], [])
    assert client._manager.sent[1].include_rebalances
    assert "rebalances" not in _as_json(found, [])
    assert _as_json(found, [], rebalances=True)["rebalances"] == []


def test_a_group_that_is_not_there() -> None:
    assert group_reads.described(FakeClient({15: NOT_FOUND, 69: NOT_FOUND_EITHER}, BOTH), "g") is None
    dead = DescribeGroupsResponse(groups=[DescribedGroup(group_id="g", group_state="Dead")])
    assert group_reads.described(FakeClient({15: dead}, {15: (0, 5)}), "g") is None


def test_a_group_that_is_listed_and_not_described() -> None:
    """A type this command does not know, or a broker without ConsumerGroupDescribe: members are unknown, not none."""
    found = group_reads.described(FakeClient({15: NOT_FOUND, 69: NOT_FOUND_EITHER}, BOTH), "shared")
    assert found == Described("shared", "Stable", "share", "", None, None, "1 at h:9092")
    assert group_reads.described(FakeClient({15: NOT_FOUND}, {15: (0, 6)}), "shared") == found
    old = group_reads.described(FakeClient({15: NOT_FOUND}, {15: (0, 4), 16: (0, 3)}), "shared")
    assert old is not None and (old.kind, old.state) == ("unknown", "unknown state")


def test_a_listing_that_is_refused_is_told() -> None:
    refused = ListGroupsResponse(error_code=31)
    with pytest.raises(Failed, match="shared: CLUSTER_AUTHORIZATION_FAILED"):
        group_reads.described(FakeClient({15: NOT_FOUND, 16: refused}, {15: (0, 6)}), "shared")


def test_a_refusal_is_told() -> None:
    refused = DescribeGroupsResponse(groups=[DescribedGroup(group_id="g", error_code=30, error_message="not you")])
    with pytest.raises(Failed, match="g: GROUP_AUTHORIZATION_FAILED: not you"):
        group_reads.described(FakeClient({15: refused}, BOTH), "g")


def test_a_broker_without_groups() -> None:
    with pytest.raises(Failed, match="this broker has no groups"):
        group_reads.described(FakeClient({}, {0: (0, 13)}), "g")


def test_a_moving_coordinator_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import kafka.errors as errors

    monkeypatch.setattr(group_reads, "RETRY_S", 0)
    client = FakeClient({}, BOTH)
    moving = [errors.NotCoordinatorError("a"), errors.CoordinatorLoadInProgressError("b")]

    def ask() -> str:
        if moving:
            raise moving.pop()
        return "done"

    assert group_reads.patiently(client, ask) == "done"
    assert client._manager.cluster._coordinators == {}
    monkeypatch.setattr(group_reads, "ANSWER_TIMEOUT_MS", -1)
    moving = [errors.NotCoordinatorError("a")]
    with pytest.raises(errors.NotCoordinatorError):
        group_reads.patiently(client, ask)
    moving = [errors.GroupIdNotFoundError("x")]
    with pytest.raises(errors.GroupIdNotFoundError):
        group_reads.patiently(client, ask)


def test_versions_both_sides_know() -> None:
    client = FakeClient({}, {15: (0, 99), 16: (2, 3), 69: (5, 9)})
    assert bridge.supported_version(client, ApiKey.DESCRIBE_GROUPS) == 6
    assert bridge.supported_version(client, ApiKey.LIST_GROUPS) == 3
    assert bridge.supported_version(client, ApiKey.CONSUMER_GROUP_DESCRIBE) is None
    assert bridge.supported_version(client, ApiKey.DELETE_GROUPS) is None


def test_a_broken_answer_is_an_error_kafka_python_knows() -> None:
    request = bridge._Request(ConsumerGroupDescribeRequest(group_ids=["g"]), ConsumerGroupDescribeResponse, 69, 0)
    reader = request.get_response_class()
    reader.parse_header(SimpleNamespace(read=lambda: b"\0\0\0\7\0\0\0"))
    with pytest.raises(ValueError):
        reader.decode(None)


class FakeMember:
    """A consumer that is given partition t 0, offsets 0 to 5, two a poll; remembers commits."""

    def __init__(self, ends_with: Exception | None = None) -> None:
        self.next, self.commits, self.error = 0, [], ends_with  # type: ignore[var-annotated]

    def poll(self, timeout_ms: int) -> dict[Any, list[Any]]:
        first, self.next = self.next, min(self.next + 2, 6)
        fields = {
            "topic": "t",
            "partition": 0,
            "timestamp": 0,
            "timestamp_type": 0,
            "key": None,
            "value": b"v",
            "headers": (),
        }
        return {("t", 0): [SimpleNamespace(offset=offset, **fields) for offset in range(first, self.next)]}

    def assignment(self) -> set[Any]:
        return {("t", 0)}

    def position(self, partition: Any) -> int:
        return self.next

    def commit(self, offsets: dict[Any, Any], timeout_ms: int) -> None:
        self.commits += [(key.topic, key.partition, value.offset) for key, value in offsets.items()]
        if self.error:
            raise self.error


class Joined(NamedTuple):
    joined: bool = True


def test_a_member_commits_what_it_has_written(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    member = FakeMember()
    records = consume_group._records(member, {("t", 0): 5}, Joined(), lambda: False, Presence())
    consume_group.write_and_commit(member, consume_group.limited(records, None), Output(r"%o\n"), Presence())
    assert capsysbinary.readouterr().out == b"0\n1\n2\n3\n4\n"
    assert member.commits == [("t", 0, 2), ("t", 0, 4), ("t", 0, 5)]


def test_a_member_commits_no_more_than_it_was_asked_for() -> None:
    member = FakeMember()
    records = consume_group._records(member, None, Joined(), lambda: False, Presence())
    consume_group.write_and_commit(member, consume_group.limited(records, 3), Output(""), Presence())
    assert member.commits == [("t", 0, 2), ("t", 0, 3)]


def test_a_member_commits_what_its_filter_leaves_out(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    for matches, count, out, last in (
        (lambda record: record.offset == 2, None, b"2\n", 6),
        (lambda record: False, None, b"", 6),
        (lambda record: record.offset % 3 == 1, 1, b"1\n", 2),
    ):
        member = FakeMember()
        records = consume_group._records(member, {("t", 0): 6}, Joined(), lambda: False, Presence())
        consume_group.write_and_commit(
            member, consume_group.limited(records, count, matches), Output(r"%o\n"), Presence()
        )
        assert capsysbinary.readouterr().out == out
        assert member.commits[-1] == ("t", 0, last)


def test_an_interrupted_member_commits_its_batch_and_ends() -> None:
    member = FakeMember()
    with consume_group.interruptions() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        assert list(consume_group._records(member, None, Joined(), interrupted, Presence())) == []
        with pytest.raises(KeyboardInterrupt):  # the second one
            signal.raise_signal(signal.SIGINT)
    with consume_group.interruptions() as interrupted:
        assert not interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_commit_that_comes_after_a_rebalance_is_not_fatal(capsys: pytest.CaptureFixture[str]) -> None:
    import kafka.errors as errors

    batch = [(Shown("t", 0, 4, 0, None, b"v", ()), True), (None, False)]
    for error in (errors.CommitFailedError(), errors.IllegalGenerationError("x")):
        consume_group.write_and_commit(FakeMember(error), iter(batch), Output(""), Presence())
        assert "may be read once more" in capsys.readouterr().err
    with pytest.raises(errors.GroupAuthorizationFailedError):
        consume_group.write_and_commit(
            FakeMember(errors.GroupAuthorizationFailedError("x")), iter(batch), Output(""), Presence()
        )


def kbroker(broker: str, *arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner(env={"KBROKER_BROKERS": broker}).invoke(cli, [*arguments], input=stdin)


def consumed(broker: str, *arguments: str) -> str:
    """What a member of a group writes. A process of its own, as kafka-python would try for ever."""
    command = [sys.executable, "-m", "kbroker", "topic", "consume", *arguments]
    environment = {**ENVIRONMENT, "KBROKER_BROKERS": broker}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """A kbroker as users start it, with topic t of two partitions."""
    with broker_process() as address:
        yield address


@pytest.mark.slow
def test_a_group_from_its_first_commit_to_its_deletion(broker: str) -> None:
    def group(*arguments: str) -> Result:
        return kbroker(broker, "group", *arguments)

    missing = group("describe", "g")
    assert (missing.exit_code, missing.stderr) == (1, "kbroker: group g does not exist\n")
    assert kbroker(broker, "topic", "produce", "t", "-p", "0", stdin=b"a\nb\nc\n").exit_code == 0
    assert consumed(broker, "t", "-g", "g", "-n", "2") == "a\nb\n"
    described = json.loads(group("describe", "g", "--format", "json").stdout)[0]
    assert (described["state"], described["members"], described["lag"]) == ("Empty", [], 1)
    assert consumed(broker, "t", "-g", "g", "-e") == "c\n"
    assert [each["name"] for each in json.loads(group("list", "--format", "json").stdout)] == ["g"]
    rebalances = group("describe", "g", "--rebalances").stdout.splitlines()
    history = json.loads(group("describe", "g", "--rebalances", "--format", "json").stdout)[0]
    made = len(history["rebalances"])
    assert rebalances[0] == f"g: {made} rebalances, newest first"
    assert f"generation {made} after " in rebalances[1]
    assert [each["generation"] for each in history["rebalances"]] == [*range(made, 0, -1)]
    reasons = [each["reason"].partition(" ")[2] for each in history["rebalances"]]
    # kafka-python joins again where its first join was faster than its metadata of the topic.
    assert [why for why in reasons if why != "joined again"] == ["left", "joined"] * 2, "two members came and went"
    unowned = {each["partition"]: each["seconds"] for each in history["kbroker_group_partition_unowned_seconds_total"]}
    assert set(unowned) == {0, 1}
    assert all(0 < seconds < 30 for seconds in unowned.values()), "from the first member's end to the second's start"

    planned = group("seek", "g", "--to", "start", "-t", "t:0")
    assert "nothing has been changed" in planned.stderr
    assert planned.stdout.split()[:7] == ["GROUP", "TOPIC", "PARTITION", "FIRST", "END", "COMMITTED", "NEW"]
    described = json.loads(group("describe", "g", "--format", "json").stdout)[0]
    assert described["lag"] == 0
    (step,) = json.loads(group("seek", "g", "--to", "start", "-t", "t:0", "--format", "json").stdout)["partitions"]
    assert step.items() & described["partitions"][0].items() == {
        ("topic", "t"), ("partition", 0), ("end", step["end"]), ("committed", step["end"])
    }, "the words of describe"  # fmt: skip
    assert group("seek", "g", "--to", "-1", "-t", "t:0", "--execute").stdout.endswith("moved 1 offset of g\n")
    assert consumed(broker, "t", "-g", "g", "-e") == "c\n"

    assert group("offset-delete", "g", "-t", "t:0").stdout == "deleted 1 offset of g\n"
    assert "has committed nothing for t 0" in group("offset-delete", "g", "-t", "t:0").stderr
    assert group("seek", "new", "--to", "end", "-t", "t", "--new", "--execute").exit_code == 0
    deleted = group("delete", "g", "new", "absent")
    assert (deleted.exit_code, deleted.stdout) == (1, "deleted g\ndeleted new\n")
    assert deleted.stderr == "kbroker: group absent does not exist\n"


@pytest.mark.slow
def test_a_live_member_is_seen_protected_and_leaves_at_once(broker: str) -> None:
    kbroker(broker, "topic", "produce", "t", "-p", "1", stdin=b"x\n")
    command = [sys.executable, "-m", "kbroker", "topic", "consume", "t", "-g", "live", "-f", "%v\\n"]
    environment = {**ENVIRONMENT, "KBROKER_BROKERS": broker}
    member = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert member.stdout is not None
    bound = threading.Timer(30, member.kill)
    bound.start()
    assert member.stdout.readline() in ("a\n", "x\n")
    bound.cancel()
    described = kbroker(broker, "group", "describe", "live", "--members", "--state").stdout
    assert "1 member, " in described
    assert "t:0,1" in described
    refused = kbroker(broker, "group", "seek", "live", "--to", "start", "--execute")
    assert refused.exit_code == 1
    assert "stop them first, then seek" in refused.stderr
    assert "NON_EMPTY_GROUP" in kbroker(broker, "group", "delete", "live").stderr
    subscribed = kbroker(broker, "group", "offset-delete", "live", "-t", "t")
    assert subscribed.exit_code == 1
    member.send_signal(signal.SIGINT)
    _, said = member.communicate(timeout=10)
    assert (member.returncode, said.strip()) == (130, "")
    assert "live: Empty" in kbroker(broker, "group", "describe", "live").stdout
    assert kbroker(broker, "group", "delete", "live").stdout == "deleted live\n"
