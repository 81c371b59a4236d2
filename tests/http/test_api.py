"""/api/v1: what it says is what there is, in pages, in the words of the command line."""

from __future__ import annotations

import json
from typing import Any, get_type_hints
from urllib.parse import quote

import pytest
from trio.testing import MockClock

from kbroker.cli.groups import overview as group_overview
from kbroker.cli.groups.group import Position
from kbroker.cli.groups.timeline import METRIC
from kbroker.cli.topics import overview as topic_overview
from kbroker.groups.storage.records import OffsetCommitValue
from kbroker.http.api.listing import page
from kbroker.http.api.topics import topic, topics
from kbroker.http.messages import Answer, Request
from kbroker.testing.broker import memory_cluster
from kbroker.turns import advance, at_once
from tests.api.group_tools import commit, find, join, sync
from tests.api.test_groups_admin import JOIN, beat
from tests.api.test_groups_timeline import gives, says
from tests.api.test_produce import batch, produce
from tests.api.test_topics import create
from tests.http.test_metrics import Scrapes
from tests.http.tools import metered, stand_still, told_broker
from tests.server.loop_meter import LINES_MAX


async def test_brokers_are_told_with_what_they_carry() -> None:
    async with told_broker({"t": 3}) as told:
        found = await told.json("/api/v1/brokers")
    (broker,) = found.pop("brokers")
    assert found == {"cluster_id": told.broker.ready.cluster_id, "controller": 1, "told_by": 1}
    assert broker == {
        "id": 1, "host": "127.0.0.1", "port": 9092, "rack": None, "fenced": False, "leaders": 3, "replicas": 3,
        "controller": True, "listeners": {"PLAINTEXT": "127.0.0.1:9092"},
    }  # fmt: skip


async def test_topics_are_told_as_topic_list_does() -> None:
    async with told_broker({"t": 2}) as told, told.broker.client() as client:
        sent = batch(b"a", b"b")
        assert (await produce(client, bytearray(sent))).error_code == 0
        view = {"kbroker.view.source": "t", "kbroker.view.tags": "x"}
        assert (await create(client, "v", partitions=-1, replication_factor=-1, configs=view)).error_code == 0
        found = await told.json("/api/v1/topics")
    plain, view = found["topics"]
    assert found["next"] is None
    assert plain == {
        "name": "t", "partitions": 2, "replicas": 1, "records": 2, "bytes": len(sent), "cleanup_policy": "delete",
        "retention_ms": 604_800_000, "retention_bytes": -1, "view_of": None, "internal": False,
    }  # fmt: skip
    assert (view["view_of"], view["records"]) == ("t", None)  # it shows some of them: nobody has counted
    assert set(get_type_hints(topic_overview.Row)) <= set(plain)


async def test_a_long_list_comes_in_pages() -> None:
    names = [f"t{n:02}" for n in range(25)]
    async with told_broker(dict.fromkeys(names, 1)) as told:
        found, after = list[str](), ""
        while after is not None:
            page = await told.json(f"/api/v1/topics?limit=10&after={after}")
            assert len(page["topics"]) <= 10
            found += [each["name"] for each in page["topics"]]
            after = page["next"]
        assert found == names
        refused = await told.json("/api/v1/topics?limit=1001", 400)
        assert refused == {"error": "limit='1001' is not a whole number from 1 to 1000"}
        for wrong in ("0", "-1", "x", "%C2%B2", "9" * 30):
            await told.json(f"/api/v1/topics?limit={wrong}", 400)


def test_a_page_of_very_many_is_found_in_turns() -> None:
    names = [f"t{n * 7919 % 100_000:05}" for n in range(100_000)]
    work, pauses = page(names, "t50000", 3), 0
    while (done := advance(work, 1)) is None:
        pauses += 1
    assert done == ((["t50001", "t50002", "t50003"], "t50003"),) and pauses >= 300
    assert at_once(page(names, "t99998", 3)) == (["t99999"], None)
    assert at_once(page([], None, 3)) == ([], None)


async def test_a_topic_is_told_with_its_partitions() -> None:
    async with told_broker() as told, told.broker.client() as client:
        assert (await create(client, "t", 3, configs={"retention.ms": "60000"})).error_code == 0
        assert (await produce(client, batch(b"a"), index=1)).error_code == 0
        found = await told.json("/api/v1/topics/t?limit=2")
        rest = await told.json(f"/api/v1/topics/t?limit=2&after={found['next']}")
        await told.json("/api/v1/topics/nowhere%00%3Cb%3E", 404)
    assert found["configs"] == {"retention.ms": {"value": "60000", "source": "DYNAMIC_TOPIC_CONFIG"}}
    assert (found["name"], found["view_of"], found["next"], rest["next"]) == ("t", None, 1, None)
    assert [each["partition"] for each in found["partitions"] + rest["partitions"]] == [0, 1, 2]
    assert found["partitions"][1] == {
        "partition": 1, "leader": 1, "epoch": 0, "replicas": [1], "isr": [1], "first": 0, "end": 1,
        "bytes": len(batch(b"a")),
    }  # fmt: skip


async def test_what_others_lead_is_asked_of_them_and_not_guessed(autojump_clock: MockClock) -> None:
    scrapes = Scrapes()
    async with memory_cluster(2, topics={"t": 2}, beside=scrapes.beside) as cluster:
        led = {each.leader: each.index for each in scrapes.services[1].image.topics["t"].partitions}
        assert set(led) == {1, 2}
        for leader, index in led.items():
            async with cluster.client(leader) as client:
                assert (await produce(client, batch(b"a", b"b"), index=index)).error_code == 0
        request = Request((), {})

        async def told() -> tuple[Any, Any]:
            all_of_them = await topics(scrapes.services[1], request)
            one = await topic(scrapes.services[1], "t", request)
            return _json(all_of_them)["topics"][0], _json(one)["partitions"]

        row, partitions = await told()
        assert (row["records"], row["bytes"]) == (4, None)  # of what has no replica here nobody is asked the size
        assert [each["end"] for each in partitions] == [2, 2]
        cluster.network.cut("b1", "b2")
        row, partitions = await told()
        assert row["records"] is None
        assert partitions[led[2]]["end"] is None and partitions[led[1]]["end"] == 2


def _json(answer: Answer) -> Any:
    assert not isinstance(answer.body, bytes)
    return json.loads(b"".join(answer.body))


# -- groups -----------------------------------------------------------------------------------------------------------


async def test_groups_are_told_as_group_list_does() -> None:
    async with told_broker({"t": 1}) as told, told.broker.client() as client:
        assert (await produce(client, batch(b"a", b"b"))).error_code == 0
        await find(client, "g")
        assert await commit(client, "g", 1) == 0
        found = await told.json("/api/v1/groups")
    assert found == {
        "told_by": 1,
        "groups": [{"name": "g", "type": "classic", "state": "Empty", "protocol_type": "", "members": 0, "lag": 1,
                    "coordinator": 1}],
        "next": None,
    }  # fmt: skip
    assert set(found["groups"][0]) == set(get_type_hints(group_overview.Row))


@pytest.mark.parametrize("name", ["g", "a/b", "ü %", "<script>"])
async def test_a_group_is_told_with_members_and_lag(name: str) -> None:
    async with told_broker({"t": 2}) as told, told.broker.client() as client:
        assert (await produce(client, batch(b"a", b"b"))).error_code == 0
        await find(client, name)
        joined = await join(client, name, protocols=says())
        await sync(client, name, joined, {joined.member_id: gives(0, 1)})
        assert await commit(client, name, 1, joined=joined) == 0
        found = await told.json(f"/api/v1/groups/{quote(name, safe='')}")
    (member,) = found.pop("members")
    first, second = found.pop("partitions")
    assert found == {
        "name": name, "state": "Stable", "type": "classic", "protocol": "p", "epoch": None, "coordinator": 1, "lag": 1,
        "next": None,
    }  # fmt: skip
    assert (member["member_id"], member["host"], member["partition_count"]) == (joined.member_id, "127.0.0.1", 2)
    assert member["partitions"] == [{"topic": "t", "partition": 0}, {"topic": "t", "partition": 1}]
    assert first == {"topic": "t", "partition": 0, "committed": 1, "end": 2, "lag": 1, "member": joined.member_id}
    assert (second["committed"], second["lag"], second["member"]) == (None, None, joined.member_id)
    assert set(get_type_hints(Position)) <= set(first)


async def test_the_partitions_of_a_group_come_in_pages() -> None:
    async with told_broker({"t": 5, "u": 2}) as told, told.broker.client() as client:
        await find(client, "g")
        for topic_name, count in (("u", 2), ("t", 5)):
            for index in range(count):
                assert await commit(client, "g", 1, topic=topic_name, index=index) == 0
        found, after = list[tuple[str, int]](), ""
        while after is not None:
            part = await told.json(f"/api/v1/groups/g?limit=3{after and f'&after={after}'}")
            found += [(each["topic"], each["partition"]) for each in part["partitions"]]
            after = part["next"]
        assert found == [("t", index) for index in range(5)] + [("u", 0), ("u", 1)]
        for wrong in ("t", ":1", "t:x", "t:-1", "t:" + "9" * 20):
            await told.json(f"/api/v1/groups/g?after={wrong}", 400)


async def test_a_group_of_the_consumer_protocol_is_told_too() -> None:
    async with told_broker({"t": 2}) as told, told.broker.client() as client:
        await find(client, "g")
        first = await beat(client, 0, **JOIN)
        found = await told.json("/api/v1/groups/g")
        (row,) = (await told.json("/api/v1/groups"))["groups"]
    assert (found["type"], found["epoch"], row["type"], row["members"]) == (
        "consumer",
        first.member_epoch,
        "consumer",
        1,
    )
    assert [each["epoch"] for each in found["members"]] == [first.member_epoch]
    assert found["members"][0]["partition_count"] == 2


async def test_what_is_no_group_here_is_told_why() -> None:
    async with told_broker({"t": 1}) as told, told.broker.client() as client:
        assert (await told.json("/api/v1/groups/g", 503))["error"].startswith("group 'g' is not coordinated here")
        await find(client, "other")
        assert await commit(client, "other", 1) == 0
        assert await told.json("/api/v1/groups/g", 404) == {"error": "there is no group 'g'"}
        await told.json("/api/v1/groups/g/rebalances", 404)
        await told.json("/api/v1/nothing", 404)
        assert (await told.get("/api/v2/topics")).status == 404


async def test_rebalances_are_told_as_group_describe_does() -> None:
    async with told_broker({"t": 2}) as told, told.broker.client() as one, told.broker.client() as two:
        await stand_still(told, one, two)
        found = await told.json("/api/v1/groups/g/rebalances")
    assert [each["generation"] for each in found["rebalances"]] == [2, 1]  # newest first
    assert found["rebalances"][0]["partitions_moved"] == 1
    assert [(each["topic"], each["partition"], int(each["seconds"])) for each in found[METRIC]] == [
        ("t", 0, 3),
        ("t", 1, 3),
    ]


async def test_large_groups_are_told_in_turns() -> None:
    async with told_broker({"t": 5}) as told, told.broker.client() as client:
        await find(client, "g")
        joined = await join(client, "g", protocols=says())
        await sync(client, "g", joined, {joined.member_id: gives(*range(5000))})
        (shard,) = [each for each in told.services.groups.runtime.leading.active() if "g" in each.groups]
        value = OffsetCommitValue(offset=1, leader_epoch=-1, metadata="", commit_timestamp=0)
        shard.offsets.settle("g", {"t": dict.fromkeys(range(5000), value)}, 1)
        for path in ("/api/v1/groups/g?limit=1000", "/api/v1/groups", "/api/v1/groups/g/rebalances"):
            meter, found = await metered(told, path)
            assert meter.worst <= LINES_MAX // 2, meter.report()
            assert found.json["next"] == "t:999" if "limit" in path else found.json
