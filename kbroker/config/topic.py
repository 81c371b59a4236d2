"""TopicConfig: the settings of one topic, as values that the log reads without looking anything up."""

from __future__ import annotations

from typing import NamedTuple

from kbroker.config.keys import LONG_MAX


class TopicConfig(NamedTuple):
    """Kafka's topic configs, `.` written as `_`, with Kafka 4.3's defaults. What each means: `topic_keys`."""

    cleanup_policy: str = "delete"
    compression_type: str = "producer"
    compression_gzip_level: int = -1
    compression_lz4_level: int = 9
    compression_zstd_level: int = 3
    delete_retention_ms: int = 86_400_000
    file_delete_delay_ms: int = 60_000
    flush_messages: int = LONG_MAX
    flush_ms: int = LONG_MAX
    follower_replication_throttled_replicas: str = ""
    index_interval_bytes: int = 4096
    kbroker_delay_enable: bool = False
    kbroker_delay_max_ms: int = 2_592_000_000
    kbroker_produce_validate: str = "structure"
    kbroker_produce_validate_compressed: str = "header"
    kbroker_tags_enable: bool = False
    kbroker_view_filter: str = ""
    kbroker_view_lag_ms: int = 0
    kbroker_view_mode: str = "exact"
    kbroker_view_source: str = ""
    kbroker_view_tags: str = ""
    leader_replication_throttled_replicas: str = ""
    local_retention_bytes: int = -2
    local_retention_ms: int = -2
    max_compaction_lag_ms: int = LONG_MAX
    max_message_bytes: int = 1_048_588
    message_timestamp_after_max_ms: int = 3_600_000
    message_timestamp_before_max_ms: int = LONG_MAX
    message_timestamp_type: str = "CreateTime"
    min_cleanable_dirty_ratio: float = 0.5
    min_compaction_lag_ms: int = 0
    min_insync_replicas: int = 1
    preallocate: bool = False
    remote_log_copy_disable: bool = False
    remote_log_delete_on_disable: bool = False
    remote_storage_enable: bool = False
    retention_bytes: int = -1
    retention_ms: int = 604_800_000
    segment_bytes: int = 1_073_741_824
    segment_index_bytes: int = 10_485_760
    segment_jitter_ms: int = 0
    segment_ms: int = 604_800_000
    unclean_leader_election_enable: bool = False

    @property
    def compacts(self) -> bool:
        """Whether old values of a key are removed."""
        return "compact" in self.cleanup_policy

    @property
    def deletes(self) -> bool:
        """Whether old segments are removed by age and size."""
        return "delete" in self.cleanup_policy
