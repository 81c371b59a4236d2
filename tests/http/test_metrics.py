"""What /metrics says is true: each metric has a test that makes its value move, by as much as happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.admin import (
    AlterPartitionReassignmentsRequest,
    ReassignablePartition,
    ReassignableTopic,
)
from kafka_wire.records import read_header
from kbroker.api.context import Services
from kbroker.http.health import Life
from kbroker.http.messages import Refused, Request
from kbroker.http.metrics.page import WINDOW_S, Metrics
from kbroker.http.metrics.table import COUNTER, METRICS, UNOWNED
from kbroker.http.paths import Paths
from kbroker.log.content.scrubber import ROUND_SECONDS
from kbroker.log.errors import LogOffline
from kbroker.server.broker import Beside
from kbroker.testing.broker import MemoryCluster, memory_cluster
from kbroker.testing.client import BareClient
from kbroker.testing.clock import EPOCH_MS
from tests.api.group_tools import commit, find, join
from tests.api.test_compaction import compact, compacted_topic
from tests.api.test_fetch import fetch_request, values
from tests.api.test_produce import batch, produce
from tests.api.test_topics import call_delete, create
from tests.delay import tools as delay
from tests.http.exposition import Page, parse
from tests.http.tools import PORT, StillProcess, connected, stand_still, told_broker
from tests.log.content.test_scrubber import bad

T = "kafka_server_brokertopicmetrics_"
P = {"topic": "t", "partition": 0}


def moved(before: Page, after: Page, names: str, **labels: object) -> dict[str, float]:
    """How far metrics of these names (after the prefix, in braces) have moved."""
    prefix, _, rest = names.partition("{")
    wanted = [prefix + name.strip() for name in rest.rstrip("}").split(",")]
    return {name.removeprefix(prefix): after.value(name, **labels) - before.value(name, **labels) for name in wanted}


async def read(client: BareClient, offset: int = 0, topic: str = "t", **options: int) -> Any:
    return await client.call(fetch_request({(topic, 0): offset}, **options), 11)


# -- traffic ----------------------------------------------------------------------------------------------------------


async def test_what_goes_in_and_out_is_counted_by_topic_and_in_all() -> None:
    async with told_broker({"t": 1, "u": 1}) as told, told.broker.client() as client:
        assert (await produce(client, batch(b"a"), topic="u")).error_code == 0
        assert (await produce(client, batch(b"z"))).error_code == 0  # so that the topic is known
        before = await told.metrics()
        sent = [batch(b"a", b"b"), batch(b"c")]
        for each in sent:
            assert (await produce(client, bytearray(each))).error_code == 0
        assert values(await read(client)) == [b"z", b"a", b"b", b"c"]
        after = await told.metrics()
    size = sum(map(len, sent))
    for labels in ({"topic": "t"}, {}):
        names = "{messagesin_total, bytesin_total, totalproducerequests_total}"
        assert moved(before, after, T + names, **labels) == {
            "messagesin_total": 3, "bytesin_total": size, "totalproducerequests_total": 2
        }  # fmt: skip
        assert moved(before, after, f"{T}{{bytesout_total, totalfetchrequests_total}}", **labels) == {
            "bytesout_total": size + len(batch(b"z")), "totalfetchrequests_total": 1
        }  # fmt: skip
    assert not any(moved(before, after, f"{T}{{messagesin_total, bytesout_total}}", topic="u").values())


async def test_what_fails_is_counted_as_kafka_counts_it() -> None:
    """What is too large is rejected, and no failure of the broker; nor is an offset out of range."""
    async with told_broker({"t": 1}, message__max__bytes="1000") as told, told.broker.client() as client:
        assert (await produce(client, batch(b"a"))).error_code == 0
        before = await told.metrics()
        large = batch(b"x" * 2000)
        assert (await produce(client, bytearray(large))).error_code == ErrorCode.MESSAGE_TOO_LARGE
        assert (await produce(client, batch(b"b"), acks=2)).error_code == ErrorCode.INVALID_REQUIRED_ACKS
        assert (await produce(client, batch(b"b"), topic="nowhere")).error_code
        assert (await read(client, 99)).responses[0].partitions[0].error_code == ErrorCode.OFFSET_OUT_OF_RANGE
        failed = await read(client, 0, partition_max_bytes=-1)
        assert failed.responses[0].partitions[0].error_code == ErrorCode.UNKNOWN_SERVER_ERROR
        after = await told.metrics()
    names = "{bytesrejected_total, totalproducerequests_total, failedproducerequests_total, failedfetchrequests_total}"
    for labels in ({"topic": "t"}, {}):
        assert moved(before, after, T + names, **labels) == {
            "bytesrejected_total": len(large), "totalproducerequests_total": 2,
            "failedproducerequests_total": 1, "failedfetchrequests_total": 1,
        }  # fmt: skip
    assert (("topic", "nowhere"),) not in after.of(f"{T}totalproducerequests_total")


async def test_totals_keep_what_a_deleted_topic_had() -> None:
    """A counter never goes back, and a name that comes again begins anew."""
    async with told_broker({"t": 1}) as told, told.broker.client() as client:
        assert (await produce(client, batch(b"a", b"b"))).error_code == 0
        await call_delete(client, "t")
        gone = await told.metrics()
        assert (await create(client, "t")).error_code == 0
        assert (await produce(client, batch(b"c"))).error_code == 0
        again = await told.metrics()
    assert not gone.of(f"{T}messagesin_total").keys() - {()}
    assert gone.value(f"{T}messagesin_total") == 2
    assert (again.value(f"{T}messagesin_total"), again.value(f"{T}messagesin_total", topic="t")) == (3, 1)


async def test_requests_are_counted_and_timed(autojump_clock: MockClock) -> None:
    async with told_broker({"t": 1}) as told, told.broker.client() as client:
        before = await told.metrics()
        for _ in range(3):
            assert (await produce(client, batch(b"a"))).error_code == 0
        assert values(await read(client, 3, max_wait_ms=2000)) == []
        after = await told.metrics()
    requests = "kafka_network_requestmetrics_requests_total"
    assert after.value(requests, request="Produce", version=9) == 3
    assert after.value(requests, request="Fetch", version=11) == 1
    assert ("request", "Produce") not in [label for labels in before.of(requests) for label in labels]
    times = "kafka_network_requestmetrics_totaltimems"
    assert after.value(f"{times}_count", request="Fetch") == 1
    assert after.value(f"{times}_sum", request="Fetch") == pytest.approx(2000, rel=0.01)
    classes = after.of("kbroker_request_seconds_bucket")
    assert classes[("request", "Fetch"), ("le", "1.04858")] == 0
    assert classes[("request", "Fetch"), ("le", "2.09715")] == 1


async def test_connections_are_counted_by_listener() -> None:
    async with told_broker(max__connections="2") as told:
        async with told.broker.client(), told.broker.client():
            with pytest.raises((trio.BrokenResourceError, EOFError, OSError, AssertionError)):
                async with told.broker.client() as third:
                    await produce(third, batch(b"a"))
            page = await told.metrics()
        await wait_all_tasks_blocked()
        after = await told.metrics()
    s, labels = "kafka_server_socket_server_metrics_", {"listener": "PLAINTEXT"}
    assert page.value(f"{s}connection_count", **labels) == 2
    assert page.value("kbroker_connections_refused_total", **labels) == 1
    assert (after.value(f"{s}connection_count", **labels), after.value(f"{s}connection_close_total", **labels)) == (
        0,
        2,
    )
    assert after.value(f"{s}connection_creation_total", **labels) == 2


# -- partitions -------------------------------------------------------------------------------------------------------


async def test_partitions_tell_where_they_begin_and_end_and_what_they_take() -> None:
    async with told_broker({"t": 1}) as told, told.broker.client() as client:
        sent = batch(b"a", b"b", b"c")
        assert (await produce(client, bytearray(sent))).error_code == 0
        partition = told.services.partitions["t", 0]
        partition.log.advance_start(2)
        partition.log.roll()
        page = await told.metrics()
    log = "kafka_log_log_"
    assert page.value(f"{log}size", **P) == len(sent)
    assert page.value(f"{log}numlogsegments", **P) == 2
    assert (page.value(f"{log}logstartoffset", **P), page.value(f"{log}logendoffset", **P)) == (2, 3)
    x = "kafka_topic_partition_"
    assert (page.value(f"{x}oldest_offset", **P), page.value(f"{x}current_offset", **P)) == (2, 3)
    assert (page.value(f"{x}leader", **P), page.value(f"{x}leader_is_preferred", **P)) == (1, 1)
    assert (page.value(f"{x}replicas", **P), page.value(f"{x}in_sync_replica", **P)) == (1, 1)
    assert page.value("kafka_topic_partitions", topic="t") == 1
    for name, value in (("replicascount", 1), ("insyncreplicascount", 1), ("underreplicated", 0), ("atminisr", 1)):
        assert page.value(f"kafka_cluster_partition_{name}", **P) == value
    assert page.value("kafka_server_replicamanager_partitioncount") == 1
    assert page.value("kafka_server_replicamanager_leadercount") == 1


async def test_open_transactions_and_producers_are_told() -> None:
    async with told_broker({"t": 1}) as told:
        before = await told.metrics()
        log = told.services.partitions["t", 0].log
        sent = batch(b"a", b"b", producer_id=7, producer_epoch=0, base_sequence=0, transactional=True)
        guard = told.services.partitions["t", 0].verification(read_header(sent))
        log.append(sent, leader_epoch=0, now_ms=EPOCH_MS, guard=guard)
        told.services.partitions["t", 0].follow_log()
        after = await told.metrics()
    lag = "kafka_cluster_partition_laststableoffsetlag"
    assert (before.value(lag, **P), after.value(lag, **P)) == (0, 2)
    assert moved(before, after, "kafka_server_replicamanager_{produceridcount}") == {"produceridcount": 1}


async def test_a_log_that_fails_is_offline() -> None:
    async with told_broker({"t": 2}) as told:
        log = told.services.partitions["t", 0].log
        log.fail(LogOffline("I/O error"))
        page = await told.metrics()
    assert page.value("kafka_server_replicamanager_offlinereplicacount") == 1


# -- a cluster --------------------------------------------------------------------------------------------------------


class Scrapes:
    """The pages of a cluster's brokers."""

    def __init__(self) -> None:
        self.services: dict[int, Services] = {}

    def beside(self, broker_id: int) -> Beside:
        async def attach(services: Services) -> None:
            self.services[broker_id] = services
            await trio.sleep_forever()

        return attach

    async def of(self, broker_id: int) -> Page:
        services = self.services[broker_id]
        life = Life()
        life.attach(services)
        life.note_ready()
        return parse(b"".join(await Metrics(life, StillProcess()).page(services, 0)))

    async def total(self, cluster: MemoryCluster, name: str, **labels: object) -> float:
        """Summed over the brokers, as dashboards do."""
        pages = [await self.of(id) for id in cluster.brokers]
        return sum(value for page in pages for found, value in page.of(name).items() if dict(found) == _texts(labels))


def _texts(labels: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in labels.items()}


async def test_a_cluster_is_told_of_once(autojump_clock: MockClock) -> None:
    """Sums over brokers are right, whoever leads, and the controller alone tells of the whole."""
    scrapes = Scrapes()
    async with memory_cluster(3, topics={"t": 3}, replication_factor=3, beside=scrapes.beside) as cluster:
        k = "kafka_controller_kafkacontroller_"
        for name, value in (
            (f"{k}activecontrollercount", 1), (f"{k}activebrokercount", 3), (f"{k}globalpartitioncount", 3),
            (f"{k}globaltopiccount", 1), (f"{k}fencedbrokercount", 0), ("kafka_brokers", 3),
            ("kafka_server_replicamanager_leadercount", 3), ("kafka_server_replicamanager_partitioncount", 9),
        ):  # fmt: skip
            assert await scrapes.total(cluster, name) == value, name
        assert await scrapes.total(cluster, "kafka_topic_partitions", topic="t") == 3
        for partition in range(3):
            assert await scrapes.total(cluster, "kafka_topic_partition_replicas", topic="t", partition=partition) == 3
        controller = scrapes.services[1].image.controller_id
        told = await scrapes.of(controller)
        assert told.value("kafka_broker_info", address="b2:9092", id=2) == 2


async def test_replication_is_counted_on_both_sides(autojump_clock: MockClock) -> None:
    scrapes = Scrapes()
    async with memory_cluster(2, topics={"t": 1}, replication_factor=2, beside=scrapes.beside) as cluster:
        leader = scrapes.services[1].image.topics["t"].partitions[0].leader
        sent = batch(b"a" * 1000)
        async with cluster.client(leader) as client:
            assert (await produce(client, bytearray(sent), acks=-1)).error_code == 0
        pages = {id: await scrapes.of(id) for id in (1, 2)}
        assert pages[leader].value(f"{T}replicationbytesout_total") == len(sent)
        assert pages[3 - leader].value(f"{T}replicationbytesin_total") == len(sent)
        assert pages[leader].value(f"{T}bytesout_total") == 0


async def test_a_follower_that_lags_shows_in_every_way(autojump_clock: MockClock) -> None:
    scrapes = Scrapes()
    config = {"replica.lag.time.max.ms": "5000", "min.insync.replicas": "2", "default.replication.factor": "2"}
    async with memory_cluster(
        2, topics={"t": 1}, replication_factor=2, config=config, beside=scrapes.beside
    ) as cluster:
        leader = scrapes.services[1].image.topics["t"].partitions[0].leader
        other = 3 - leader
        r, c = "kafka_server_replicamanager_", "kafka_cluster_partition_"
        page = await scrapes.of(leader)
        assert (page.value(f"{r}atminisrpartitioncount"), page.value(f"{c}atminisr", **P)) == (1, 1)
        cluster.network.cut(f"b{leader}", f"b{other}")
        async with cluster.client(leader) as client:
            assert (await produce(client, batch(b"a"), acks=1)).error_code == 0
            await trio.sleep(20)
            page = await scrapes.of(leader)
            for name in ("underreplicatedpartitions", "underminisrpartitioncount", "isrshrinks_total"):
                assert page.value(r + name) == 1, name
            for name in ("underreplicated", "underminisr", "insyncreplicascount"):
                assert page.value(c + name, **P) == 1, name
            assert page.value("kafka_topic_partition_under_replicated_partition", **P) == 1
            assert page.value("kafka_topic_partition_in_sync_replica", **P) == 1
            cluster.network.heal()
            await trio.sleep(20)
            page = await scrapes.of(leader)
            assert (page.value(f"{r}isrexpands_total"), page.value(f"{r}underreplicatedpartitions")) == (1, 0)


async def test_elections_and_partitions_without_a_leader_are_told(autojump_clock: MockClock) -> None:
    """The controller stays; the broker that leads some alone, and some with others, is killed."""
    scrapes = Scrapes()
    async with memory_cluster(3, beside=scrapes.beside) as cluster:
        controller = scrapes.services[1].image.controller_id
        image = lambda: scrapes.services[controller].image  # noqa: E731
        victim = next(id for id in cluster.brokers if id != controller)
        await cluster.create({"alone": 3, "both": 3})
        await _reassign(cluster, scrapes, "both", [[victim, controller]] * 3)
        lost = [p.index for p in image().topics["alone"].partitions if p.leader == victim]
        led = sum(p.leader == victim for p in image().topics["both"].partitions)
        before = await scrapes.of(controller)
        cluster.kill(victim)
        await trio.sleep(20)
        after = await scrapes.of(controller)
        k = "kafka_controller_kafkacontroller_"
        assert led and moved(before, after, f"{k}{{offlinepartitionscount, activebrokercount, fencedbrokercount}}") == {
            "offlinepartitionscount": len(lost), "activebrokercount": -1, "fencedbrokercount": 1
        }  # fmt: skip
        stats = "kafka_controller_controllerstats_{leaderelectionrateandtimems_count, uncleanleaderelections_total}"
        assert list(moved(before, after, stats).values()) == [led, 0]
        assert after.value(f"{k}preferredreplicaimbalancecount") == 3
        x, labels = "kafka_topic_partition_", {"topic": "alone", "partition": lost[0]}
        assert (after.value(f"{x}leader", **labels), after.value(f"{x}under_replicated_partition", **labels)) == (-1, 1)


async def test_an_unclean_election_is_told(autojump_clock: MockClock) -> None:
    """The one that has all is gone, and the one that was gone before leads."""
    scrapes = Scrapes()
    async with memory_cluster(3, config={"unclean.leader.election.enable": "true"}, beside=scrapes.beside) as cluster:
        controller = scrapes.services[1].image.controller_id
        first, second = (id for id in cluster.brokers if id != controller)
        await cluster.create({"risky": 1})
        await _reassign(cluster, scrapes, "risky", [[first, second]])
        for victim in (second, first):
            cluster.kill(victim)
            await trio.sleep(20)
        before = await scrapes.of(controller)
        await cluster.start(second)
        await trio.sleep(20)
        after = await scrapes.of(controller)
        stats = "kafka_controller_controllerstats_{leaderelectionrateandtimems_count, uncleanleaderelections_total}"
        assert moved(before, after, stats)["uncleanleaderelections_total"] == 1
        assert await scrapes.total(cluster, "kafka_controller_controllerstats_uncleanleaderelections_total") == 1


async def test_a_reassignment_shows_while_it_is_under_way(autojump_clock: MockClock) -> None:
    scrapes = Scrapes()
    async with memory_cluster(2, topics={"t": 1}, beside=scrapes.beside) as cluster:
        leader = scrapes.services[1].image.topics["t"].partitions[0].leader
        cluster.network.cut(f"b{leader}", f"b{3 - leader}")
        async with cluster.client(leader) as client:
            assert (await produce(client, batch(b"a"), acks=1)).error_code == 0
        with pytest.raises(AssertionError):  # it does not come to its end
            await _reassign(cluster, scrapes, "t", [[3 - leader]])
        assert (await scrapes.of(leader)).value("kafka_server_replicamanager_reassigningpartitions") == 1


async def _reassign(cluster: MemoryCluster, scrapes: Scrapes, topic: str, replicas: list[list[int]]) -> None:
    rows = [ReassignablePartition(partition_index=index, replicas=each) for index, each in enumerate(replicas)]
    request = AlterPartitionReassignmentsRequest(
        timeout_ms=10_000, topics=[ReassignableTopic(name=topic, partitions=rows)]
    )
    async with cluster.client(next(iter(cluster.brokers))) as client:
        answer = await client.call(request, 0)
        assert answer.error_code == 0, answer
    await trio.sleep(20)
    services = next(iter(scrapes.services.values()))
    assert [list(p.replicas) for p in services.image.topics[topic].partitions] == replicas


# -- groups -----------------------------------------------------------------------------------------------------------


async def test_groups_tell_members_offsets_and_lag() -> None:
    async with told_broker({"t": 2}) as told, told.broker.client() as client:
        assert (await produce(client, batch(b"a", b"b", b"c"))).error_code == 0
        await find(client, "g")
        assert await commit(client, "g", 1) == 0
        assert await commit(client, "g", 5, index=1) == 0  # beyond the end: as after a log was cut
        joined = await join(client, 'odd "group"\\\n')
        page = await told.metrics()
    g, labels = "kafka_consumergroup_", {"consumergroup": "g", "topic": "t"}
    assert (page.value(f"{g}current_offset", partition=0, **labels), page.value(f"{g}lag", partition=0, **labels)) == (
        1,
        2,
    )
    assert (page.value(f"{g}current_offset", partition=1, **labels), page.value(f"{g}lag", partition=1, **labels)) == (
        5,
        0,
    )
    assert (page.value(f"{g}current_offset_sum", **labels), page.value(f"{g}lag_sum", **labels)) == (6, 2)
    assert page.value(f"{g}members", consumergroup="g") == 0
    assert page.value(f"{g}members", consumergroup='odd "group"\\\n') == 1 and joined.error_code == 0
    assert page.value("kafka_coordinator_group_groupmetadatamanager_numgroups") == 2
    assert page.value("kafka_coordinator_group_groupmetadatamanager_numoffsets") == 2
    assert page.value("kbroker_groups", type="classic", state="Empty") == 1


async def test_lag_is_told_of_partitions_that_other_brokers_lead(autojump_clock: MockClock) -> None:
    """And left out, not guessed, where the leader does not answer."""
    scrapes = Scrapes()
    async with memory_cluster(2, topics={"t": 2}, config={"offsets.topic.num.partitions": "1"},
                              beside=scrapes.beside) as cluster:  # fmt: skip
        image = scrapes.services[1].image
        for partition in image.topics["t"].partitions:
            async with cluster.client(partition.leader) as client:
                assert (await produce(client, batch(b"a", b"b"), index=partition.index)).error_code == 0
        async with cluster.client(1) as client:
            coordinator = (await find(client, "g")).coordinators[0].node_id
        async with cluster.client(coordinator) as client:
            for index in range(2):
                while await commit(client, "g", 1, index=index):
                    await trio.sleep(0.1)
        page = await scrapes.of(coordinator)
        labels = {"consumergroup": "g", "topic": "t"}
        assert [page.value("kafka_consumergroup_lag", partition=index, **labels) for index in range(2)] == [1, 1]
        cluster.network.cut(f"b{coordinator}", f"b{3 - coordinator}")
        page = await scrapes.of(coordinator)
        assert len(page.of("kafka_consumergroup_lag")) == 1
        assert page.value("kafka_consumergroup_lag_sum", **labels) == 1
        assert len(page.of("kafka_consumergroup_current_offset")) == 2


async def test_partitions_without_an_owner_are_told_as_the_command_line_does() -> None:
    async with told_broker({"t": 2}) as told, told.broker.client() as one, told.broker.client() as two:
        await stand_still(told, one, two)
        page = await told.metrics()
    for partition in range(2):
        assert page.value(UNOWNED.name, group="g", topic="t", partition=partition) == pytest.approx(3, abs=0.5)


# -- kbroker's own ----------------------------------------------------------------------------------------------------


async def test_delayed_records_are_told_until_they_are_delivered(autojump_clock: MockClock) -> None:
    async with told_broker() as told, told.broker.client() as client:
        await delay.create(client)
        due_ms = told.broker.clock.data_ms() + 60_000
        await delay.send(client, delay.after(60_000, b"a"), delay.after(90_000, b"b"))
        await trio.sleep(1)
        before = await told.metrics()
        told.broker.clock.jump_data(61_000)
        await trio.sleep(2)
        after = await told.metrics()
    assert before.value("kbroker_delayed_records", **P) == 2
    assert before.value("kbroker_delayed_next_due_timestamp_seconds", **P) == pytest.approx(due_ms / 1000, abs=1)
    assert after.value("kbroker_delayed_records", **P) == 1


async def test_views_are_told_with_how_late_they_are() -> None:
    async with told_broker({"t": 1}) as told, told.broker.client() as client:
        late = {"kbroker.view.source": "t", "kbroker.view.lag.ms": "5000"}
        assert (await create(client, "v", partitions=-1, replication_factor=-1, configs=late)).error_code == 0
        assert (await create(client, "w", partitions=-1, replication_factor=-1,
                             configs={"kbroker.view.source": "t"})).error_code == 0  # fmt: skip
        assert (await produce(client, batch(b"a"))).error_code == 0
        assert values(await read(client, topic="w")) == [b"a"]
        page = await told.metrics()
    assert page.value("kbroker_view_lag_seconds", topic="v", source="t") == 5
    assert page.value("kbroker_view_lag_seconds", topic="w", source="t") == 0
    assert page.value(f"{T}bytesout_total", topic="w") == len(batch(b"a"))
    assert page.value("kafka_controller_kafkacontroller_globaltopiccount") == 1


async def test_compaction_is_counted() -> None:
    async with told_broker() as told, told.broker.client() as client:
        await compacted_topic(client)
        before = await told.metrics()
        done = await compact(client)
        after = await told.metrics()
        log = told.services.partitions["t", 0].log
        told.services.logs.cleaner.left[log] = type("Left", (), {"until": None})()  # type: ignore[assignment]
        left = await told.metrics()
    names = "kbroker_compaction_{passes_total, read_bytes_total, written_bytes_total}"
    assert moved(before, after, names) == {
        "passes_total": 1, "read_bytes_total": done.bytes_before, "written_bytes_total": done.bytes_after
    }  # fmt: skip
    uncleanable = "kafka_log_logcleanermanager_uncleanable_partitions_count"
    assert (after.value(uncleanable), left.value(uncleanable)) == (0, 1)


async def test_the_scrubber_tells_what_it_read_and_found(autojump_clock: MockClock) -> None:
    async with told_broker({"t": 1}) as told, told.broker.client() as client:
        assert (await produce(client, batch(b"a"))).error_code == 0
        await trio.sleep(2 * ROUND_SECONDS)
        before = await told.metrics()
        assert (await produce(client, bad())).error_code == 0
        await trio.sleep(2 * ROUND_SECONDS)
        after = await told.metrics()
    assert moved(before, after, "kbroker_scrubber_{batches_total, bad_batches}") == {
        "batches_total": 1,
        "bad_batches": 1,
    }
    assert before.value("kbroker_scrubber_batches_total") == 1


async def test_the_broker_says_who_it_is_and_in_which_state() -> None:
    async with told_broker() as told:
        page = await told.metrics()
        told.services.registration.session = None
        lost = await told.metrics()
    labels = dict(next(iter(page.of("kbroker_build_info"))))
    assert labels["node_id"] == "1" and labels["cluster_id"] == told.broker.ready.cluster_id
    assert page.value("kafka_server_kafkaserver_brokerstate") == 3
    assert (page.value("kbroker_session_valid"), lost.value("kbroker_session_valid")) == (1, 0)
    assert lost.value("kafka_controller_kafkacontroller_activecontrollercount") == 0
    assert page.value("kbroker_disk_free_bytes") <= page.value("kbroker_disk_size_bytes")
    assert lost.value("kbroker_http_requests_total") - page.value("kbroker_http_requests_total") == 1


async def test_the_process_is_told_of_as_far_as_its_system_does() -> None:
    async with told_broker() as told:
        page = await told.metrics()
        told.process.used = told.process.used._replace(open_fds=None, read_bytes=5000, cpu_s=2.5, collections=[4, 2, 1])
        after = await told.metrics()
    assert (page.value("process_open_fds"), page.value("process_max_fds")) == (17, 1024)
    assert (page.value("process_resident_memory_bytes"), page.value("process_virtual_memory_bytes")) == (1000, 2000)
    assert (page.value("process_threads"), page.value("process_start_time_seconds")) == (4, 1.7e9)
    assert "process_open_fds" not in after.kinds
    assert (page.value("process_cpu_seconds_total"), after.value("process_cpu_seconds_total")) == (1.5, 2.5)
    disk = "kafka_server_kafkaserver_linux_disk_"
    assert (page.value(f"{disk}write_bytes"), after.value(f"{disk}read_bytes")) == (8192, 5000)
    assert after.value("python_gc_collections_total", generation=0) == 4


async def test_the_idle_share_is_that_of_the_last_half_minute(autojump_clock: MockClock) -> None:
    names = ("kafka_network_socketserver_networkprocessoravgidle_percent",
             "kafka_server_kafkarequesthandlerpool_requesthandleravgidle_percent")  # fmt: skip
    async with told_broker() as told:

        async def idle(seconds: float, busy_s: float) -> float:
            await trio.sleep(seconds)
            told.process.cpu_s += busy_s
            page = await told.metrics()
            assert page.value(names[0]) == page.value(names[1])
            return page.value(names[0])

        assert await idle(15, 0) == 1
        assert await idle(15, 7.5) == pytest.approx(0.75, abs=0.01)
        assert await idle(WINDOW_S, WINDOW_S) == pytest.approx(0, abs=0.01)
        assert await idle(2 * WINDOW_S, 0) == pytest.approx(1, abs=0.01)


# -- the page as such -------------------------------------------------------------------------------------------------


async def test_without_a_broker_there_is_nothing_to_tell() -> None:
    life = Life()
    with pytest.raises(Refused, match="does not serve: opening the data directory"):
        await Paths(life, Metrics(life, StillProcess())).answer(Request(("metrics",), {}))


async def test_head_of_metrics_has_no_body() -> None:
    async with told_broker({"t": 1}) as told:
        assert (await told.get("/metrics", method="HEAD")).body == b""


def test_every_counter_is_named_as_one() -> None:
    for metric in METRICS.values():
        assert (metric.kind == COUNTER) == metric.name.endswith("_total"), metric.name


async def test_a_scrape_goes_over_one_connection_again_and_again() -> None:
    async with told_broker({"t": 3}) as told, connected(told.broker.env.net, PORT) as client:
        pages = [parse((await client.get("/metrics")).body) for _ in range(3)]
    assert [page.value("kbroker_http_requests_total") for page in pages] == [1, 2, 3]
