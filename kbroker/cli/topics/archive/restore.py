"""`kbroker topic import`: the records of a file that `kbroker topic export` wrote, into a topic."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO

import click

from kafka_wire.errors import ErrorCode
from kbroker.cli.client.connecting import Connection, admin, check_code, connection_options
from kbroker.cli.cluster import reads
from kbroker.cli.errors import Failed, reading
from kbroker.cli.names import TOPIC
from kbroker.cli.progress import Progress
from kbroker.cli.tables import bytes_text, plural
from kbroker.cli.times import span
from kbroker.cli.topics import offsets
from kbroker.cli.topics.archive.batches import Packed, split
from kbroker.cli.topics.archive.form import Damaged, Reader
from kbroker.cli.topics.archive.wire import Producer, Topic
from kbroker.cli.topics.overview import POLICY, RETENTION_MS
from kbroker.cli.topics.topic import configs_option, removed_option, replicas_option, topic_configs

NEVER = 1 << 63


@click.command("import")
@click.argument("file", metavar="FILE|-")
@click.argument("name", type=TOPIC, metavar="[TOPIC]", required=False)
@click.option("--create", is_flag=True, help="Create the topic, with the partitions and configs it had.")
@replicas_option("With --create: how many replicas of each partition.")
@configs_option("With --create: set a config beside, or in place of, those it had: retention.ms=-1.")
@removed_option("With --create: leave it out.")
@click.option("--resume", is_flag=True, help="Go on with an import that was broken off: skip what TOPIC has.")
@click.option("--check", is_flag=True, help="Only read FILE, and tell whether it is whole.")
@connection_options
def import_topic(
    connection: Connection,
    file: str,
    name: str | None,
    create: bool,
    replicas: int | None,
    configs: Sequence[str],
    removed: Sequence[str],
    resume: bool,
    check: bool,
) -> None:
    """Append the records of FILE, which `kbroker topic export` wrote, to the topic of the same name, or to TOPIC.

    Each record goes into the partition it was in, in the same order, with key, headers and time. Offsets count on from
    the topic's end; a topic's own log-append times are new.

    \b
      kbroker topic import orders.kbe --create
      kbroker topic import orders.kbe orders-of-yesterday --create
    """
    if (replicas or configs or removed) and not create:
        raise click.UsageError("-r, -c and -d are for the topic that --create makes")
    changes = topic_configs(configs)
    with _input(file) as source:
        reader = Reader(source)
        if check:
            _check(reader, file)
            return
        name = name or reader.topic.topic
        with admin(connection) as client:
            if create:
                had = {key: value for key, value in reader.topic.configs.items() if key not in removed}
                _create(client, name, len(reader.topic.partitions), replicas, {**had, **changes})
            topic = Topic(client, name)
            _check_partitions(topic, reader)
            held = _held(topic) if resume or not create else {}
            if resume:
                _check_resumable(held, reader, name)
            _restore(topic, reader, held if resume else {}, file, resumable=not any(held.values()) or resume)


def _restore(topic: Topic, reader: Reader, skip: Mapping[int, int], file: str, *, resumable: bool) -> None:
    producer = Producer(topic)
    left = dict(skip)
    total = sum(each.end - each.first for each in reader.topic.partitions)
    skipped = sum(skip.values())
    oldest = NEVER
    try:
        with Progress(total, lambda count: plural(count, "record")) as progress:
            for stored in reader.batches():
                oldest = min(oldest, stored.header.max_timestamp)
                for packed in _after(stored.batch, stored.header, left, stored.partition):
                    producer.add(stored.partition, packed)
                progress.at(skipped + sum(producer.written.values()))
            producer.flush()
    except (Exception, KeyboardInterrupt) as error:
        _tell_how_far(topic, producer, file, error, resumable=resumable)
        raise
    done = plural(sum(producer.written.values()), "record")
    there = f", after {skipped} that were there" if skipped else ""
    click.echo(f"imported {done} into {topic.name}{there}")
    _warn_of_retention(topic, oldest)


def _warn_of_retention(topic: Topic, oldest: int) -> None:
    """A topic deletes by the time of its records, not of their import. oldest: the latest time of a batch, ms."""
    told = reads.configs(topic.client, [topic.name], (POLICY, RETENTION_MS)).get(topic.name, {})
    limit_ms = int(told.get(RETENTION_MS, -1))
    if "delete" in told.get(POLICY, "") and limit_ms >= 0 and 0 <= oldest < time.time() * 1000 - limit_ms:
        click.echo(
            f"kbroker: {topic.name} deletes records older than {span(limit_ms)}, and some of these are: "
            f"kbroker topic alter {topic.name} -c retention.ms=-1 keeps them",
            err=True,
        )


def _after(batch: memoryview, header: Any, left: dict[int, int], partition: int) -> Iterator[Packed]:
    """A batch without the records that are there already."""
    there = left.get(partition, 0)
    left[partition] = max(0, there - header.count)
    if there >= header.count:
        return
    yield split(batch, there)[1] if there else Packed(bytearray(batch), header)


def _tell_how_far(topic: Topic, producer: Producer, file: str, error: BaseException, *, resumable: bool) -> None:
    """What was imported before something went wrong: so much is certain."""
    if isinstance(error, Damaged):
        try:
            producer.flush()  # what is whole is imported
        except Failed as second:
            click.echo(f"kbroker: {second.message}", err=True)
    count = sum(producer.written.values())
    where = ", ".join(f"{records} in partition {index}" for index, records in sorted(producer.written.items()))
    text = f"imported {plural(count, 'record')} into {topic.name}" + (f": {where}" if where else "")
    if resumable and file != "-" and not isinstance(error, Damaged):
        text += f"; --resume goes on there, if nobody else writes to {topic.name}"
    click.echo(f"kbroker: {text}", err=True)


def _create(client: Any, name: str, partitions: int, replicas: int | None, configs: Mapping[str, str]) -> None:
    wanted = {"num_partitions": partitions, "replication_factor": replicas or -1, "configs": dict(configs)}
    result = client.create_topics({name: wanted}, raise_errors=False)["topics"][0]
    if result["error_code"] == ErrorCode.TOPIC_ALREADY_EXISTS:
        raise Failed(f"topic {name} exists: without --create, the records are appended to it")
    check_code(result["error_code"], name, result["error_message"])


def _check_partitions(topic: Topic, reader: Reader) -> None:
    wanted = len(reader.topic.partitions)
    if wanted > len(topic.leaders):
        raise Failed(
            f"{topic.name} has {plural(len(topic.leaders), 'partition')}, the export {wanted}: "
            f"kbroker topic alter {topic.name} -p {wanted} adds some, or name another topic and --create"
        )


def _held(topic: Topic) -> dict[int, int]:
    """How many records were ever written to each partition, where nothing but records was."""
    return topic.of_all(lambda leaders: offsets.offsets(topic.client, leaders, offsets.LATEST))


def _check_resumable(held: Mapping[int, int], reader: Reader, name: str) -> None:
    for each in reader.topic.partitions:
        if held.get(each.partition, 0) > each.end - each.first:
            raise Failed(
                f"{name} {each.partition} has {plural(held[each.partition], 'record')}, more than the export: "
                "it is not the beginning of this import"
            )


def _check(reader: Reader, file: str) -> None:
    records = sum(stored.header.count for stored in reader.batches())
    told = reader.topic
    parts = plural(len(told.partitions), "partition")
    click.echo(f"{file}: whole; {plural(records, 'record')} of {told.topic} in {parts}, {bytes_text(reader.position)}")


@contextmanager
def _input(file: str) -> Iterator[BinaryIO]:
    """The file, or standard input. What is wrong with it, or with reading it, ends the command."""
    name = "standard input" if file == "-" else file
    try:
        with reading(name), nullcontext(sys.stdin.buffer) if file == "-" else open(file, "rb") as source:
            yield source
    except Damaged as error:
        raise Failed(f"{name}: {error}") from None
