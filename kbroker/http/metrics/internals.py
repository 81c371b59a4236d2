"""Metrics of kbroker's own: delayed records, views, the scrubber, compaction, the store; and of its process."""

from __future__ import annotations

from collections.abc import Iterator

from kbroker import __version__
from kbroker.api.context import Services
from kbroker.delay.schedule import NEVER
from kbroker.env import Usage
from kbroker.http.metrics import table
from kbroker.http.metrics.text import family, labelled, lines, number, single, singles

PARTITIONS_AT_ONCE = 200
STARTING, RECOVERING, RUNNING, LEAVING = 1, 2, 3, 6  # Kafka's BrokerState


def internals(services: Services, state: int, volume: tuple[int, int] | None) -> Iterator[bytes]:
    """Of the broker itself. state: see BrokerState; volume: bytes free and in all, where the disk tells."""
    identity = __version__, services.image.cluster_id, services.node_id
    yield from family(table.BUILD_INFO, [labelled(table.BUILD_INFO, *identity)], [1])
    yield single(table.BROKER_STATE, state)
    yield single(table.SESSION_VALID, services.registration.is_proven)
    yield from _delayed(services)
    yield from _views(services)
    scrubber, cleaner = services.logs.scrubber, services.logs.cleaner
    free, size = volume or (None, None)
    yield from singles(
        (
            (table.SCRUBBED, scrubber.batches),
            (table.SCRUBBER_BAD, sum(bad.batches for bad in scrubber.bad.values())),
            (table.COMPACTIONS, cleaner.passes),
            (table.COMPACTION_READ, cleaner.bytes_read),
            (table.COMPACTION_WRITTEN, cleaner.bytes_written),
            (table.UNCLEANABLE, sum(left.until is None for left in cleaner.left.values())),
            (table.DISK_FREE, free),
            (table.DISK_SIZE, size),
        )
    )


def _delayed(services: Services) -> Iterator[bytes]:
    labels, pending, due = list[str](), list[int](), list[str]()
    for place, ((topic, index), delayer) in enumerate(services.delays.delayers()):
        if not place % PARTITIONS_AT_ONCE:
            yield b""
        schedule = delayer.schedule
        if not delayer.partition.leading or schedule is None:
            continue
        label = labelled(table.DELAYED, topic, index)
        labels.append(label)
        pending.append(len(schedule))
        if schedule.next_due_ms != NEVER:
            due.append(f"{label} {number(schedule.next_due_ms / 1000)}")
    yield from family(table.DELAYED, labels, pending)
    yield from lines(table.DELAYED_DUE, due)


def _views(services: Services) -> Iterator[bytes]:
    image, rows = services.image, list[str]()
    names = [name for views in image.views.values() for name in views]
    for name in names if image.controller_id == services.node_id else ():
        view = image.topics[name].view
        if view is not None:
            rows.append(f"{labelled(table.VIEW_LAG, name, view.source)} {number(view.lag_ms / 1000)}")
    yield from lines(table.VIEW_LAG, rows)


def process(usage: Usage) -> Iterator[bytes]:
    """Of the process, as far as the system tells."""
    used = (
        (table.CPU, usage.cpu_s),
        (table.RESIDENT, usage.resident_bytes),
        (table.VIRTUAL, usage.virtual_bytes),
        (table.OPEN_FDS, usage.open_fds),
        (table.MAX_FDS, usage.max_fds),
        (table.STARTED, usage.started_s),
        (table.THREADS, usage.threads),
        (table.DISK_READ, usage.read_bytes),
        (table.DISK_WRITTEN, usage.written_bytes),
    )
    yield from singles(used)
    labels = [labelled(table.GC_COLLECTIONS, generation) for generation in range(len(usage.collections))]
    yield from family(table.GC_COLLECTIONS, labels, usage.collections)
