"""What happens to groups without a request: what nobody needs any more is forgotten.

    a topic is deleted ──▶ its offsets are removed (an OffsetFetch does not show them before that either)
    every offsets.retention.check.interval.ms ──▶ offsets that are too old go, then groups that have nothing left (G5)

All of it is done in turns, a shard after another.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial

import trio

from kafka_wire.errors import KafkaError
from kbroker.cluster.registration import Registration
from kbroker.config import BrokerConfig
from kbroker.coordinators.runtime import Runtime
from kbroker.groups.shard import GroupShard
from kbroker.turns import Work, finish

log = logging.getLogger("kbroker.groups")


class Housekeeping:
    """The duties of the group coordinator."""

    def __init__(
        self,
        runtime: Runtime[GroupShard],
        registration: Registration,
        config: Callable[[], BrokerConfig],
    ) -> None:
        self.runtime = runtime
        self.registration = registration
        self.config = config
        self.duties: Sequence[Callable[[], Awaitable[None]]] = (self._follow_topics, self._expire_all)
        self._deleted: set[str] = set()  # topics whose offsets are to go
        self._news = trio.Event()

    # -- topics -------------------------------------------------------------------------------------------------------

    def on_topics_deleted(self, names: Iterable[str]) -> None:
        """Topics are gone, or made anew."""
        self._deleted.update(names)
        self._news.set()

    async def _follow_topics(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            deleted, self._deleted = self._deleted, set()
            for shard in self.runtime.leading.active():
                await finish(self.forget_topics(shard, deleted))

    def forget_topics(self, shard: GroupShard, names: Collection[str]) -> Work[None]:
        """Remove the offsets of those of these topics that were deleted, or made anew."""

        def is_wanted(group_id: str, topic: str, partition: int) -> bool:
            image = self.registration.image.topics.get(topic)
            return shard.offsets.logged(group_id, topic, partition).is_of(None if image is None else image.id)

        for group_id in list(shard.offsets.groups()):
            for topic, partitions in shard.offsets.places(group_id, names):
                yield from self._forget(shard, group_id, topic, partitions, partial(is_wanted, group_id, topic))
            yield

    def _forget(
        self,
        shard: GroupShard,
        group_id: str,
        topic: str,
        partitions: Iterable[int],
        is_wanted: Callable[[int], bool],
    ) -> Work[None]:
        """Remove offsets: what fails is tried again when it comes round."""
        try:
            yield from shard.forget_offsets(group_id, topic, partitions, is_wanted)
        except KafkaError as error:
            log.warning("%s: offsets were not removed: %s", shard, error)
        self.runtime.note(shard, group_id)

    # -- what is too old ----------------------------------------------------------------------------------------------

    async def _expire_all(self) -> None:
        while True:
            await self.runtime.env.clock.sleep_data(self.config().get_int("offsets.retention.check.interval.ms") / 1000)
            for shard in self.runtime.leading.active():
                try:
                    await finish(self.expire(shard))
                except Exception:
                    log.exception("%s: old offsets were not removed", shard)

    def expire(self, shard: GroupShard) -> Work[None]:
        """Forget what is too old in groups without members, then the groups that have nothing left."""
        retention_ms = self.config().get_int("offsets.retention.minutes") * 60_000
        clock = self.runtime.env.clock

        def is_wanted(group_id: str, topic: str, partition: int) -> bool:
            group = shard.groups.get(group_id)
            since_ms = None if group is None else group.empty_since_ms
            return since_ms is None or not shard.offsets.is_over(
                group_id, topic, partition, clock.data_ms(), retention_ms, since_ms
            )

        for group_id in list(shard.groups):
            group = shard.groups.get(group_id)
            if group is not None and group.empty_since_ms is not None and shard.closed is None:
                for topic, partitions in list(shard.offsets.topics(group_id).items()):
                    wanted = partial(is_wanted, group_id, topic)
                    yield from self._forget(shard, group_id, topic, list(partitions), wanted)
                if not shard.offsets.is_known(group_id):
                    self._forget_group(shard, group_id)
            yield

    def _forget_group(self, shard: GroupShard, group_id: str) -> None:
        try:
            self.runtime.perform(shard, group_id, shard.delete(group_id))
        except KafkaError:
            pass  # somebody is just joining; or the shard starts over
