"""The logic of `compat/faults/`: what is lost, there twice or elsewhere is found; the network does what it is told."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "compat"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "compat" / "faults"))
import checks
import faults
import ledger as ledgers
from network import OPEN, SILENT, Network, Rule

TOLD = [(0, 0), (1, 1), (2, 2)]  # number, offset


@pytest.mark.parametrize(
    "there, wrong",
    [
        ({0: 0, 1: 1, 2: 2}, None),
        ({0: 0, 1: 1, 2: 2, 3: 3}, None),  # not acknowledged, and there
        ({0: 0, 1: 1}, "LOST: t-0: 1, first 2 at 2"),
        ({0: 0, 1: 2}, "LOST: t-0: 1, first 1 at 1"),
        ({0: 0, 1: 1, 2: 2, 3: 2}, "DUPLICATED: t-0: 1, first 2 at [2, 3]"),
        ({0: 0, 1: 2, 2: 1}, "REORDERED: t-0: 1, first 1 behind 2"),
        ({0: 0, 1: 1, 3: 2}, "MOVED: t-0: 1, first 2 from 2 to [3]"),
    ],
    ids=str,
)
def test_what_is_lost_there_twice_or_elsewhere_is_found(there: dict[int, int], wrong: str | None) -> None:
    ledger = ledgers.Ledger("t", 1)
    for number, offset in TOLD:
        ledger.acked(0, number, offset, 10.0)
    found = {0: [(offset, ledgers.value(number, 20)) for offset, number in there.items()]}
    told = ledgers.differences(ledger, found)
    assert wrong in told if wrong else not told


def test_a_reader_that_saw_something_else_or_what_is_gone_says_so() -> None:
    seen = ledgers.Sightings()
    seen.see(0, 0, b"0 ")
    seen.see(0, 0, b"0 ")
    assert seen.missing_from({0: {0: b"0 "}}) == []
    seen.see(0, 1, b"1 ")
    assert seen.missing_from({0: {0: b"0 ", 1: b"2 "}}) == [
        "GONE: partition 0: 1 that were read are not there, first 1"
    ]
    seen.see(0, 1, b"2 ")
    assert len(seen.missing_from({0: {0: b"0 ", 1: b"1 "}})) == 1


def test_the_gap_is_the_longest_of_any_partition_also_when_it_has_not_ended() -> None:
    ledger = ledgers.Ledger("t", 2)
    for at in (10.0, 11.0, 14.0, 14.5):
        ledger.acked(0, int(at), int(at), at)
        ledger.acked(1, int(at), int(at), at)
    assert ledger.gap(10.0, 14.5) == 3.0
    assert ledger.gap(13.0, 15.0) == 1.0
    assert ledger.gap(10.0, 20.0) == 5.5
    assert ledger.flows_since(14.0) and not ledger.flows_since(14.5)
    ledger.acked(0, 20, 20, 20.0)
    assert not ledger.flows_since(14.5)


def batch(base: int, fill: bytes) -> bytes:
    return struct.pack(">qi", base, 60) + fill * 60


PART = checks.wire.Partition("t", 0, 1, 0, (1, 2), (1, 2))


def test_logs_are_compared_by_whole_batches_however_they_are_cut_into_files(tmp_path: Path) -> None:
    batches = [batch(0, b"a"), batch(5, b"b"), batch(9, b"c")]
    for name, files in (("1", [b"".join(batches)]), ("2", [batches[0], batches[1] + batches[2] + b"\0" * 100])):
        (folder := tmp_path / name / "t-0").mkdir(parents=True)
        for number, content in enumerate(files):
            (folder / f"{number:020}.log").write_bytes(content)
    assert [checks.log_of(tmp_path / broker, PART) for broker in ("1", "2")] == [batches] * 2


def test_logs_are_compared_from_where_all_of_them_begin() -> None:
    whole = [batch(0, b"a"), batch(5, b"b"), batch(9, b"c")]
    assert checks.from_the_same_offset({1: whole, 2: whole[1:]}) == {1: whole[1:], 2: whole[1:]}
    assert checks.from_the_same_offset({1: whole, 2: whole[:1]}) == {1: whole, 2: whole[:1]}
    other = [batch(5, b"x"), whole[2]]
    assert checks.told(checks.from_the_same_offset({1: whole, 2: other})).endswith("they part at offset 5")


def test_recovery_points_are_read(tmp_path: Path) -> None:
    (file := tmp_path / "points").write_text("0\n2\nname with-dash 0 17\nt 12 3\n")
    assert faults.recovery_points(file) == {"name with-dash-0": 17, "t-12": 3}
    assert faults.recovery_points(tmp_path / "none") == {}


# the network ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that says what it is told, to each that connects."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                inner, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=say_again, args=(inner,), daemon=True).start()

    def say_again(inner: socket.socket) -> None:
        with closing(inner), suppress(ConnectionResetError):
            while data := inner.recv(1 << 16):
                inner.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()
    server.shutdown(socket.SHUT_RDWR)
    server.close()


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def says_again(connection: socket.socket, words: bytes) -> bool:
    connection.sendall(words)
    connection.settimeout(10)
    return connection.recv(100) == words


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.002)


def is_silent(connection: socket.socket, words: bytes) -> bool:
    """Nothing comes back, for a moment."""
    connection.sendall(words)
    connection.settimeout(0.1)
    try:
        connection.recv(100)
    except TimeoutError:
        return True
    return False


def test_an_open_link_passes_everything_and_the_end(network: Network, echo: tuple[str, int]) -> None:
    with connect(network.open("peer", 1, echo)) as connection:
        connection.sendall(b"x" * 300_000)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as stream:
            assert stream.read() == b"x" * 300_000


def test_what_a_link_has_passed_on_arrives_though_the_connection_is_over(
    network: Network, echo: tuple[str, int]
) -> None:
    with closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)  # so that much of it waits in the network
        connection.settimeout(10)
        connection.connect(("127.0.0.1", network.open("peer", 1, echo)))
        connection.sendall(b"x" * 8_000)
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: not any(network.connections.values()) and bool(network.connections))
        with connection.makefile("rb") as stream:
            assert stream.read() == b"x" * 8_000


@pytest.mark.parametrize("rule", [SILENT, Rule(forth=False), Rule(back=False)], ids=["both", "forth", "back"])
def test_a_silent_link_holds_what_it_is_given_until_it_is_healed(
    network: Network, echo: tuple[str, int], rule: Rule
) -> None:
    with connect(network.open("peer", 1, echo)) as connection:
        assert says_again(connection, b"before")
        network.rule(rule, "peer", target=1)
        assert is_silent(connection, b"held")
        network.heal()
        connection.settimeout(10)
        assert connection.recv(100) == b"held"


def test_a_rule_is_for_those_it_names(network: Network, echo: tuple[str, int]) -> None:
    first, second = network.open("peer", 1, echo), network.open("peer", 2, echo)
    sources: dict[int, int] = {}
    network.owner_of = sources.get
    network.rule(SILENT, "peer", source=3)
    network.rule(SILENT, "peer", target=2)
    with connect(first) as of_client, connect(second) as to_second:
        assert says_again(of_client, b"a client's")
        assert is_silent(to_second, b"to 2")
    network.rule(OPEN, "peer", target=2)
    with connect(second) as to_second:
        assert says_again(to_second, b"to 2")


def test_a_reset_tears_down_what_is_connected_and_nothing_else(network: Network, echo: tuple[str, int]) -> None:
    first, second = network.open("peer", 1, echo), network.open("client", 1, echo)
    with connect(first) as one, connect(second) as other:
        assert says_again(one, b"one")
        assert says_again(other, b"other")
        assert network.reset("peer") == 1
        with pytest.raises(ConnectionResetError):
            one.settimeout(10)
            one.recv(100)
        assert says_again(other, b"other")


def test_a_link_takes_its_time(network: Network, echo: tuple[str, int]) -> None:
    with connect(network.open("peer", 1, echo)) as connection:
        network.rule(Rule(delay_s=0.1, bytes_per_s=100.0), "peer")
        began = time.monotonic()
        assert says_again(connection, b"10 letters")
        assert time.monotonic() - began >= 2 * (0.1 + 0.1)
