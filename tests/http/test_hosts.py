"""Which names a request may call this server by."""

from __future__ import annotations

import pytest

from kbroker.config import BrokerConfig
from kbroker.http.beside import own_names
from kbroker.http.hosts import Hosts


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:9644", "localhost.", "a.localhost:1", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:9644",
     "10.0.0.7:9644", "[fe80::1]:1", "kafka-1:9644", "KAFKA-1.", "extra.lan"],
)  # fmt: skip
def test_loopback_addresses_and_own_names_are_admitted(host: str) -> None:
    assert Hosts(["Kafka-1", "extra.lan"]).admits(host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:9644", "localhost.evil.example", "127.0.0.1.nip.io", "localhost@evil.example",
     "localhost:x", "localhost:123456", "localhost, evil.example", "[localhost]", "[::1", "::1", "*", "1e100.net",
     "localhost\\@evil"],
)  # fmt: skip
def test_other_names_are_not(host: str) -> None:
    assert not Hosts(["kafka-1", ""]).admits(host)


def test_a_star_admits_all() -> None:
    assert Hosts(["*"]).admits("evil.example")


def test_own_names_are_those_of_the_configuration() -> None:
    config = BrokerConfig().with_values(
        {
            "listeners": "A://0.0.0.0:1,B://b.lan:2",
            "advertised.listeners": "A://kafka:1",
            "listener.security.protocol.map": "A:PLAINTEXT,B:PLAINTEXT",
            "kbroker.http.allowed.hosts": "x.lan, y.lan",
        }
    )
    assert set(own_names(config)) == {"127.0.0.1", "0.0.0.0", "b.lan", "kafka", "x.lan", "y.lan"}
