"""TransactionCoordinator: the transactional ids of this broker. Which partitions are coordinated here the base knows.

    requests ─▶ what handlers call                                                     requests.py
    what transactions order ─▶ markers, by whoever leads their partitions              markers.py
    ids that nobody uses                                                               housekeeping.py

The leader epoch of an id's partition is the coordinator's epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from kafka_wire.errors import KafkaError
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.peers.brokers import Brokers
from kbroker.cluster.producer_ids import ProducerIds
from kbroker.cluster.registration import Registration
from kbroker.config import BrokerConfig
from kbroker.coordinators.coordinator import Coordinator
from kbroker.coordinators.shard import Tasks
from kbroker.env import Env
from kbroker.log.directory import LogDirectory
from kbroker.replication.partition import Partition
from kbroker.transactions.housekeeping import Housekeeping
from kbroker.transactions.markers import Markers
from kbroker.transactions.shard import TransactionShard
from kbroker.transactions.transaction import Errand, Terms, Transaction
from kbroker.turns import Work

TRANSACTIONS_TOPIC = "__transaction_state"

log = logging.getLogger("kbroker.transactions")


class TransactionCoordinator(Coordinator[TransactionShard]):
    """All transactional ids whose partition is led here. Made once; `run` it before partitions are led."""

    def __init__(
        self,
        env: Env,
        registration: Registration,
        logs: LogDirectory,
        config: Callable[[], BrokerConfig],
        producer_ids: ProducerIds,
        brokers: Brokers,
    ) -> None:
        """
        Args:
            config: the broker's configs as they are now.
            brokers: who is asked to write markers.
        """
        super().__init__(TRANSACTIONS_TOPIC, env, registration, logs, config)
        self.producer_ids = producer_ids
        self.markers = Markers(self.runtime, registration, brokers, lambda: self.wait_s)
        self.housekeeping = Housekeeping(self.runtime, config)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve transactions; until cancelled."""
        await self.runtime.run(self.markers.retry_forever, *self.housekeeping.duties, task_status=task_status)

    @property
    def version(self) -> int:
        """transaction.version, as it is finalized."""
        return self.registration.image.features.transaction_version

    @property
    def is_bumping_known(self) -> bool:
        """Whether records can tell of producers that go by transaction.version 2."""
        return Terms(self.version, 0).record_version >= 1

    def _make(self, partition: Partition, tasks: Tasks) -> TransactionShard:
        return TransactionShard(partition, self.env.clock, tasks, self)

    def _take_up(self, shard: TransactionShard) -> Work[None]:
        """A shard was loaded: what was decided before is carried on with (T2).

        It serves already. Who is ended meanwhile has ordered the markers itself: a second set of them would come late.
        """
        for transaction in shard.take_found_ending():
            self.markers.add(shard, transaction)
            yield

    def _wish(self) -> NewTopic:
        config, brokers = self.config(), len(self.registration.image.brokers)
        return NewTopic(
            TRANSACTIONS_TOPIC,
            config.get_int("transaction.state.log.num.partitions"),
            config.internal_replication_factor("transaction.state.log.replication.factor", brokers),
            configs={
                "cleanup.policy": "compact",
                "compression.type": "uncompressed",
                "unclean.leader.election.enable": "false",
                "min.insync.replicas": str(
                    config.internal_replication_factor("transaction.state.log.min.isr", brokers)
                ),
                "segment.bytes": str(config.get_int("transaction.state.log.segment.bytes")),
            },
        )

    # -- what transactions order --------------------------------------------------------------------------------------

    def carry_out(self, shard: TransactionShard, transaction: Transaction, errand: Errand) -> None:
        """A transaction ordered something, and all it has stored is committed."""
        if errand is Errand.MARKERS:
            self.markers.add(shard, transaction)
        else:
            self.runtime.start(self._fetch_producer_id, shard, transaction)

    async def _fetch_producer_id(self, shard: TransactionShard, transaction: Transaction) -> None:
        """A fresh producer id, for a transaction that is late; its alarm rings again if there is none."""
        entry = transaction.entry
        try:
            fresh_id = await self.producer_ids.next()
            if transaction.entry is entry and transaction.deadline is not None and shard.closed is None:
                clock = self.env.clock
                effects = transaction.time_out(
                    shard.terms, fresh_id=fresh_id, now=clock.liveness(), now_ms=clock.data_ms()
                )
                self.runtime.perform(shard, transaction.transactional_id, effects)
        except KafkaError as error:
            log.warning("%s: %s cannot be aborted yet: %s", shard, transaction.transactional_id, error)
