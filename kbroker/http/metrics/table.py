"""Every metric: its name, type, labels and meaning. docs/reference/metrics.md is made of this.

Names that begin with kafka_server, kafka_controller, kafka_cluster, kafka_log, kafka_network and kafka_coordinator are
Kafka's MBeans by the rule of the Prometheus JMX exporter: kafka.<group>:type=<Type>,name=<Name> in small letters, and
XPerSec as x_total. kafka_brokers, kafka_broker_info, kafka_topic_* and kafka_consumergroup_* are kafka_exporter's.
kbroker_* are its own; process_* and python_* are the usual ones of a Python process.
"""

from __future__ import annotations

from typing import NamedTuple

from kbroker.groups.timeline_json import METRIC

GAUGE, COUNTER, HISTOGRAM, SUMMARY = "gauge", "counter", "histogram", "summary"


class Metric(NamedTuple):
    """One metric."""

    name: str
    kind: str
    text: str  # what it tells, on one line
    labels: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """The lines that stand before its samples."""
        return f"# HELP {self.name} {self.text}\n# TYPE {self.name} {self.kind}\n"


METRICS: dict[str, Metric] = {}


def _metric(name: str, kind: str, text: str, *labels: str) -> Metric:
    assert name not in METRICS, f"{name} is there twice"
    metric = METRICS[name] = Metric(name, kind, text, labels)
    return metric


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return _metric(name, GAUGE, text, *labels)


def _counter(name: str, text: str, *labels: str) -> Metric:
    return _metric(name, COUNTER, text, *labels)


# -- traffic ----------------------------------------------------------------------------------------------------------

_T = "kafka_server_brokertopicmetrics_"
_ALL = "Without a topic: of all."
MESSAGES_IN = _counter(_T + "messagesin_total", f"Records appended by this broker as leader. {_ALL}", "topic")
BYTES_IN = _counter(_T + "bytesin_total", f"Bytes of batches appended as leader, as they are stored. {_ALL}", "topic")
BYTES_OUT = _counter(_T + "bytesout_total", f"Bytes of batches sent to consumers. {_ALL}", "topic")
BYTES_REJECTED = _counter(_T + "bytesrejected_total", f"Bytes of batches refused for their size. {_ALL}", "topic")
PRODUCE_REQUESTS = _counter(
    _T + "totalproducerequests_total", f"Partitions that batches were to be appended to. {_ALL}", "topic"
)
FAILED_PRODUCE = _counter(
    _T + "failedproducerequests_total",
    f"Of these, those that failed otherwise than for an old leader, a size or a damaged batch. {_ALL}",
    "topic",
)
FETCH_REQUESTS = _counter(
    _T + "totalfetchrequests_total", f"Partitions that consumers fetched. Followers are not counted. {_ALL}", "topic"
)
FAILED_FETCH = _counter(
    _T + "failedfetchrequests_total",
    f"Of these, those that failed otherwise than for an old leader or an offset out of range. {_ALL}",
    "topic",
)
REPLICATION_IN = _counter(_T + "replicationbytesin_total", "Bytes this broker fetched as a follower.")
REPLICATION_OUT = _counter(_T + "replicationbytesout_total", "Bytes this broker sent to its followers.")

REQUESTS = _counter(
    "kafka_network_requestmetrics_requests_total", "Requests answered, by API and version.", "request", "version"
)
REQUEST_TIMES = _metric(
    "kafka_network_requestmetrics_totaltimems",
    SUMMARY,
    "Milliseconds from taking a request up until its answer was there, waits for data or replicas among them; _sum and "
    "_count. For quantiles see kbroker_request_seconds.",
    "request",
)
REQUEST_SECONDS = _metric(
    "kbroker_request_seconds",
    HISTOGRAM,
    "The same as a histogram, in seconds. A Fetch that waits for data, or a JoinGroup for members, counts as long.",
    "request",
    "le",
)

_S = "kafka_server_socket_server_metrics_"
CONNECTIONS = _gauge(_S + "connection_count", "Connections now, those of brokers among them.", "listener")
CONNECTIONS_MADE = _counter(_S + "connection_creation_total", "Connections accepted.", "listener")
CONNECTIONS_CLOSED = _counter(_S + "connection_close_total", "Connections closed.", "listener")
CONNECTIONS_REFUSED = _counter(
    "kbroker_connections_refused_total", "Connections hung up on, as max.connections(.per.ip) were there.", "listener"
)

_IDLE = "The share of the last half minute or so, 0 to 1, in which the event loop did not compute."
NETWORK_IDLE = _gauge("kafka_network_socketserver_networkprocessoravgidle_percent", _IDLE)
HANDLER_IDLE = _gauge(
    "kafka_server_kafkarequesthandlerpool_requesthandleravgidle_percent",
    f"{_IDLE} Connections and handlers share it, so this is the same value.",
)

# -- partitions and replicas ------------------------------------------------------------------------------------------

_P = ("topic", "partition")
LOG_SIZE = _gauge("kafka_log_log_size", "Bytes of a log's segments.", *_P)
LOG_SEGMENTS = _gauge("kafka_log_log_numlogsegments", "Segments of a log.", *_P)
LOG_START = _gauge("kafka_log_log_logstartoffset", "The first offset of a log.", *_P)
LOG_END = _gauge("kafka_log_log_logendoffset", "The next offset to be written to a log.", *_P)

_C = "kafka_cluster_partition_"
_LED = "0 where it is not led here."
UNDER_REPLICATED = _gauge(_C + "underreplicated", f"1: a replica is not in sync. {_LED}", *_P)
IN_SYNC_COUNT = _gauge(_C + "insyncreplicascount", f"Replicas in sync. {_LED}", *_P)
REPLICAS_COUNT = _gauge(_C + "replicascount", f"Replicas. {_LED}", *_P)
UNDER_MIN_ISR = _gauge(_C + "underminisr", f"1: fewer in sync than min.insync.replicas. {_LED}", *_P)
AT_MIN_ISR = _gauge(_C + "atminisr", f"1: just as many in sync as min.insync.replicas. {_LED}", *_P)
STABLE_LAG = _gauge(_C + "laststableoffsetlag", "Offsets that open transactions keep from read_committed readers.", *_P)

_R = "kafka_server_replicamanager_"
PARTITION_COUNT = _gauge(_R + "partitioncount", "Partitions held here.")
LEADER_COUNT = _gauge(_R + "leadercount", "Partitions led here.")
UNDER_REPLICATED_COUNT = _gauge(_R + "underreplicatedpartitions", "Of those led here: with a replica not in sync.")
UNDER_MIN_ISR_COUNT = _gauge(_R + "underminisrpartitioncount", "Of those led here: below min.insync.replicas.")
AT_MIN_ISR_COUNT = _gauge(_R + "atminisrpartitioncount", "Of those led here: just at min.insync.replicas.")
OFFLINE_REPLICA_COUNT = _gauge(_R + "offlinereplicacount", "Partitions held here whose log is offline.")
REASSIGNING_COUNT = _gauge(_R + "reassigningpartitions", "Of those led here: with a reassignment under way.")
PRODUCER_ID_COUNT = _gauge(_R + "produceridcount", "Producer ids known, summed over the partitions held here.")
ISR_SHRINKS = _counter(_R + "isrshrinks_total", "Replicas taken out of sync by this broker as leader.")
ISR_EXPANDS = _counter(_R + "isrexpands_total", "Replicas taken into sync by this broker as leader.")
FAILED_ISR_UPDATES = _counter(_R + "failedisrupdates_total", "Such changes that were refused, or came to nothing.")

# -- the cluster ------------------------------------------------------------------------------------------------------

_K = "kafka_controller_kafkacontroller_"
_CONTROLLER = "0 on all brokers but the controller."
ACTIVE_CONTROLLER = _gauge(_K + "activecontrollercount", "1 on the broker that is the controller.")
OFFLINE_PARTITIONS = _gauge(_K + "offlinepartitionscount", f"Partitions without a leader. {_CONTROLLER}")
GLOBAL_TOPICS = _gauge(_K + "globaltopiccount", f"Topics, views not counted. {_CONTROLLER}")
GLOBAL_PARTITIONS = _gauge(_K + "globalpartitioncount", f"Partitions. {_CONTROLLER}")
PREFERRED_IMBALANCE = _gauge(
    _K + "preferredreplicaimbalancecount", f"Partitions led by another than their first replica. {_CONTROLLER}"
)
ACTIVE_BROKERS = _gauge(_K + "activebrokercount", f"Brokers that live. {_CONTROLLER}")
FENCED_BROKERS = _gauge(_K + "fencedbrokercount", f"Brokers that are known, and do not live. {_CONTROLLER}")
ELECTIONS = _metric(
    "kafka_controller_controllerstats_leaderelectionrateandtimems",
    SUMMARY,
    "_count: leaders elected while this broker was the controller.",
)
UNCLEAN_ELECTIONS = _counter(
    "kafka_controller_controllerstats_uncleanleaderelections_total",
    "Of these, those that may lack what was committed.",
)
BROKER_STATE = _gauge(
    "kafka_server_kafkaserver_brokerstate",
    "1 starting, 2 opening logs, 3 running, 6 handing over what it leads.",
)
BROKERS = _gauge("kafka_brokers", "Brokers that live. Told by the controller.")
BROKER_INFO = _gauge("kafka_broker_info", "Its value is the broker's id. Told by the controller.", "address", "id")

_X = "kafka_topic_partition_"
TOPIC_PARTITIONS = _gauge("kafka_topic_partitions", "Partitions of a topic. Told by the controller.", "topic")
CURRENT_OFFSET = _gauge(_X + "current_offset", "The end for consumers (the high watermark). Told by the leader.", *_P)
OLDEST_OFFSET = _gauge(_X + "oldest_offset", "The first offset. Told by the leader.", *_P)
_LED_BY = "Told by the leader; by the controller where there is none."
TOPIC_LEADER = _gauge(_X + "leader", f"The id of the leader, -1 for none. {_LED_BY}", *_P)
TOPIC_REPLICAS = _gauge(_X + "replicas", f"Replicas. {_LED_BY}", *_P)
TOPIC_IN_SYNC = _gauge(_X + "in_sync_replica", f"Replicas in sync. {_LED_BY}", *_P)
TOPIC_PREFERRED = _gauge(_X + "leader_is_preferred", f"1: its first replica leads. {_LED_BY}", *_P)
TOPIC_UNDER_REPLICATED = _gauge(_X + "under_replicated_partition", f"1: a replica is not in sync. {_LED_BY}", *_P)

# -- groups -----------------------------------------------------------------------------------------------------------

_G = "kafka_consumergroup_"
_CGP = ("consumergroup", "topic", "partition")
GROUP_MEMBERS = _gauge(
    _G + "members", "Members of a group. Told by its coordinator, as all of groups.", "consumergroup"
)
GROUP_OFFSET = _gauge(_G + "current_offset", "The offset a group has committed.", *_CGP)
GROUP_OFFSET_SUM = _gauge(_G + "current_offset_sum", "The same, summed over a topic.", "consumergroup", "topic")
GROUP_LAG = _gauge(
    _G + "lag",
    "Offsets between what is committed and the end for consumers. Missing where the leader cannot be asked.",
    *_CGP,
)
GROUP_LAG_SUM = _gauge(_G + "lag_sum", "The same, summed over a topic.", "consumergroup", "topic")
_M = "kafka_coordinator_group_groupmetadatamanager_"
NUM_GROUPS = _gauge(_M + "numgroups", "Groups coordinated here.")
NUM_OFFSETS = _gauge(_M + "numoffsets", "Committed offsets kept here.")
GROUPS = _gauge("kbroker_groups", "Groups coordinated here, by type (classic, consumer) and state.", "type", "state")
UNOWNED = _counter(
    METRIC,
    "Seconds in which a partition had no owner in its group's rebalances, since its coordinator started.",
    "group",
    "topic",
    "partition",
)

# -- kbroker's own ----------------------------------------------------------------------------------------------------

BUILD_INFO = _gauge("kbroker_build_info", "Always 1.", "version", "cluster_id", "node_id")
SESSION_VALID = _gauge(
    "kbroker_session_valid", "1: the coordination store has certainly not taken this broker for dead."
)
DELAYED = _gauge("kbroker_delayed_records", "Records that are pending. Told by the leader.", *_P)
DELAYED_DUE = _gauge(
    "kbroker_delayed_next_due_timestamp_seconds", "When the first of them is due; missing where none is.", *_P
)
VIEW_LAG = _gauge("kbroker_view_lag_seconds", "How late a view is to show. Told by the controller.", "topic", "source")
SCRUBBED = _counter("kbroker_scrubber_batches_total", "Batches whose records the scrubber has read.")
SCRUBBER_BAD = _gauge("kbroker_scrubber_bad_batches", "Batches it found that consumers cannot read.")
COMPACTIONS = _counter("kbroker_compaction_passes_total", "Passes over logs that were compacted.")
COMPACTION_READ = _counter("kbroker_compaction_read_bytes_total", "Bytes of segments they replaced.")
COMPACTION_WRITTEN = _counter("kbroker_compaction_written_bytes_total", "Bytes of segments they wrote.")
UNCLEANABLE = _gauge(
    "kafka_log_logcleanermanager_uncleanable_partitions_count",
    "Logs that cannot be compacted; the broker's log says why.",
)
DISK_FREE = _gauge("kbroker_disk_free_bytes", "What the data directory's volume has left.")
DISK_SIZE = _gauge("kbroker_disk_size_bytes", "That volume's size.")
HTTP_REQUESTS = _counter("kbroker_http_requests_total", "Requests to this HTTP server.")

# -- the process ------------------------------------------------------------------------------------------------------

_L = "kafka_server_kafkaserver_linux_disk_"
DISK_READ = _gauge(_L + "read_bytes", "Bytes this process had read from disks (not from memory). Linux only.")
DISK_WRITTEN = _gauge(_L + "write_bytes", "Bytes this process had written to disks. Linux only.")
CPU = _counter("process_cpu_seconds_total", "Seconds of CPU, of all threads.")
RESIDENT = _gauge("process_resident_memory_bytes", "Memory in use.")
VIRTUAL = _gauge("process_virtual_memory_bytes", "Memory mapped.")
OPEN_FDS = _gauge("process_open_fds", "File descriptors open.")
MAX_FDS = _gauge("process_max_fds", "File descriptors allowed.")
STARTED = _gauge("process_start_time_seconds", "When the process began, seconds since the epoch.")
THREADS = _gauge("process_threads", "Threads.")
GC_COLLECTIONS = _counter("python_gc_collections_total", "Collections of each generation of objects.", "generation")
