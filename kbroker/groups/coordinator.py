"""GroupCoordinator: the groups of this broker. Which partitions of `__consumer_offsets` it coordinates the base knows.

membership, offset_requests ─▶ requests                                                  what handlers call
write_marker ─▶ the end of a transaction, its offsets with it                            asked by its coordinator
topics deleted, offsets too old ─▶ what is forgotten                                      housekeeping.py
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Set
from functools import partial
from typing import Any

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.registration import Registration
from kbroker.config import BrokerConfig
from kbroker.coordinators.coordinator import Coordinator
from kbroker.coordinators.shard import Tasks
from kbroker.env import Env
from kbroker.groups.group import Topics
from kbroker.groups.housekeeping import Housekeeping
from kbroker.groups.settings import Settings, read_settings
from kbroker.groups.shard import GroupShard
from kbroker.log.derived.transactions import Marker
from kbroker.log.directory import LogDirectory
from kbroker.replication.doubt import InDoubt
from kbroker.replication.partition import Partition
from kbroker.turns import PAUSES_A_TURN, Work, advance, each, finish

OFFSETS_TOPIC = "__consumer_offsets"


class GroupCoordinator(Coordinator[GroupShard]):
    """All groups whose partition is led here. Made once; `run` it before partitions are led."""

    def __init__(
        self, env: Env, registration: Registration, logs: LogDirectory, config: Callable[[], BrokerConfig]
    ) -> None:
        """config: the broker's configs as they are now."""
        super().__init__(OFFSETS_TOPIC, env, registration, logs, config)
        self.housekeeping = Housekeeping(self.runtime, registration, config)
        self._settings: Settings | None = None
        self._topics: tuple[object, Topics] = (None, {})

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve groups; until cancelled."""
        await self.runtime.run(*self.housekeeping.duties, task_status=task_status)

    def _make(self, partition: Partition, tasks: Tasks) -> GroupShard:
        return GroupShard(partition, self.env.clock, tasks, self)

    def _take_up(self, shard: GroupShard) -> Work[None]:
        return self.housekeeping.forget_topics(shard, shard.offsets.topic_names())

    def _wish(self) -> NewTopic:
        config, brokers = self.config(), len(self.registration.image.brokers)
        return NewTopic(
            OFFSETS_TOPIC,
            config.get_int("offsets.topic.num.partitions"),
            config.internal_replication_factor("offsets.topic.replication.factor", brokers),
            configs={
                "cleanup.policy": "compact",
                "compression.type": "producer",
                "segment.bytes": str(config.get_int("offsets.topic.segment.bytes")),
            },
        )

    # -- told by the replica manager ----------------------------------------------------------------------------------

    def write_marker(self, index: int, marker: Marker) -> ErrorCode | Coroutine[Any, Any, ErrorCode]:
        """End a producer's transaction in a partition of the topic; what became of it, when the marker is committed.

        NOT_LEADER_OR_FOLLOWER, COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE and NOT_COORDINATOR are for
        later, and so is what keeps anything from being appended; else see Partition.write_marker. Raises InDoubt for a
        refusal that is to be confirmed.
        """
        try:
            shard = self.runtime.leading.at(index)
            offset = shard.write_marker(marker)
        except InDoubt:
            raise
        except KafkaError as error:
            return error.code
        self.runtime.note_growth(shard)
        return self.runtime.when_committed(shard, offset, self.wait_s)

    def on_topics_changed(self, deleted: Iterable[str] = ()) -> None:
        """There are other topics, or more partitions: groups see it for themselves, offsets of deleted topics go."""
        self.housekeeping.on_topics_deleted(deleted)

    def on_configs_changed(self, group_ids: Iterable[str] | None = None) -> None:
        """The configs of these groups are others; None: the broker's. Very many groups hear of it in turns."""
        work = self._reconfigure(None if group_ids is None else set(group_ids))
        if advance(work, PAUSES_A_TURN) is None:
            self.runtime.start(finish, work)

    def _reconfigure(self, wanted: Set[str] | None) -> Work[None]:
        for shard in self.runtime.leading.active():
            names = list(shard.groups) if wanted is None else wanted & shard.groups.keys()
            yield from each(partial(self._reconfigure_one, shard), names)

    def _reconfigure_one(self, shard: GroupShard, group_id: str) -> None:
        group = shard.groups.get(group_id)
        if group is not None:  # else gone meanwhile
            group.on_configs_changed(self.settings_of(group_id))

    # -- what groups are made with ------------------------------------------------------------------------------------

    def shard(self, group_id: str) -> GroupShard:
        """The active shard a group belongs to.

        Raises KafkaError: COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS.
        """
        return self.runtime.leading.shard(group_id)

    def settings_of(self, group_id: str) -> Settings:
        """What the configs say about a group, its own included."""
        config = self.config()
        if self._settings is None or self._settings.config is not config:
            self._settings = read_settings(config)
        return self._settings.with_own(self.registration.image.group_configs.get(group_id, {}))

    @property
    def topics(self) -> Topics:
        """All topics of the cluster, as consumer groups see them; the same object while they are the same."""
        topics = self.registration.image.topics
        if self._topics[0] is not topics:
            view = {name: (topic.id, len(topic.partitions)) for name, topic in topics.items()}
            self._topics = topics, self._topics[1] if view == self._topics[1] else view
        return self._topics[1]

    def token(self) -> str:
        """A random UUID's text."""
        text = self.env.rng.token(16).hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
