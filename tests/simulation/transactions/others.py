"""Other brokers, imagined: one that has a replica of every partition, and those that are asked about transactions.

A second replica: what is appended is committed some time later, when the other broker has it too.

    append ──▶ end of the log ──some time──▶ the replica's end ──▶ high watermark

When the broker is replaced, its logs become those of the replica: all that is committed, and maybe some more. So one
broker and its disk play a failover, in which whatever was appended and not committed may be lost.

Those that are asked (`Brokers`): a question takes a while to arrive, the answer too, and either may be lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CoroutineType
from typing import Any

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.transactions import AddPartitionsToTxnRequest
from kafka_wire.records import headers
from kbroker.api.brokers import ClusterBrokers
from kbroker.replication.partition import Partition
from kbroker.testing.scheduler import replaced
from kbroker.testing.volume import Directory, Inode, Volume
from kbroker.testing.world import Process, World, current_process

RECOVERY_POINTS = "recovery-point-offset-checkpoint"
DERIVED = (".index", ".timeindex", ".txnindex", "leader-epoch-checkpoint")


class Replica:
    """What the other replica has. It fetches from a partition one time after another, each of which takes a while."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ends: dict[str, int] = {}  # of each log, by directory
        self.random: random.Random = world.random("replica")
        self._stalled: dict[str, float] = {}  # until when, by topic
        self._slow: dict[str, float] = {}  # mean seconds of a fetch, of each log
        self._led: dict[Partition, tuple[int, Process]] = {}  # in which epoch, and by which process
        self._fetching: dict[Partition, None] = {}

    def follow(self, partition: Partition) -> None:
        """A partition that is led may have grown."""
        if not partition.leading:
            return
        end = partition.log.end.value
        if partition not in self._led or self._led[partition][0] != partition.leader_epoch:
            process = current_process.get()
            assert process is not None
            self._led[partition] = partition.leader_epoch, process
            self._has(partition, end)  # what is there at an election, all have
        elif end > self.ends[partition.log.directory] and partition not in self._fetching:
            self._fetching[partition] = None
            delay_s = self._delay_s(partition.log.directory)
            self.world.clock.call_at(self.world.now() + delay_s, self._fetch(partition, end))

    def stall(self, topic: str, seconds: float) -> None:
        """Fetch nothing of a topic for so long."""
        self._stalled[topic] = self.world.now() + seconds

    def _delay_s(self, name: str) -> float:
        stalled_s = self._stalled.get(name.rpartition("-")[0], 0.0) - self.world.now()
        if stalled_s > 0:
            return stalled_s
        if name not in self._slow:
            self._slow[name] = self.random.choice([0.01, 0.01, 0.01, 0.2])
        return self.random.random() if self.random.random() < 0.05 else self.random.expovariate(1 / self._slow[name])

    def _fetch(self, partition: Partition, end: int) -> Callable[[], None]:
        epoch, process = self._led[partition]

        def fetched() -> None:
            self._fetching.pop(partition, None)
            is_led = not process.dead and partition.leading and partition.leader_epoch == epoch
            if is_led and partition.log.offline is None:
                self._has(partition, min(end, partition.log.end.value))
                self.follow(partition)

        return fetched

    def _has(self, partition: Partition, end: int) -> None:
        self.ends[partition.log.directory] = end
        partition.high_watermark.advance(end)

    def take_over(self, volume: Volume) -> list[str]:
        """Give the disk of a broker that is dead the logs of the replica; the directories that got shorter."""
        shorter = [name for name, end in sorted(self.ends.items()) if _cut(volume, name, end)]
        if shorter:
            _lower_recovery_points(volume, self.ends)
        return shorter


@contextmanager
def lagging(replica: Replica) -> Iterator[None]:
    """While the block runs, high watermarks follow the replica."""
    with replaced(Partition, "follow_log", lambda partition: replica.follow(partition)):
        yield


@contextmanager
def distant(world: World) -> Iterator[None]:
    """While the block runs, what a broker asks brokers is on its way for some time, and now and then lost."""
    chance, ask = world.random("brokers"), ClusterBrokers.ask

    async def way(slow: float = 0.1) -> None:
        await trio.sleep(chance.expovariate(200) if chance.random() >= slow else chance.random())
        if chance.random() < 0.02:
            raise KafkaError(ErrorCode.NETWORK_EXCEPTION, "lost on the way")

    async def ask_from_afar(brokers: ClusterBrokers, *question: Any) -> Any:
        await way()
        answer = ask(brokers, *question)
        answer = await answer if isinstance(answer, CoroutineType) else answer
        is_verdict = isinstance(question[1], AddPartitionsToTxnRequest)  # it may be late: what it says is so no more
        await way(0.4 if is_verdict else 0.1)
        return answer

    with replaced(ClusterBrokers, "ask", ask_from_afar):
        yield


def _cut(volume: Volume, name: str, end: int) -> bool:
    """Cut a log on the disk at a batch that begins at end; whether there was more. What is derived of it goes."""
    directory = volume.find(name)
    if not isinstance(directory, Directory):
        return False
    volume.sync_dir(directory)
    is_shorter = False
    for segment in sorted(each for each in directory.entries if each.endswith(".log")):
        inode, base = directory.entries[segment], int(segment[:-4])
        assert isinstance(inode, Inode)
        size = next((at for at, header in headers(bytes(inode.data)) if header.base_offset >= end), len(inode.data))
        if size < len(inode.data):
            is_shorter = True
            volume.truncate(inode, size)
            inode.sync()
        if base > end:
            _remove(volume, directory, segment)
    for file in list(directory.entries) if is_shorter else ():
        is_ahead = file.endswith(".snapshot") and int(file[:-9]) > end
        if is_ahead or file.endswith(DERIVED):
            _remove(volume, directory, file)
    return is_shorter


def _remove(volume: Volume, directory: Directory, name: str) -> None:
    volume.change([(directory, name, None)])
    volume.sync_dir(directory)


def _lower_recovery_points(volume: Volume, ends: dict[str, int]) -> None:
    node = volume.find(RECOVERY_POINTS)
    if isinstance(node, Inode):
        head, count, *lines = bytes(node.data).decode().splitlines()
        for n, line in enumerate(lines):
            topic, index, offset = line.split(" ")
            lines[n] = f"{topic} {index} {min(int(offset), ends.get(f'{topic}-{index}', int(offset)))}"
        data = "\n".join([head, count, *lines, ""]).encode()
        volume.truncate(node, 0)
        volume.write(node, data, RECOVERY_POINTS)
        node.sync()
