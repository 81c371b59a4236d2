"""The rebalances of a group as DescribeGroups and ConsumerGroupDescribe tell them: kbroker's own addition.

    request   include_rebalances  tag 10000   a client that wants them says so
    group     rebalances          tag 10000   the last ones, oldest first; null: not asked for, or a broker without them
              unowned_seconds     tag 10001   per partition, the counter kbroker_group_partition_unowned_seconds_total

Tagged fields that Kafka does not know (schema.OWN_TAG_MIN): its clients do not ask, its brokers skip the question.
Lengths of time are int64: a group may stand still for longer than the 24 days of an int32.
"""

from __future__ import annotations

from kafka_wire.schema import OWN_TAG_MIN, array, float64, int32, int64, string, struct

INCLUDE_REBALANCES_TAG = OWN_TAG_MIN
REBALANCES_TAG = OWN_TAG_MIN
UNOWNED_SECONDS_TAG = OWN_TAG_MIN + 1


@struct
class RebalanceMember:
    """A member that was waited for."""

    member_id: str = string()
    after_ms: int = int64()  # from the beginning until it came; -1: it has not, or never did


@struct
class RebalancePartition:
    """A partition that had no owner for a while."""

    topic: str = string()
    partition: int = int32()
    ms: int = int64()


@struct
class GroupRebalance:
    """One rebalance. -1 is what is not known (yet)."""

    began_ms: int = int64()  # since the epoch
    reason: str = string()
    generation: int = int32(default=-1)  # or group epoch; -1 at the end: another rebalance cut in
    joined_ms: int = int64(default=-1)  # until everybody had come or was given up; -1: not yet, or cut short
    took_ms: int = int64(default=-1)  # until assignments were handed out; -1: under way
    awaited: list[RebalanceMember] = array(RebalanceMember, default=[])
    given_up: list[str] = array("string", default=[])  # members removed because they did not come
    partitions_moved: int = int32(default=0)  # that have another owner than before
    partitions_unowned: int = int32(default=0)  # that had no owner for a while
    unowned_ms_max: int = int64(default=0)
    unowned: list[RebalancePartition] = array(RebalancePartition, default=[])  # not more than the broker itemises


@struct
class UnownedSeconds:
    """How long a partition had no owner, since the coordinator started; 0 for one that always had."""

    topic: str = string()
    partition: int = int32()
    seconds: float = float64()
