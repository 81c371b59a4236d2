"""The keys of a broker that mean something here: Kafka 4.3's names, types, defaults and bounds. What: `docs.py`.

Those with effect=False are accepted and described, and nothing acts on them yet.

Defaults that differ from Kafka's, each for a reason given in its documentation: node.id, listeners, log.dir,
group.initial.rebalance.delay.ms.
"""

from __future__ import annotations

from kbroker.config.checks import (
    check_gzip_level,
    check_listeners,
    check_migration_policy,
    check_not_zero,
    check_protocol_map,
    check_store,
)
from kbroker.config.keys import DELAY_MS_MAX, INT_MAX, LONG_MAX, ConfigKey, ConfigType, Update

BOOLEAN = ConfigType.BOOLEAN
DOUBLE = ConfigType.DOUBLE
INT = ConfigType.INT
LIST = ConfigType.LIST
LONG = ConfigType.LONG
PASSWORD = ConfigType.PASSWORD
SHORT = ConfigType.SHORT
STRING = ConfigType.STRING
CLUSTER_WIDE, PER_BROKER = Update.CLUSTER_WIDE, Update.PER_BROKER

DOUBLE_MAX = 1.7976931348623157e308
RACK_AWARE_SELECTOR = "org.apache.kafka.common.replica.RackAwareReplicaSelector"
LEADER_SELECTOR = "org.apache.kafka.common.replica.LeaderSelector"  # the same as none

BROKER_KEYS = (
    # Who this broker is, and where it listens
    ConfigKey("node.id", INT, 1, low=0),
    ConfigKey("broker.id", INT, -1),
    ConfigKey("broker.rack", STRING, None),
    ConfigKey("process.roles", LIST, "", choices=("broker", "controller")),
    ConfigKey("listeners", LIST, "PLAINTEXT://127.0.0.1:9092", check=check_listeners),
    ConfigKey("advertised.listeners", LIST, None, check=check_listeners),
    ConfigKey(
        "listener.security.protocol.map",
        STRING,
        "SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT",
        check=check_protocol_map,
    ),
    ConfigKey("controller.listener.names", LIST, ""),
    # Where the data is
    ConfigKey("log.dir", LIST, "kbroker-data"),
    ConfigKey("log.dirs", LIST, None),
    ConfigKey("kbroker.data.dir", STRING, None),
    # What it tells over HTTP
    ConfigKey("kbroker.http.port", INT, -1, low=-1, high=65535),
    ConfigKey("kbroker.http.host", STRING, "127.0.0.1"),
    ConfigKey("kbroker.http.allowed.hosts", LIST, ""),
    # What the brokers of a cluster agree on
    ConfigKey("kbroker.coordination", STRING, "", check=check_store),
    ConfigKey("initial.broker.registration.timeout.ms", INT, 60_000),
    ConfigKey("kbroker.etcd.user", STRING, ""),
    ConfigKey("kbroker.etcd.password", PASSWORD, ""),
    ConfigKey("kbroker.etcd.tls.ca", STRING, ""),
    ConfigKey("kbroker.etcd.tls.certificate", STRING, ""),
    ConfigKey("kbroker.etcd.tls.key", STRING, ""),
    # Topics
    ConfigKey("num.partitions", INT, 1, low=1),
    ConfigKey("default.replication.factor", INT, 1),
    ConfigKey("auto.create.topics.enable", BOOLEAN, True),
    ConfigKey("delete.topic.enable", BOOLEAN, True),
    ConfigKey("unclean.leader.election.enable", BOOLEAN, False, update=CLUSTER_WIDE),
    ConfigKey("min.insync.replicas", INT, 1, low=1, update=CLUSTER_WIDE),
    # What topics inherit
    ConfigKey(
        "compression.type",
        STRING,
        "producer",
        choices=("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"),
        update=CLUSTER_WIDE,
    ),
    ConfigKey("compression.gzip.level", INT, -1, check=check_gzip_level, update=CLUSTER_WIDE),
    ConfigKey("compression.lz4.level", INT, 9, low=1, high=17, update=CLUSTER_WIDE),
    ConfigKey("compression.zstd.level", INT, 3, low=-131_072, high=22, update=CLUSTER_WIDE),
    ConfigKey("message.max.bytes", INT, 1_048_588, low=0, update=CLUSTER_WIDE),
    ConfigKey("kbroker.delay.enable", BOOLEAN, False, update=CLUSTER_WIDE),
    ConfigKey("kbroker.delay.max.ms", LONG, 2_592_000_000, low=0, high=DELAY_MS_MAX, update=CLUSTER_WIDE),
    ConfigKey(
        "kbroker.produce.validate",
        STRING,
        "structure",
        choices=("header", "structure", "full"),
        update=CLUSTER_WIDE,
    ),
    ConfigKey(
        "kbroker.produce.validate.compressed",
        STRING,
        "header",
        choices=("header", "full"),
        update=CLUSTER_WIDE,
    ),
    ConfigKey("kbroker.scrub.bytes.per.second", LONG, 1_048_576, low=0, update=CLUSTER_WIDE),
    ConfigKey("log.cleanup.policy", LIST, "delete", choices=("compact", "delete"), update=CLUSTER_WIDE),
    ConfigKey("log.retention.ms", LONG, None, check=check_not_zero, update=CLUSTER_WIDE),
    ConfigKey("log.retention.minutes", INT, None, check=check_not_zero),
    ConfigKey("log.retention.hours", INT, 168, check=check_not_zero),
    ConfigKey("log.retention.bytes", LONG, -1, update=CLUSTER_WIDE),
    ConfigKey("log.segment.bytes", INT, 1_073_741_824, low=1_048_576, update=CLUSTER_WIDE),
    ConfigKey("log.roll.ms", LONG, None, update=CLUSTER_WIDE),
    ConfigKey("log.roll.hours", INT, 168, low=1),
    ConfigKey("log.roll.jitter.ms", LONG, None, update=CLUSTER_WIDE),
    ConfigKey("log.roll.jitter.hours", INT, 0, low=0),
    ConfigKey("log.segment.delete.delay.ms", LONG, 60000, low=0, update=CLUSTER_WIDE),
    ConfigKey("log.index.interval.bytes", INT, 4096, low=0, update=CLUSTER_WIDE),
    ConfigKey("log.index.size.max.bytes", INT, 10_485_760, low=4, update=CLUSTER_WIDE),
    ConfigKey("log.flush.interval.messages", LONG, LONG_MAX, low=1, update=CLUSTER_WIDE),
    ConfigKey("log.flush.interval.ms", LONG, None, update=CLUSTER_WIDE),
    ConfigKey("log.flush.scheduler.interval.ms", LONG, LONG_MAX),
    ConfigKey(
        "log.message.timestamp.type", STRING, "CreateTime", choices=("CreateTime", "LogAppendTime"), update=CLUSTER_WIDE
    ),
    ConfigKey("log.message.timestamp.before.max.ms", LONG, LONG_MAX, low=0, update=CLUSTER_WIDE),
    ConfigKey("log.message.timestamp.after.max.ms", LONG, 3_600_000, low=0, update=CLUSTER_WIDE),
    ConfigKey("log.preallocate", BOOLEAN, False, update=CLUSTER_WIDE, effect=False),
    ConfigKey("log.cleaner.min.cleanable.ratio", DOUBLE, 0.5, low=0, high=1, update=CLUSTER_WIDE),
    ConfigKey("log.cleaner.delete.retention.ms", LONG, 86_400_000, low=0, update=CLUSTER_WIDE),
    ConfigKey("log.cleaner.min.compaction.lag.ms", LONG, 0, low=0, update=CLUSTER_WIDE),
    ConfigKey("log.cleaner.max.compaction.lag.ms", LONG, LONG_MAX, low=1, update=CLUSTER_WIDE),
    ConfigKey("log.local.retention.ms", LONG, -2, low=-2, update=CLUSTER_WIDE, effect=False),
    ConfigKey("log.local.retention.bytes", LONG, -2, low=-2, update=CLUSTER_WIDE, effect=False),
    # Housekeeping of logs
    ConfigKey("log.retention.check.interval.ms", LONG, 300_000, low=1),
    ConfigKey("log.flush.offset.checkpoint.interval.ms", INT, 60000, low=0),
    ConfigKey("log.flush.start.offset.checkpoint.interval.ms", INT, 60000, low=0, effect=False),
    ConfigKey("log.cleaner.enable", BOOLEAN, True),
    ConfigKey("log.cleaner.threads", INT, 1, low=0, update=CLUSTER_WIDE),
    ConfigKey("log.cleaner.backoff.ms", LONG, 15000, low=0, update=CLUSTER_WIDE),
    ConfigKey("log.cleaner.dedupe.buffer.size", LONG, 134_217_728, update=CLUSTER_WIDE),
    ConfigKey("log.cleaner.io.max.bytes.per.second", DOUBLE, DOUBLE_MAX, update=CLUSTER_WIDE),
    # Connections and requests
    ConfigKey("socket.request.max.bytes", INT, 104_857_600, low=1),
    ConfigKey("socket.send.buffer.bytes", INT, 102_400, effect=False),
    ConfigKey("socket.receive.buffer.bytes", INT, 102_400, effect=False),
    ConfigKey("socket.listen.backlog.size", INT, 50, low=1, effect=False),
    ConfigKey("connections.max.idle.ms", LONG, 600_000),
    ConfigKey("max.connections", INT, 10_000, low=0, update=CLUSTER_WIDE),
    ConfigKey("max.connections.per.ip", INT, 10_000, low=0, update=CLUSTER_WIDE),
    ConfigKey("queued.max.requests", INT, 500, low=1, effect=False),
    ConfigKey("queued.max.request.bytes", LONG, -1),
    ConfigKey("max.incremental.fetch.session.cache.slots", INT, 1000, low=0),
    ConfigKey("fetch.max.bytes", INT, 57_671_680, low=1024),
    ConfigKey("max.request.partition.size.limit", INT, 2000, low=1),
    ConfigKey("request.timeout.ms", INT, 30000),
    # Replication and membership
    ConfigKey("replica.lag.time.max.ms", LONG, 30000),
    ConfigKey("replica.fetch.max.bytes", INT, 1_048_576, low=0),
    ConfigKey("replica.fetch.wait.max.ms", INT, 500),
    ConfigKey("replica.fetch.min.bytes", INT, 1),
    ConfigKey("replica.fetch.backoff.ms", INT, 1000, low=0),
    ConfigKey("replica.fetch.response.max.bytes", INT, 10_485_760, low=0),
    ConfigKey("replica.socket.timeout.ms", INT, 30000),
    ConfigKey("replica.selector.class", STRING, None, choices=(RACK_AWARE_SELECTOR, LEADER_SELECTOR)),
    ConfigKey("replica.high.watermark.checkpoint.interval.ms", LONG, 5000),
    ConfigKey("leader.replication.throttled.rate", LONG, LONG_MAX, low=0, update=PER_BROKER),
    ConfigKey("follower.replication.throttled.rate", LONG, LONG_MAX, low=0, update=PER_BROKER),
    ConfigKey("broker.session.timeout.ms", INT, 9000, effect=False),
    ConfigKey("broker.heartbeat.interval.ms", INT, 2000, effect=False),
    ConfigKey("controlled.shutdown.enable", BOOLEAN, True),
    ConfigKey("auto.leader.rebalance.enable", BOOLEAN, True),
    ConfigKey("leader.imbalance.check.interval.seconds", LONG, 300, low=1),
    ConfigKey("inter.broker.listener.name", STRING, None),
    ConfigKey("security.inter.broker.protocol", STRING, "PLAINTEXT", choices=("PLAINTEXT",)),
    # Consumer groups and their offsets
    ConfigKey("offsets.topic.replication.factor", SHORT, 3, low=1),
    ConfigKey("offsets.topic.num.partitions", INT, 50, low=1),
    ConfigKey("offsets.topic.segment.bytes", INT, 104_857_600, low=1),
    ConfigKey("offsets.topic.compression.codec", INT, 0, effect=False),
    ConfigKey("offsets.retention.minutes", INT, 10080, low=1),
    ConfigKey("offsets.retention.check.interval.ms", LONG, 600_000, low=1),
    ConfigKey("offsets.commit.timeout.ms", INT, 5000, low=1),
    ConfigKey("offset.metadata.max.bytes", INT, 4096),
    ConfigKey(
        "group.coordinator.rebalance.protocols",
        LIST,
        "classic,consumer,streams",
        choices=("consumer", "classic", "share", "streams"),
    ),
    ConfigKey("group.initial.rebalance.delay.ms", INT, 0),
    ConfigKey("group.min.session.timeout.ms", INT, 6000),
    ConfigKey("group.max.session.timeout.ms", INT, 1_800_000),
    ConfigKey("group.max.size", INT, 1000, low=1),
    ConfigKey("group.consumer.session.timeout.ms", INT, 45000, low=1),
    ConfigKey("group.consumer.min.session.timeout.ms", INT, 45000, low=1),
    ConfigKey("group.consumer.max.session.timeout.ms", INT, 60000, low=1),
    ConfigKey("group.consumer.heartbeat.interval.ms", INT, 5000, low=1),
    ConfigKey("group.consumer.min.heartbeat.interval.ms", INT, 5000, low=1),
    ConfigKey("group.consumer.max.heartbeat.interval.ms", INT, 15000, low=1),
    ConfigKey("group.consumer.max.size", INT, INT_MAX, low=1),
    ConfigKey("group.consumer.assignors", LIST, "uniform,range"),
    ConfigKey("group.consumer.migration.policy", STRING, "bidirectional", check=check_migration_policy),
    ConfigKey("group.consumer.assignment.interval.ms", INT, 1000, low=0, update=CLUSTER_WIDE),
    ConfigKey("group.consumer.min.assignment.interval.ms", INT, 0, low=0),
    ConfigKey("group.consumer.max.assignment.interval.ms", INT, 15000, low=0),
    # Producers and transactions
    ConfigKey("producer.id.expiration.ms", INT, 86_400_000, low=1, update=CLUSTER_WIDE),
    ConfigKey("transactional.id.expiration.ms", INT, 604_800_000, low=1),
    ConfigKey("transaction.max.timeout.ms", INT, 900_000, low=1),
    ConfigKey("transaction.state.log.replication.factor", SHORT, 3, low=1),
    ConfigKey("transaction.state.log.min.isr", INT, 2, low=1),
    ConfigKey("transaction.state.log.num.partitions", INT, 50, low=1),
    ConfigKey("transaction.state.log.segment.bytes", INT, 104_857_600, low=1),
    ConfigKey("transaction.abort.timed.out.transaction.cleanup.interval.ms", INT, 10000, low=1, effect=False),
    ConfigKey("transaction.remove.expired.transaction.cleanup.interval.ms", INT, 3_600_000, low=1),
    ConfigKey("transaction.partition.verification.enable", BOOLEAN, True, update=CLUSTER_WIDE),
    ConfigKey("add.partitions.to.txn.retry.backoff.ms", INT, 20, low=1),
    ConfigKey("add.partitions.to.txn.retry.backoff.max.ms", INT, 100, low=0),
)
