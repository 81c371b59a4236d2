"""kafka-python 3.x under the scenarios: one adapter method per call of the library."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import kafka
from common import Client, Consumer, Message, Record, Refused, Source, Transactor, main
from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import OffsetAndMetadata
from members import Member, Place, Pumped


class KafkaPython(Client):
    name = f"kafka-python {kafka.__version__}"

    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap)
        self._admin: KafkaAdminClient | None = None

    @property
    def admin(self) -> KafkaAdminClient:
        if self._admin is None:
            self._admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        return self._admin

    def cluster(self) -> dict[str, Any]:
        found = self.admin.describe_cluster()
        brokers = [broker.get("broker_id", broker.get("node_id")) for broker in found["brokers"]]
        return {"brokers": brokers, "controller": found["controller_id"], "cluster_id": found["cluster_id"]}

    def topics(self) -> set[str]:
        return set(self.admin.list_topics())

    def partitions(self, topic: str) -> int:
        found = self.admin.describe_topics([topic])[0]
        refuse(found["error_code"])
        return len(found["partitions"])

    def create_topics(
        self, topics: dict[str, int], configs: dict[str, str] | None = None, replication: int = 1
    ) -> None:
        wanted = {
            name: {"num_partitions": count, "replication_factor": replication, "configs": configs or {}}
            for name, count in topics.items()
        }
        with refusals():
            self.admin.create_topics(wanted)

    def delete_topics(self, topics: list[str]) -> None:
        with refusals():
            self.admin.delete_topics(topics)

    def add_partitions(self, topic: str, total: int) -> None:
        with refusals():
            self.admin.create_partitions({topic: total})

    def delete_records(self, topic: str, before: dict[int, int]) -> None:
        with refusals():
            self.admin.delete_records({TopicPartition(topic, p): offset for p, offset in before.items()})

    def configs(self, topic: str) -> dict[str, str]:
        return self._describe(ConfigResourceType.TOPIC, topic)

    def broker_configs(self, node: int) -> dict[str, str]:
        return self._describe(ConfigResourceType.BROKER, str(node))

    def _describe(self, kind: ConfigResourceType, name: str) -> dict[str, str]:
        found = self.admin.describe_configs([ConfigResource(kind, name)], config_filter="all")
        return {key: entry["value"] for key, entry in found[kind.name.lower()][name].items()}

    def replace_configs(self, topic: str, configs: dict[str, str]) -> None:
        self._alter(topic, configs, incremental=False)

    def change_configs(self, topic: str, put: dict[str, str], remove: tuple[str, ...] = ()) -> None:
        removals = dict.fromkeys(remove, ("DELETE", None))
        self._alter(topic, {**{name: ("SET", value) for name, value in put.items()}, **removals}, incremental=True)

    def _alter(self, topic: str, configs: dict[str, Any], incremental: bool) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs)
        with refusals():
            found = self.admin.alter_configs([resource], raise_on_unknown=False, incremental=incremental)
        result = found["topic"][topic]  # "OK", or such as "[Error 40] InvalidConfigurationError: …"
        if result != "OK":
            refuse(int(result.split("]")[0].removeprefix("[Error")))

    def offset(self, topic: str, partition: int, when: str | int, **options: Any) -> int | None:
        at = TopicPartition(topic, partition)
        consumer = KafkaConsumer(**self.consumer_settings(options))
        try:
            if when == "earliest":
                return int(consumer.beginning_offsets([at])[at])
            if when == "latest":
                return int(consumer.end_offsets([at])[at])
            found = consumer.offsets_for_times({at: when})[at]
            return None if found is None else int(found.offset)
        finally:
            consumer.close()

    def produce(self, topic: str, messages: Iterable[Message], **options: Any) -> list[int | None]:
        with refusals():
            producer = KafkaProducer(**self.producer_settings(options))
            try:
                futures = [self._send(producer, topic, message) for message in messages]
                producer.flush(timeout=options.get("patience", 30))
                return [offset_or_none(future.get(timeout=10).offset) for future in futures]
            finally:
                producer.close(timeout=5)

    def producer_settings(self, options: dict[str, Any]) -> dict[str, Any]:
        codec, level, patience = options.get("codec", "none"), options.get("acks", "all"), options.get("patience", 30)
        return {
            "bootstrap_servers": self.bootstrap,
            "acks": "all" if level == "all" else int(level),
            "enable_idempotence": options.get("idempotent", False),
            "compression_type": None if codec == "none" else codec,
            "linger_ms": options.get("linger_ms", 0),
            "batch_size": options.get("batch_bytes", 16384),
            "max_in_flight_requests_per_connection": options.get("in_flight", 5),
            "max_request_size": options.get("request_bytes_max", 1048576),
            "max_block_ms": patience * 1000,
            "request_timeout_ms": min(patience, 10) * 1000,
            "delivery_timeout_ms": patience * 1000 + 1000,
            "reconnect_backoff_max_ms": 500,
        }

    def _send(self, producer: KafkaProducer, topic: str, message: Message) -> Any:
        if any(value is None for _, value in message.headers):
            raise self.absent("null header values: it takes bytes only")
        return producer.send(
            topic,
            message.value,
            key=message.key,
            partition=message.partition,
            headers=list(message.headers),
            timestamp_ms=message.timestamp,
        )

    def consumer(self, topic: str, starts: dict[int, int], **options: Any) -> Consumer:
        return AssignedConsumer(KafkaConsumer(**self.consumer_settings(options)), topic, starts)

    def consumer_settings(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.bootstrap,
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": options.get("reset", "none"),
            "isolation_level": options.get("isolation", "read_uncommitted"),
            "fetch_max_wait_ms": options.get("max_wait_ms", 500),
            "max_partition_fetch_bytes": options.get("partition_bytes", 1048576),
        }

    def member(self, topics: list[str] | str, **options: Any) -> Member:
        return GroupMember(topics, options["commits"], self.member_settings(options))

    def member_settings(self, options: dict[str, Any]) -> dict[str, Any]:
        if options["protocol"] != "classic":
            raise self.absent("consumer protocol (KIP-848)")
        return {
            **self.consumer_settings(options),
            **({"partition_assignment_strategy": [self.cooperative()]} if options.get("cooperative") else {}),
            "group_id": options["group"],
            "group_instance_id": options.get("instance"),
            "session_timeout_ms": options.get("session_ms", 10_000),
            "heartbeat_interval_ms": options.get("heartbeat_ms", 500),
            "metadata_max_age_ms": 1000,
            "reconnect_backoff_max_ms": 500,
        }

    def cooperative(self) -> Any:
        from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

        return CooperativeStickyAssignor

    def groups(self) -> set[str]:
        return {group["group_id"] for group in self.admin.list_groups()}

    def describe_group(self, group: str) -> dict[str, Any]:
        found = self.admin.describe_groups([group])[group]
        if found["error"]:
            raise Refused(int(found["error"].split("]")[0].removeprefix("[Error")))
        return {"state": found["group_state"].upper(), "members": len(found["members"])}

    def delete_group(self, group: str) -> None:
        result = self.admin.delete_groups([group])[group]
        if result != "OK":
            refuse(getattr(kafka_errors, result).errno)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        with refusals():
            found = self.admin.list_group_offsets({group: None})[group]
        return {place.partition: mark.offset for place, mark in found.items() if place.topic == topic}

    def alter_offsets(self, group: str, topic: str, offsets: dict[int, int]) -> None:
        self._check(self.admin.alter_group_offsets(group, marks({(topic, p): o for p, o in offsets.items()})))

    def delete_offsets(self, group: str, topic: str, partitions: list[int]) -> None:
        with refusals():
            found = self.admin.delete_group_offsets(group, [TopicPartition(topic, p) for p in partitions])
        self._check(found)

    def transactor(self, identifier: str, **options: Any) -> Transactor:
        return TransactionalProducer(self, identifier, options)

    def source(self, topic: str, **options: Any) -> Source:
        return AskedMember(topic, self.member_settings(options))

    def transactions(self) -> dict[str, str]:
        with refusals():
            found = self.admin.list_transactions()
        return {each.transactional_id: each.state.value for listed in found.values() for each in listed}

    def describe_transaction(self, identifier: str) -> dict[str, Any]:
        with refusals():
            found = self.admin.describe_transactions([identifier])[identifier]
        places = [(place.topic, place.partition) for place in found.topic_partitions]
        return {"state": found.state.value, "timeout_ms": found.transaction_timeout_ms, "places": places}

    def open_producers(self, topic: str, partition: int) -> list[int | None]:
        return [offset_or_none(each.current_transaction_start_offset) for each in self._producers(topic, partition)]

    def _producers(self, topic: str, partition: int) -> list[Any]:
        at = TopicPartition(topic, partition)
        with refusals():
            return list(self.admin.describe_producers([at])[at].active_producers)

    def abort_hanging(self, topic: str, partition: int) -> None:
        from kafka.admin import AbortTransactionSpec

        found = next(each for each in self._producers(topic, partition) if each.current_transaction_start_offset >= 0)
        at = TopicPartition(topic, partition)
        spec = AbortTransactionSpec(at, found.producer_id, found.producer_epoch, found.coordinator_epoch)
        with refusals():
            self.admin.abort_transaction(spec)

    def _check(self, results: dict[TopicPartition, Any]) -> None:
        for error in results.values():
            refuse(error.errno)

    def broker_restarted(self) -> None:
        """The admin client's first call afterwards ends in NodeNotReadyError (2.0.2: KafkaConnectionError)."""
        self.close()
        self._admin = None

    def close(self) -> None:
        if self._admin is not None:
            self._admin.close()


class AssignedConsumer(Consumer):
    def __init__(self, consumer: KafkaConsumer, topic: str, starts: dict[int, int]) -> None:
        self.consumer, self.topic = consumer, topic
        consumer.assign([TopicPartition(topic, partition) for partition in starts])
        self.seek(starts)

    def seek(self, starts: dict[int, int]) -> None:
        for partition, offset in starts.items():
            self.consumer.seek(TopicPartition(self.topic, partition), offset)

    def take(self, count: int, wait: float) -> list[Record]:
        found: list[Record] = []
        deadline = time.monotonic() + wait
        with refusals():
            while len(found) < count and (left := deadline - time.monotonic()) > 0:
                polled = self.consumer.poll(timeout_ms=int(left * 1000))
                found.extend(record(each) for batch in polled.values() for each in batch)
        return found

    def close(self) -> None:
        self.consumer.close()


class TransactionalProducer(Transactor):
    def __init__(self, client: KafkaPython, identifier: str, options: dict[str, Any]) -> None:
        self.client = client
        settings = client.producer_settings(options | {"idempotent": True})
        settings |= {"transactional_id": identifier, "transaction_timeout_ms": options.get("timeout_ms", 60_000)}
        self.patience = options.get("patience", 30)
        self.producer = KafkaProducer(**settings)

    def init(self) -> None:
        with refusals():
            self.producer.init_transactions()

    def begin(self) -> None:
        with refusals():
            self.producer.begin_transaction()

    def send(self, topic: str, messages: list[Message], wait: bool = True) -> list[int | None]:
        with refusals():
            futures = [self.client._send(self.producer, topic, message) for message in messages]
            if not wait:
                return []
            self.producer.flush(timeout=self.patience)
            return [offset_or_none(future.get(timeout=10).offset) for future in futures]

    def send_offsets(self, offsets: dict[Place, int], group: str, membership: Any = None) -> None:
        with refusals():
            self.producer.send_offsets_to_transaction(marks(offsets), membership or group)

    def commit(self) -> None:
        with refusals():
            self.producer.commit_transaction()

    def abort(self) -> None:
        with refusals():
            self.producer.abort_transaction()

    def close(self) -> None:
        self.producer.close(timeout=2)


class AskedMember(Source):
    def __init__(self, topic: str, settings: dict[str, Any]) -> None:
        self.consumer = KafkaConsumer(**settings)
        self.consumer.subscribe([topic])

    def poll(self, count: int, wait: float) -> list[Record]:
        with refusals():
            polled = self.consumer.poll(timeout_ms=int(wait * 1000), max_records=count)
        return [record(each) for batch in polled.values() for each in batch]

    def owned(self) -> set[Place]:
        return {(place.topic, place.partition) for place in self.consumer.assignment()}

    def rewind(self) -> None:
        with refusals():
            for place in self.consumer.assignment():
                offset = self.consumer.committed(place)
                if offset is None:
                    self.consumer.seek_to_beginning(place)
                else:
                    self.consumer.seek(place, offset)

    def membership(self) -> Any:
        return self.consumer.group_metadata()

    def leave(self) -> None:
        self.consumer.close()


class GroupMember(Pumped):
    poll_seconds = 1.0  # longer than a rebalance: see FINDINGS.md

    def __init__(self, topics: list[str] | str, commits: bool, settings: dict[str, Any]) -> None:
        self.topics, self.settings = topics, settings
        super().__init__(commits)

    def do_open(self) -> None:
        with refusals():
            self.consumer = KafkaConsumer(**self.settings)
        chosen = {"pattern": self.topics} if isinstance(self.topics, str) else {"topics": self.topics}
        self.consumer.subscribe(**chosen, listener=Noting(self))

    def do_poll(self, seconds: float) -> list[tuple[str, int, int]]:
        with refusals():
            polled = self.consumer.poll(timeout_ms=int(seconds * 1000))
        return [(each.topic, each.partition, each.offset) for batch in polled.values() for each in batch]

    def do_owned(self) -> set[Place]:
        return {(place.topic, place.partition) for place in self.consumer.assignment()}

    def do_commit(self, offsets: dict[Place, int], wait: bool) -> None:
        with refusals():
            (self.consumer.commit if wait else self.consumer.commit_async)(marks(offsets))

    def do_committed(self, place: Place) -> int | None:
        found: int | None = self.consumer.committed(TopicPartition(*place))
        return found

    def do_seek(self, place: Place, offset: int) -> None:
        self.consumer.seek(TopicPartition(*place), offset)

    def do_close(self) -> None:
        self.consumer.close()


class Noting(ConsumerRebalanceListener):
    """Writes the client's rebalance callbacks into the journal."""

    def __init__(self, member: Pumped) -> None:
        self.member = member

    def on_partitions_assigned(self, assigned: Any) -> None:
        self.member.note_all("assigned", assigned)

    def on_partitions_revoked(self, revoked: Any) -> None:
        self.member.note_all("revoked", revoked)

    def on_partitions_lost(self, lost: Any) -> None:
        self.member.note_all("lost", lost)


def marks(offsets: dict[Place, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    rest = ("", -1)[: len(OffsetAndMetadata._fields) - 1]  # 2.0.2 knows no leader epoch
    return {TopicPartition(*place): OffsetAndMetadata(offset, *rest) for place, offset in offsets.items()}


def record(each: Any) -> Record:
    append_time = each.timestamp_type == 1
    return Record(each.partition, each.offset, each.timestamp, append_time, each.key, each.value, tuple(each.headers))


def offset_or_none(offset: int) -> int | None:
    return None if offset < 0 else offset


def refuse(code: int) -> None:
    if code:
        raise Refused(code)


@contextmanager
def refusals() -> Iterator[None]:
    """The library's errors in Kafka's words."""
    try:
        yield
    except kafka_errors.OffsetOutOfRangeError as error:
        raise Refused(1, error) from error
    except ValueError as error:  # it looks at topic names itself
        raise Refused("refused by the client", error) from error
    except kafka_errors.KafkaError as error:
        code = getattr(error, "errno", None)
        raise Refused(code if isinstance(code, int) and code > 0 else type(error).__name__, error) from error


if __name__ == "__main__":
    main(KafkaPython)
