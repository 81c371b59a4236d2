"""What each key means, in a sentence or two. Imported only when somebody asks: DescribeConfigs, the command line, docs.

A broker key that is only the default of a topic key takes the topic key's text (`documentation`).
"""

from __future__ import annotations

from kbroker.config.checks import check_unset
from kbroker.config.keys import ConfigKey, Scope
from kbroker.config.topic_keys import GROUP_KEYS, TOPIC_KEYS

NO_EFFECT = "Accepted, without effect: files and clients written for Apache Kafka work, nothing in kbroker changes."
REFUSED = (
    "Not accepted: Kafka would load a Java class by it, most of them to forbid something. kbroker cannot, and does not "
    "act as if it did; a broker with this in its configuration does not start."
)

TOPIC_DOCS = {
    "cleanup.policy": "What happens to old data: delete removes segments by age and size; compact keeps the last value "
    "of each key; both together do both.",
    "compression.gzip.level": "Level used when the broker compresses with gzip.",
    "compression.lz4.level": "Level used when the broker compresses with lz4.",
    "compression.type": "How batches are stored: producer keeps what the producer sent, any other value recompresses.",
    "compression.zstd.level": "Level used when the broker compresses with zstd.",
    "delete.retention.ms": "How long a tombstone stays in a compacted topic, so that readers get to see the deletion.",
    "file.delete.delay.ms": "How long a removed segment's files stay on disk, for the sake of readers under way.",
    "flush.messages": "Force data to disk after this many records. Kafka's default leaves it to the operating system: "
    "replication, not fsync, protects acknowledged data.",
    "flush.ms": "Force data to disk at least this often. See flush.messages.",
    "follower.replication.throttled.replicas": "Replicas whose following is throttled: `*`, or PARTITION:BROKER,...",
    "index.interval.bytes": "Bytes of log between two entries of its offset index.",
    "internal.segment.bytes": "Overrides segment.bytes without its minimum. For tests.",
    "kbroker.delay.enable": "Whether records may say in a header when they are to be delivered: kbroker-deliver-at, "
    "kbroker-deliver-after. Not together with compact. Switched off, what is pending is still delivered.",
    "kbroker.delay.max.ms": "How far ahead a record may be due. A batch with one that is due later is refused.",
    "kbroker.produce.validate": "How closely a producer's batch is looked at before it is stored, where it is not "
    "compressed. header: its header and CRC alone. structure: also whether its records are as many and as long as "
    "they say, and the last one is in order. full: every field of every record, as in Kafka. "
    "A batch whose header gives impossible timestamps has its records read in any case. What each costs: "
    "docs/performance.md.",
    "kbroker.produce.validate.compressed": "The same for compressed batches. full: they are decompressed, and every "
    "field of every record is read; their payload may turn out not to be what the codec makes.",
    "kbroker.tags.enable": "Note the tags of records (header kbroker-tags) in an index as they are appended, so that "
    "views by tag read only what may match. docs/views.md.",
    "kbroker.view.filter": "Of a view: only records that this expression of the filter language matches.",
    "kbroker.view.lag.ms": "Of a view: it shows every record so much later than its source got it. 0: at once.",
    "kbroker.view.mode": "Of a view with tags or a filter. exact: only records that match are sent. prune: whole "
    "batches in which some may match are sent as they are, which costs the broker less; clients look again.",
    "kbroker.view.source": "Makes the topic a view when it is created: a read-only topic with the partitions, offsets "
    "and records of this one. It cannot be changed.",
    "kbroker.view.tags": "Of a view: only records that have one of these tags in their header kbroker-tags. Not "
    "together with kbroker.view.filter.",
    "leader.replication.throttled.replicas": "Replicas whose leading is throttled: `*`, or PARTITION:BROKER,...",
    "local.retention.bytes": "Bytes kept locally of a tiered topic. kbroker has no tiered storage yet.",
    "local.retention.ms": "How long a tiered topic's data stays local. kbroker has no tiered storage yet.",
    "max.compaction.lag.ms": "A record is compacted at the latest this long after it was written.",
    "max.message.bytes": "The largest record batch accepted, as it is stored (compressed, if it is).",
    "message.timestamp.after.max.ms": "How far a timestamp may lie ahead of the broker's clock. CreateTime only.",
    "message.timestamp.before.max.ms": "How far a timestamp may lie behind the broker's clock. CreateTime only.",
    "message.timestamp.type": "CreateTime keeps the producer's timestamps; LogAppendTime puts the broker's own.",
    "min.cleanable.dirty.ratio": "Share of a log that must be uncompacted before compaction is worth it.",
    "min.compaction.lag.ms": "A record is left uncompacted for at least this long.",
    "min.insync.replicas": "With acks=all, a write is accepted only while this many replicas are in sync.",
    "preallocate": "Reserve a segment's space when it is created.",
    "remote.log.copy.disable": "Stop copying a tiered topic. kbroker has no tiered storage yet.",
    "remote.log.delete.on.disable": "Delete remote data when tiering ends. kbroker has no tiered storage yet.",
    "remote.storage.enable": "Tiered storage. kbroker has none yet, so only false is accepted.",
    "retention.bytes": "Keep at most about this many bytes per partition; -1 means no limit.",
    "retention.ms": "Keep data for this long, by record timestamp; -1 means for ever.",
    "segment.bytes": "A segment file is closed, and a new one begun, at this size. Retention removes whole segments.",
    "segment.index.bytes": "Largest size of a segment's index; a full index closes the segment.",
    "segment.jitter.ms": "Random time taken off segment.ms, so that partitions do not roll all at once.",
    "segment.ms": "A segment is closed at this age even when it is not full.",
    "unclean.leader.election.enable": "Whether a replica that is not in sync may lead when no other is left: available "
    "again, but acknowledged data is lost.",
}

GROUP_DOCS = {
    "consumer.assignment.interval.ms": "Shortest time between two computations of a group's assignment.",
    "consumer.heartbeat.interval.ms": "How often members of the group send heartbeats (KIP-848 protocol).",
    "consumer.session.timeout.ms": "A member that is silent for this long is removed (KIP-848 protocol).",
}

BROKER_DOCS = {
    "advertised.listeners": "The addresses clients are told to connect to. Unset: those of `listeners`; for a listener "
    "bound to every interface, and for an entry without a host (PLAINTEXT://:9092), the address a connection arrived "
    "on.",
    "auto.create.topics.enable": "Create a topic when a client asks for one that does not exist.",
    "auto.leader.rebalance.enable": "Give partitions back to their preferred leaders from time to time.",
    "broker.heartbeat.interval.ms": "How often a broker renews its session with the cluster.",
    "broker.id": "The older name of node.id; used when node.id is not set.",
    "broker.rack": "Where the broker stands: replicas are spread over racks, consumers may read from their own.",
    "broker.session.timeout.ms": "A broker that is silent for this long counts as dead, and its partitions move.",
    "connections.max.idle.ms": "A connection without requests for this long is closed.",
    "controller.listener.names": "Listeners of Kafka's controllers. kbroker is broker and controller in one "
    "process, and does not open them.",
    "controlled.shutdown.enable": "Move leadership away before stopping.",
    "default.replication.factor": "Replicas of a topic created without a number.",
    "delete.topic.enable": "Whether topics can be deleted.",
    "fetch.max.bytes": "The most bytes in one answer to a fetch, whatever the client asks for.",
    "group.consumer.assignment.interval.ms": "Shortest time between two computations of a group's assignment.",
    "group.consumer.assignors": "How partitions are spread over members on the broker's side (KIP-848), best first.",
    "group.consumer.heartbeat.interval.ms": "How often members send heartbeats (KIP-848 protocol).",
    "group.consumer.max.assignment.interval.ms": "Upper limit of consumer.assignment.interval.ms of a group.",
    "group.consumer.max.heartbeat.interval.ms": "Upper limit of consumer.heartbeat.interval.ms of a group.",
    "group.consumer.max.session.timeout.ms": "Upper limit of consumer.session.timeout.ms of a group.",
    "group.consumer.max.size": "The most members in one group (KIP-848 protocol).",
    "group.consumer.migration.policy": "Whether groups may change between the classic and the KIP-848 protocol.",
    "group.consumer.min.assignment.interval.ms": "Lower limit of consumer.assignment.interval.ms of a group.",
    "group.consumer.min.heartbeat.interval.ms": "Lower limit of consumer.heartbeat.interval.ms of a group.",
    "group.consumer.min.session.timeout.ms": "Lower limit of consumer.session.timeout.ms of a group.",
    "group.consumer.session.timeout.ms": "A member that is silent for this long is removed (KIP-848 protocol).",
    "group.coordinator.rebalance.protocols": "The group protocols offered to clients.",
    "group.initial.rebalance.delay.ms": "How long the first rebalance of an empty group waits for more members. "
    "Kafka's default is 3000; kbroker's is 0, so that a first consumer starts at once.",
    "group.max.session.timeout.ms": "The longest session timeout a member may ask for (classic protocol).",
    "group.max.size": "The most members in one group (classic protocol).",
    "group.min.session.timeout.ms": "The shortest session timeout a member may ask for (classic protocol).",
    "follower.replication.throttled.rate": "Bytes per second that a broker fetches, as a follower, of replicas that "
    "are named by `follower.replication.throttled.replicas`. Those in sync are never held back.",
    "initial.broker.registration.timeout.ms": "How long a broker that starts waits for a coordination store that does "
    "not answer.",
    "inter.broker.listener.name": "The listener brokers use among themselves. Unset: the one that is named after "
    "`security.inter.broker.protocol`, else the first.",
    "kbroker.coordination": "The store by which brokers agree: empty for the file coord.db in the data directory, "
    "for one broker; sqlite:PATH for a file that several brokers of one machine share, each with a data directory of "
    "its own; etcd://HOST:PORT,HOST:PORT,HOST:PORT for brokers of several machines (needs kbroker[etcd]), etcds:// to "
    "reach it by TLS.",
    "kbroker.http.allowed.hosts": "Names by which a request may call the HTTP server, besides localhost, addresses, "
    "and the hosts of listeners and advertised.listeners. `*`: any, which lets web pages read what is told here.",
    "kbroker.http.host": "The address that HTTP is served on.",
    "kbroker.http.port": "The port for metrics, health and the JSON API (docs/how-to/monitoring.md). 0 picks one, -1 "
    "serves no HTTP.",
    "kbroker.data.dir": "Where kbroker keeps its data. Goes before log.dirs and log.dir.",
    "kbroker.etcd.password": "The password of kbroker.etcd.user.",
    "kbroker.etcd.tls.ca": "A PEM file with the authorities that vouch for etcd's certificate. Empty for those that "
    "grpcio brings.",
    "kbroker.etcd.tls.certificate": "A PEM file with the certificate by which etcd recognises this broker.",
    "kbroker.etcd.tls.key": "A PEM file with the private key that belongs to it.",
    "kbroker.etcd.user": "The user of etcd. Empty where etcd asks for none, or takes it from the certificate.",
    "kbroker.scrub.bytes.per.second": "How fast records are read afterwards that kbroker.produce.validate let in "
    "without reading every field. A batch that would stop consumers is told of in the log. 0: not at all.",
    "leader.replication.throttled.rate": "Bytes per second that a broker sends, as a leader, of replicas named by "
    "`leader.replication.throttled.replicas`. Those in sync are never held back.",
    "leader.imbalance.check.interval.seconds": "How often the balance of leaders is looked at.",
    "listener.security.protocol.map": "Which protocol each listener speaks. kbroker speaks PLAINTEXT so far; entries "
    "for listeners that are not used do no harm.",
    "listeners": "Where to listen: NAME://HOST:PORT, separated by commas. Kafka's default is every interface; kbroker "
    "listens on the loopback interface unless told otherwise. Port 0 picks a free port.",
    "log.cleaner.backoff.ms": "How long the compactor rests when there is nothing to compact.",
    "log.cleaner.dedupe.buffer.size": "Memory for the keys of one round of compaction, shared by all threads; also the "
    "most that one batch may take, decompressed. A round goes as far as the keys fit in.",
    "log.cleaner.enable": "Whether compaction runs at all.",
    "log.cleaner.io.max.bytes.per.second": "Bytes per second that compaction may read and write, in all threads.",
    "log.cleaner.threads": "How many logs may be compacted at the same time, each by a process of its own; 0: none "
    "but on demand.",
    "log.dir": "Where data is kept when log.dirs is not set. Kafka's default is /tmp/kafka-logs; kbroker's is the "
    "directory kbroker-data where it was started.",
    "log.dirs": "Where data is kept. kbroker uses one directory: the first.",
    "log.flush.interval.ms": "Force data to disk at least this often; unset: log.flush.scheduler.interval.ms.",
    "log.flush.offset.checkpoint.interval.ms": "How often the point up to which logs are on disk is recorded, which "
    "shortens recovery after a crash.",
    "log.flush.scheduler.interval.ms": "The value of log.flush.interval.ms when that is not set.",
    "log.flush.start.offset.checkpoint.interval.ms": "How often the start offsets of logs are recorded.",
    "log.retention.check.interval.ms": "How often logs are looked at for segments to delete.",
    "log.retention.hours": "The value of log.retention.minutes, in hours, when that is not set.",
    "log.retention.minutes": "The value of log.retention.ms, in minutes, when that is not set.",
    "log.roll.hours": "The value of log.roll.ms, in hours, when that is not set.",
    "log.roll.jitter.hours": "The value of log.roll.jitter.ms, in hours, when that is not set.",
    "max.connections": "The most connections of clients on a listener at one time; more are closed at once.",
    "max.connections.per.ip": "The most connections of clients on a listener at one time from one address.",
    "max.incremental.fetch.session.cache.slots": "How many fetch sessions are remembered (KIP-227).",
    "max.request.partition.size.limit": "The most partitions in one answer to DescribeTopicPartitions.",
    "node.id": "This broker's number. Kafka demands one; kbroker's default is 1.",
    "num.partitions": "Partitions of a topic created without a number.",
    "offset.metadata.max.bytes": "The longest text a consumer may keep beside a committed offset.",
    "offsets.commit.timeout.ms": "How long a commit of offsets waits for the replicas.",
    "offsets.retention.check.interval.ms": "How often committed offsets are looked at for old ones.",
    "offsets.retention.minutes": "Committed offsets of a group without members are kept for this long.",
    "offsets.topic.compression.codec": "Codec of the offsets topic, by number; 0 is none.",
    "offsets.topic.num.partitions": "Partitions of the topic that holds committed offsets. Fixed once it exists.",
    "offsets.topic.replication.factor": "Replicas of the topic that holds committed offsets. With fewer brokers than "
    "that, kbroker makes one on each, so that a single broker just works.",
    "offsets.topic.segment.bytes": "Segment size of the topic that holds committed offsets.",
    "process.roles": "What Kafka's process is to be. kbroker is broker and controller in one; a list without broker is "
    "refused.",
    "producer.id.expiration.ms": "An idempotent producer that is silent for this long is forgotten.",
    "queued.max.request.bytes": "Bytes of requests that have not fully arrived, of all connections together; -1: four "
    "times socket.request.max.bytes. Above it requests are received one after the other.",
    "queued.max.requests": "Requests of all connections that may be under way before reading stops.",
    "replica.fetch.backoff.ms": "How long a follower waits after an error, at most; it begins with 50 ms.",
    "replica.fetch.max.bytes": "Bytes a follower asks for per partition.",
    "replica.fetch.min.bytes": "Bytes a leader collects before it answers a follower.",
    "replica.fetch.response.max.bytes": "Bytes a follower asks for in one answer.",
    "replica.fetch.wait.max.ms": "How long a leader may collect before it answers a follower.",
    "replica.selector.class": "Which replica consumers read from: one in their rack, or (null) always the leader.",
    "replica.socket.timeout.ms": "How long a follower waits for its leader, beyond `replica.fetch.wait.max.ms`.",
    "replica.high.watermark.checkpoint.interval.ms": "How often high watermarks are recorded on disk.",
    "replica.lag.time.max.ms": "A follower that has not caught up for this long leaves the in-sync replicas.",
    "request.timeout.ms": "How long a broker waits for another broker's answer.",
    "security.inter.broker.protocol": "The protocol among brokers. kbroker speaks PLAINTEXT so far.",
    "socket.listen.backlog.size": "Connections that may wait to be accepted.",
    "socket.receive.buffer.bytes": "Receive buffer of a connection; -1 leaves it to the operating system.",
    "socket.request.max.bytes": "The largest request accepted; a larger one closes the connection.",
    "socket.send.buffer.bytes": "Send buffer of a connection; -1 leaves it to the operating system.",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "How often late transactions are looked for.",
    "transaction.max.timeout.ms": "The longest transaction timeout a producer may ask for.",
    "transaction.partition.verification.enable": "Whether a transactional write is checked against its transaction.",
    "add.partitions.to.txn.retry.backoff.ms": "How long a write waits before its transaction is asked for again, while "
    "the one before is ending.",
    "add.partitions.to.txn.retry.backoff.max.ms": "For how long in all; then the producer is told to try again.",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "How often unused transactional ids are looked for.",
    "transaction.state.log.min.isr": "min.insync.replicas of the topic that holds transactions; at most as many as "
    "there are brokers.",
    "transaction.state.log.num.partitions": "Partitions of the topic that holds transactions. Fixed once it exists.",
    "transaction.state.log.replication.factor": "Replicas of the topic that holds transactions. With fewer brokers "
    "than that, kbroker makes one on each.",
    "transaction.state.log.segment.bytes": "Segment size of the topic that holds transactions.",
    "transactional.id.expiration.ms": "A transactional id that is unused for this long is forgotten.",
}

_INHERITED = {
    synonym.name: key.name for key in (*TOPIC_KEYS, *GROUP_KEYS) for synonym in key.synonyms if synonym.factor == 1
}


def documentation(key: ConfigKey) -> str:
    """A key's meaning, and whether it has an effect. Every key has one."""
    if is_refused(key):
        return REFUSED
    meaning = _meaning(key)
    return meaning if key.effect or meaning == NO_EFFECT else f"Accepted, without effect. {meaning}"


def is_refused(key: ConfigKey) -> bool:
    """Whether no value but none is accepted."""
    return key.check is check_unset


def _meaning(key: ConfigKey) -> str:
    if key.scope is Scope.TOPIC:
        return TOPIC_DOCS[key.name]
    if key.scope is Scope.GROUP:
        return GROUP_DOCS.get(key.name, NO_EFFECT)
    if key.name in BROKER_DOCS:
        return BROKER_DOCS[key.name]
    topic_name = _INHERITED.get(key.name)
    if topic_name in TOPIC_DOCS:
        return f"Default of {topic_name} for topics that do not set it. {TOPIC_DOCS[topic_name]}"
    return NO_EFFECT
