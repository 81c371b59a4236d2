"""What went through the partitions that are here, by topic: plain counters, added to once per batch or answer.

They count since the broker started, and never go back: what belonged to a topic that is gone is kept in `rest`. Kafka's
BrokerTopicMetrics say what counts as what.
"""

from __future__ import annotations

from collections.abc import Mapping

from kafka_wire.errors import ErrorCode

# What Kafka does not call a failure of the broker: it is the client's, or passes. (ReplicaManager.appendToLocalLog,
# readFromLog.)
EXPECTED_OF_PRODUCE = frozenset(
    {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID, ErrorCode.NOT_LEADER_OR_FOLLOWER,
     ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.RECORD_LIST_TOO_LARGE, ErrorCode.CORRUPT_MESSAGE,
     ErrorCode.KAFKA_STORAGE_ERROR}
)  # fmt: skip
EXPECTED_OF_FETCH = frozenset(
    {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID, ErrorCode.NOT_LEADER_OR_FOLLOWER,
     ErrorCode.UNKNOWN_LEADER_EPOCH, ErrorCode.FENCED_LEADER_EPOCH, ErrorCode.OFFSET_OUT_OF_RANGE,
     ErrorCode.OFFSET_NOT_AVAILABLE, ErrorCode.INCONSISTENT_TOPIC_ID, ErrorCode.KAFKA_STORAGE_ERROR}
)  # fmt: skip
REJECTED = (ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.RECORD_LIST_TOO_LARGE)


class TopicTraffic:
    """The traffic of one topic through this broker."""

    __slots__ = (
        "messages_in", "bytes_in", "bytes_out", "bytes_rejected", "produce_requests", "failed_produce_requests",
        "fetch_requests", "failed_fetch_requests", "replication_bytes_in", "replication_bytes_out",
    )  # fmt: skip

    def __init__(self) -> None:
        self.messages_in = 0
        self.bytes_in = 0  # of batches that were appended here as the leader, the broker's own among them
        self.bytes_out = 0  # of records sent to consumers
        self.bytes_rejected = 0
        self.produce_requests = 0  # partitions that were written to, or were to be
        self.failed_produce_requests = 0
        self.fetch_requests = 0  # partitions that consumers asked for
        self.failed_fetch_requests = 0
        self.replication_bytes_in = 0
        self.replication_bytes_out = 0

    def appended(self, size: int, records: int) -> None:
        """The leader took a batch of so many bytes."""
        self.produce_requests += 1
        self.bytes_in += size
        self.messages_in += records

    def refused(self, code: ErrorCode, size: int) -> None:
        """The leader did not take a batch."""
        self.produce_requests += 1
        if code in REJECTED:
            self.bytes_rejected += size
        if code not in EXPECTED_OF_PRODUCE:
            self.failed_produce_requests += 1

    def fetched(self, size: int, code: int) -> None:
        """A consumer asked for a partition, and was sent so many bytes, or an error."""
        self.fetch_requests += 1
        self.bytes_out += size
        if code and code not in EXPECTED_OF_FETCH:
            self.failed_fetch_requests += 1

    def followed(self, size: int) -> None:
        """A follower here took so many bytes from its leader."""
        self.replication_bytes_in += size

    def sent_to_follower(self, size: int) -> None:
        """A follower of this leader was sent so many bytes."""
        self.replication_bytes_out += size

    def add(self, other: TopicTraffic) -> None:
        """Count what another has counted."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Traffic:
    """All topics' traffic. Owns which there are."""

    def __init__(self) -> None:
        self.rest = TopicTraffic()  # of topics that are gone
        self._topics: dict[str, TopicTraffic] = {}

    @property
    def topics(self) -> Mapping[str, TopicTraffic]:
        """By name: what had any part in this broker's work."""
        return self._topics

    def of(self, topic: str) -> TopicTraffic:
        """That of a topic which there is."""
        found = self._topics.get(topic)
        if found is None:
            found = self._topics[topic] = TopicTraffic()
        return found

    def forget(self, topic: str) -> None:
        """A topic is gone."""
        found = self._topics.pop(topic, None)
        if found is not None:
            self.rest.add(found)
