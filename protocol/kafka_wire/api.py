"""The API keys, and what belongs to each: the classes of its request and response, the versions of their headers.

A family of messages is imported when one of its classes is first asked for: a broker that only serves producers and
consumers never loads the declarations of the admin APIs.
"""

from __future__ import annotations

from enum import IntEnum
from importlib import import_module
from typing import Final, NamedTuple


class ApiKey(IntEnum):
    """Every API of Kafka 4.3, those between its own brokers included; and those between brokers of kbroker."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    LEADER_AND_ISR = 4
    STOP_REPLICA = 5
    UPDATE_METADATA = 6
    CONTROLLED_SHUTDOWN = 7
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    DESCRIBE_GROUPS = 15
    LIST_GROUPS = 16
    SASL_HANDSHAKE = 17
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    DELETE_TOPICS = 20
    DELETE_RECORDS = 21
    INIT_PRODUCER_ID = 22
    OFFSET_FOR_LEADER_EPOCH = 23
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    WRITE_TXN_MARKERS = 27
    TXN_OFFSET_COMMIT = 28
    DESCRIBE_ACLS = 29
    CREATE_ACLS = 30
    DELETE_ACLS = 31
    DESCRIBE_CONFIGS = 32
    ALTER_CONFIGS = 33
    ALTER_REPLICA_LOG_DIRS = 34
    DESCRIBE_LOG_DIRS = 35
    SASL_AUTHENTICATE = 36
    CREATE_PARTITIONS = 37
    CREATE_DELEGATION_TOKEN = 38
    RENEW_DELEGATION_TOKEN = 39
    EXPIRE_DELEGATION_TOKEN = 40
    DESCRIBE_DELEGATION_TOKEN = 41
    DELETE_GROUPS = 42
    ELECT_LEADERS = 43
    INCREMENTAL_ALTER_CONFIGS = 44
    ALTER_PARTITION_REASSIGNMENTS = 45
    LIST_PARTITION_REASSIGNMENTS = 46
    OFFSET_DELETE = 47
    DESCRIBE_CLIENT_QUOTAS = 48
    ALTER_CLIENT_QUOTAS = 49
    DESCRIBE_USER_SCRAM_CREDENTIALS = 50
    ALTER_USER_SCRAM_CREDENTIALS = 51
    VOTE = 52
    BEGIN_QUORUM_EPOCH = 53
    END_QUORUM_EPOCH = 54
    DESCRIBE_QUORUM = 55
    ALTER_PARTITION = 56
    UPDATE_FEATURES = 57
    ENVELOPE = 58
    FETCH_SNAPSHOT = 59
    DESCRIBE_CLUSTER = 60
    DESCRIBE_PRODUCERS = 61
    BROKER_REGISTRATION = 62
    BROKER_HEARTBEAT = 63
    UNREGISTER_BROKER = 64
    DESCRIBE_TRANSACTIONS = 65
    LIST_TRANSACTIONS = 66
    ALLOCATE_PRODUCER_IDS = 67
    CONSUMER_GROUP_HEARTBEAT = 68
    CONSUMER_GROUP_DESCRIBE = 69
    CONTROLLER_REGISTRATION = 70
    GET_TELEMETRY_SUBSCRIPTIONS = 71
    PUSH_TELEMETRY = 72
    ASSIGN_REPLICAS_TO_DIRS = 73
    LIST_CONFIG_RESOURCES = 74
    DESCRIBE_TOPIC_PARTITIONS = 75
    SHARE_GROUP_HEARTBEAT = 76
    SHARE_GROUP_DESCRIBE = 77
    SHARE_FETCH = 78
    SHARE_ACKNOWLEDGE = 79
    ADD_RAFT_VOTER = 80
    REMOVE_RAFT_VOTER = 81
    UPDATE_RAFT_VOTER = 82
    INITIALIZE_SHARE_GROUP_STATE = 83
    READ_SHARE_GROUP_STATE = 84
    WRITE_SHARE_GROUP_STATE = 85
    DELETE_SHARE_GROUP_STATE = 86
    READ_SHARE_GROUP_STATE_SUMMARY = 87
    STREAMS_GROUP_HEARTBEAT = 88
    STREAMS_GROUP_DESCRIBE = 89
    DESCRIBE_SHARE_GROUP_OFFSETS = 90
    ALTER_SHARE_GROUP_OFFSETS = 91
    DELETE_SHARE_GROUP_OFFSETS = 92
    INTRODUCE = 31_000
    WAIT_APPLIED = 31_001
    COMPACT_LOG = 31_002
    LIST_DELAYED = 31_003


OWN_KEY_MIN: Final = 31_000  # from here up: kbroker's own, for its brokers and its command; no client is told of it


class Api(NamedTuple):
    """One API of which the messages are declared here."""

    name: str  # Kafka's: the classes are <name>Request and <name>Response
    family: str  # the module in kafka_wire.messages
    version_min: int  # the versions the declarations cover: those of Kafka 4.3, and OffsetCommit 1
    version_max: int
    flexible: int  # first version with compact lengths and tagged fields (KIP-482)


NEVER: Final = 1 << 15

APIS: Final[dict[int, Api]] = {
    ApiKey.PRODUCE: Api("Produce", "produce_fetch", 3, 13, 9),
    ApiKey.FETCH: Api("Fetch", "produce_fetch", 4, 18, 12),
    ApiKey.LIST_OFFSETS: Api("ListOffsets", "offsets", 1, 11, 6),
    ApiKey.METADATA: Api("Metadata", "metadata", 0, 13, 9),
    ApiKey.OFFSET_COMMIT: Api("OffsetCommit", "group_offsets", 1, 10, 8),
    ApiKey.OFFSET_FETCH: Api("OffsetFetch", "group_offsets", 1, 10, 6),
    ApiKey.FIND_COORDINATOR: Api("FindCoordinator", "groups", 0, 6, 3),
    ApiKey.JOIN_GROUP: Api("JoinGroup", "groups", 0, 9, 6),
    ApiKey.HEARTBEAT: Api("Heartbeat", "groups", 0, 4, 4),
    ApiKey.LEAVE_GROUP: Api("LeaveGroup", "groups", 0, 5, 4),
    ApiKey.SYNC_GROUP: Api("SyncGroup", "groups", 0, 5, 4),
    ApiKey.DESCRIBE_GROUPS: Api("DescribeGroups", "group_admin", 0, 6, 5),
    ApiKey.LIST_GROUPS: Api("ListGroups", "group_admin", 0, 5, 3),
    ApiKey.SASL_HANDSHAKE: Api("SaslHandshake", "security", 0, 1, NEVER),
    ApiKey.API_VERSIONS: Api("ApiVersions", "metadata", 0, 4, 3),
    ApiKey.CREATE_TOPICS: Api("CreateTopics", "topics", 2, 7, 5),
    ApiKey.DELETE_TOPICS: Api("DeleteTopics", "topics", 1, 6, 4),
    ApiKey.DELETE_RECORDS: Api("DeleteRecords", "topics", 0, 2, 2),
    ApiKey.INIT_PRODUCER_ID: Api("InitProducerId", "transactions", 0, 6, 2),
    ApiKey.OFFSET_FOR_LEADER_EPOCH: Api("OffsetForLeaderEpoch", "offsets", 2, 4, 4),
    ApiKey.ADD_PARTITIONS_TO_TXN: Api("AddPartitionsToTxn", "transactions", 0, 5, 3),
    ApiKey.ADD_OFFSETS_TO_TXN: Api("AddOffsetsToTxn", "transactions", 0, 4, 3),
    ApiKey.END_TXN: Api("EndTxn", "transactions", 0, 5, 3),
    ApiKey.WRITE_TXN_MARKERS: Api("WriteTxnMarkers", "internal", 1, 2, 1),
    ApiKey.TXN_OFFSET_COMMIT: Api("TxnOffsetCommit", "transactions", 0, 5, 3),
    ApiKey.DESCRIBE_ACLS: Api("DescribeAcls", "security", 1, 3, 2),
    ApiKey.CREATE_ACLS: Api("CreateAcls", "security", 1, 3, 2),
    ApiKey.DELETE_ACLS: Api("DeleteAcls", "security", 1, 3, 2),
    ApiKey.DESCRIBE_CONFIGS: Api("DescribeConfigs", "configs", 1, 4, 4),
    ApiKey.ALTER_CONFIGS: Api("AlterConfigs", "configs", 0, 2, 2),
    ApiKey.ALTER_REPLICA_LOG_DIRS: Api("AlterReplicaLogDirs", "topics", 1, 2, 2),
    ApiKey.DESCRIBE_LOG_DIRS: Api("DescribeLogDirs", "topics", 1, 5, 2),
    ApiKey.SASL_AUTHENTICATE: Api("SaslAuthenticate", "security", 0, 2, 2),
    ApiKey.CREATE_PARTITIONS: Api("CreatePartitions", "topics", 0, 3, 2),
    ApiKey.DELETE_GROUPS: Api("DeleteGroups", "group_admin", 0, 2, 2),
    ApiKey.ELECT_LEADERS: Api("ElectLeaders", "admin", 0, 2, 2),
    ApiKey.INCREMENTAL_ALTER_CONFIGS: Api("IncrementalAlterConfigs", "configs", 0, 1, 1),
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: Api("AlterPartitionReassignments", "admin", 0, 1, 0),
    ApiKey.LIST_PARTITION_REASSIGNMENTS: Api("ListPartitionReassignments", "admin", 0, 0, 0),
    ApiKey.OFFSET_DELETE: Api("OffsetDelete", "group_offsets", 0, 0, NEVER),
    ApiKey.DESCRIBE_CLIENT_QUOTAS: Api("DescribeClientQuotas", "security", 0, 1, 1),
    ApiKey.ALTER_CLIENT_QUOTAS: Api("AlterClientQuotas", "security", 0, 1, 1),
    ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS: Api("DescribeUserScramCredentials", "security", 0, 0, 0),
    ApiKey.ALTER_USER_SCRAM_CREDENTIALS: Api("AlterUserScramCredentials", "security", 0, 0, 0),
    ApiKey.DESCRIBE_QUORUM: Api("DescribeQuorum", "admin", 0, 2, 0),
    ApiKey.UPDATE_FEATURES: Api("UpdateFeatures", "admin", 0, 2, 0),
    ApiKey.DESCRIBE_CLUSTER: Api("DescribeCluster", "metadata", 0, 2, 0),
    ApiKey.UNREGISTER_BROKER: Api("UnregisterBroker", "admin", 0, 0, 0),
    ApiKey.DESCRIBE_PRODUCERS: Api("DescribeProducers", "transactions", 0, 0, 0),
    ApiKey.DESCRIBE_TRANSACTIONS: Api("DescribeTransactions", "transactions", 0, 0, 0),
    ApiKey.LIST_TRANSACTIONS: Api("ListTransactions", "transactions", 0, 2, 0),
    ApiKey.CONSUMER_GROUP_HEARTBEAT: Api("ConsumerGroupHeartbeat", "consumer_groups", 0, 1, 0),
    ApiKey.CONSUMER_GROUP_DESCRIBE: Api("ConsumerGroupDescribe", "consumer_groups", 0, 1, 0),
    ApiKey.LIST_CONFIG_RESOURCES: Api("ListConfigResources", "configs", 0, 1, 0),
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: Api("DescribeTopicPartitions", "metadata", 0, 0, 0),
    ApiKey.SHARE_GROUP_HEARTBEAT: Api("ShareGroupHeartbeat", "share_groups", 1, 1, 0),
    ApiKey.SHARE_GROUP_DESCRIBE: Api("ShareGroupDescribe", "share_groups", 1, 1, 0),
    ApiKey.SHARE_FETCH: Api("ShareFetch", "share_groups", 1, 2, 0),
    ApiKey.SHARE_ACKNOWLEDGE: Api("ShareAcknowledge", "share_groups", 1, 2, 0),
    ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS: Api("DescribeShareGroupOffsets", "share_groups", 0, 1, 0),
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: Api("AlterShareGroupOffsets", "share_groups", 0, 0, 0),
    ApiKey.DELETE_SHARE_GROUP_OFFSETS: Api("DeleteShareGroupOffsets", "share_groups", 0, 0, 0),
    ApiKey.INTRODUCE: Api("Introduce", "internal", 0, 0, 0),
    ApiKey.WAIT_APPLIED: Api("WaitApplied", "internal", 0, 0, 0),
    ApiKey.COMPACT_LOG: Api("CompactLog", "compaction", 0, 0, 0),
    ApiKey.LIST_DELAYED: Api("ListDelayed", "delays", 0, 0, 0),
}

_classes: dict[str, type] = {}


def request_class(key: int) -> type:
    """The class of an API's request; imports its family. Raises KeyError for an API that is not declared."""
    return _class(key, "Request")


def response_class(key: int) -> type:
    """The class of an API's response; imports its family. Raises KeyError for an API that is not declared."""
    return _class(key, "Response")


def _class(key: int, kind: str) -> type:
    api = APIS[key]
    name = api.name + kind
    if name not in _classes:
        _classes[name] = getattr(import_module(f"kafka_wire.messages.{api.family}"), name)
    return _classes[name]


def is_flexible(key: int, version: int) -> bool:
    """Whether a known version of a declared API has compact lengths and tagged fields."""
    api = APIS.get(key)
    return api is not None and api.flexible <= version <= api.version_max


def request_header_version(key: int, version: int) -> int:
    """2 for a flexible request, else 1. An unknown key or version counts as 1: nobody can read its body anyway."""
    return 2 if is_flexible(key, version) else 1


def response_header_version(key: int, version: int) -> int:
    """1 for a flexible response, else 0; ApiVersions always 0: it is read before versions are agreed (KIP-511)."""
    return 1 if key != ApiKey.API_VERSIONS and is_flexible(key, version) else 0
