"""Clients that change the cluster while others use it.

Churn       makes a topic, writes to it, reads it, deletes it, and makes it anew under its name (R13)
Operator    gives partitions other replicas, and has preferred replicas lead
"""

from __future__ import annotations

from typing import Any

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.admin import (
    AlterPartitionReassignmentsRequest,
    ElectLeadersRequest,
    ElectLeadersTopic,
    ReassignablePartition,
    ReassignableTopic,
)
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_wire.messages.produce_fetch import FetchPartition, FetchRequest, FetchTopic
from kafka_wire.messages.topics import CreateTopicsRequest, DeleteTopicsRequest, DeleteTopicState
from tests.simulation.checker import read_batches
from tests.simulation.clients import SMALL, TEMP, Doubt, creatable, produce_request
from tests.simulation.cluster.clients import PASSING, Routed
from tests.simulation.cluster.history import ReplicatedHistory
from tests.simulation.cluster.nodes import Cluster
from tests.simulation.cluster.watch import Watch

MAY_FAIL = {
    *PASSING,
    ErrorCode.NONE,
    ErrorCode.TOPIC_ALREADY_EXISTS,  # asked for twice
    ErrorCode.INVALID_REPLICATION_FACTOR,  # too few brokers are alive
    ErrorCode.NOT_CONTROLLER,
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
}
MAY_FAIL_TO_MOVE = {
    *MAY_FAIL,
    ErrorCode.INVALID_REPLICA_ASSIGNMENT,  # a broker is dead
    ErrorCode.NO_REASSIGNMENT_IN_PROGRESS,
    ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE,
    ErrorCode.ELECTION_NOT_NEEDED,
    ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE,
}


class Churn(Routed):
    """One topic after another, all of the same name."""

    watch: Watch

    async def run(self) -> None:
        """Go on until told to finish; then once more, to show that it can be done."""
        self.topic_id: bytes | None = None
        self.history: ReplicatedHistory | None = None
        self.is_deleting = False
        self.number = self.lives = 0
        while not self.finishing:
            await self._turn()
        lives = self.lives
        while self.lives < lives + 2:
            await self._turn()

    async def _turn(self) -> None:
        await self.rest()
        try:
            await self._step()
        except Doubt:
            pass

    async def _step(self) -> None:
        """Look, and do what comes next."""
        topics = [MetadataRequestTopic(name=TEMP)]
        found = (await self.call(MetadataRequest(topics=topics), 12)).topics[0]
        if found.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
            await self._create()
        elif found.error_code == ErrorCode.NONE and found.topic_id != self.topic_id:
            self._begin(found.topic_id)
        elif found.error_code == ErrorCode.NONE and not self.is_deleting:
            await self._use()
        elif found.error_code == ErrorCode.NONE:
            await self._delete()

    async def _create(self) -> None:
        topic = creatable(TEMP, 1, SMALL)
        response = await self.call(CreateTopicsRequest(topics=[topic], timeout_ms=2000), 7, 4.0)
        self._judge("created", response.topics[0].error_code)

    def _begin(self, topic_id: bytes) -> None:
        """A new one; or the last but one, as a broker that knows of nothing newer has it."""
        if (topic_id, 0) in self.watch.histories:
            return
        self.topic_id, self.is_deleting = topic_id, False
        self.lives += 1
        self.leaders.pop(f"{TEMP}-0", None)
        self.epochs.pop(f"{TEMP}-0", None)
        self.history = self.watch.histories[topic_id, 0] = ReplicatedHistory(self.checker, TEMP, 0)

    async def _use(self) -> None:
        history, topic_id = self.history, self.topic_id
        assert history is not None and topic_id is not None
        self.number += 3
        values = self.new_values(TEMP, self.name, self.number)
        answer = await self.call(produce_request(TEMP, 0, self.batch(values), -1), 9, about=history)
        produced = answer.responses[0].partition_responses[0]
        if produced.error_code == ErrorCode.NONE:
            history.acknowledged(produced.base_offset, values, 0)
            await self._read(history, topic_id)
        else:
            self.expect(history, produced.error_code)
        self.is_deleting = self.random.random() < 0.4

    async def _read(self, history: ReplicatedHistory, topic_id: bytes) -> None:
        partition = FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1 << 20)
        topics = [FetchTopic(topic_id=topic_id, partitions=[partition])]
        request = FetchRequest(max_wait_ms=0, min_bytes=1, topics=topics)
        data = (await self.call(request, 16, about=history)).responses[0].partitions[0]
        if data.error_code:
            self.expect(history, data.error_code)
            return
        history.read(0, read_batches(bytes(data.records), 0), data.high_watermark, data.log_start_offset, (0, 0, 0))

    async def _delete(self) -> None:
        state = DeleteTopicState(name=None, topic_id=self.topic_id)
        response = await self.call(DeleteTopicsRequest(topics=[state], timeout_ms=2000), 6, 4.0)
        self._judge("deleted", response.responses[0].error_code)

    def _judge(self, what: str, code: int) -> None:
        self.world.trace(TEMP, what, code)
        if code not in MAY_FAIL:
            assert self.history is not None
            raise self.history.broken(f"not {what}: {ErrorCode(code)!r}")


class Operator(Routed):
    """Moves replicas and leaders around."""

    cluster: Cluster

    async def run(self) -> None:
        """Until told to finish."""
        while not self.finishing:
            await self.rest()
            await self.rest()
            try:
                await (self._reassign() if self.random.random() < 0.5 else self._elect())
            except Doubt:
                pass

    async def _reassign(self) -> None:
        """Other replicas for one partition, as many as before, in another order at least; or stop doing so."""
        history = self.random.choice(list(self.histories.values()))
        replicas: list[int] | None = self.random.sample(list(self.cluster.nodes), 3)
        if self.random.random() < 0.2:
            replicas = None
        partition = ReassignablePartition(partition_index=history.index, replicas=replicas)
        topics = [ReassignableTopic(name=history.topic, partitions=[partition])]
        answer = await self.call(AlterPartitionReassignmentsRequest(timeout_ms=2000, topics=topics), 0, 4.0)
        self.world.trace("reassigned", str(history), replicas, answer.error_code, str(answer.responses))
        codes = [part.error_code for topic in answer.responses for part in topic.partitions]
        self._judge([answer.error_code, *codes])

    async def _elect(self) -> None:
        history = self.random.choice(list(self.histories.values()))
        topics = [ElectLeadersTopic(topic=history.topic, partitions=[history.index])]
        request = ElectLeadersRequest(election_type=0, topic_partitions=topics, timeout_ms=2000)
        answer: Any = await self.call(request, 2, 4.0)
        codes = [part.error_code for topic in answer.replica_election_results for part in topic.partition_result]
        self.world.trace("elected", str(history), answer.error_code, codes)
        self._judge([answer.error_code, *codes])

    def _judge(self, codes: list[int]) -> None:
        for code in codes:
            if code not in MAY_FAIL_TO_MOVE:
                raise next(iter(self.histories.values())).broken(f"{self.name} was answered {ErrorCode(code)!r}")
