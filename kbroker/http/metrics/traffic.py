"""Metrics of traffic: what went through topics, which requests were answered and how fast, connections."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from kafka_wire.api import APIS
from kbroker.api.context import Services
from kbroker.api.tallies import TIMES, Tally
from kbroker.http.metrics import table
from kbroker.http.metrics.text import family, labelled, lines, number, single
from kbroker.replication.traffic import TopicTraffic

FIRST_CLASS, LAST_CLASS = 6, TIMES - 2  # of times that are told apart: 64 us to a minute
TOPICS_AT_ONCE = 64

BY_TOPIC = (
    (table.MESSAGES_IN, "messages_in"),
    (table.BYTES_IN, "bytes_in"),
    (table.BYTES_OUT, "bytes_out"),
    (table.BYTES_REJECTED, "bytes_rejected"),
    (table.PRODUCE_REQUESTS, "produce_requests"),
    (table.FAILED_PRODUCE, "failed_produce_requests"),
    (table.FETCH_REQUESTS, "fetch_requests"),
    (table.FAILED_FETCH, "failed_fetch_requests"),
)


def traffic(services: Services) -> Iterator[bytes]:
    """Of topics, requests and connections."""
    yield from _topics(services)
    yield from _requests(services)
    yield from _connections(services)


def _topics(services: Services) -> Iterator[bytes]:
    counted = services.replicas.traffic
    topics, total = dict(counted.topics), TopicTraffic()
    total.add(counted.rest)
    for place, one in enumerate(topics.values()):
        total.add(one)
        if not place % TOPICS_AT_ONCE:
            yield b""
    labels = ["", *(labelled(table.BYTES_IN, name) for name in topics)]
    each = [total, *topics.values()]
    for metric, name in BY_TOPIC:
        yield from family(metric, labels, [getattr(one, name) for one in each])
    yield single(table.REPLICATION_IN, total.replication_bytes_in)
    yield single(table.REPLICATION_OUT, total.replication_bytes_out)


def _requests(services: Services) -> Iterator[bytes]:
    tallies = sorted(services.tallies.requests.items())
    labels = [labelled(table.REQUESTS, APIS[pair >> 16].name, pair & 0xFFFF) for pair, _ in tallies]
    yield from family(table.REQUESTS, labels, [tally.requests for _, tally in tallies])
    by_api: dict[str, list[Tally]] = {}
    for pair, tally in tallies:
        by_api.setdefault(labelled(table.REQUEST_TIMES, APIS[pair >> 16].name), []).append(tally)
    yield from lines(table.REQUEST_TIMES, _times(by_api))
    yield from lines(table.REQUEST_SECONDS, _classes(by_api))


def _times(by_api: dict[str, list[Tally]]) -> Iterator[str]:
    for label, tallies in by_api.items():
        yield f"_sum{label} {number(sum(each.seconds for each in tallies) * 1000)}"
        yield f"_count{label} {sum(sum(each.times) for each in tallies)}"


def _classes(by_api: dict[str, list[Tally]]) -> Iterator[str]:
    for label, tallies in by_api.items():
        up_to = list(accumulate(sum(column) for column in zip(*(each.times for each in tallies), strict=True)))
        for bits in range(FIRST_CLASS, LAST_CLASS + 1):
            yield f'_bucket{label[:-1]},le="{2**bits / 1e6:g}"}} {up_to[bits]}'
        yield f'_bucket{label[:-1]},le="+Inf"}} {up_to[-1]}'
        yield f"_sum{label} {number(sum(each.seconds for each in tallies))}"
        yield f"_count{label} {up_to[-1]}"


def _connections(services: Services) -> Iterator[bytes]:
    crowds = services.tallies.listeners
    labels = [labelled(table.CONNECTIONS, name) for name in crowds]
    each = list(crowds.values())
    yield from family(table.CONNECTIONS, labels, [one.accepted - one.closed for one in each])
    yield from family(table.CONNECTIONS_MADE, labels, [one.accepted for one in each])
    yield from family(table.CONNECTIONS_CLOSED, labels, [one.closed for one in each])
    yield from family(table.CONNECTIONS_REFUSED, labels, [one.refused for one in each])
