"""Metrics of partitions: their logs, their replicas, and of all the cluster's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from operator import itemgetter

from kbroker.api.context import Services
from kbroker.cluster.image import NO_LEADER, ClusterImage
from kbroker.env import address_text
from kbroker.http.metrics import table
from kbroker.http.metrics.table import Metric
from kbroker.http.metrics.text import family, labelled, lines, single, singles
from kbroker.replication import isr
from kbroker.replication.partition import Partition
from kbroker.turns import Effort

READ_AT_ONCE = 16  # partitions: some 50 us

_ALL = (table.LOG_SIZE, table.LOG_SEGMENTS, table.LOG_START, table.LOG_END, table.UNDER_REPLICATED, table.IN_SYNC_COUNT,
        table.REPLICAS_COUNT, table.UNDER_MIN_ISR, table.AT_MIN_ISR, table.STABLE_LAG)  # fmt: skip
_LED = (table.CURRENT_OFFSET, table.OLDEST_OFFSET)
_LED_OR_OFFLINE = (table.TOPIC_LEADER, table.TOPIC_REPLICAS, table.TOPIC_IN_SYNC, table.TOPIC_PREFERRED,
                   table.TOPIC_UNDER_REPLICATED)  # fmt: skip


class Columns:
    """Samples of several metrics about the same things, gathered row by row."""

    def __init__(self, metrics: tuple[Metric, ...]) -> None:
        self.metrics = metrics
        self.labels: list[str] = []
        self.rows: list[tuple[int, ...]] = []

    def add(self, labels: str, row: tuple[int, ...]) -> None:
        """A row has a value for each metric."""
        self.labels.append(labels)
        self.rows.append(row)

    def pieces(self) -> Iterator[bytes]:
        """Metric by metric."""
        for column, metric in enumerate(self.metrics):
            yield from family(metric, self.labels, map(itemgetter(column), self.rows))


class Held:
    """What is counted over the partitions that are held here."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.all, self.led, self.led_or_offline = Columns(_ALL), Columns(_LED), Columns(_LED_OR_OFFLINE)
        self.leaders = self.under_replicated = self.under_min = self.at_min = self.offline = self.reassigning = 0
        self.producers = 0

    def take(self, partition: Partition) -> None:
        """Read one partition."""
        log, image = partition.log, partition.image
        labels = f'{{topic="{partition.topic}",partition="{partition.index}"}}'
        start, committed = log.start_offset, partition.high_watermark.value
        stable_lag = 0
        if log.producers.transactions.first_unstable < committed:
            stable_lag = committed - log.stable_below(committed)
        self.producers += len(log.producers.by_id)
        self.offline += log.offline is not None
        replicas = in_sync = under = under_min = at_min = 0
        if partition.leading and image is not None:
            replicas, in_sync = len(image.replicas), len(partition.isr)
            under = int(in_sync < replicas)
            least = isr.effective_min(log.config.min_insync_replicas, replicas)
            under_min, at_min = int(in_sync < least), int(in_sync == least)
            self.leaders += 1
            self.under_replicated += under
            self.under_min += under_min
            self.at_min += at_min
            self.reassigning += bool(image.adding or image.removing)
            self.led.add(labels, (committed, start))
            is_preferred = int(image.replicas[0] == self.node_id)
            self.led_or_offline.add(labels, (self.node_id, replicas, in_sync, is_preferred, under))
        self.all.add(
            labels,
            (
                log.size,
                len(log.segments),
                start,
                log.end.value,
                under,
                in_sync,
                replicas,
                under_min,
                at_min,
                stable_lag,
            ),
        )


def partitions(services: Services) -> Iterator[bytes]:
    """Of all partitions held here, and of the cluster's."""
    replicas, held = services.replicas, Held(services.node_id)
    rest = iter(list(replicas.partitions.values()))
    while some := list(islice(rest, READ_AT_ONCE)):
        for partition in some:
            held.take(partition)
        yield b""
    image = services.image
    is_controller = image.controller_id == services.node_id and services.registration.session is not None
    yield from _cluster(image, held.led_or_offline, is_controller)
    for columns in (held.all, held.led, held.led_or_offline):
        yield from columns.pieces()
    updates = replicas.isr_updates
    counted = (
        (table.PARTITION_COUNT, len(held.all.rows)),
        (table.LEADER_COUNT, held.leaders),
        (table.UNDER_REPLICATED_COUNT, held.under_replicated),
        (table.UNDER_MIN_ISR_COUNT, held.under_min),
        (table.AT_MIN_ISR_COUNT, held.at_min),
        (table.OFFLINE_REPLICA_COUNT, held.offline + len(replicas.failures.offline)),
        (table.REASSIGNING_COUNT, held.reassigning),
        (table.PRODUCER_ID_COUNT, held.producers),
        (table.ISR_SHRINKS, updates.shrinks),
        (table.ISR_EXPANDS, updates.expands),
        (table.FAILED_ISR_UPDATES, updates.failures),
        (table.UNCLEAN_ELECTIONS, replicas.unclean_elections),
    )
    yield from singles(counted)
    yield from lines(table.ELECTIONS, [f"_count {replicas.elections}"])


def _cluster(image: ClusterImage, led_or_offline: Columns, is_controller: bool) -> Iterator[bytes]:
    """What the controller tells of the cluster; other brokers say 0, so that sums are right."""
    labels, counts, offline, unpreferred = list[str](), list[int](), 0, 0
    effort = Effort()
    for topic in image.topics.values() if is_controller else ():
        if topic.view is not None:
            continue
        labels.append(labelled(table.TOPIC_PARTITIONS, topic.name))
        counts.append(len(topic.partitions))
        for partition in topic.partitions:
            if effort.spent():
                yield b""
            if partition.leader == NO_LEADER:
                offline += 1
                label = f'{{topic="{topic.name}",partition="{partition.index}"}}'
                led_or_offline.add(label, (NO_LEADER, len(partition.replicas), len(partition.isr), 0, 1))
            elif partition.leader != partition.replicas[0]:
                unpreferred += 1
    fenced = sum(id not in image.brokers for id in image.registrations)
    counted = (
        (table.ACTIVE_CONTROLLER, 1),
        (table.OFFLINE_PARTITIONS, offline),
        (table.GLOBAL_TOPICS, len(counts)),
        (table.GLOBAL_PARTITIONS, sum(counts)),
        (table.PREFERRED_IMBALANCE, unpreferred),
        (table.ACTIVE_BROKERS, len(image.brokers)),
        (table.FENCED_BROKERS, fenced),
    )
    yield from singles((metric, value if is_controller else 0) for metric, value in counted)
    if is_controller:
        yield from family(table.TOPIC_PARTITIONS, labels, counts)
        yield single(table.BROKERS, len(image.brokers))
        addresses = {id: next(iter(each.endpoints.values()), ("", 0)) for id, each in image.brokers.items()}
        infos = [labelled(table.BROKER_INFO, address_text(*address), id) for id, address in addresses.items()]
        yield from family(table.BROKER_INFO, infos, list(addresses))
