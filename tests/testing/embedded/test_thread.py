"""A broker in a thread, on real sockets."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from kbroker.config import ConfigError
from kbroker.env import AddressInUse
from kbroker.testing.embedded.portal import BrokerGone
from kbroker.testing.embedded.thread import ThreadBroker
from tests.testing.embedded.tools import read, topics, write

TOPIC = {"t": 1}


@pytest.fixture(scope="module")
def the_broker() -> Iterator[ThreadBroker]:
    """One for the module: another one is behind it in each test."""
    broker = ThreadBroker()
    yield broker
    broker.close()


@pytest.fixture
def broker(the_broker: ThreadBroker) -> ThreadBroker:
    the_broker.renew(topics=TOPIC)
    return the_broker


def breaks(client: socket.socket) -> bool:
    """Whether the connection does; a moment may pass."""
    client.settimeout(10)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def refuses(address: tuple[str, int]) -> bool:
    with socket.socket() as knocking:
        return knocking.connect_ex(address) != 0


def test_what_is_written_is_read(broker: ThreadBroker) -> None:
    write(broker.address, b"a", b"b")
    assert read(broker.address) == [b"a", b"b"]


def test_a_renewed_broker_knows_nothing_and_has_the_same_port(broker: ThreadBroker) -> None:
    address = broker.address
    write(address, b"a")
    broker.renew()
    assert topics(address) == set()
    assert broker.address == address
    broker.renew(topics={"t": 1, "u": 2})
    assert topics(address) == {"t", "u"}
    assert read(address) == []


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_after_its_end_clients_are_refused_and_after_a_start_the_data_is_there(broker: ThreadBroker, end: str) -> None:
    write(broker.address, b"a")
    getattr(broker, end)()
    assert not broker.is_running
    assert refuses(broker.address)
    broker.start()
    assert broker.is_running
    assert read(broker.address) == [b"a"]


def test_each_order_may_be_given_twice(broker: ThreadBroker) -> None:
    for order in (broker.start, broker.pause, broker.resume, broker.stop, broker.kill, broker.start):
        order()
        order()
    assert topics(broker.address) == {"t"}


def test_a_connection_breaks_when_the_broker_is_killed(broker: ThreadBroker) -> None:
    with socket.create_connection(broker.address) as client:
        broker.kill()
        assert breaks(client)


def test_a_paused_broker_accepts_and_does_not_answer(broker: ThreadBroker) -> None:
    broker.pause()
    assert broker.is_running
    written = threading.Thread(target=write, args=(broker.address, b"late"))
    written.start()
    with socket.create_connection(broker.address):
        assert written.is_alive()
    with pytest.raises(BrokerGone, match="paused"):
        broker.call("reset")
    broker.resume()
    written.join(10)
    assert read(broker.address) == [b"late"]


def test_its_port_is_nobody_elses_also_while_it_is_down(broker: ThreadBroker) -> None:
    broker.kill()
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(broker.address)
    broker.start()
    with pytest.raises(AddressInUse, match=f":{broker.address[1]} is in use"):
        ThreadBroker(port=broker.address[1])


def test_a_config_that_is_none_is_refused_and_the_next_broker_starts(broker: ThreadBroker) -> None:
    with pytest.raises(ConfigError, match="did you mean log.retention.ms"):
        broker.renew({"log.retention.m": "1"})
    broker.renew({"num.partitions": "3"}, TOPIC)
    assert topics(broker.address) == {"t"}


def test_its_log_is_kept_apart_from_the_programs(broker: ThreadBroker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    broker.renew()
    with socket.create_connection(broker.address) as client:
        client.sendall(b"\xff" * 8)
        assert breaks(client)
    assert any("closing the connection" in line for line in broker.log_lines())
    logging.getLogger("kbroker.app").warning("of the program")
    assert [record.getMessage() for record in caplog.records] == ["of the program"]


def test_one_may_be_closed_twice_and_leaves_no_thread(broker: ThreadBroker) -> None:
    before = threading.active_count()
    other = ThreadBroker()
    other.close()
    other.close()
    assert threading.active_count() == before
    assert not other.is_running
    assert refuses(other.address)
    assert broker.is_running


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_keeps_no_connection_open_and_cannot_steer(broker: ThreadBroker) -> None:
    with socket.create_connection(broker.address) as client:
        topics(broker.address)  # the connection before it has been accepted, too
        (done, told), (never, end) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            try:
                broker.call("reset")
            except BrokerGone as error:
                os.write(told, str(error).encode())
            os.close(told)
            os.read(never, 1)  # lives until it is killed
        os.close(told)
        try:
            assert f"runs in process {os.getpid()}" in os.read(done, 1000).decode()
            broker.kill()
            assert breaks(client)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            for descriptor in (done, never, end):
                os.close(descriptor)
