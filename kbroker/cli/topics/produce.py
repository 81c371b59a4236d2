"""`kbroker topic produce`: every line of standard input is a record."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import click

from kbroker.cli.client import Connection, admin, connection_options, producer
from kbroker.cli.delays.reads import check_delays
from kbroker.cli.errors import Failed
from kbroker.cli.names import TOPIC
from kbroker.cli.tables import format_option, json_text, plural
from kbroker.cli.times import DurationType, MomentType, moment, span
from kbroker.cli.topics.formats import Input, parse_header

UNDER_WAY_MAX = 10_000  # records sent and not yet acknowledged


@click.command()
@click.argument("topic", type=TOPIC, metavar="TOPIC")
@click.option("-k", "--key", help="The key of every record.")
@click.option(
    "-H", "--header", "headers", metavar="NAME:VALUE", multiple=True, help="A header of every record. Repeatable."
)
@click.option("-p", "--partition", type=click.IntRange(0), help="Where to write.  [default: by key, else spread]")
@click.option(
    "-z",
    "--compression",
    type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]),
    default="none",
    show_default=True,
    help="How batches are compressed.",
)
@click.option(
    "-f",
    "--input-format",
    "pattern",
    default="%v",
    show_default=True,
    help=r"How a line is read: %k key, %v value, %h headers (a=b,c=d), e.g. '%k\t%v'.",
)
@click.option("--delay", type=DurationType(), metavar="DURATION", help="Deliver after so long: 90s, 30m, 2d.")
@click.option("--at", type=MomentType(), metavar="TIME", help="Deliver then: 2026-11-28T18:30, or since the epoch.")
@click.option("-Z", "--tombstone", is_flag=True, help="An empty value is null: in a compacted topic, a deletion.")
@click.option(
    "--acks",
    type=click.Choice(["all", "-1", "1", "0"]),
    default="all",
    show_default=True,
    help="Who must have a record before it counts as written.",
)
@format_option
@connection_options
def produce(
    connection: Connection,
    topic: str,
    key: str | None,
    headers: Sequence[str],
    partition: int | None,
    compression: str,
    pattern: str,
    delay: int | None,
    at: int | None,
    tombstone: bool,
    acks: str,
    style: str,
) -> None:
    """Write the lines of standard input as records to TOPIC.

    \b
      echo hi | kbroker topic produce demo
      kbroker topic produce demo -f '%k:%v' < file
      echo paid? | kbroker topic produce checks -k o-17 --delay 30m
    """
    due = _due(delay, at)
    try:
        line_format = Input(pattern)
        common_headers = [parse_header(text) for text in headers]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    settings: dict[str, Any] = {"acks": "all" if acks == "-1" else acks if acks == "all" else int(acks)}
    if settings["acks"] != "all":
        settings["enable_idempotence"] = False  # it needs acks=all
    if compression != "none":
        settings["compression_type"] = compression
    source = sys.stdin.buffer
    at_terminal = sys.stdin.isatty()
    written = _Written(topic, each=at_terminal and style == "table", due=due.text if due else "")
    if due:
        common_headers.append((due.header, b"%d" % due.ms))
        with admin(connection) as asked:
            check_delays(asked, topic)
    with producer(connection, linger_ms=0 if at_terminal else 5, **settings) as client:
        _check_there(client, topic, partition)
        for line in _lines(source):
            try:
                record = line_format.parse(line)
            except ValueError as error:
                raise click.UsageError(str(error)) from None
            value = None if tombstone and not record.value else record.value
            the_key = key.encode() if key is not None else record.key
            future = client.send(
                topic, value, key=the_key, headers=[*common_headers, *record.headers], partition=partition
            )
            written.add(future)
        client.flush()
        written.finish()
    click.echo(json_text(written.as_json()) if style == "json" else written.as_text())


def _check_there(client: Any, topic: str, partition: int | None) -> None:
    """Failed, unless the topic is there, or was made just now, and has the partition."""
    from kafka.errors import KafkaTimeoutError

    try:
        known = client.partitions_for(topic)
    except KafkaTimeoutError:
        raise Failed(f"topic {topic} does not exist, and the broker does not make it: kbroker topic create") from None
    if partition is not None and partition not in known:
        raise Failed(f"topic {topic} has no partition {partition}: it has 0 to {max(known)}")


class _Due(NamedTuple):
    """When all records are to be delivered, as a header says it."""

    header: str
    ms: int
    text: str


def _due(delay: int | None, at: int | None) -> _Due | None:
    if delay is not None and at is not None:
        raise click.UsageError("--delay and --at are two ways to say one thing: give one of them")
    if delay is not None:
        return _Due("kbroker-deliver-after", delay, f"due in {span(delay)}")
    return None if at is None else _Due("kbroker-deliver-at", at, f"due at {moment(at)}")


class _Written:
    """What was acknowledged: the first and last offset and the number of records, by partition."""

    def __init__(self, topic: str, *, each: bool, due: str) -> None:
        self.topic = topic
        self.due = due  # when all of them are delivered; "": at once
        self.each = each  # at a terminal: tell at once
        self.partitions: dict[int, tuple[int, int, int]] = {}
        self._futures: deque[Any] = deque()

    def add(self, future: Any) -> None:
        self._futures.append(future)
        while self._futures and (self.each or len(self._futures) > UNDER_WAY_MAX or self._futures[0].is_done):
            self._take()

    def finish(self) -> None:
        while self._futures:
            self._take()

    def _take(self) -> None:
        done = self._futures.popleft().get(timeout=60)
        first, last, count = self.partitions.get(done.partition, (done.offset, done.offset, 0))
        self.partitions[done.partition] = (min(first, done.offset), max(last, done.offset), count + 1)
        if self.each:
            click.echo(f"wrote {self.topic} {self._place(done.partition, done.offset, done.offset)}")

    def as_json(self) -> list[dict[str, object]]:
        return [
            {"topic": self.topic, "partition": partition, "first_offset": first, "last_offset": last, "records": count}
            for partition, (first, last, count) in sorted(self.partitions.items())
        ]

    def as_text(self) -> str:
        total = sum(count for _, _, count in self.partitions.values())
        places = [self._place(partition, *ends) for partition, (*ends, _) in sorted(self.partitions.items())]
        return f"wrote {plural(total, 'record')} to {self.topic}" + (f": {'; '.join(places)}" if places else "")

    def _place(self, partition: int, first: int, last: int) -> str:
        if first < 0:  # acks=0: nobody said where; delayed: it has no offset yet
            return f"partition {partition}" + (f", {self.due}" if self.due else "")
        offsets = f"offset {first}" if first == last else f"offsets {first} to {last}"
        return f"partition {partition} {offsets}"


def _lines(source: BinaryIO) -> Any:
    for line in source:
        line = line[:-1] if line.endswith(b"\n") else line
        yield line[:-1] if line.endswith(b"\r") else line
