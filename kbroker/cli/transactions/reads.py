"""What coordinators know of transactions, and what partitions have open: the two words that ought to agree."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode
from kbroker.cli.client import bridge
from kbroker.cli.cluster.reads import TopicPartition
from kbroker.cli.errors import Failed
from kbroker.cli.groups.reads import patiently

PARTITIONS_AT_ONCE = 500  # in a request, as Kafka's tool
NAMES_AT_ONCE = 500


class Listed(NamedTuple):
    """A transactional id, as its coordinator lists it."""

    name: str
    state: str
    producer_id: int
    coordinator: int


class Described(NamedTuple):
    """A transactional id, as its coordinator describes it. partitions: those that have no marker yet."""

    name: str
    state: str
    producer_id: int
    producer_epoch: int
    timeout_ms: int
    started_ms: int | None  # None: there is no transaction
    partitions: tuple[TopicPartition, ...]
    coordinator: int


class Open(NamedTuple):
    """A transaction that a partition has open."""

    topic: str
    partition: int
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    start_offset: int
    last_ms: int  # of the producer's last record there

    @property
    def place(self) -> TopicPartition:
        """Where."""
        return self.topic, self.partition


class Holder(NamedTuple):
    """The transaction that holds a partition's last stable offset. name None: no coordinator knows it."""

    start_offset: int
    producer_id: int
    name: str | None
    since_ms: int


def listed(
    client: Any,
    *,
    states: Sequence[str] = (),
    producer_ids: Collection[int] = (),
    longer_than_ms: int | None = None,
    pattern: str | None = None,
) -> list[Listed]:
    """Transactional ids of all brokers, by name. Raises Failed where a broker is too old for a filter."""
    from kafka.errors import UnsupportedVersionError

    def ask() -> Any:
        return client.list_transactions(
            state_filters=list(states),
            producer_id_filters=sorted(producer_ids),
            duration_filter_ms=longer_than_ms,
            transactional_id_pattern=pattern,
        )

    _check_known(client, ApiKey.LIST_TRANSACTIONS)
    try:
        found = patiently(client, ask)
    except UnsupportedVersionError as error:
        raise Failed(str(error)) from None
    return sorted(
        Listed(each.transactional_id, _text(each.state), each.producer_id, broker)
        for broker, transactions in found.items()
        for each in transactions
    )


def described(client: Any, names: Iterable[str]) -> dict[str, Described]:
    """Transactional ids by name; those that no coordinator knows are left out."""
    from kafka.errors import BrokerResponseError

    found: dict[str, Described] = {}
    for name in dict.fromkeys(names):  # one by one: kafka-python tells of one error as of all
        try:
            answer = patiently(client, partial(client.describe_transactions, [name]))[name]
        except BrokerResponseError as error:
            if error.errno != ErrorCode.TRANSACTIONAL_ID_NOT_FOUND:
                raise
            continue
        found[name] = Described(
            name,
            _text(answer.state),
            answer.producer_id,
            answer.producer_epoch,
            answer.transaction_timeout_ms,
            answer.transaction_start_time_ms if answer.transaction_start_time_ms >= 0 else None,
            tuple(sorted((place.topic, place.partition) for place in answer.topic_partitions)),
            answer.coordinator_id,
        )
    return found


def open_in(client: Any, partitions: Sequence[TopicPartition]) -> list[Open]:
    """The transactions that partitions have open, in order of their places and first offsets."""
    from kafka import TopicPartition as Key

    _check_known(client, ApiKey.DESCRIBE_PRODUCERS)
    found = []
    for start in range(0, len(partitions), PARTITIONS_AT_ONCE):
        keys = [Key(*place) for place in partitions[start : start + PARTITIONS_AT_ONCE]]
        for place, states in client.describe_producers(keys).items():
            found += [
                Open(
                    place.topic,
                    place.partition,
                    each.producer_id,
                    each.producer_epoch,
                    each.coordinator_epoch,
                    each.current_transaction_start_offset,
                    each.last_timestamp,
                )
                for each in states.active_producers
                if each.current_transaction_start_offset >= 0
            ]
    return sorted(found, key=lambda each: (each.topic, each.partition, each.start_offset))


def abort(client: Any, transaction: Open) -> None:
    """Have a partition write an abort marker.

    The coordinator epoch is the last one that ended a transaction of this producer there, so that a later word of the
    true coordinator still counts (as Kafka's tool does it).
    """
    from kafka import TopicPartition as Key
    from kafka.admin import AbortTransactionSpec

    place = Key(*transaction.place)
    epoch = max(0, transaction.coordinator_epoch)
    client.abort_transaction(
        AbortTransactionSpec(place, transaction.producer_id, transaction.producer_epoch, coordinator_epoch=epoch)
    )


def coordinated(client: Any, transactions: Sequence[Open]) -> dict[int, Described]:
    """What coordinators know of the producers of these transactions, by producer id."""
    producer_ids = sorted({each.producer_id for each in transactions})
    names: list[str] = []
    for start in range(0, len(producer_ids), NAMES_AT_ONCE):
        some = producer_ids[start : start + NAMES_AT_ONCE]
        names += [each.name for each in listed(client, producer_ids=some)]
    return {each.producer_id: each for each in described(client, names).values()}


def hanging(transactions: Iterable[Open], known: Mapping[int, Described]) -> list[Open]:
    """Those that nobody will end: no coordinator has their partition in a transaction of their producer."""
    return [
        each
        for each in transactions
        if each.producer_id not in known or each.place not in known[each.producer_id].partitions
    ]


def find_hanging(client: Any, partitions: Sequence[TopicPartition], older_than_ms: int) -> list[Open]:
    """Hanging transactions of these partitions whose producer has written nothing there for so long.

    Partition and coordinator are asked one after the other: what seems to hang is looked at once more.
    """
    now_ms = time.time() * 1000
    old = [each for each in open_in(client, partitions) if now_ms - each.last_ms > older_than_ms]
    suspects = hanging(old, coordinated(client, old))
    if not suspects:
        return []
    still = set(open_in(client, sorted({each.place for each in suspects})))
    return [each for each in suspects if each in still]


def holders(client: Any, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, Holder]:
    """The open transactions beyond which nobody reads who reads only what is committed, and has read so far.

    positions: where a reader stands. Nothing where the broker does not tell what its partitions have open.
    """
    if not positions or bridge.supported_version(client, ApiKey.DESCRIBE_PRODUCERS) is None:
        return {}
    first: dict[TopicPartition, Open] = {}
    for each in open_in(client, sorted(positions)):
        first.setdefault(each.place, each)
    held = [each for place, each in first.items() if positions[place] <= each.start_offset]
    known = coordinated(client, held) if held else {}
    found = {}
    for each in held:
        of_producer = known.get(each.producer_id)
        name = of_producer.name if of_producer is not None and each.place in of_producer.partitions else None
        started_ms = of_producer.started_ms if of_producer is not None and name is not None else None
        since_ms = each.last_ms if started_ms is None else started_ms
        found[each.place] = Holder(each.start_offset, each.producer_id, name, since_ms)
    return found


def _check_known(client: Any, key: ApiKey) -> None:
    if bridge.supported_version(client, key) is None:
        raise Failed("this broker does not tell of its transactions (KIP-664)")


def _text(state: Any) -> str:
    return str(getattr(state, "value", state))
