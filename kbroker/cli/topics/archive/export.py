"""`kbroker topic export`: all records of a topic, as of now, into a file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import headers
from kbroker.cli.client.connecting import Connection, admin, connection_options
from kbroker.cli.cluster import reads
from kbroker.cli.errors import Failed
from kbroker.cli.names import TOPIC
from kbroker.cli.progress import Progress
from kbroker.cli.tables import bytes_text, plural
from kbroker.cli.topics import offsets
from kbroker.cli.topics.archive import batches, form
from kbroker.cli.topics.archive.batches import Gatherer
from kbroker.cli.topics.archive.form import Span, Writer
from kbroker.cli.topics.archive.wire import RETRY_S, Topic, fetch
from kbroker.cli.topics.partitions import check_there, partition_option
from kbroker.config import Scope, Source
from kbroker.config.views import VIEW_KEYS


@click.command("export")
@click.argument("name", type=TOPIC, metavar="TOPIC")
@click.argument("file", metavar="FILE|-")
@partition_option
@click.option(
    "--read-uncommitted", is_flag=True, help="What transactions have aborted or not ended yet, too, as if committed."
)
@click.option("-f", "--force", is_flag=True, help="Write over a FILE that exists.")
@connection_options
def export(
    connection: Connection, name: str, file: str, numbers: Sequence[int], read_uncommitted: bool, force: bool
) -> None:
    """Write all records of a topic into FILE, or to standard output: keys, values, headers, times and partitions, with
    the topic's configs.

    It ends where the topic ended when it began. FILE appears when it is whole. `kbroker topic import` reads it.

    \b
      kbroker topic export orders orders.kbe
      kbroker topic export orders - | ssh other kbroker topic import - orders --create
    """
    isolation = offsets.READ_UNCOMMITTED if read_uncommitted else offsets.READ_COMMITTED
    with _output(file, force=force) as out, admin(connection) as client:
        topic = Topic(client, name)
        told = _described(topic, isolation, numbers)
        writer = Writer(out, told)
        with Progress(sum(span.end - span.first for span in told.partitions), _records) as progress:
            done = 0
            for span in told.partitions:
                if not numbers or span.partition in numbers:
                    _export(topic, span, isolation, writer, lambda read, done=done: progress.at(done + read))
                done += span.end - span.first
        writer.finish()
    size = bytes_text(writer.bytes)
    click.echo(f"exported {plural(writer.records, 'record')} of {name}: {size}", err=file == "-")


def _records(count: int) -> str:
    return plural(count, "record")


def _described(topic: Topic, isolation: int, numbers: Sequence[int]) -> form.Topic:
    """What is to be exported: each partition up to its end as of now."""
    check_there(topic.name, numbers, topic.leaders)

    found = topic.of_all(lambda leaders: offsets.ends(topic.client, leaders, isolation))
    spans = tuple(
        Span(index, *(found[index] if not numbers or index in numbers else (0, 0))) for index in sorted(topic.leaders)
    )
    return form.Topic(
        topic.name,
        topic.id.hex(),
        topic.cluster_id,
        int(time.time() * 1000),
        "read_committed" if isolation else "read_uncommitted",
        spans,
        _configs(topic),
    )


def _configs(topic: Topic) -> dict[str, str]:
    """The configs that were set for the topic; of a view not those that make it one."""
    told = topic.patiently(lambda: reads.described_configs(topic.client, Scope.TOPIC, topic.name))
    return {
        each.name: each.value
        for each in told
        if each.config_source == Source.DYNAMIC_TOPIC and each.value is not None and not each.name.startswith(VIEW_KEYS)
    }


def _export(topic: Topic, span: Span, isolation: int, writer: Writer, progress: Any) -> None:
    """One partition: fetch until its end, as it was, is reached."""
    gatherer, place = Gatherer(span.first, span.end), f"{topic.name} {span.partition}"
    position, moved_at = span.first, time.monotonic()
    while position < span.end:
        told = fetch(topic, span.partition, position, isolation)
        if told.error_code == ErrorCode.OFFSET_OUT_OF_RANGE:
            position = gatherer.next_offset = _first_left(topic, span, position)
            continue
        before = position
        for packed, reached in _gathered(told, gatherer, place):
            position = reached
            if packed is not None:
                writer.batch(span.partition, packed)
        if position > before:
            moved_at = time.monotonic()
        elif time.monotonic() > moved_at + RETRY_S:
            raise Failed(
                f"{topic.name} {span.partition}: nothing comes after offset {position}, and {span.end} is its end"
            )
        progress(position - span.first)
    for packed in gatherer.rest():
        _check_size(packed, place)
        writer.batch(span.partition, packed)


def _gathered(told: Any, gatherer: Gatherer, place: str) -> Iterator[tuple[batches.Packed | None, int]]:
    """What an answer makes ready, and the offset that is reached."""
    aborted_ahead = sorted((each.first_offset, each.producer_id) for each in told.aborted_transactions or ())
    aborted: set[int] = set()
    data = told.records
    try:
        for pos, header in headers(data or b""):
            while aborted_ahead and aborted_ahead[0][0] <= header.last_offset:
                aborted.add(aborted_ahead.pop(0)[1])
            if header.magic != batches.MAGIC:
                raise Failed(f"{place}: records of format {header.magic}, of before Kafka 0.11, are not exported")
            if batches.wanted(header, data[pos : pos + header.size], aborted):
                for packed in gatherer.add(data, pos, header):
                    _check_size(packed, place)
                    yield packed, header.next_offset
            yield None, header.next_offset
    except KafkaError as error:
        raise Failed(f"{place}: {error.message}") from None


def _check_size(packed: batches.Packed, place: str) -> None:
    if len(packed.batch) > form.BATCH_BYTES_MAX:
        offset, size = packed.header.base_offset, bytes_text(len(packed.batch))
        raise Failed(f"{place}: the batch at offset {offset} is too large for a file: {size}")


def _first_left(topic: Topic, span: Span, position: int) -> int:
    """Where a partition begins by now, if what was to be read next has been deleted meanwhile. Raises Failed."""
    leaders = {(topic.name, span.partition): topic.leaders[span.partition]}
    found = topic.patiently(lambda: offsets.ends(topic.client, leaders))
    now = found.get((topic.name, span.partition))
    if now is None or now.first <= position:
        raise Failed(f"{topic.name} {span.partition} has changed: offset {position} is no more in it")
    first = min(now.first, span.end)
    click.echo(
        f"kbroker: {topic.name} {span.partition}: offsets {position} to {first - 1} were deleted meanwhile", err=True
    )
    return first


@contextmanager
def _output(file: str, *, force: bool) -> Iterator[BinaryIO]:
    """Where to write. A file is written beside its place, and takes it when all went well; not that of a link, nor of
    a device or a pipe: these are written to."""
    if file == "-":
        if sys.stdout.isatty():
            raise click.UsageError("an export is not for a terminal: name a FILE, or pipe it somewhere")
        yield sys.stdout.buffer
        return
    path = Path(file)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            with open(path, "wb") as out:
                yield out
            return
        if path.exists() and not force:
            raise Failed(f"{file} exists (-f writes over it)")
        with _replacement(Path(os.path.realpath(path))) as out:
            yield out
    except OSError as error:
        raise Failed(f"cannot write {file}: {error.strerror or error}") from None


@contextmanager
def _replacement(path: Path) -> Iterator[BinaryIO]:
    """A file beside a path that takes its place at the end, if that is reached."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
