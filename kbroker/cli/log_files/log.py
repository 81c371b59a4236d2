"""`kbroker log`: look into a broker's files, whether or not it runs; nothing is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kbroker.cli.errors import Failed
from kbroker.cli.lazy import LazyGroup
from kbroker.cli.tables import format_option, json_text, plural, table

if TYPE_CHECKING:
    from kafka_wire.records import BatchHeader, Record
    from kbroker.cli.log_files.segments import Problem
    from kbroker.cli.log_files.small_files import Walked

META = "meta.properties"  # which every broker's directory has
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")

log = LazyGroup(
    name="log",
    help="Look into a broker's log files, without a broker.",
    commands_at={
        "dump": ("kbroker.cli.log_files.log:dump", "Show the batches of a segment file."),
        "verify": ("kbroker.cli.log_files.log:verify", "Check every segment, index and small file below a directory."),
        "ends": ("kbroker.cli.log_files.log:ends", "Tell how far each log of a data directory goes."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--records", is_flag=True, help="The records too, a line each.")
def dump(file: Path, records: bool) -> None:
    """Show the batches of a segment FILE (*.log), a line each. Exit status 1 when one is damaged.

    Of a *.txnindex: the transactions that were aborted; of a *.tags: the numbers of the tags that are where.
    """
    if file.suffix == ".txnindex":
        _dump_aborted(file)
        return
    if file.suffix == ".tags":
        _dump_tags(file)
        return
    from kbroker.cli.log_files.segments import batches, opened
    from kbroker.log.content.inspection import DECOMPRESSED_BYTES_MAX

    damaged = 0
    try:
        with opened(file) as view:
            for position, header, problem in batches(view):
                damaged += bool(problem)
                if header is not None:
                    marker = "" if problem or not header.is_control else _marker(view[position:][: header.size])
                    click.echo(_batch_line(position, header) + marker + (f"  DAMAGED: {problem}" if problem else ""))
                else:
                    click.echo(f"at byte {position}  DAMAGED: {problem}")
                if records and header is not None and not problem:
                    for line in _record_lines(view, position, DECOMPRESSED_BYTES_MAX):
                        click.echo(line)
    except OSError as error:
        raise Failed(f"cannot read {file}: {error.strerror}") from None
    if damaged:
        raise Failed(f"{file}: {plural(damaged, 'damaged batch')}")


@click.command()
@click.argument(
    "directories",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIRECTORY...",
)
def verify(directories: tuple[Path, ...]) -> None:  # fmt: skip
    """Check all files of the logs below each DIRECTORY: CRCs, offsets, every field of every record, timestamps,
    indexes, aborted transactions, tags, producer snapshots, leader epochs, topic ids, checkpoints.

    A DIRECTORY is a broker's data, or one partition's. Nothing is changed. A bad batch is told by its offset with the
    reason; exit status 1 when there is one, or other damage. Beside a running broker, what it is writing just now may
    be passed over.
    """
    from kbroker.cli.log_files.segments import segment_paths

    counts, empty = Counter[str](), list[str]()
    for directory in directories:
        with held(directory) as holder:
            if holder:
                click.echo(f"kbroker: {holder} is writing to {directory}", err=True)
            partitions = segment_paths(directory)
            if not partitions and not _is_data_directory(directory):
                empty.append(str(directory))
            for partition in [each for each in partitions if any(each.glob("*.log.swap"))]:
                text = "compacted segments are taking the place of others; the next start ends that, then check again"
                click.echo(f"kbroker: {partition.relative_to(directory)} is left out: {text}", err=True)
                del partitions[partition]
            for path, problem in _verify_all(directory, partitions, bool(holder), counts):
                counts["problem"] += 1
                click.echo(f"{path.relative_to(directory)}: {problem}")
            counts["partition"] += len(partitions)
    what = ", ".join(plural(counts[name], name) for name in ("partition", "segment", "batch", "byte"))
    if counts["problem"]:
        raise Failed(f"{what}: {plural(counts['problem'], 'problem')}")
    if empty:
        raise Failed(f"there are no segments below {', '.join(empty)}: is that a broker's data?")
    click.echo(f"{what}: no damage")


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@format_option
def ends(directory: Path, style: str) -> None:
    """Tell how far each log in DIRECTORY goes: a broker's data, while the broker is stopped.

    With --format json, what `kbroker coord adopt-logs` takes in place of a directory of another machine.
    """
    from kbroker.cli.log_files.ends import ends_below

    with held(directory) as holder:
        if holder:
            raise Failed(f"{holder} is writing to {directory}: stop it first")
        try:
            found = ends_below(directory)
        except (OSError, ValueError) as error:
            raise Failed(f"{directory} is no broker's data: {error}") from None
    if style == "json":
        click.echo(json_text(found.told()))
        return
    rows = [(name, end.leader_epoch, end.end) for name, end in found.logs]
    click.echo(f"broker {found.broker_id} of cluster {found.cluster_id}")
    click.echo(table(("LOG", "LEADER EPOCH", "END"), rows))


def _is_data_directory(directory: Path) -> bool:
    """Whether a broker, or several of `kbroker start --brokers`, have been here: they may have no topics yet."""
    return any(path.exists() for path in (directory / META, *directory.glob(f"broker-*/{META}")))


def _verify_all(
    directory: Path, partitions: dict[Path, list[Path]], is_growing: bool, counts: Counter[str]
) -> Iterator[tuple[Path, str]]:
    from kbroker.cli.log_files.small_files import check_data_directory, check_partition

    walked = []
    for paths in partitions.values():
        walked.append((yield from _verify_segments(paths, is_growing, counts)))
        yield from check_partition(walked[-1], is_growing=is_growing)
    yield from check_data_directory(directory, walked, is_growing=is_growing)


def _verify_segments(paths: list[Path], is_growing: bool, counts: Counter[str]) -> Generator[Problem, None, Walked]:
    from kbroker.cli.log_files.segments import check_segment
    from kbroker.cli.log_files.small_files import Walked
    from kbroker.cli.log_files.tags import TagsCheck
    from kbroker.cli.log_files.transactions import AbortedIndexCheck, TransactionsCheck

    transactions = TransactionsCheck(int(paths[0].stem))
    due, epochs = 0, list[tuple[int, int]]()
    for path in paths:
        if int(path.stem) < due:
            yield path, f"begins before the end of the segment before it, offset {due}"
        elif 0 < due < int(path.stem):
            yield path, f"offsets {due} to {int(path.stem) - 1} are missing before it"
        grows = is_growing and path is paths[-1]
        try:
            aborted, tags = transactions.segment(path), TagsCheck(path)

            def follow(
                header: BatchHeader, data: memoryview, aborted: AbortedIndexCheck = aborted, tags: TagsCheck = tags
            ) -> Iterator[Problem]:
                yield from aborted.batch(header, data)
                yield from tags.batch(header, data)

            checked = yield from check_segment(path, follow, is_growing=grows)
            yield from aborted.end(checked.next_offset, is_growing=grows)
        except OSError as error:
            yield path, f"cannot be read: {error.strerror}"
            continue
        due = checked.next_offset
        epochs += checked.epochs
        counts.update(segment=1, batch=checked.batches, byte=checked.size)
    return Walked(paths[0].parent, int(paths[0].stem), due, epochs)


@contextmanager
def held(directory: Path) -> Iterator[str]:
    """Keep a broker from starting on the data meanwhile; yields who has it already, "" when nobody."""
    from kbroker.env import DirectoryLocked
    from kbroker.env.features import Features
    from kbroker.env.real_lock import take_lock

    paths = [each / ".lock" for each in (directory, directory.parent) if (each / ".lock").exists()]
    if not paths:
        yield ""
        return
    try:
        lock = take_lock(str(paths[0]), Features.detect())
    except DirectoryLocked as error:
        yield error.holder
        return
    except OSError:  # a volume that is mounted for reading: nobody can write to it
        yield ""
        return
    try:
        yield ""
    finally:
        lock.release()


def _batch_line(position: int, header: BatchHeader) -> str:
    fields = [
        f"offsets {header.base_offset}-{header.last_offset}",
        f"records {header.count}",
        f"position {position}",
        f"size {header.size}",
        f"epoch {header.leader_epoch}",
        f"time {_time(header.max_timestamp)}",
        f"codec {CODECS[header.compression] if header.compression < len(CODECS) else header.compression}",
        f"crc {header.crc}",
    ]
    if header.has_producer:
        fields.append(f"producer {header.producer_id}/{header.producer_epoch} sequence {header.base_sequence}")
    fields += ["transactional"] if header.is_transactional else []
    fields += [_kind(header)] if _kind(header) else []
    fields += ["append-time"] if header.log_append_time else []
    return "  ".join(fields)


def _kind(header: BatchHeader) -> str:
    """What a batch is, if it is not just what somebody sent."""
    from kbroker.log.content.delayed import is_delivery, is_hidden

    if is_hidden(header):
        return "delayed"
    return "control" if header.is_control else "delivery" if is_delivery(header) else ""


def _marker(batch: memoryview) -> str:
    """What a control batch says of a transaction."""
    from kbroker.log.derived.transactions import read_marker

    marker = read_marker(batch)
    if marker is None:
        return ""
    return f"  {'commit' if marker.is_commit else 'abort'}  coordinator epoch {marker.coordinator_epoch}"


def _dump_aborted(file: Path) -> None:
    from kbroker.cli.log_files.transactions import aborted_entries

    try:
        for producer_id, first, last, stable in aborted_entries(file):
            click.echo(f"producer {producer_id}  offsets {first}-{last}  last stable offset {stable}")
    except OSError as error:
        raise Failed(f"cannot read {file}: {error.strerror}") from None


def _dump_tags(file: Path) -> None:
    from kbroker.cli.log_files.tags import lines

    try:
        for line in lines(file):
            click.echo(line)
    except OSError as error:
        raise Failed(f"cannot read {file}: {error.strerror}") from None


def _record_lines(view: memoryview, position: int, max_bytes: int) -> Iterator[str]:
    from kafka_wire.errors import KafkaError
    from kafka_wire.records import read_records

    try:
        for record in read_records(view, position, max_bytes=max_bytes):
            yield _record_line(record)
    except KafkaError as error:
        yield f"  records cannot be read: {error.message}"


def _record_line(record: Record) -> str:
    headers = " ".join(f"{name}={_shown(value)}" for name, value in record.headers)
    line = f"  offset {record.offset}  time {_time(record.timestamp)}  key {_shown(record.key)}"
    return f"{line}  value {_shown(record.value)}" + (f"  headers {headers}" if headers else "")


def _shown(data: bytes | memoryview | None) -> str:
    return "null" if data is None else repr(bytes(data))[1:]


def _time(timestamp_ms: int) -> str:
    if not 0 <= timestamp_ms < 253402300800000:  # -1 none; beyond the year 9999 no calendar helps
        return str(timestamp_ms)
    moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
