"""A process without descriptors: files are opened from the reserve, clients served from the logs' or hung up on."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from kbroker.env import Stream
from kbroker.env.descriptors import OVER_S, RESERVE, Descriptors
from kbroker.env.real import real_env

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="here sockets are no file descriptors")


@contextmanager
def none_left() -> Iterator[list[int]]:
    """Use up all descriptors of this process; the list holds them, and closing some makes room again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        with pytest.raises(OSError):
            while True:
                used.append(os.open(os.devnull, os.O_RDONLY))
        yield used
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in used:
            os.close(each)


async def test_a_file_is_opened_with_one_of_the_reserve(tmp_path: Path) -> None:
    env = real_env(str(tmp_path))
    await env.net.listen("127.0.0.1", 0)
    with none_left():
        for n in range(RESERVE // 2):
            env.disk.open(f"{n}", create=True).append([b"x"])
        env.disk.write_atomic("small", b"content")
        assert env.disk.read("small") == b"content"
        assert "small" in env.disk.list_dir("")
        env.disk.sync_dir("")


async def test_more_files_than_the_reserve_are_opened_at_once_if_others_are_closed(tmp_path: Path) -> None:
    env = real_env(str(tmp_path))
    await env.net.listen("127.0.0.1", 0)
    with none_left() as used:

        def release(count: int) -> int:
            for _ in range(count):
                os.close(used.pop())
            return count

        env.net.when_short(release)
        files = [env.disk.open(f"{n}", create=True) for n in range(5 * RESERVE)]
    assert len(files) == 5 * RESERVE


async def test_another_broker_is_connected_to_with_one_of_the_reserve(tmp_path: Path) -> None:
    env = real_env(str(tmp_path))
    await env.net.listen("127.0.0.1", 0)
    other = await real_env(str(tmp_path)).net.listen("127.0.0.1", 0)
    with none_left():
        (await env.net.connect(*other.address)).close()


async def test_without_a_reserve_the_error_is_the_systems(tmp_path: Path) -> None:
    env = real_env(str(tmp_path))
    with none_left(), pytest.raises(OSError) as failure:
        env.disk.open("a", create=True)
    assert failure.value.errno == errno.EMFILE


async def test_another_error_takes_nothing_of_the_reserve(tmp_path: Path) -> None:
    descriptors = Descriptors()
    descriptors.start()
    with pytest.raises(FileNotFoundError):
        descriptors.retry(lambda: os.open(tmp_path / "absent", os.O_RDONLY))
    assert len(descriptors._spare) == RESERVE


async def test_a_client_is_served_with_what_the_logs_give_up(tmp_path: Path) -> None:
    env = real_env(str(tmp_path))
    listener = await env.net.listen("127.0.0.1", 0)
    asked: list[int] = []
    client = socket.socket()
    with none_left() as used:

        def release(count: int) -> int:
            asked.append(count)
            for _ in range(count):
                os.close(used.pop())
            return count

        env.net.when_short(release)
        client.connect(listener.address)
        stream = await listener.accept()
        assert stream.peer == client.getsockname()
        assert asked == [RESERVE]
        await stream.aclose()
    client.close()
    await listener.aclose()


async def test_a_client_is_hung_up_on_where_there_is_nothing_to_give_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not left in the backlog, and the loop does not spin: it waits for the next client."""
    env = real_env(str(tmp_path))
    listener = await env.net.listen("127.0.0.1", 0)
    clients = [socket.socket() for _ in range(3 * RESERVE)]
    with none_left() as used:
        async with trio.open_nursery() as nursery:
            accepted: list[Stream] = []

            @nursery.start_soon
            async def accept() -> None:
                accepted.append(await listener.accept())

            for client in clients:
                client.connect(listener.address)
                await trio.testing.wait_all_tasks_blocked(0.005)
                client.settimeout(5)
                assert client.recv(1) == b""
            assert not accepted
            for _ in range(2):
                os.close(used.pop())
            clients.append(socket.create_connection(listener.address))
            with trio.fail_after(5):
                while not accepted:
                    await trio.sleep(0.001)
            await accepted[0].aclose()
    for client in clients:
        client.close()
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1, "told once"
    await listener.aclose()


async def test_the_reserve_is_filled_up_again(tmp_path: Path) -> None:
    descriptors = Descriptors()
    descriptors.start()
    with none_left() as used:

        def release(count: int) -> int:
            for _ in range(count):
                os.close(used.pop())
            return count

        descriptors.when_short(release)
        for _ in range(3):
            assert descriptors.give()
        used.append(os.open(os.devnull, os.O_RDONLY))  # what was given up is taken
        await trio.testing.wait_all_tasks_blocked()
        assert len(descriptors._spare) == RESERVE


async def test_a_shortage_is_told_when_it_begins_and_when_it_is_over(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    descriptors = Descriptors()
    for _ in range(3):
        descriptors.make_room()
        await trio.sleep(OVER_S / 2)
        descriptors.look()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await trio.sleep(OVER_S)
    descriptors.look()
    descriptors.look()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_reserve_that_is_not_needed_any_more_is_closed() -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    descriptors = Descriptors()
    descriptors.fill()
    del descriptors
    assert not before or len(os.listdir("/proc/self/fd")) == before
