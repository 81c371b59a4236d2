"""`kbroker ping --advertised`: each address that clients are told, and what is wrong with it."""

from __future__ import annotations

import socket
import time

import pytest

from kafka_wire.api import ApiKey
from kafka_wire.messages.metadata import ApiVersion, ApiVersionsResponse, MetadataResponse, MetadataResponseBroker
from kbroker.cli.broker.service import asking
from kbroker.cli.broker.service.asking import Answer
from kbroker.cli.broker.service.reach import check, reach
from kbroker.cli.errors import Unreachable


def answer(cluster_id: str = "one", **brokers: str) -> Answer:
    return Answer("h:1", 1, cluster_id, {int(node[1:]): address for node, address in brokers.items()}, 1, 0.5)


def ask(address: tuple[str, int], until: float) -> Answer:
    """The world: a and ::1 are there; b is another cluster's; there is nothing else."""
    if address[0] in ("a", "::1"):
        return answer("one")
    if address[0] == "b":
        return answer("two")
    raise Unreachable(f"no broker at {address[0]}:{address[1]}: Name or service not known")


def test_what_is_reached_is_said() -> None:
    told = reach(answer(n2="a:9092", n1="[::1]:9092"), 1, ask)
    assert [(each.node, each.problem) for each in told] == [(1, None), (2, None)]
    assert str(told[1]) == "clients are told a:9092 for node 2: reached"
    check(told)


def test_what_is_not_reached_is_said_with_the_reason_and_the_way() -> None:
    told = reach(answer(n1="a:1", n2="kafka:9092", n3="b:2", n4="c"), 1, ask)
    assert [each.problem for each in told] == [
        None,
        "no broker at kafka:9092: Name or service not known",
        "another cluster answers there, two",
        "that is no address",
    ]
    with pytest.raises(Unreachable, match="3 of 4 addresses that clients are told cannot be reached.*--advertise"):
        check(told)


def test_of_no_broker_there_is_nothing_to_say() -> None:
    assert reach(answer(), 1, ask) == []


def test_an_address_of_ipv6_stands_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = ApiVersionsResponse(api_keys=[ApiVersion(api_key=ApiKey.METADATA, min_version=0, max_version=13)])
    brokers = [MetadataResponseBroker(node_id=1, host="::1", port=9092)]
    answers = iter([versions, MetadataResponse(brokers=brokers, cluster_id="one")])
    monkeypatch.setattr(asking, "call", lambda *_: next(answers))
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = asking.ask(server.getsockname(), time.monotonic() + 5)
    assert (found.brokers, found.node) == ({1: "[::1]:9092"}, 1)
    assert reach(found, 1, ask)[0].problem is None
