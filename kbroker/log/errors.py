"""What a log raises when the disk is to blame. Clients are answered KAFKA_STORAGE_ERROR and try elsewhere or later."""

from __future__ import annotations

from kafka_wire.errors import ErrorCode, KafkaError


class LogOffline(KafkaError):
    """The log serves nothing until it is reopened and rescanned: a write or fsync failed, or its files are damaged."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.KAFKA_STORAGE_ERROR, message)

    def again(self) -> LogOffline:
        """The same, to be raised: what is raised grows, and holds all it came through, open files among it."""
        return type(self)(self.message)

    def __reduce__(self) -> tuple[type[LogOffline], tuple[str]]:  # type: ignore[override]
        return type(self), (self.message,)


class LogClosed(LogOffline):
    """The broker gave the log up, of its own will: the disk is not to blame."""


class CorruptLog(LogOffline):
    """Bytes that were durable are wrong: corruption, not a torn tail. Such a log is never truncated (L4)."""


class LogAhead(CorruptLog):
    """Durable bytes are of a leader that the cluster has yet to elect: the cluster's metadata went back (R11)."""


class LogTruncated(KafkaError):
    """The log was cut, so its end went back: whoever waited for it to grow starts over, or leaves.

    Only the log of a follower is cut. NOT_LEADER_OR_FOLLOWER is what a client should hear of it, if anything.
    """

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.NOT_LEADER_OR_FOLLOWER, message)

    def __reduce__(self) -> tuple[type[LogTruncated], tuple[str]]:  # type: ignore[override]
        return type(self), (self.message,)


class Superseded(Exception):
    """The log has changed while something was made of it, which is worth nothing now."""


class Uncleanable(Exception):
    """A batch that compaction cannot look into: the log is left as it is. Says why."""
