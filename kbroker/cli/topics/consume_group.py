"""`kbroker topic consume -g GROUP`: a member of a group, with kafka-python's classic protocol.

Each batch is written, flushed, then committed: a record is committed only when it is out (at least once), or left out
by a filter. CTRL+C or SIGTERM ends it between batches: what was written is committed, the group is left, and the others
need not wait for the session to time out. A second CTRL+C ends it at once.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from kbroker.cli.client.connecting import Connection, consumer
from kbroker.cli.client.presence import Presence
from kbroker.cli.errors import Failed
from kbroker.cli.topics.formats import Output, Shown
from kbroker.cli.topics.reading import POLL_MS, Matches, Start, Topics, limited, polled, shown, write_record

COMMIT_TIMEOUT_MS = 5_000
LAST_COMMIT_S = 30.0
METADATA_AGE_MS = 10_000  # how soon a new topic that matches is noticed
REASSIGNED = (22, 25, 27, 82)  # ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS, FENCED_INSTANCE_ID


def consume_as_member(
    connection: Connection,
    group: str,
    topics: Topics,
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
        presence = Presence()
        settings = {"group_id": group, "auto_offset_reset": reset, "isolation_level": isolation}
        with consumer(connection, presence, **settings, metadata_max_age_ms=METADATA_AGE_MS) as client:
            there = topics.waited_for(client, presence, interrupted)
            ends = _ends(client, there) if exit_at_end else None
            listener = _joining(client, topics)
            records = _records(client, ends, listener, interrupted, presence)
            write_and_commit(client, limited(records, count, matches), write, presence)
    if interrupted():
        raise KeyboardInterrupt


def write_and_commit(
    client: Any, records: Iterator[tuple[Shown | None, bool]], write: Output | None, presence: Presence
) -> None:
    """Write the records that match; at the end of each batch flush, and commit the offsets after what was read.

    What cannot be committed, as the broker is lost, is committed with the next batch. Raises Failed at the end.
    """
    out = sys.stdout.buffer
    done: dict[tuple[str, int], int] = {}
    for record, matches in records:
        if matches or record is None:
            write_record(out, record, write)
        if record is not None:
            done[record.topic, record.partition] = record.offset + 1
        elif done and not presence.is_lost and _commit(client, done):
            done = {}
    give_up = time.monotonic() + LAST_COMMIT_S
    while done and not _commit(client, done):
        presence.look()
        if time.monotonic() > give_up:
            raise Failed("what was written last could not be committed: the group will read it once more")
        time.sleep(POLL_MS / 1000)


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
    client: Any, ends: Mapping[Any, int] | None, listener: Any, interrupted: Callable[[], bool], presence: Presence
) -> Iterator[Shown | None]:
    """Records as they arrive, and None after each batch; with ends, until all this member has are reached."""
    while not interrupted() and not (ends is not None and listener.joined and _reached(client, ends)):
        for partition, records in polled(client).items():
            for r in records:
                if ends is None or r.offset < ends.get(partition, 0):
                    yield shown(r)
        yield None
        presence.look()


def _reached(client: Any, ends: Mapping[Any, int]) -> bool:
    return all(client.position(partition) >= ends.get(partition, 0) for partition in client.assignment())


def _ends(client: Any, topics: Sequence[str]) -> dict[Any, int]:
    from kafka import TopicPartition

    partitions = [
        TopicPartition(topic, number) for topic in topics for number in sorted(client.partitions_for_topic(topic) or ())
    ]
    return dict(client.end_offsets(partitions))


def _joining(client: Any, topics: Topics) -> Any:
    """Subscribe; returns a listener whose `joined` says whether the group has given this member its share."""
    from kafka import ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
        joined = False

        def on_partitions_revoked(self, revoked: object) -> None:
            self.joined = False

        def on_partitions_assigned(self, assigned: object) -> None:
            self.joined = True

    listener = Listener()
    if topics.pattern is None:
        client.subscribe(list(topics.names), listener=listener)
    else:
        client.subscribe(pattern=f"(?:{topics.pattern.pattern})\\Z", listener=listener)
    return listener


def _commit(client: Any, done: Mapping[tuple[str, int], int]) -> bool:
    """Whether that is settled; False: it may work in a moment."""
    import kafka.errors as errors
    from kafka import TopicPartition
    from kafka.structs import OffsetAndMetadata

    offsets = {TopicPartition(*partition): OffsetAndMetadata(offset, "", -1) for partition, offset in done.items()}
    try:
        client.commit(offsets, timeout_ms=COMMIT_TIMEOUT_MS)
    except errors.KafkaError as error:
        is_reassigned = isinstance(error, errors.CommitFailedError) or getattr(error, "errno", 0) in REASSIGNED
        if not is_reassigned and error.retriable:
            return False
        if not is_reassigned:
            raise
        click.echo("the group was rebalanced before a commit: the last records may be read once more", err=True)
    return True
