"""`kbroker topic consume -g GROUP`: a member of a group, with kafka-python's classic protocol.

Each batch is written, flushed, then committed: a record is committed only when it is out (at least once), or left out
by a filter. CTRL+C or SIGTERM ends it between batches: what was written is committed, the group is left, and the others
need not wait for the session to time out. A second CTRL+C ends it at once.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from kbroker.cli.client import Connection, consumer
from kbroker.cli.errors import Failed
from kbroker.cli.topics.formats import Output, Shown
from kbroker.cli.topics.reading import POLL_MS, Matches, Start, limited, write_record

COMMIT_TIMEOUT_MS = 5_000
REASSIGNED = (22, 25, 27, 82)  # ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS, FENCED_INSTANCE_ID


def consume_as_member(
    connection: Connection,
    group: str,
    topics: Sequence[str],
    start: Start,
    write: Output | None,
    count: int | None,
    exit_at_end: bool,
    isolation: str,
    matches: Matches,
) -> None:
    """Read what the group gives this member, and commit it. Raises KeyboardInterrupt when it was told to stop."""
    reset = "earliest" if start.base == "start" else "latest"
    with interruptions() as interrupted:
        with consumer(connection, group_id=group, auto_offset_reset=reset, isolation_level=isolation) as client:
            ends = _ends(client, topics)
            listener = _joining(client, topics)
            records = _records(client, ends if exit_at_end else None, listener, interrupted)
            write_and_commit(client, limited(records, count, matches), write)
    if interrupted():
        raise KeyboardInterrupt


def write_and_commit(client: Any, records: Iterator[tuple[Shown | None, bool]], write: Output | None) -> None:
    """Write the records that match; at the end of each batch flush, and commit the offsets after what was read."""
    out = sys.stdout.buffer
    done: dict[tuple[str, int], int] = {}
    for record, matches in records:
        if matches or record is None:
            write_record(out, record, write)
        if record is not None:
            done[record.topic, record.partition] = record.offset + 1
        elif done:
            _commit(client, done)
            done = {}


@contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into an answer to "were we interrupted?"; the second acts as ever."""
    seen: list[int] = []
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: object) -> None:
        seen.append(number)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(seen)
    finally:
        restore()


def _records(
    client: Any, ends: Mapping[Any, int] | None, listener: Any, interrupted: Callable[[], bool]
) -> Iterator[Shown | None]:
    """Records as they arrive, and None after each batch; with ends, until all this member has are reached."""
    while not interrupted() and not (ends is not None and listener.joined and _reached(client, ends)):
        for partition, records in client.poll(timeout_ms=POLL_MS).items():
            for r in records:
                if ends is None or r.offset < ends.get(partition, 0):
                    yield Shown(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
        yield None


def _reached(client: Any, ends: Mapping[Any, int]) -> bool:
    return all(client.position(partition) >= ends.get(partition, 0) for partition in client.assignment())


def _ends(client: Any, topics: Sequence[str]) -> dict[Any, int]:
    from kafka import TopicPartition

    partitions = []
    for topic in topics:
        known = client.partitions_for_topic(topic)
        if not known:
            raise Failed(f"topic {topic} does not exist")
        partitions += [TopicPartition(topic, number) for number in sorted(known)]
    return dict(client.end_offsets(partitions))


def _joining(client: Any, topics: Sequence[str]) -> Any:
    """Subscribe; returns a listener whose `joined` says whether the group has given this member its share."""
    from kafka import ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
        joined = False

        def on_partitions_revoked(self, revoked: object) -> None:
            self.joined = False

        def on_partitions_assigned(self, assigned: object) -> None:
            self.joined = True

    listener = Listener()
    client.subscribe(list(topics), listener=listener)
    return listener


def _commit(client: Any, done: Mapping[tuple[str, int], int]) -> None:
    import kafka.errors as errors
    from kafka import TopicPartition
    from kafka.structs import OffsetAndMetadata

    offsets = {TopicPartition(*partition): OffsetAndMetadata(offset, "", -1) for partition, offset in done.items()}
    try:
        client.commit(offsets, timeout_ms=COMMIT_TIMEOUT_MS)
    except errors.KafkaError as error:
        if not isinstance(error, errors.CommitFailedError) and getattr(error, "errno", 0) not in REASSIGNED:
            raise
        click.echo("the group was rebalanced before a commit: the last records may be read once more", err=True)
