"""confluent-kafka (librdkafka) under the scenarios: one adapter method per call of the library."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import confluent_kafka as ck
from common import Client, Consumer, Message, Record, Refused, Source, Transactor, main
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from members import Member, Place, Pumped

SECONDS_MAX = 20


class ConfluentKafka(Client):
    name = f"confluent-kafka {ck.version()[0] if isinstance(ck.version(), tuple) else ck.version()}"

    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap)
        self.admin = self.new_admin()

    def new_admin(self) -> AdminClient:
        """One that has looked for a group's coordinator before may never find it again after the broker's restart."""
        return AdminClient({"bootstrap.servers": self.bootstrap})

    def cluster(self) -> dict[str, Any]:
        found = wait(self.admin.describe_cluster(request_timeout=SECONDS_MAX))
        return {
            "brokers": [node.id for node in found.nodes],
            "controller": found.controller.id,
            "cluster_id": found.cluster_id,
        }

    def topics(self) -> set[str]:
        return set(self.admin.list_topics(timeout=SECONDS_MAX).topics)

    def partitions(self, topic: str) -> int:
        found = self.admin.describe_topics(ck.TopicCollection([topic]), request_timeout=SECONDS_MAX)
        return len(wait(found[topic]).partitions)

    def create_topics(
        self, topics: dict[str, int], configs: dict[str, str] | None = None, replication: int = 1
    ) -> None:
        wanted = [
            NewTopic(name, num_partitions=count, replication_factor=replication, config=configs or {})
            for name, count in topics.items()
        ]
        wait_all(lambda: self.admin.create_topics(wanted, operation_timeout=SECONDS_MAX))

    def delete_topics(self, topics: list[str]) -> None:
        wait_all(lambda: self.admin.delete_topics(topics, operation_timeout=SECONDS_MAX))

    def add_partitions(self, topic: str, total: int) -> None:
        wait_all(lambda: self.admin.create_partitions([NewPartitions(topic, total)], operation_timeout=SECONDS_MAX))

    def delete_records(self, topic: str, before: dict[int, int]) -> None:
        wanted = [TopicPartition(topic, partition, offset) for partition, offset in before.items()]
        wait_all(lambda: self.admin.delete_records(wanted))

    def configs(self, topic: str) -> dict[str, str]:
        return self._describe(ConfigResource(ResourceType.TOPIC, topic))

    def broker_configs(self, node: int) -> dict[str, str]:
        return self._describe(ConfigResource(ResourceType.BROKER, str(node)))

    def _describe(self, resource: ConfigResource) -> dict[str, str]:
        found = wait(self.admin.describe_configs([resource])[resource])
        return {name: entry.value for name, entry in found.items()}

    def replace_configs(self, topic: str, configs: dict[str, str]) -> None:
        wait_all(lambda: self.admin.alter_configs([ConfigResource(ResourceType.TOPIC, topic, set_config=configs)]))

    def change_configs(self, topic: str, put: dict[str, str], remove: tuple[str, ...] = ()) -> None:
        entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in put.items()]
        entries += [ConfigEntry(k, None, incremental_operation=AlterConfigOpType.DELETE) for k in remove]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        wait_all(lambda: self.admin.incremental_alter_configs([resource]))

    def offset(self, topic: str, partition: int, when: str | int, **options: Any) -> int | None:
        consumer = ck.Consumer(self.consumer_settings(options))
        try:
            if isinstance(when, str):
                at = TopicPartition(topic, partition)
                low, high = consumer.get_watermark_offsets(at, timeout=SECONDS_MAX, cached=False)
                return int(low if when == "earliest" else high)
            found = consumer.offsets_for_times([TopicPartition(topic, partition, when)], timeout=SECONDS_MAX)[0]
            refuse(found.error)
            return None if found.offset < 0 else int(found.offset)
        except ck.KafkaException as error:
            raise refused(error) from error
        finally:
            consumer.close()

    def produce(self, topic: str, messages: Iterable[Message], **options: Any) -> list[int | None]:
        producer = ck.Producer(self.producer_settings(options))
        reports: dict[int, tuple[Any, Any]] = {}
        count = 0
        for message in messages:
            producer.produce(topic, on_delivery=reporter(reports, count), **arguments(message))
            producer.poll(0)
            count += 1
        producer.flush(options.get("patience", 30))
        if len(reports) < count:
            raise Refused("no delivery report", f"for {count - len(reports)} of {count}")
        for error, _ in reports.values():
            refuse(error)
        return [offset_or_none(reports[index][1].offset()) for index in range(count)]

    def producer_settings(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.bootstrap,
            "acks": options.get("acks", "all"),
            "enable.idempotence": options.get("idempotent", False),
            "compression.type": options.get("codec", "none"),
            "linger.ms": options.get("linger_ms", 0),
            "batch.size": options.get("batch_bytes", 1_000_000),
            "max.in.flight": options.get("in_flight", 5),
            "message.max.bytes": options.get("request_bytes_max", 1_000_000),
            "message.timeout.ms": options.get("patience", 30) * 1000,
            "reconnect.backoff.max.ms": 500,
        }

    def consumer(self, topic: str, starts: dict[int, int], **options: Any) -> Consumer:
        return AssignedConsumer(ck.Consumer(self.consumer_settings(options)), topic, starts)

    def consumer_settings(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.bootstrap,
            "group.id": "unused",  # it insists on a name, but does not join while partitions are assigned by hand
            "enable.auto.commit": False,
            "auto.offset.reset": {"none": "error"}.get(options.get("reset", "none"), options.get("reset")),
            "isolation.level": options.get("isolation", "read_uncommitted"),
            "fetch.wait.max.ms": options.get("max_wait_ms", 500),
            "max.partition.fetch.bytes": options.get("partition_bytes", 1048576),
        }

    def member(self, topics: list[str] | str, **options: Any) -> Member:
        return GroupMember(topics, options["commits"], self.member_settings(options))

    def member_settings(self, options: dict[str, Any]) -> dict[str, Any]:
        protocol = options["protocol"]
        settings = {
            **self.consumer_settings(options),
            "group.id": options["group"],
            "group.protocol": protocol,
            "topic.metadata.refresh.interval.ms": 1000,
            "reconnect.backoff.max.ms": 500,
        }
        if protocol == "classic":  # the others are the broker's to set
            settings["session.timeout.ms"] = options.get("session_ms", 10_000)
            settings["heartbeat.interval.ms"] = options.get("heartbeat_ms", 500)
        if options.get("instance"):
            settings["group.instance.id"] = options["instance"]
        if options.get("cooperative"):
            settings["partition.assignment.strategy"] = "cooperative-sticky"
        return settings

    def groups(self) -> set[str]:
        return {group.group_id for group in wait(self.admin.list_consumer_groups()).valid}

    def describe_group(self, group: str) -> dict[str, Any]:
        admin = self.new_admin()
        found = wait(admin.describe_consumer_groups([group])[group])
        return {"state": found.state.name, "members": len(found.members)}

    def delete_group(self, group: str) -> None:
        admin = self.new_admin()
        wait_all(lambda: admin.delete_consumer_groups([group]))

    def committed(self, group: str, topic: str) -> dict[int, int]:
        admin = self.new_admin()
        found = wait(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group])
        return {place.partition: place.offset for place in found.topic_partitions if place.topic == topic}

    def alter_offsets(self, group: str, topic: str, offsets: dict[int, int]) -> None:
        wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, p, o) for p, o in offsets.items()])
        admin = self.new_admin()
        for place in wait(admin.alter_consumer_group_offsets([wanted])[group]).topic_partitions:
            refuse(place.error)

    def transactor(self, identifier: str, **options: Any) -> Transactor:
        return TransactionalProducer(self.producer_settings(options), identifier, options)

    def source(self, topic: str, **options: Any) -> Source:
        return AskedMember(topic, self.member_settings(options))


class TransactionalProducer(Transactor):
    def __init__(self, settings: dict[str, Any], identifier: str, options: dict[str, Any]) -> None:
        self.patience, timeout_ms = options.get("patience", 30), options.get("timeout_ms", 60_000)
        more = {"transactional.id": identifier, "transaction.timeout.ms": timeout_ms, "enable.idempotence": True}
        more["message.timeout.ms"] = min(settings["message.timeout.ms"], timeout_ms)  # it insists
        self.producer = ck.Producer(settings | more)

    def init(self) -> None:
        refusing(self.producer.init_transactions, self.patience)

    def begin(self) -> None:
        refusing(self.producer.begin_transaction)

    def send(self, topic: str, messages: list[Message], wait: bool = True) -> list[int | None]:
        reports: dict[int, tuple[Any, Any]] = {}
        for index, message in enumerate(messages):
            refusing(self.producer.produce, topic, on_delivery=reporter(reports, index), **arguments(message))
            refusing(self.producer.poll, 0)
        if not wait:
            return []
        refusing(self.producer.flush, self.patience)
        for error, _ in reports.values():
            refuse(error)
        return [offset_or_none(reports[index][1].offset()) for index in range(len(messages))]

    def send_offsets(self, offsets: dict[Place, int], group: str, membership: Any = None) -> None:
        marks = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        refusing(self.producer.send_offsets_to_transaction, marks, membership, self.patience)

    def commit(self) -> None:
        refusing(self.producer.commit_transaction, self.patience)

    def abort(self) -> None:
        refusing(self.producer.abort_transaction, self.patience)

    def close(self) -> None:
        self.producer.purge()  # it waits for records of a transaction that is not to be
        refusing(self.producer.close)


class AskedMember(Source):
    def __init__(self, topic: str, settings: dict[str, Any]) -> None:
        self.consumer = ck.Consumer(settings)
        self.consumer.subscribe([topic])

    def poll(self, count: int, wait: float) -> list[Record]:
        first = self.consumer.poll(wait)
        if first is None:
            return []
        refuse(first.error())
        rest = self.consumer.consume(count - 1, timeout=0) if count > 1 else []
        return [record(each) for each in [first, *rest] if each.error() is None]

    def owned(self) -> set[Place]:
        return {(place.topic, place.partition) for place in self.consumer.assignment()}

    def rewind(self) -> None:
        for place in refusing(self.consumer.committed, self.consumer.assignment(), timeout=SECONDS_MAX):
            place.offset = place.offset if place.offset >= 0 else ck.OFFSET_BEGINNING
            refusing(self.consumer.seek, place)

    def membership(self) -> Any:
        return self.consumer.consumer_group_metadata()

    def leave(self) -> None:
        self.consumer.close()


class AssignedConsumer(Consumer):
    def __init__(self, consumer: ck.Consumer, topic: str, starts: dict[int, int]) -> None:
        self.consumer, self.topic = consumer, topic
        consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in starts.items()])

    def seek(self, starts: dict[int, int]) -> None:
        for partition, offset in starts.items():
            self.consumer.seek(TopicPartition(self.topic, partition, offset))

    def take(self, count: int, wait: float) -> list[Record]:
        found: list[Record] = []
        deadline = time.monotonic() + wait
        while len(found) < count and (left := deadline - time.monotonic()) > 0:
            message = self.consumer.poll(left)
            if message is not None:
                refuse(message.error())
                found.append(record(message))
        return found

    def close(self) -> None:
        self.consumer.close()


class GroupMember(Pumped):
    def __init__(self, topics: list[str] | str, commits: bool, settings: dict[str, Any]) -> None:
        self.topics, self.settings = topics, settings
        super().__init__(commits)

    def do_open(self) -> None:
        self.consumer = ck.Consumer(self.settings)
        self.consumer.subscribe(
            [self.topics] if isinstance(self.topics, str) else self.topics,
            on_assign=lambda _, places: self.note_all("assigned", places),
            on_revoke=lambda _, places: self.note_all("revoked", places),
            on_lost=lambda _, places: self.note_all("lost", places),
        )

    def do_poll(self, seconds: float) -> list[tuple[str, int, int]]:
        first = self.consumer.poll(seconds)
        if first is None:
            return []
        refuse(first.error())
        rest = self.consumer.consume(500, timeout=0)
        return [(each.topic(), each.partition(), each.offset()) for each in [first, *rest] if each.error() is None]

    def do_owned(self) -> set[Place]:
        return {(place.topic, place.partition) for place in self.consumer.assignment()}

    def do_commit(self, offsets: dict[Place, int], wait: bool) -> None:
        try:
            marks = [TopicPartition(*place, offset) for place, offset in offsets.items()]
            for place in self.consumer.commit(offsets=marks, asynchronous=not wait) or ():
                refuse(place.error)
        except ck.KafkaException as error:
            raise refused(error) from error

    def do_committed(self, place: Place) -> int | None:
        return offset_or_none(self.consumer.committed([TopicPartition(*place)], timeout=SECONDS_MAX)[0].offset)

    def do_seek(self, place: Place, offset: int) -> None:
        self.consumer.seek(TopicPartition(*place, offset))

    def do_close(self) -> None:
        self.consumer.close()


def record(message: ck.Message) -> Record:
    kind, timestamp = message.timestamp()
    return Record(
        message.partition(),
        message.offset(),
        timestamp,
        kind == ck.TIMESTAMP_LOG_APPEND_TIME,
        message.key(),
        message.value(),
        tuple(message.headers() or ()),
    )


def arguments(message: Message) -> dict[str, Any]:
    """What `Producer.produce` takes; it does not take None for what is left out."""
    wanted = {"value": message.value, "key": message.key, "partition": message.partition}
    wanted |= {"timestamp": message.timestamp, "headers": list(message.headers) or None}
    return {name: value for name, value in wanted.items() if value is not None}


def reporter(reports: dict[int, tuple[Any, Any]], index: int) -> Callable[[Any, Any], None]:
    def report(error: Any, message: Any) -> None:
        reports[index] = (error, message)

    return report


def offset_or_none(offset: int | None) -> int | None:
    return None if offset is None or offset < 0 else offset


def wait(future: Any) -> Any:
    try:
        return future.result(timeout=SECONDS_MAX)
    except TimeoutError as error:
        raise Refused("no end within the client's patience", error) from error
    except ck.KafkaException as error:
        raise refused(error) from error


def wait_all(ask: Callable[[], dict[Any, Any]]) -> None:
    """Carry out an admin call; the first error among its results, or what the client itself refuses to send."""
    try:
        futures = ask()
    except (ValueError, TypeError) as error:
        raise Refused("refused by the client", error) from error
    except ck.KafkaException as error:
        raise refused(error) from error
    for future in futures.values():
        wait(future)


def refusing(call: Callable[..., Any], *given: Any, **named: Any) -> Any:
    try:
        return call(*given, **named)
    except ck.KafkaException as error:
        raise refused(error) from error


def refuse(error: ck.KafkaError | None) -> None:
    if error is not None:
        raise refused(ck.KafkaException(error))


def refused(error: ck.KafkaException) -> Refused:
    """Kafka's code, or librdkafka's own name (it begins with an underscore)."""
    cause = error.args[0]
    return Refused(cause.code() if cause.code() >= 0 else cause.name(), cause.str())


if __name__ == "__main__":
    main(ConfluentKafka)
