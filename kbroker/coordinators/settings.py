"""What the broker's configs say about groups, read once."""

from __future__ import annotations

from dataclasses import dataclass

from kbroker.config import BrokerConfig
from kbroker.config.keys import split_list
from kbroker.coordinators.consumer_group import ConsumerGroupLimits
from kbroker.coordinators.group import GroupLimits


@dataclass(frozen=True, slots=True)
class Settings:
    """The limits of both types of groups, from one state of the configs."""

    config: BrokerConfig
    classic: GroupLimits
    consumer: ConsumerGroupLimits


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
