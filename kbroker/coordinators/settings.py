"""What the broker's configs say about groups, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kbroker.config import BrokerConfig
from kbroker.config.keys import split_list
from kbroker.coordinators.consumer_group import ConsumerGroupLimits
from kbroker.coordinators.group import GroupLimits

# What a group may set for itself as `consumer.<key>`, within the bounds of the broker's `group.consumer.<key>`.
CONSUMER_GROUP_KEYS = ("session.timeout.ms", "heartbeat.interval.ms", "assignment.interval.ms")


@dataclass(frozen=True, slots=True)
class Settings:
    """The limits of both types of groups, from one state of the configs."""

    config: BrokerConfig
    classic: GroupLimits
    consumer: ConsumerGroupLimits

    def consumer_of(self, own: Mapping[str, str]) -> ConsumerGroupLimits:
        """The limits of a consumer group that has configs of its own; the broker's bounds hold, whenever they came."""
        if not own:
            return self.consumer
        changed = {}
        for key in CONSUMER_GROUP_KEYS:
            if f"consumer.{key}" in own:
                low, high = (self.config.get_int(f"group.consumer.{end}.{key}") for end in ("min", "max"))
                changed[key.replace(".", "_")] = min(max(int(own[f"consumer.{key}"]), low), high)
        return replace(self.consumer, **changed)  # type: ignore[arg-type]  # all of them are whole numbers


def settings_of(config: BrokerConfig) -> Settings:
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
