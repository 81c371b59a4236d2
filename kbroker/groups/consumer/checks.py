"""What a ConsumerGroupHeartbeat may say: refusals, each with Kafka's code. Nothing here changes anything.

(Kafka: GroupCoordinatorService.throwIfConsumerGroupHeartbeatRequestIsInvalid, GroupMetadataManager.throwIf...)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.consumer_groups import ConsumerGroupHeartbeatRequest
from kbroker.groups.consumer.member import LEAVING_STATIC, ConsumerMember

if TYPE_CHECKING:
    from kbroker.groups.consumer.core import Core

CLIENT_MAKES_ID_SINCE = 1  # KIP-1082
NAME_BYTES_FIXED = 16  # what a name costs besides its text, roughly
SUBSCRIPTION_BYTES_MAX = 1_000_000
ID_BYTES_MAX = 4096  # unlike Kafka, which finds out when a record's key cannot be written


def check_heartbeat(request: ConsumerGroupHeartbeatRequest, version: int, assignors: Collection[str]) -> None:
    """Whether a request makes sense by itself. Raises KafkaError: INVALID_REQUEST, UNSUPPORTED_ASSIGNOR,
    INVALID_REGULAR_EXPRESSION."""
    epoch = request.member_epoch
    if version >= CLIENT_MAKES_ID_SINCE or epoch != 0:
        _demand(request.member_id != "", "MemberId can't be empty.")
    _demand(request.group_id != "", "GroupId can't be empty.")
    _demand(request.instance_id != "", "InstanceId can't be empty.")
    _demand(request.rack_id != "", "RackId can't be empty.")
    _demand(epoch >= LEAVING_STATIC, f"MemberEpoch is {epoch}, but must be greater than or equal to -2.")
    for what in (request.member_id, request.instance_id or ""):
        _demand(len(what.encode()) <= ID_BYTES_MAX, f"MemberId and InstanceId have at most {ID_BYTES_MAX} bytes.")
    if epoch == 0:
        _check_join(request)
    elif epoch == LEAVING_STATIC:
        _demand(request.instance_id is not None, "InstanceId can't be null.")
    names = request.subscribed_topic_names or ()
    if sum(map(len, names)) + NAME_BYTES_FIXED * len(names) > SUBSCRIPTION_BYTES_MAX:
        # Its record would not fit into max.message.bytes of the topic: Kafka finds out when it is to be written.
        raise KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR, "The subscription is too large to be stored.")
    if request.server_assignor is not None and request.server_assignor not in assignors:
        known = ", ".join(assignors)
        text = f"ServerAssignor {request.server_assignor} is not supported. Supported assignors: {known}."
        raise KafkaError(ErrorCode.UNSUPPORTED_ASSIGNOR, text)
    if epoch == 0:
        check_regex(request)


def check_regex(request: ConsumerGroupHeartbeatRequest) -> None:
    """Whether a subscription can be read: of who joins at once, of a member when it is known to be one.

    Raises KafkaError INVALID_REGULAR_EXPRESSION.
    """
    regex = request.subscribed_topic_regex
    if regex:
        from kbroker.regex import InvalidRegex, Regex

        try:
            Regex(regex)
        except InvalidRegex as error:
            text = f"SubscribedTopicRegex `{regex}` is not a valid regular expression: {error}."
            raise KafkaError(ErrorCode.INVALID_REGULAR_EXPRESSION, text) from None


def _check_join(request: ConsumerGroupHeartbeatRequest) -> None:
    _demand(request.rebalance_timeout_ms >= 0, "RebalanceTimeoutMs must be provided in first request.")
    _demand(request.topic_partitions == [], "TopicPartitions must be empty when (re-)joining.")
    subscribes = request.subscribed_topic_names is not None or request.subscribed_topic_regex is not None
    _demand(subscribes, "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.")


def _demand(holds: bool, text: str) -> None:
    if not holds:
        raise KafkaError(ErrorCode.INVALID_REQUEST, text)


def check_fresh(member: ConsumerMember, request: ConsumerGroupHeartbeatRequest) -> None:
    """Whether a member speaks of its present epoch; or of the one before, when the answer that told it the present one
    may have been lost: what it owns is then part of what it was given. Raises KafkaError FENCED_MEMBER_EPOCH."""
    epoch = request.member_epoch
    if epoch == member.epoch:
        return
    relation = "greater" if epoch > member.epoch else "smaller"
    if epoch < member.epoch and epoch == member.previous_epoch:
        owned = reported_by(request)
        if owned is not None and all(
            member.assigned.get(topic_id, {}).keys() >= set(numbers) for topic_id, numbers in owned.items()
        ):
            return
    text = (
        f"The consumer group member has a {relation} member epoch ({epoch}) than the one known by the group "
        f"coordinator ({member.epoch}). The member must abandon all its partitions and rejoin."
    )
    raise KafkaError(ErrorCode.FENCED_MEMBER_EPOCH, text)


def check_instance(core: Core, instance_id: str, member_id: str) -> None:
    """Whether a static member is the one who has the instance id. Raises KafkaError: UNKNOWN_MEMBER_ID,
    FENCED_INSTANCE_ID."""
    holder = core.static.get(instance_id)
    if holder is None:
        raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, f"Instance id {instance_id} is unknown.")
    if holder != member_id:
        text = f"Static member {member_id} with instance id {instance_id} was fenced by member {holder}."
        raise KafkaError(ErrorCode.FENCED_INSTANCE_ID, text)


def check_released(holder: ConsumerMember, member_id: str) -> None:
    """Whether another member may take over an instance id: its holder has left for a while.

    Unlike Kafka, also when the holder speaks the classic protocol: such a one never says that it leaves, and could not
    be replaced in a rolling upgrade before its session ends. Raises KafkaError UNRELEASED_INSTANCE_ID.
    """
    if holder.epoch != LEAVING_STATIC and holder.classic is None:
        text = (
            f"Static member {member_id} with instance id {holder.instance_id} cannot join the group because the "
            f"instance id is owned by {holder.member_id} member."
        )
        raise KafkaError(ErrorCode.UNRELEASED_INSTANCE_ID, text)


def check_size(core: Core) -> None:
    """Whether there is room for one more. Raises KafkaError GROUP_MAX_SIZE_REACHED."""
    if len(core.members) >= core.limits.size_max:
        text = f"The consumer group has reached its maximum capacity of {core.limits.size_max} members."
        raise KafkaError(ErrorCode.GROUP_MAX_SIZE_REACHED, text)


def is_full(request: ConsumerGroupHeartbeatRequest) -> bool:
    """Whether a member says all there is to say, as it does after an error, and is to be told all, too."""
    return request.member_epoch == 0 or (
        request.rebalance_timeout_ms != -1
        and (request.subscribed_topic_names is not None or request.subscribed_topic_regex is not None)
        and request.topic_partitions is not None
    )


def reported_by(request: ConsumerGroupHeartbeatRequest) -> Mapping[bytes, Collection[int]] | None:
    """What a member says it owns; None: as before."""
    if request.topic_partitions is None:
        return None
    owned: dict[bytes, set[int]] = {}
    for topic in request.topic_partitions:
        owned.setdefault(topic.topic_id, set()).update(topic.partitions)
    return owned
