"""kafka-python 2.0.2 (2020) under the scenarios: kafka-python 3's adapter, where the old library differs.

Its admin client returns raw responses, so errors are read out of them here; it has no idempotence, no isolation level,
no DeleteRecords and no IncrementalAlterConfigs.
"""

from __future__ import annotations

import sys
from typing import Any

try:  # 2.0.2 carries a copy of six that Python 3.12 cannot import; the real one takes its place
    import six.moves

    sys.modules.setdefault("kafka.vendor.six.moves", six.moves)
except ImportError:
    pass

from common import Client, main
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
from kafka_python.runner import KafkaPython, refusals, refuse


class KafkaPython202(KafkaPython):
    shows_markers = True
    delete_records = Client.delete_records
    change_configs = Client.change_configs
    alter_offsets = Client.alter_offsets
    delete_offsets = Client.delete_offsets
    transactor = Client.transactor
    source = Client.source
    transactions = Client.transactions

    def create_topics(
        self, topics: dict[str, int], configs: dict[str, str] | None = None, replication: int = 1
    ) -> None:
        wanted = [NewTopic(name, count, replication, topic_configs=configs or {}) for name, count in topics.items()]
        with refusals():
            self.admin.create_topics(wanted)

    def add_partitions(self, topic: str, total: int) -> None:
        with refusals():
            self.admin.create_partitions({topic: NewPartitions(total)})

    def _describe(self, kind: ConfigResourceType, name: str) -> dict[str, str]:
        with refusals():
            response = self.admin.describe_configs([ConfigResource(kind, name)])[0]
        code, _, _, _, entries = response.resources[0]
        refuse(code)
        return {entry[0]: entry[1] for entry in entries}

    def replace_configs(self, topic: str, configs: dict[str, str]) -> None:
        with refusals():
            response = self.admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
        refuse(response.resources[0][0])

    def producer_settings(self, options: dict[str, Any]) -> dict[str, Any]:
        if options.get("idempotent"):
            raise self.absent("idempotent producer")
        settings = super().producer_settings(options)
        del settings["enable_idempotence"], settings["delivery_timeout_ms"]
        # It gives records up after request_timeout_ms in the queue, whether or not it could send them.
        return {**settings, "retries": 1000, "request_timeout_ms": options.get("patience", 30) * 1000}

    def consumer_settings(self, options: dict[str, Any]) -> dict[str, Any]:
        settings = super().consumer_settings(options)
        if settings.pop("isolation_level") == "read_committed":
            raise self.absent("isolation level")
        return settings

    def member_settings(self, options: dict[str, Any]) -> dict[str, Any]:
        if options.get("instance"):
            raise self.absent("static membership")
        settings = super().member_settings(options)
        del settings["group_instance_id"]
        return settings

    def cooperative(self) -> Any:
        raise self.absent("cooperative rebalancing")

    def groups(self) -> set[str]:
        return {name for name, _ in self.admin.list_consumer_groups()}

    def describe_group(self, group: str) -> dict[str, Any]:
        with refusals():
            found = self.admin.describe_consumer_groups([group])[0]
        return {"state": found.state.upper(), "members": len(found.members)}

    def delete_group(self, group: str) -> None:
        _, error = self.admin.delete_consumer_groups([group])[0]
        refuse(error.errno)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        with refusals():
            found = self.admin.list_consumer_group_offsets(group)
        return {place.partition: mark.offset for place, mark in found.items() if place.topic == topic}


if __name__ == "__main__":
    main(KafkaPython202)
