"""Three real brokers on a real etcd of three members, and what their clients notice when that is hurt: nothing."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from kbroker.cli import cli
from tests.cluster.stores.etcd import servers
from tests.cluster.stores.etcd.servers import Member
from tests.cluster.tools import PATIENCE_S
from tests.server.process import BrokerProcess

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("program", servers.programs())]
PARTITIONS = 3


class Client:
    """A producer that asks all replicas, one record after the other; at the end a reader."""

    def __init__(self, brokers: list[BrokerProcess]) -> None:
        self.addresses = [f"127.0.0.1:{broker.port}" for broker in brokers]
        self.acknowledged: list[int] = []
        self.is_stopping = False
        self.has_stopped = trio.Event()

    def command(self, *arguments: str) -> None:
        done = CliRunner().invoke(cli, [*arguments, "-b", self.addresses[0]])
        assert done.exit_code == 0, done.output

    async def produce(self) -> None:
        """On and on. What a client's own tries do not mend is raised here."""
        producer = await in_thread(KafkaProducer, bootstrap_servers=self.addresses, acks="all")
        while not self.is_stopping:
            number = len(self.acknowledged)
            sent = await in_thread(producer.send, "t", b"%d" % number, partition=number % PARTITIONS)
            await in_thread(sent.get, 3 * PATIENCE_S)
            self.acknowledged.append(number)
        await in_thread(producer.close)
        self.has_stopped.set()

    async def wait_more(self, count: int = 100) -> None:
        goal = len(self.acknowledged) + count
        with trio.fail_after(3 * PATIENCE_S):
            while len(self.acknowledged) < goal:
                await trio.sleep(0.05)

    def read(self) -> list[int]:
        """All there is."""
        consumer = KafkaConsumer(bootstrap_servers=self.addresses, auto_offset_reset="earliest")
        partitions = [TopicPartition("t", index) for index in range(PARTITIONS)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        seen: list[int] = []
        while any(consumer.position(each) < ends[each] for each in partitions):
            for records in consumer.poll(timeout_ms=1000).values():
                seen += [int(record.value) for record in records]
        consumer.close()
        return seen


async def in_thread(work: Any, *args: object, **options: object) -> Any:
    return await trio.to_thread.run_sync(partial(work, *args, **options))


@pytest.fixture
async def etcd(program: Path, tmp_path: Path) -> AsyncIterator[list[Member]]:
    async with servers.etcd(program, tmp_path / "etcd", members=3) as members:
        yield members


@pytest.fixture
async def client(etcd: list[Member], tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Client]:
    store = f"etcd://{','.join(member.address for member in etcd)}"
    options = ["--coordination", store]
    for override in ("default.replication.factor=3", "min.insync.replicas=2"):
        options += ["--override", override]
    brokers = [
        BrokerProcess(nursery, tmp_path / f"data{number}", *options, "--override", f"node.id={number}")
        for number in (1, 2, 3)
    ]
    for broker in brokers:
        await broker.start()
    client = Client(brokers)
    await in_thread(client.command, "topic", "create", "t", "--partitions", str(PARTITIONS))
    nursery.start_soon(client.produce)
    await client.wait_more()
    yield client
    client.is_stopping = True  # a thread that waits for an answer cannot be cancelled
    with trio.fail_after(4 * PATIENCE_S):
        await client.has_stopped.wait()
    for broker in brokers:
        print(broker.said)  # pytest shows it where a test fails


async def test_F8_etcd_loses_its_leader_and_clients_notice_nothing(client: Client, etcd: list[Member]) -> None:
    leader = await servers.leader_of(etcd)
    leader.kill()
    await client.wait_more()
    await in_thread(client.command, "topic", "create", "more")
    leader.start(etcd)
    await client.wait_more()
    acknowledged = list(client.acknowledged)
    seen = await in_thread(client.read)
    assert set(acknowledged) <= set(seen) and len(seen) == len(set(seen))


async def test_F7_etcd_is_away_and_records_flow(client: Client, etcd: list[Member]) -> None:
    """For longer than a session lasts: it may be over when etcd is back, and the brokers then register anew."""
    for member in etcd[1:]:
        member.signal(signal.SIGSTOP)
    for _ in range(8):
        await client.wait_more(20)
        await trio.sleep(1)
    for member in etcd[1:]:
        member.signal(signal.SIGCONT)
    await client.wait_more()
    await in_thread(client.command, "topic", "create", "more")
    await client.wait_more()
    acknowledged = list(client.acknowledged)
    seen = await in_thread(client.read)
    assert set(acknowledged) <= set(seen) and len(seen) == len(set(seen))
