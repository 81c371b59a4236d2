"""The keys of topics and of groups: Kafka 4.3's names, types, defaults and bounds. What each means: `docs.py`.

`broker` names the broker keys that give a topic or group its value when it has none of its own, closest first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kbroker.config.checks import check_gzip_level, check_offset_reset, check_throttled
from kbroker.config.keys import DELAY_MS_MAX, LONG_MAX, ConfigKey, ConfigType, Scope, Synonym, Value
from kbroker.config.views import check_view_filter, check_view_tags

BOOLEAN = ConfigType.BOOLEAN
DOUBLE = ConfigType.DOUBLE
INT = ConfigType.INT
LIST = ConfigType.LIST
LONG = ConfigType.LONG
STRING = ConfigType.STRING

HOURS = 3_600_000
MINUTES = 60_000


def _synonyms(text: str) -> tuple[Synonym, ...]:
    """ "log.roll.ms log.roll.hours*HOURS" as synonyms: names with the factor that turns their unit into the key's."""
    parts = (word.partition("*") for word in text.split())
    return tuple(Synonym(name, {"": 1, "HOURS": HOURS, "MINUTES": MINUTES}[unit]) for name, _, unit in parts)


def _topic(
    name: str,
    type: ConfigType,
    default: Value,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    check: Callable[[str], str] | None = None,
    broker: str = "",
    effect: bool = True,
    internal: bool = False,
    scope: Scope = Scope.TOPIC,
) -> ConfigKey:
    return ConfigKey(
        name,
        type,
        default,
        scope,
        low,
        high,
        choices,
        check,
        synonyms=_synonyms(broker),
        effect=effect,
        internal=internal,
    )


def _group(name: str, type: ConfigType, default: Value, **options: Any) -> ConfigKey:
    return _topic(name, type, default, scope=Scope.GROUP, effect=not name.startswith(("share.", "streams.")), **options)


TOPIC_KEYS = (
    _topic("cleanup.policy", LIST, "delete", choices=("compact", "delete"), broker="log.cleanup.policy"),
    _topic("compression.gzip.level", INT, -1, check=check_gzip_level, broker="compression.gzip.level"),
    _topic("compression.lz4.level", INT, 9, low=1, high=17, broker="compression.lz4.level"),
    _topic(
        "compression.type",
        STRING,
        "producer",
        choices=("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"),
        broker="compression.type",
    ),
    _topic("compression.zstd.level", INT, 3, low=-131_072, high=22, broker="compression.zstd.level"),
    _topic("delete.retention.ms", LONG, 86_400_000, low=0, broker="log.cleaner.delete.retention.ms"),
    _topic("file.delete.delay.ms", LONG, 60000, low=0, broker="log.segment.delete.delay.ms"),
    _topic("flush.messages", LONG, LONG_MAX, low=1, broker="log.flush.interval.messages"),
    _topic("flush.ms", LONG, LONG_MAX, low=0, broker="log.flush.interval.ms log.flush.scheduler.interval.ms"),
    _topic("follower.replication.throttled.replicas", LIST, "", check=check_throttled),
    _topic("index.interval.bytes", INT, 4096, low=0, broker="log.index.interval.bytes"),
    _topic("kbroker.delay.enable", BOOLEAN, False, broker="kbroker.delay.enable"),
    _topic("kbroker.delay.max.ms", LONG, 2_592_000_000, low=0, high=DELAY_MS_MAX, broker="kbroker.delay.max.ms"),
    _topic(
        "kbroker.produce.validate",
        STRING,
        "structure",
        choices=("header", "structure", "full"),
        broker="kbroker.produce.validate",
    ),
    _topic(
        "kbroker.produce.validate.compressed",
        STRING,
        "header",
        choices=("header", "full"),
        broker="kbroker.produce.validate.compressed",
    ),
    _topic("kbroker.tags.enable", BOOLEAN, False),
    _topic("kbroker.view.filter", STRING, "", check=check_view_filter),
    _topic("kbroker.view.lag.ms", LONG, 0, low=0, high=DELAY_MS_MAX),
    _topic("kbroker.view.mode", STRING, "exact", choices=("exact", "prune")),
    _topic("kbroker.view.source", STRING, ""),
    _topic("kbroker.view.tags", LIST, "", check=check_view_tags),
    _topic("leader.replication.throttled.replicas", LIST, "", check=check_throttled),
    _topic("local.retention.bytes", LONG, -2, low=-2, broker="log.local.retention.bytes", effect=False),
    _topic("local.retention.ms", LONG, -2, low=-2, broker="log.local.retention.ms", effect=False),
    _topic("max.compaction.lag.ms", LONG, LONG_MAX, low=1, broker="log.cleaner.max.compaction.lag.ms"),
    _topic("max.message.bytes", INT, 1_048_588, low=0, broker="message.max.bytes"),
    _topic("message.timestamp.after.max.ms", LONG, 3_600_000, low=0, broker="log.message.timestamp.after.max.ms"),
    _topic("message.timestamp.before.max.ms", LONG, LONG_MAX, low=0, broker="log.message.timestamp.before.max.ms"),
    _topic(
        "message.timestamp.type",
        STRING,
        "CreateTime",
        choices=("CreateTime", "LogAppendTime"),
        broker="log.message.timestamp.type",
    ),
    _topic("min.cleanable.dirty.ratio", DOUBLE, 0.5, low=0, high=1, broker="log.cleaner.min.cleanable.ratio"),
    _topic("min.compaction.lag.ms", LONG, 0, low=0, broker="log.cleaner.min.compaction.lag.ms"),
    _topic("min.insync.replicas", INT, 1, low=1, broker="min.insync.replicas"),
    _topic("preallocate", BOOLEAN, False, broker="log.preallocate", effect=False),
    _topic("remote.log.copy.disable", BOOLEAN, False, effect=False),
    _topic("remote.log.delete.on.disable", BOOLEAN, False, effect=False),
    _topic("remote.storage.enable", BOOLEAN, False, choices=("false",), effect=False),
    _topic("retention.bytes", LONG, -1, broker="log.retention.bytes"),
    _topic(
        "retention.ms",
        LONG,
        604_800_000,
        low=-1,
        broker="log.retention.ms log.retention.minutes*MINUTES log.retention.hours*HOURS",
    ),
    _topic("segment.bytes", INT, 1_073_741_824, low=1_048_576, broker="log.segment.bytes"),
    _topic("segment.index.bytes", INT, 10_485_760, low=4, broker="log.index.size.max.bytes"),
    _topic("segment.jitter.ms", LONG, 0, low=0, broker="log.roll.jitter.ms log.roll.jitter.hours*HOURS"),
    _topic("segment.ms", LONG, 604_800_000, low=1, broker="log.roll.ms log.roll.hours*HOURS"),
    _topic("unclean.leader.election.enable", BOOLEAN, False, broker="unclean.leader.election.enable"),
    # Kafka's own way around the minimum of segment.bytes, for tests that want many segments.
    _topic("internal.segment.bytes", INT, None, low=1, internal=True),
)

GROUP_KEYS = (
    _group("consumer.assignment.interval.ms", INT, 1000, low=0, broker="group.consumer.assignment.interval.ms"),
    _group("consumer.heartbeat.interval.ms", INT, 5000, low=1, broker="group.consumer.heartbeat.interval.ms"),
    _group("consumer.session.timeout.ms", INT, 45000, low=1, broker="group.consumer.session.timeout.ms"),
    _group("share.assignment.interval.ms", INT, 1000, low=0, broker="group.share.assignment.interval.ms"),
    _group("share.auto.offset.reset", STRING, "latest", check=check_offset_reset),
    _group("share.delivery.count.limit", INT, 5, low=2, broker="group.share.delivery.count.limit"),
    _group("share.heartbeat.interval.ms", INT, 5000, low=1, broker="group.share.heartbeat.interval.ms"),
    _group("share.isolation.level", STRING, "read_uncommitted", choices=("read_committed", "read_uncommitted")),
    _group("share.partition.max.record.locks", INT, 2000, low=100, broker="group.share.partition.max.record.locks"),
    _group("share.record.lock.duration.ms", INT, 30000, low=1000, broker="group.share.record.lock.duration.ms"),
    _group("share.renew.acknowledge.enable", BOOLEAN, True),
    _group("share.session.timeout.ms", INT, 45000, low=1, broker="group.share.session.timeout.ms"),
    _group("streams.assignment.interval.ms", INT, 1000, low=0, broker="group.streams.assignment.interval.ms"),
    _group("streams.heartbeat.interval.ms", INT, 5000, low=1, broker="group.streams.heartbeat.interval.ms"),
    _group("streams.initial.rebalance.delay.ms", INT, 3000, low=0, broker="group.streams.initial.rebalance.delay.ms"),
    _group("streams.num.standby.replicas", INT, 0, low=0, broker="group.streams.num.standby.replicas"),
    _group("streams.session.timeout.ms", INT, 45000, low=1, broker="group.streams.session.timeout.ms"),
)
