"""A broker beside a test, on real sockets: in a thread, and in a process."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kbroker.server.broker import run_broker
from kbroker.testing.embedded import host, process
from kbroker.testing.embedded.backends import Embedded, make_embedded
from kbroker.testing.embedded.portal import BrokerGone, CannotStart
from kbroker.testing.embedded.process import ProcessBroker
from kbroker.testing.embedded.thread import ThreadBroker
from tests.testing.embedded.tools import read, talk, topics, write

TOPIC = {"t": 1}


@pytest.fixture(scope="module", params=["thread", "process"])
def the_broker(request: pytest.FixtureRequest) -> Iterator[Embedded]:
    """One of each kind for the module: another one is behind it in each test."""
    broker = make_embedded(request.param, "127.0.0.1", 0, {})
    yield broker
    broker.close()


@pytest.fixture
def broker(the_broker: Embedded) -> Embedded:
    the_broker.renew(topics=TOPIC)
    return the_broker


@pytest.fixture(scope="module")
def the_thread() -> Iterator[ThreadBroker]:
    broker = ThreadBroker()
    yield broker
    broker.close()


@pytest.fixture
def in_thread(the_thread: ThreadBroker) -> ThreadBroker:
    the_thread.renew(topics=TOPIC)
    return the_thread


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


def test_what_is_written_is_read(broker: Embedded) -> None:
    write(broker.address, b"a", b"b")
    assert read(broker.address) == [b"a", b"b"]


def test_a_renewed_broker_knows_nothing_and_has_the_same_port(broker: Embedded) -> None:
    address = broker.address
    write(address, b"a")
    broker.renew()
    assert topics(address) == {}
    assert broker.address == address
    broker.renew(topics={"t": 1, "u": 2})
    assert topics(address) == {"t": 1, "u": 2}
    assert read(address) == []


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_after_its_end_clients_are_refused_and_after_a_start_the_data_is_there(broker: Embedded, end: str) -> None:
    write(broker.address, b"a")
    getattr(broker, end)()
    assert not broker.is_running
    assert refuses(broker.address)
    broker.start()
    assert broker.is_running
    assert read(broker.address) == [b"a"]


def test_each_order_may_be_given_twice(broker: Embedded) -> None:
    for order in (broker.start, broker.pause, broker.resume, broker.stop, broker.kill, broker.start):
        order()
        order()
    assert topics(broker.address) == {"t": 1}


def test_a_connection_breaks_when_the_broker_is_killed(broker: Embedded) -> None:
    with socket.create_connection(broker.address) as client:
        broker.kill()
        assert breaks(client)


def test_a_paused_broker_accepts_and_does_not_answer(broker: Embedded) -> None:
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


def test_its_port_is_nobody_elses_also_while_it_is_down(broker: Embedded) -> None:
    broker.kill()
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(broker.address)
    broker.start()
    with pytest.raises(CannotStart, match=f":{broker.address[1]} is in use"):
        ThreadBroker(port=broker.address[1])


def test_a_config_that_is_none_is_refused_and_the_next_broker_starts(broker: Embedded) -> None:
    with pytest.raises(CannotStart, match="did you mean log.retention.ms"):
        broker.renew({"log.retention.m": "1"})
    broker.renew({"num.partitions": "3"}, TOPIC)
    assert topics(broker.address) == {"t": 1}


def test_its_log_is_kept_apart_from_the_programs(in_thread: ThreadBroker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    in_thread.renew()
    with socket.create_connection(in_thread.address) as client:
        client.sendall(b"\xff" * 8)
        assert breaks(client)
    assert any("closing the connection" in line for line in in_thread.log_lines())
    logging.getLogger("kbroker.app").warning("of the program")
    assert [record.getMessage() for record in caplog.records] == ["of the program"]


def test_one_may_be_closed_twice_and_leaves_no_thread(in_thread: ThreadBroker) -> None:
    before = threading.active_count()
    other = ThreadBroker()
    other.close()
    other.close()
    assert threading.active_count() == before
    assert not other.is_running
    assert refuses(other.address)
    assert in_thread.is_running


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_keeps_no_connection_open_and_cannot_steer(broker: Embedded) -> None:
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
            assert f"belongs to process {os.getpid()}," in os.read(done, 1000).decode()
            broker.kill()
            assert breaks(client)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            for descriptor in (done, never, end):
                os.close(descriptor)


def test_what_was_prepared_is_as_new_and_has_what_is_asked_for(in_thread: ThreadBroker) -> None:
    in_thread.prepare()
    in_thread.renew()
    assert topics(in_thread.address) == {}
    in_thread.prepare({"num.partitions": "2"})
    in_thread.renew(topics={"u": 1})
    assert topics(in_thread.address) == {"u": 1}
    in_thread.prepare({"num.partitions": "none"})
    with pytest.raises(CannotStart, match="num.partitions"):
        in_thread.renew({"num.partitions": "none"})
    in_thread.renew()


def test_what_was_prepared_is_not_used_where_a_client_that_was_left_over_has_been(in_thread: ThreadBroker) -> None:
    in_thread.kill()
    in_thread.prepare()
    while refuses(in_thread.address):
        pass
    request = MetadataRequest(topics=[MetadataRequestTopic(name="left")], allow_auto_topic_creation=True)
    talk(in_thread.address, lambda client: client.call(request, 12))
    assert topics(in_thread.address) == {"left": 1}
    in_thread.renew()
    assert topics(in_thread.address) == {}


def test_a_broker_that_fails_says_why_and_the_next_one_starts(
    in_thread: ThreadBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail_when_ready(*args: Any, on_ready: Callable[[Any], None], **kwargs: Any) -> None:
        ready = trio.Event()

        def note(told: Any) -> None:
            on_ready(told)
            ready.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(run_broker, *args, on_ready=note, **kwargs))
            await ready.wait()
            raise AssertionError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(host, "run_broker", fail_when_ready)
        in_thread.renew()
        assert wait_until(lambda: not in_thread.is_running)
    assert in_thread.failure == "AssertionError: a bug"
    assert refuses(in_thread.address)
    assert any("the broker failed" in line for line in in_thread.log_lines())
    in_thread.renew(topics=TOPIC)
    assert in_thread.failure == ""
    assert topics(in_thread.address) == {"t": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_process_that_dies_says_how_and_the_next_broker_starts() -> None:
    broker = ProcessBroker()
    try:
        os.kill(broker.pid, signal.SIGKILL)
        with pytest.raises(BrokerGone, match="signal 9"):
            while True:
                broker.call("reset")
        assert broker.failure == "its process ended by signal 9"
        assert not broker.is_running
        broker.renew(topics=TOPIC)
        assert broker.failure == ""
        assert topics(broker.address) == {"t": 1}
    finally:
        broker.close()
    assert not Path(broker.directory).exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_process_that_hangs_is_killed_and_the_next_broker_knows_nothing_of_tests_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "SAVE_S", 0.1)
    monkeypatch.setattr(process, "GRACE_S", 0.1)
    broker = ProcessBroker()
    try:
        broker.call("advance", 3_600_000)
        broker.kill()  # in the test before
        broker.renew()
        os.kill(broker.pid, signal.SIGSTOP)  # by nobody that the broker knows of
        broker.kill()
        broker.start()
        assert broker.call("now_ms") < (time.time() + 60) * 1000
    finally:
        broker.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("is_paused", [False, True])
def test_when_its_parent_is_killed_neither_process_nor_directory_is_left(is_paused: bool) -> None:
    program = f"""if True:
        from kbroker.testing.embedded.process import ProcessBroker
        broker = ProcessBroker()
        if {is_paused}:
            broker.pause()
        print(broker.pid, broker.directory, flush=True)
        input()
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0, text=True
    )
    assert parent.stdout is not None and parent.stdin is not None
    pid, directory = parent.stdout.readline().split()
    parent.kill()
    parent.communicate()
    assert wait_until(lambda: not is_alive(int(pid)) and not Path(directory).exists())


def is_alive(pid: int) -> bool:
    """Whether a process runs that is nobody's child any more; who has ended and is not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    return holds()


def test_what_an_environment_has_every_python_print_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello')\nprint('[]')\nprint('{\"id\": 0}', flush=True)")
    monkeypatch.syspath_prepend(tmp_path)
    broker = ProcessBroker()
    try:
        assert broker.is_running and broker.log_lines()[0].endswith("hello")
    finally:
        broker.close()
