"""What the configs of broker and group say about groups, read once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kbroker.config import BrokerConfig
from kbroker.config.keys import split_list

# What a group may set for itself as `consumer.<key>`, within the bounds of the broker's `group.consumer.<key>`.
CONSUMER_GROUP_KEYS = ("session.timeout.ms", "heartbeat.interval.ms", "assignment.interval.ms")


class GroupLimits(NamedTuple):
    """What the broker's configuration says about classic groups."""

    session_timeout_min_ms: int = 6_000  # group.min.session.timeout.ms
    session_timeout_max_ms: int = 1_800_000  # group.max.session.timeout.ms
    size_max: int = 1_000  # group.max.size; as many ids may be given out and not yet used
    initial_rebalance_delay_ms: int = 0  # group.initial.rebalance.delay.ms
    snapshot_bytes_max: int = 1_000_000  # a group's record must fit max.message.bytes of __consumer_offsets


class ConsumerGroupLimits(NamedTuple):
    """What the configuration of broker and group says about groups of the consumer protocol."""

    session_timeout_ms: int = 45_000  # (group.)consumer.session.timeout.ms
    heartbeat_interval_ms: int = 5_000  # (group.)consumer.heartbeat.interval.ms
    assignment_interval_ms: int = 1_000  # (group.)consumer.assignment.interval.ms; of groups that are not small
    size_max: int = 2**31 - 1  # group.consumer.max.size
    assignors: tuple[str, ...] = ("uniform", "range")  # group.consumer.assignors, best first
    migration_policy: str = "bidirectional"  # group.consumer.migration.policy
    classic_size_max: int = 1_000  # group.max.size: with how many members it may be turned back
    classic_session_min_ms: int = 6_000  # group.min.session.timeout.ms
    classic_session_max_ms: int = 1_800_000  # group.max.session.timeout.ms

    @property
    def upgrade(self) -> bool:
        """Whether a classic group may become a consumer group."""
        return self.migration_policy in ("bidirectional", "upgrade")

    @property
    def downgrade(self) -> bool:
        """Whether a consumer group may become a classic group."""
        return self.migration_policy in ("bidirectional", "downgrade")


class Settings(NamedTuple):
    """The limits of both types of groups, from one state of the configs."""

    config: BrokerConfig
    classic: GroupLimits
    consumer: ConsumerGroupLimits

    def with_own(self, own: Mapping[str, str]) -> Settings:
        """The limits of a group that has configs of its own; the broker's bounds hold, whenever they came."""
        if not own:
            return self
        changed = {}
        for key in CONSUMER_GROUP_KEYS:
            if f"consumer.{key}" in own:
                low, high = (self.config.get_int(f"group.consumer.{end}.{key}") for end in ("min", "max"))
                changed[key.replace(".", "_")] = min(max(int(own[f"consumer.{key}"]), low), high)
        # All of them are whole numbers.
        return self._replace(consumer=self.consumer._replace(**changed))  # type: ignore[arg-type]


def read_settings(config: BrokerConfig) -> Settings:
    """The settings that these configs make."""
    classic = GroupLimits(
        session_timeout_min_ms=config.get_int("group.min.session.timeout.ms"),
        session_timeout_max_ms=config.get_int("group.max.session.timeout.ms"),
        size_max=config.get_int("group.max.size"),
        initial_rebalance_delay_ms=config.get_int("group.initial.rebalance.delay.ms"),
    )
    consumer = ConsumerGroupLimits(
        session_timeout_ms=config.get_int("group.consumer.session.timeout.ms"),
        heartbeat_interval_ms=config.get_int("group.consumer.heartbeat.interval.ms"),
        assignment_interval_ms=config.get_int("group.consumer.assignment.interval.ms"),
        size_max=config.get_int("group.consumer.max.size"),
        assignors=tuple(split_list(config.get_str("group.consumer.assignors"))),
        migration_policy=config.get_str("group.consumer.migration.policy") or "bidirectional",
        classic_size_max=classic.size_max,
        classic_session_min_ms=classic.session_timeout_min_ms,
        classic_session_max_ms=classic.session_timeout_max_ms,
    )
    return Settings(config, classic, consumer)
