"""CompactLog: have a partition's log compacted now. kbroker's own; ApiVersions does not tell of it."""

from __future__ import annotations

from kafka_wire.schema import int16, int32, int64, message, string


@message(key=31002, versions=(0, 0), flexible=0)
class CompactLogRequest:
    """To the partition's leader. A compaction may take longer than a client waits: it is asked for again, by its id."""

    topic_name: str = string()
    partition_index: int = int32()
    timeout_ms: int = int32()  # how long an answer may take
    order_id: int = int64(default=-1)  # of one that was ordered before; -1: a new one


@message(key=31002, versions=(0, 0), flexible=0)
class CompactLogResponse:
    """What was done; or that it goes on."""

    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    order_id: int = int64(default=-1)  # to be asked for again; -1: it is over
    bytes_before: int = int64(default=0)
    bytes_after: int = int64(default=0)
    records_before: int = int64(default=0)
    records_after: int = int64(default=0)
    tombstones: int = int64(default=0)  # of the records after
    segments_before: int = int32(default=0)
    segments_after: int = int32(default=0)
    duration_ms: int = int64(default=0)
    cleaned_to: int = int64(default=-1)  # everything below this offset is compacted
