"""`kbroker topic compact`: forces the compaction of a topic's partitions, on their leaders, and shows what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from kafka_wire.api import ApiKey
from kbroker.cli.client.connecting import ANSWER_TIMEOUT_MS, Connection, admin, connection_options, error_text
from kbroker.cli.cluster.reads import NOBODY, TopicPartition
from kbroker.cli.errors import Failed
from kbroker.cli.names import TOPIC
from kbroker.cli.tables import bytes_text, format_option, json_text, table
from kbroker.cli.topics.partitions import check_all, leaders, partition_option

VERSION = 0  # of CompactLog
WAIT_MS = ANSWER_TIMEOUT_MS // 2
HEADINGS = ("PARTITION", "RECORDS", "AFTER", "SIZE", "AFTER", "TOMBSTONES", "SECONDS")


@click.command()
@click.argument("name", type=TOPIC, metavar="TOPIC")
@partition_option
@format_option
@connection_options
def compact(connection: Connection, name: str, numbers: Sequence[int], style: str) -> None:
    """Compact a topic now: of each key the newest value stays.

    Each partition is compacted on its leader, up to its end as of now. What is younger than min.compaction.lag.ms, or
    behind the beginning of a transaction that is open, stays as it is. It goes on when this command is interrupted.
    """
    done, problems = [], dict[TopicPartition, str]()
    with admin(connection) as client:
        for key, leader in leaders(client, (name, tuple(numbers))).items():
            try:
                done.append(_compacted(client, key, leader))
            except Failed as error:
                problems[key] = str(error)
    if style == "json":
        click.echo(json_text(done))
    elif done:
        click.echo(table(HEADINGS, [_row(each) for each in done]))
    check_all(problems)


def _compacted(client: Any, key: TopicPartition, leader: int) -> dict[str, Any]:
    """What became of one partition. Waits for as long as it takes. Raises Failed."""
    from kafka_wire.messages.compaction import CompactLogRequest
    from kbroker.cli.client import bridge

    name, number = key
    if leader == NOBODY:
        raise Failed("no leader at present")
    order = -1
    while True:
        request = CompactLogRequest(topic_name=name, partition_index=number, timeout_ms=WAIT_MS, order_id=order)
        answer = bridge.send(client, leader, request, ApiKey.COMPACT_LOG, VERSION)
        if answer.error_code:
            raise Failed(error_text(answer.error_code, answer.error_message))
        order = answer.order_id
        if order < 0:
            return {
                "partition": number,
                "records_before": answer.records_before,
                "records_after": answer.records_after,
                "bytes_before": answer.bytes_before,
                "bytes_after": answer.bytes_after,
                "tombstones": answer.tombstones,
                "segments_before": answer.segments_before,
                "segments_after": answer.segments_after,
                "seconds": answer.duration_ms / 1000,
                "compacted_to": answer.cleaned_to,
            }


def _row(done: Mapping[str, Any]) -> tuple[object, ...]:
    before, after = (bytes_text(done[name]) for name in ("bytes_before", "bytes_after"))
    seconds = round(done["seconds"], 1)
    return (
        done["partition"], done["records_before"], done["records_after"], before, after, done["tombstones"], seconds
    )  # fmt: skip
