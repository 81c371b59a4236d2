"""`kbroker log`: look into a broker's files while it is not there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kbroker.cli.errors import Failed
from kbroker.cli.lazy import LazyGroup
from kbroker.cli.tables import plural

if TYPE_CHECKING:
    from kafka_wire.records import BatchHeader, Record

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")

log = LazyGroup(
    name="log",
    help="Look into a broker's log files, without a broker.",
    commands_at={
        "dump": ("kbroker.cli.log:dump", "Show the batches of a segment file."),
        "verify": ("kbroker.cli.log:verify", "Check every segment and index below a directory."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--records", is_flag=True, help="The records too, a line each.")
def dump(file: Path, records: bool) -> None:
    """Show the batches of a segment FILE (*.log), a line each. Exit status 1 when one is damaged."""
    from kbroker.cli.segments import RECORDS_BYTES_MAX, batches, opened

    damaged = 0
    try:
        with opened(file) as view:
            for position, header, problem in batches(view):
                damaged += bool(problem)
                if header is not None:
                    click.echo(_batch_line(position, header) + (f"  DAMAGED: {problem}" if problem else ""))
                else:
                    click.echo(f"at byte {position}  DAMAGED: {problem}")
                if records and header is not None and not problem:
                    for line in _record_lines(view, position, RECORDS_BYTES_MAX):
                        click.echo(line)
    except OSError as error:
        raise Failed(f"cannot read {file}: {error.strerror}") from None
    if damaged:
        raise Failed(f"{file}: {plural(damaged, 'damaged batch')}")


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def verify(directory: Path) -> None:
    """Check every segment and index below DIRECTORY: CRCs, offsets, records.

    Exit status 1 when something is damaged.
    """
    from kbroker.cli.segments import check_segment, segment_paths

    partitions = segment_paths(directory)
    segments = batches = size = 0
    problems: list[tuple[Path, str]] = []
    for paths in partitions.values():
        due = 0
        for path in paths:
            if int(path.stem) < due:
                problems.append((path, f"begins before the end of the segment before it, offset {due}"))
            try:
                checked = check_segment(path)
            except OSError as error:
                problems.append((path, f"cannot be read: {error.strerror}"))
                continue
            due, segments = checked.next_offset, segments + 1
            batches, size = batches + checked.batches, size + checked.size
            problems += checked.problems
    for path, problem in problems:
        click.echo(f"{path.relative_to(directory)}: {problem}")
    what = ", ".join((plural(len(partitions), "partition"), plural(segments, "segment"), plural(batches, "batch")))
    if problems:
        raise Failed(f"{what}, {plural(size, 'byte')}: {plural(len(problems), 'problem')}")
    click.echo(f"{what}, {plural(size, 'byte')}: no damage")
    if not partitions:
        click.echo(f"kbroker: there are no segments below {directory}", file=sys.stderr)


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
    fields += ["control"] if header.is_control else []
    fields += ["append-time"] if header.log_append_time else []
    return "  ".join(fields)


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
