"""`kbroker log dump`: what is in a segment file, or in one of the files beside it, a line for each thing."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kafka_wire.errors import KafkaError
from kafka_wire.records import read_records
from kbroker.cli.errors import Failed, reading
from kbroker.cli.log_files.segments import Found, batches, opened
from kbroker.cli.progress import Progress
from kbroker.cli.tables import bytes_text, format_option, plural
from kbroker.log.content.delayed import is_delivery, is_hidden
from kbroker.log.content.inspection import DECOMPRESSED_BYTES_MAX
from kbroker.log.derived.transactions import Marker, read_marker

if TYPE_CHECKING:
    from kafka_wire.records import BatchHeader, Record

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--records", is_flag=True, help="The records too, a line each.")
@format_option
def dump(file: Path, records: bool, style: str) -> None:
    """Show the batches of a segment FILE (*.log), a line each. Exit status 1 when one is damaged.

    Of a *.txnindex, the transactions that were aborted; of a *.tags, which batches have which tags, by number. With
    --format json each line is an object; records are in that of their batch.
    """
    if file.suffix == ".txnindex":
        from kbroker.cli.log_files.transactions import aborted_entries

        names = ("producer_id", "first_offset", "last_offset", "last_stable_offset")
        _rows(file, (dict(zip(names, each, strict=True)) for each in aborted_entries(file)), _ABORTED, style)
    elif file.suffix == ".tags":
        from kbroker.cli.log_files.tags import stretches

        _rows(file, stretches(file), _STRETCH, style)
    else:
        _dump_segment(file, with_records=records, is_json=style == "json")


_ABORTED = "producer {producer_id}  offsets {first_offset}-{last_offset}  last stable offset {last_stable_offset}"
_STRETCH = "offsets {first_offset}-{last_offset}  position {position}  size {size}  tags {said}"


def _rows(file: Path, rows: Iterator[dict[str, Any]], text: str, style: str) -> None:
    with reading(file):
        for row in rows:
            said = row.pop("said", "")
            click.echo(json.dumps(row) if style == "json" else text.format(**row, said=said))


def _dump_segment(file: Path, *, with_records: bool, is_json: bool) -> None:
    damaged = 0
    tell = _as_json if is_json else _as_text
    with reading(file), opened(file) as view:
        total = None if sys.stdout.isatty() else len(view)  # at a terminal the lines tell how far it is
        with Progress(total, bytes_text) as progress:
            for found in batches(view):
                damaged += bool(found.problem)
                for line in tell(view, found, with_records=with_records):
                    click.echo(line)
                if total is not None:
                    progress.at(found.position)
    if damaged:
        raise Failed(f"{file}: {plural(damaged, 'damaged batch')}")


# for people ----------------------------------------------------------------------------------------------------------


def _as_text(view: memoryview, found: Found, *, with_records: bool) -> Iterator[str]:
    position, header, problem = found
    if header is None:
        yield f"at byte {position}  DAMAGED: {problem}"
        return
    marker = None if problem else _marker(view, found)
    said = (
        f"  {'commit' if marker.is_commit else 'abort'}  coordinator epoch {marker.coordinator_epoch}" if marker else ""
    )
    yield _batch_line(position, header) + said + (f"  DAMAGED: {problem}" if problem else "")
    if with_records and not problem:
        yield from _record_lines(view, position)


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
    if is_hidden(header):
        return "delayed"
    return "control" if header.is_control else "delivery" if is_delivery(header) else ""


def _marker(view: memoryview, found: Found) -> Marker | None:
    """What a control batch says of a transaction."""
    if found.header is None or not found.header.is_control:
        return None
    return read_marker(view[found.position : found.position + found.header.size])


def _record_lines(view: memoryview, position: int) -> Iterator[str]:
    try:
        for record in read_records(view, position, max_bytes=DECOMPRESSED_BYTES_MAX):
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


# for programs --------------------------------------------------------------------------------------------------------


def _as_json(view: memoryview, found: Found, *, with_records: bool) -> Iterator[str]:
    position, header, problem = found
    told: dict[str, Any] = {"position": position, "problem": problem or None}
    if header is not None:
        told |= _batch_fields(header)
        marker = None if problem else _marker(view, found)
        if marker is not None:
            told |= {"marker": "COMMIT" if marker.is_commit else "ABORT", "coordinator_epoch": marker.coordinator_epoch}
        if with_records and not problem:
            told |= _records_field(view, position)
    yield json.dumps(told, ensure_ascii=False)


def _batch_fields(header: BatchHeader) -> dict[str, Any]:
    return {
        "base_offset": header.base_offset,
        "last_offset": header.last_offset,
        "count": header.count,
        "size": header.size,
        "partition_leader_epoch": header.leader_epoch,
        "max_timestamp": header.max_timestamp,
        "compression": CODECS[header.compression] if header.compression < len(CODECS) else header.compression,
        "crc": header.crc,
        "producer_id": header.producer_id,
        "producer_epoch": header.producer_epoch,
        "base_sequence": header.base_sequence,
        "is_transactional": header.is_transactional,
        "is_log_append_time": header.log_append_time,
        "kind": _kind(header) or "records",
    }


def _records_field(view: memoryview, position: int) -> dict[str, Any]:
    try:
        records = list(read_records(view, position, max_bytes=DECOMPRESSED_BYTES_MAX))
    except KafkaError as error:
        return {"records": None, "problem": f"records cannot be read: {error.message}"}
    return {"records": [_record_fields(record) for record in records]}


def _record_fields(record: Record) -> dict[str, Any]:
    return {
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": _bytes_field(record.key),
        "value": _bytes_field(record.value),
        "headers": [[name.encode(errors="replace").decode(), _bytes_field(value)] for name, value in record.headers],
    }


def _bytes_field(data: bytes | None) -> object:
    """As `topic consume -J` writes it."""
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(data or b"").decode()}
