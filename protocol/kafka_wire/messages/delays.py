"""ListDelayed: what a partition is to deliver later. kbroker's own; ApiVersions does not tell of it."""

from __future__ import annotations

from kafka_wire.primitives import Buffer
from kafka_wire.schema import array, bytes_, int16, int32, int64, message, string, struct


@message(key=31003, versions=(0, 0), flexible=0)
class ListDelayedRequest:
    """One page of what is pending in a partition, in the order in which it is due. Asked of its leader."""

    topic_name: str = string()
    partition_index: int = int32()
    after_due_ms: int = int64(default=-1)  # the page begins behind this due time and id
    after_id: int = int64(default=-1)
    limit: int = int32(default=100)  # a page may have fewer
    key: Buffer | None = bytes_(nullable=0, default=None)  # only what has this key


@struct
class DelayedRecord:
    """A record that is pending."""

    id: int = int64()  # the offset it had when it came
    due_ms: int = int64()  # as it was sent
    is_hurried: int = int16(default=0)  # 1: it is delivered at once all the same
    key_size: int = int32(default=-1)  # -1: it has no key
    key: Buffer | None = bytes_(nullable=0, default=None)  # its first bytes
    value_size: int = int32(default=-1)  # -1: null


@message(key=31003, versions=(0, 0), flexible=0)
class ListDelayedResponse:
    """The page."""

    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    pending: int = int64(default=0)  # about so many in all
    records: list[DelayedRecord] = array(DelayedRecord, default=[])
    next_due_ms: int = int64(default=-1)  # behind which the next page begins; both -1: there is none
    next_id: int = int64(default=-1)
