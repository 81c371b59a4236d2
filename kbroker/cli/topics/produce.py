"""`kbroker topic produce`: every line of standard input is a record; or every file."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import click

from kbroker.cli.client.connecting import Connection, admin, check_advertised, connection_options, error_text, producer
from kbroker.cli.client.presence import Presence
from kbroker.cli.client.quirks import NULL, header
from kbroker.cli.delays.reads import check_delays
from kbroker.cli.errors import Failed
from kbroker.cli.names import TOPIC
from kbroker.cli.numbers import WholeType
from kbroker.cli.progress import Progress
from kbroker.cli.tables import bytes_text, format_option, json_text, plural
from kbroker.cli.times import DurationType, MomentType, moment, span
from kbroker.cli.topics.formats import Input, KeyAndValue, from_json, parse_header, unescaped
from kbroker.cli.topics.given import RECORD_BYTES_MAX, Given, from_files, from_lines, standard_input
from kbroker.cli.topics.partitions import check_there

UNDER_WAY_MAX = 10_000  # records sent and not yet acknowledged
UNDER_WAY_BYTES_MAX = 32 << 20
SILENT_S = 5.0  # a record that is not acknowledged for so long is told of
LOOK_S = 0.2  # how often we see whether the broker is there, while it does not answer
DELIVERY_TIMEOUT_MS = 120_000  # kafka-python's


@click.command()
@click.argument("topic", type=TOPIC, metavar="TOPIC")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("-k", "--key", help="The key of every record.")
@click.option(
    "-H", "--header", "headers", metavar="NAME:VALUE", multiple=True, help="A header for every record. Repeatable."
)
@click.option(
    "-p",
    "--partition",
    type=WholeType(0),
    metavar="N",
    help="The partition to write to.  [default: chosen by the key; without a key, they are spread]",
)
@click.option(
    "-z",
    "--compression",
    type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]),
    default="none",
    show_default=True,
    help="How batches are compressed.",
)
@click.option(
    "-D", "--delimiter", default=r"\n", show_default=True, help=r"What ends a record, e.g. \0; '' for only the end."
)
@click.option(
    "-K", "--key-delimiter", metavar="TEXT", help="What stands between key and value: ':' for lines as key:value."
)
@click.option(
    "-f",
    "--input-format",
    "pattern",
    metavar="FORMAT",
    help=r"How a line is read: %k key, %v value, %h headers (a=b,c=d), %v{hex}; e.g. '%k\t%v'.  [default: %v]",
)
@click.option(
    "-J", "--json", "as_json", is_flag=True, help="Each line is a JSON object, as consume -J and kcat -J write it."
)
@click.option("--same-partition", is_flag=True, help="With -J: into the partition the record says it was in.")
@click.option("--delay", type=DurationType(), metavar="DURATION", help="Deliver after so long: 90s, 30m, 2d.")
@click.option("--at", type=MomentType(), metavar="TIME", help="Deliver then: 2026-11-28T18:30, or since the epoch.")
@click.option("-Z", "--tombstone", is_flag=True, help="An empty value is null: in a compacted topic, a deletion.")
@click.option(
    "--acks",
    type=click.Choice(["all", "-1", "1", "0"]),
    default="all",
    show_default=True,
    help="Who must have a record before it counts as written: all in-sync replicas, the leader (1), nobody (0).",
)
@format_option
@connection_options
def produce(
    connection: Connection,
    topic: str,
    files: Sequence[Path],
    key: str | None,
    headers: Sequence[str],
    partition: int | None,
    compression: str,
    delimiter: str,
    key_delimiter: str | None,
    pattern: str | None,
    as_json: bool,
    same_partition: bool,
    delay: int | None,
    at: int | None,
    tombstone: bool,
    acks: str,
    style: str,
) -> None:
    """Write each line of standard input as a record to TOPIC; or the content of each FILE.

    What was written is told on standard error; with --format json, on standard output.

    \b
      echo hi | kbroker topic produce demo
      kbroker topic produce users -K : < lines-of-key-and-value
      kbroker topic produce photos -k summer *.jpg
      kbroker topic consume demo -e -J | kbroker topic produce copy -J
      echo paid? | kbroker topic produce checks -k o-17 --delay 30m
    """
    due = _due(delay, at)
    if same_partition and (not as_json or partition is not None):
        raise click.UsageError("--same-partition is for -J, without -p")
    try:
        common = [parse_header(text) for text in headers]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if due:
        common.append((due.header, b"%d" % due.ms))
        with admin(connection) as asked:
            check_delays(asked, topic)
    at_terminal = sys.stdin.isatty() and not files
    presence = Presence()
    written = _Written(topic, presence, each=at_terminal and style == "table", due=due.text if due else "")
    given = _given(files, as_json, pattern, key_delimiter, delimiter, written.look)
    to = _Sending(topic, key, common, partition, same_partition, tombstone)
    try:
        with producer(connection, presence, **_settings(acks, compression, at_terminal)) as client:
            to.check(client, connection)
            if written.each:
                click.echo("each line is a record; CTRL+D ends", err=True)
            with Progress(None if at_terminal else _input_bytes(files), bytes_text) as progress:
                for each in given:
                    written.add(each, to.send(client, each))
                    if not at_terminal:  # who types sees what is written
                        progress.at(written.bytes_read, plural(written.count, "record"))
                written.finish()
    except (Failed, KeyboardInterrupt):
        written.take_what_is_there()
        if written.count or written.unknown:
            click.echo(written.as_text(), err=True)
        raise
    click.echo(json_text(written.as_json()) if style == "json" else written.as_text(), err=style != "json")


def _given(
    files: Sequence[Path],
    as_json: bool,
    pattern: str | None,
    key_delimiter: str | None,
    delimiter: str,
    idle: Callable[[], None],
) -> Iterator[Given]:
    """The records there are to write. Raises UsageError."""
    said = {"-J": as_json, "-f": pattern, "-K": key_delimiter, "FILE": files}
    ways = [name for name, is_said in said.items() if is_said]
    if len(ways) > 1:
        raise click.UsageError(f"{' and '.join(ways)} are ways to say what a record is: give one of them")
    try:
        if files:
            return from_files(files)
        end = unescaped(delimiter)
        if as_json:
            return from_lines(standard_input(idle), end, from_json)
        parse = KeyAndValue(unescaped(key_delimiter)).parse if key_delimiter else Input(pattern or "%v").parse
        return from_lines(standard_input(idle), end, parse)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _settings(acks: str, compression: str, at_terminal: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "acks": "all" if acks == "-1" else acks if acks == "all" else int(acks),
        "linger_ms": 0 if at_terminal else 5,
        "max_request_size": RECORD_BYTES_MAX,  # what is too large, the broker says
        "delivery_timeout_ms": DELIVERY_TIMEOUT_MS,
    }
    if settings["acks"] != "all":
        settings["enable_idempotence"] = False  # it needs acks=all
    if compression != "none":
        settings["compression_type"] = compression
    return settings


def _input_bytes(files: Sequence[Path]) -> int | None:
    """How much there is to read; None where nobody knows."""
    with suppress(OSError):
        if files:
            return sum(path.stat().st_size for path in files)
        status = os.fstat(sys.stdin.fileno())
        return status.st_size if stat.S_ISREG(status.st_mode) else None
    return None


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


def _reason(error: Any) -> str:
    if getattr(error, "errno", 0) > 0:
        return error_text(error.errno, ", ".join(map(str, error.args)) or None)
    return str(error)


class _Sending(NamedTuple):
    """What all records have in common, and sending one."""

    topic: str
    key: str | None
    headers: Sequence[tuple[str, bytes]]
    partition: int | None
    same_partition: bool
    tombstone: bool

    def check(self, client: Any, connection: Connection) -> None:
        """Failed, unless the topic is there, or was made just now, and has the partition."""
        from kafka.errors import KafkaTimeoutError

        try:
            known = client.partitions_for(self.topic)
        except KafkaTimeoutError:
            check_advertised(connection)
            raise Failed(f"topic {self.topic} does not exist, and is not made: kbroker topic create") from None
        if self.partition is not None:
            check_there(self.topic, [self.partition], known)

    def send(self, client: Any, given: Given) -> Any:
        """A future. Raises Failed."""
        record = given.record
        key = self.key.encode() if self.key is not None else record.key
        value = None if self.tombstone and not record.value else record.value
        partition = record.partition if self.same_partition else self.partition
        if self.same_partition and partition is not None:
            check_there(self.topic, [partition], client.partitions_for(self.topic), f"{given.place}: ")
        return client.send(
            self.topic,
            NULL if value is None else value,
            key=NULL if key is None else key,
            headers=[header(*each) for each in (*self.headers, *record.headers)],
            partition=partition,
            timestamp_ms=record.timestamp_ms,
        )


class _Written:
    """What was acknowledged: the first and last offset and the number of records, by partition."""

    def __init__(self, topic: str, presence: Presence, *, each: bool, due: str) -> None:
        self.topic = topic
        self.due = due  # when all of them are delivered; "": at once
        self.each = each  # at a terminal: tell at once
        self.partitions: dict[int, tuple[int, int, int]] = {}
        self.count = self.bytes_read = 0
        self.unknown = 0  # were under way when something failed, and may be there
        self._presence = presence
        self._under_way: deque[tuple[str, int, Any]] = deque()  # place, bytes, future
        self._bytes_under_way = 0
        self._is_delay_told = False

    def add(self, given: Given, future: Any) -> None:
        """Sent; waits while too much is under way. Raises Failed, which names the place."""
        self._under_way.append((given.place, given.bytes_read, future))
        self._bytes_under_way += given.bytes_read
        while self._under_way and (self.each or self._is_much() or self._under_way[0][2].is_done):
            self._take()

    def look(self) -> None:
        """While there is nothing to send: what has been acknowledged, and is the broker there? Raises Failed."""
        self._presence.look()
        while self._under_way and self._under_way[0][2].is_done:
            self._take()

    def finish(self) -> None:
        """Wait for all. Raises Failed."""
        while self._under_way:
            self._take()

    def take_what_is_there(self) -> None:
        """After a failure: what was acknowledged all the same. Of the rest kafka-python gives up the answers."""
        for _, _, future in self._under_way:
            if future.is_done and not future.exception:
                self._count(future.value)
            else:
                self.unknown += 1

    def as_json(self) -> list[dict[str, object]]:
        return [
            {"topic": self.topic, "partition": partition, "first_offset": first, "last_offset": last, "records": count}
            for partition, (first, last, count) in sorted(self.partitions.items())
        ]

    def as_text(self) -> str:
        places = [self._place(partition, *ends) for partition, (*ends, _) in sorted(self.partitions.items())]
        text = f"wrote {plural(self.count, 'record')} to {self.topic}" + (f": {'; '.join(places)}" if places else "")
        return text + (f"; {self.unknown} more may be there" if self.unknown else "")

    def _tell_delay(self, place: str) -> None:
        """Once: kafka-python tries again what the broker refuses for now, and is silent about it."""
        if not self._is_delay_told:
            self._is_delay_told = True
            text = (
                f"{place} is not acknowledged yet, trying on; the broker's log and kbroker cluster health may say why"
            )
            click.echo(f"kbroker: {text}", err=True)

    def _is_much(self) -> bool:
        return len(self._under_way) > UNDER_WAY_MAX or self._bytes_under_way > UNDER_WAY_BYTES_MAX

    def _take(self) -> None:
        import kafka.errors as errors

        place, size, future = self._under_way[0]
        since = time.monotonic()
        while not future.is_done:
            with suppress(errors.KafkaError):  # why it failed is told below
                future.get(timeout=LOOK_S)
            self._presence.look()
            if time.monotonic() - since > SILENT_S and not self._presence.is_lost:
                self._tell_delay(place)
        self._under_way.popleft()
        self._bytes_under_way -= size
        self.bytes_read += size
        try:
            done = future.get()
        except errors.KafkaError as error:
            raise Failed(f"{place} was not written: {_reason(error)}") from None
        self._count(done)
        if self.each:
            click.echo(f"wrote {self.topic} {self._place(done.partition, done.offset, done.offset)}", err=True)

    def _count(self, done: Any) -> None:
        self.count += 1
        first, last, count = self.partitions.get(done.partition, (done.offset, done.offset, 0))
        self.partitions[done.partition] = (min(first, done.offset), max(last, done.offset), count + 1)

    def _place(self, partition: int, first: int, last: int) -> str:
        if first < 0:  # acks=0: nobody said where; delayed: it has no offset yet
            return f"partition {partition}" + (f", {self.due}" if self.due else "")
        offsets = f"offset {first}" if first == last else f"offsets {first} to {last}"
        return f"partition {partition} {offsets}"
