"""What a request to commit offsets asks for, partition by partition: OffsetCommit and TxnOffsetCommit alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kafka_wire.errors import ErrorCode
from kbroker.api.context import Services
from kbroker.cluster.image import TopicImage
from kbroker.groups.storage.records import OffsetCommitValue


class Asked(Protocol):
    """A partition of either request."""

    partition_index: int
    committed_offset: int
    committed_leader_epoch: int
    committed_metadata: str | None


class Taker:
    """Notes the changes that a commit asks for, and says why one cannot be made."""

    def __init__(self, services: Services, expire_ms: int = -1) -> None:
        """expire_ms: when these offsets go; -1: when the broker's retention is over."""
        self.topics: Mapping[str, TopicImage] = services.image.topics
        self.changes: dict[str, dict[int, OffsetCommitValue | None]] = {}
        self.now_ms = services.env.clock.data_ms()
        self.expire_ms = expire_ms
        self.metadata_max = services.config.get_int("offset.metadata.max.bytes")

    def take(self, topic: str, partition: Asked, commit_ms: int = -1) -> ErrorCode:
        """Note it, unless there is something against it. commit_ms: when it was committed; -1: now."""
        known, index = self.topics.get(topic), partition.partition_index
        if known is None or not 0 <= index < len(known.partitions):
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        metadata = partition.committed_metadata or ""
        if len(metadata) > self.metadata_max:
            return ErrorCode.OFFSET_METADATA_TOO_LARGE
        self.changes.setdefault(topic, {})[index] = OffsetCommitValue(
            offset=partition.committed_offset,
            leader_epoch=partition.committed_leader_epoch,
            metadata=metadata,
            commit_timestamp=self.now_ms if commit_ms < 0 else commit_ms,
            expire_timestamp=self.expire_ms,
            topic_id=known.id,
        )
        return ErrorCode.NONE
