"""What only the operating system's world has."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from kbroker.env import AddressInUse, DirectoryLocked, FileSlice, address_text, real_disk, real_net
from kbroker.env.features import Features
from kbroker.env.procfs import is_of_here, port_holder, process_identity, process_name
from kbroker.env.real import raise_file_limit, real_env
from kbroker.env.real_disk import RealDisk
from kbroker.env.real_lock import NOT_KNOWN, lock_holder, read_holder, take_lock
from tests.env.worlds import features_of

HOLD_THE_LOCK = """
import sys
from kbroker.env.features import Features
from kbroker.env.real_disk import RealDisk
features = Features.detect().without(*sys.argv[2:])
lock = RealDisk(sys.argv[1], features).lock(".lock")
print("locked", flush=True)
sys.stdin.read()
"""


class Patched:
    """The os module with some functions replaced, for one module."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def test_the_env_is_whole(tmp_path: Path) -> None:
    env = real_env(str(tmp_path / "not" / "yet"))
    assert env.disk.list_dir("") == []
    assert env.clock.data_ms() > 1_700_000_000_000
    assert env.clock.liveness() <= env.clock.liveness()
    assert len(env.rng.token(16)) == 16
    assert {env.rng.below(3) for _ in range(200)} == {0, 1, 2}
    if os.path.exists("/proc/sys/kernel/random/boot_id"):
        assert len(env.disk.boot_id) == 36


def test_a_data_directory_that_was_removed_is_not_made_again(tmp_path: Path) -> None:
    disk = RealDisk(str(tmp_path / "data"), Features())
    os.rmdir(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="data"):
        disk.make_dirs("orders-0")
    assert not disk.exists("") and not disk.exists("orders-0")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_small_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "small.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device: .*small'"):
        RealDisk(str(tmp_path), Features()).write_atomic("small", b"x", sync=False)


async def test_what_failed_in_a_thread_leaves_nothing_behind(tmp_path: Path) -> None:
    """At once, not when Python looks for circles: a client can make megabytes fail a thousand times before."""

    class Large:
        pass

    left: list[weakref.ref[Large]] = []

    def work() -> None:
        large = Large()
        left.append(weakref.ref(large))
        raise ValueError

    env = real_env(str(tmp_path))
    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            await env.offload(work)
        await trio.lowlevel.checkpoint()
        assert left[0]() is None
    finally:
        gc.enable()


async def test_offload_runs_in_another_thread_and_brings_back_results_and_errors(tmp_path: Path) -> None:
    env = real_env(str(tmp_path))
    assert await env.offload(threading.get_ident) != threading.get_ident()
    with pytest.raises(FileNotFoundError):
        await env.offload(lambda: env.disk.read("absent"))


def test_features_can_be_switched_off() -> None:
    features = Features.detect()
    assert not features.without("pread").pread
    assert features.without("pread").flock == features.flock
    assert features.without(*Features.names()) == Features()


def test_a_short_write_is_continued_and_a_failure_leaves_a_true_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0

    def stingy_write(fd: int, data: bytes) -> int:
        nonlocal writes
        writes += 1
        if writes == 4:
            raise OSError(errno.ENOSPC, "no space")
        return os.write(fd, memoryview(data)[:3])

    stingy = Patched(write=stingy_write, writev=lambda fd, buffers: os.write(fd, buffers[0][:2]))
    monkeypatch.setattr(real_disk, "os", stingy)
    file = RealDisk(str(tmp_path), Features.detect()).open("a", create=True)
    assert file.append([b"12345", b"678"]) == 8  # 2 by writev, then 3 and 3
    assert file.pread(8, 0) == b"12345678"
    with pytest.raises(OSError):
        file.append([b"abcdefgh"])  # 3, then no space
    assert file.size() == 11 == os.stat(tmp_path / "a").st_size
    file.truncate(8)
    assert file.pread(99, 0) == b"12345678"


@pytest.mark.parametrize("features", [Features.detect(), Features()])
def test_a_descriptor_closes_with_the_last_who_holds_it(tmp_path: Path, features: Features) -> None:
    file = RealDisk(str(tmp_path), features).open("a", create=True)
    file.append([b"abc"])
    fd, slices = file.fileno(), [FileSlice(file.handle, n, 1) for n in range(3)]
    file.close()
    os.fstat(fd)  # still open
    assert [part.read() for part in slices] == [b"a", b"b", b"c"]
    slices.clear()
    with pytest.raises(OSError):
        os.fstat(fd)


@pytest.mark.skipif(not Features.detect().read_now, reason="this system cannot tell what is in memory")
def test_what_is_not_in_memory_is_not_waited_for(tmp_path: Path) -> None:
    file = RealDisk(str(tmp_path), Features.detect()).open("a", create=True)
    file.append([bytes(range(256)) * 4096])
    file.sync()
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if file.pread_now(1, 1 << 19) is not None:
        pytest.skip("the file system of the test's directory keeps everything in memory, or cannot tell")
    assert file.pread(4, 1 << 19) == b"\0\1\2\3"
    assert file.pread_now(4, 1 << 19) == b"\0\1\2\3"
    assert file.pread_now(1 << 20, 0) is None, "a part of it is not"
    file.pread(1 << 20, 0)
    assert file.pread_now(1 << 21, 0) == bytes(range(256)) * 4096


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_cannot_tell_is_asked_once(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def preadv(*args: object) -> int:
        asked.append(args)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "preadv", preadv, raising=False)
    file = RealDisk(str(tmp_path), Features(pread=True, read_now=True)).open("a", create=True)
    file.append([b"0123"])
    assert [file.pread_now(2, 1) for _ in range(3)] == [b"12"] * 3
    assert len(asked) == 1


@pytest.mark.parametrize("missing", [None, "sendfile"])
async def test_a_slow_transfer_outlives_its_file(tmp_path: Path, missing: str | None) -> None:
    """As when a file is closed because nobody has used it for long, or its segment is deleted."""
    features = Features.detect()
    env = real_env(str(tmp_path), features=features.without(missing) if missing else features)
    content = os.urandom(1 << 20) * 16  # more than the sockets hold
    file = env.disk.open("a", create=True)
    file.append([content])
    fd, parts = file.fileno(), [FileSlice(file.handle, 0, len(content))]
    listener = await env.net.listen("127.0.0.1", 0)
    client = await env.net.connect("127.0.0.1", listener.address[1])
    server = await listener.accept()
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send, parts)
        await trio.testing.wait_all_tasks_blocked(0.01)
        file.close()
        parts.clear()
        env.disk.remove("a")
        other = env.disk.open("b", create=True)
        assert other.fileno() != fd, "the number is not another file's yet"
        view = memoryview(bytearray(1 << 18))
        while len(received) < len(content):
            received += view[: await client.receive_into(view)]
    assert received == content
    with pytest.raises(OSError):
        os.fstat(fd)
    other.close()
    for end in (server, client, listener):
        await end.aclose()


@pytest.mark.parametrize("features", [Features.detect(), Features()])
def test_closing_waits_for_the_worker_that_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: Features
) -> None:
    """A descriptor closed under a reader could by then be another file's."""
    disk = RealDisk(str(tmp_path), features)
    file = disk.open("a", create=True)
    file.append([b"abc"])
    fd = file.fileno()
    reading, go_on = threading.Event(), threading.Event()
    results: list[bytes] = []

    def slow_read(read: Callable[..., bytes], *args: int) -> bytes:
        reading.set()
        assert go_on.wait(10)
        return read(*args)

    slow = Patched(pread=lambda *args: slow_read(os.pread, *args), read=lambda *args: slow_read(os.read, *args))
    monkeypatch.setattr(real_disk, "os", slow)
    worker = threading.Thread(target=lambda: results.append(file.pread(3, 0)))
    worker.start()
    assert reading.wait(10)
    file.close()
    os.fstat(fd)  # still open
    go_on.set()
    worker.join()
    assert results == [b"abc"]
    with pytest.raises(OSError):
        os.fstat(fd)


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    assert address_text("::1", 9092) == "[::1]:9092" and address_text("localhost", 9092) == "localhost:9092"
    assert str(AddressInUse("::1", 9092, "process 1")) == "[::1]:9092 is in use by process 1"


@pytest.mark.parametrize("missing", [(), ("flock", "byte_lock")])
def test_the_lock_names_another_process_and_goes_with_it(tmp_path: Path, missing: tuple[str, ...]) -> None:
    disk = RealDisk(str(tmp_path), Features.detect().without(*missing))
    command = [sys.executable, "-c", HOLD_THE_LOCK, str(tmp_path), *missing]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as other:
        assert other.stdout
        assert other.stdout.readline().strip() == b"locked"
        with pytest.raises(DirectoryLocked) as refusal:
            disk.lock(".lock")
        assert refusal.value.holder.startswith(f"process {other.pid}")
        holder = lock_holder(str(tmp_path / ".lock"), Features.detect().without(*missing))
        assert holder is not None and holder.pid == other.pid
        if os.path.exists("/proc/self/stat"):
            assert holder.is_proven and is_of_here(holder.identity)
            assert not holder._replace(identity=process_identity(os.getpid())).is_proven
        other.kill()
        other.wait()
        assert not holder.is_proven
    assert lock_holder(str(tmp_path / ".lock"), Features.detect().without(*missing)) is None
    disk.lock(".lock").release()


@pytest.mark.skipif(sys.platform == "win32", reason="directories cannot be locked")
def test_who_removes_the_file_of_a_lock_lets_nobody_else_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, features = ".lock", Features.detect()
    lock = take_lock(path, features)
    (tmp_path / path).unlink()
    with pytest.raises(DirectoryLocked):
        take_lock(str(tmp_path / path), features)
    assert lock_holder(path, features) == NOT_KNOWN and not (tmp_path / path).exists()
    (tmp_path / path).write_text(f"{os.getpid()}\n{process_identity(os.getpid())}\n")
    with pytest.raises(DirectoryLocked):
        take_lock(path, features)
    assert lock_holder(path, features) == NOT_KNOWN, "what another file says was believed"
    lock.release()
    assert lock_holder(path, features) is None
    take_lock(path, features).release()


@pytest.mark.skipif(sys.platform == "win32", reason="directories cannot be locked")
def test_a_lock_that_is_refused_leaves_the_directory_free(tmp_path: Path) -> None:
    path, features = str(tmp_path / ".lock"), Features.detect()
    os.mkdir(path)
    opened = len(os.listdir("/dev/fd"))
    with pytest.raises(IsADirectoryError):
        take_lock(path, features)
    assert len(os.listdir("/dev/fd")) == opened
    os.rmdir(path)
    take_lock(path, features).release()


@pytest.mark.parametrize("text", ["", "x", "-1", "0", str(1 << 31), "9" * 300, "\x00"])
def test_what_is_no_process_holds_no_lock(text: str, tmp_path: Path) -> None:
    """To signal 0 or -1 would be to signal many."""
    (tmp_path / ".lock").write_text(f"{text}\n{process_identity(os.getpid())}\n")
    assert read_holder(str(tmp_path / ".lock")) == NOT_KNOWN


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are files there")
def test_a_pipe_in_the_place_of_a_lock_is_not_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / ".lock")
    os.mkfifo(path)
    assert lock_holder(path, Features.detect()) is None
    assert read_holder(path) == NOT_KNOWN
    with pytest.raises(OSError) as refusal:
        take_lock(path, Features.detect())
    assert refusal.value.filename == path


@pytest.mark.skipif(sys.platform == "win32", reason="shared locks")
def test_who_looks_at_a_lock_keeps_nobody_from_taking_it(tmp_path: Path) -> None:
    path, features = str(tmp_path / ".lock"), Features.detect()
    take_lock(path, features).release()
    looks = True

    def look() -> None:
        while looks:
            lock_holder(path, features)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            take_lock(path, features).release()
    finally:
        looks = False
        thread.join()


async def test_an_address_in_use_names_the_holder(tmp_path: Path) -> None:
    env = real_env(str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse) as refusal:
            await env.net.listen("127.0.0.1", port)
        if os.path.exists("/proc/net/tcp"):
            assert refusal.value.holder == process_name(os.getpid())
            assert f"in use by process {os.getpid()}" in str(refusal.value)
    assert port_holder(port) == ""


async def test_accept_survives_a_shortage_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    listener = await real_env(str(tmp_path)).net.listen("127.0.0.1", 0)
    failures = [errno.ENOBUFS, errno.ECONNABORTED, errno.ENOMEM]
    accept = listener._socket.accept

    class Failing:
        def accept(self) -> Any:
            if failures:
                raise OSError(failures.pop(), "no memory")
            return accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(listening, name)

    listening = listener._socket
    with socket.create_connection(listener.address) as client:
        monkeypatch.setattr(listener, "_socket", Failing())
        server = await listener.accept()
        assert server.peer == client.getsockname()
        assert not failures
        assert trio.current_time() >= 2 * real_net.ACCEPT_RETRY_S
    await server.aclose()
    listening.close()


async def test_an_unknown_host_is_an_os_error(tmp_path: Path) -> None:
    env = real_env(str(tmp_path))
    with pytest.raises(OSError):
        await env.net.listen("999.999.999.999", 0)


async def test_a_failing_sendfile_is_replaced_by_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems without sendfile answer EINVAL, only when tried."""
    env = real_env(str(tmp_path), features=features_of("real"))
    calls = 0

    def refuse(*args: int) -> int:
        nonlocal calls
        calls += 1
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(real_net, "os", Patched(sendfile=refuse))
    file = env.disk.open("a", create=True)
    file.append([bytes(range(250)) * 400])
    listener = await env.net.listen("127.0.0.1", 0)
    client = await env.net.connect(*listener.address)
    server = await listener.accept()
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send, [real_net.FileSlice(file, 0, 100_000)])
        while len(received) < 100_000:
            chunk = bytearray(65536)
            received += chunk[: await client.receive_into(memoryview(chunk))]
    assert received == bytes(range(250)) * 400
    assert calls == (1 if Features.detect().sendfile else 0)
    for each in (client, server, listener):
        await each.aclose()


class ColdFile:
    """A file of which nothing is in memory but what was read; it notes which threads read."""

    path = "cold"

    def __init__(self, file: Any, descriptor: bool) -> None:
        self.file = file
        self.descriptor = descriptor
        self.known: set[int] = set()
        self.readers: set[int] = set()

    def pread(self, length: int, position: int) -> bytes:
        self.readers.add(threading.get_ident())
        self.known.update(range(position // 1000, (position + length) // 1000 + 1))
        return self.file.pread(length, position)  # type: ignore[no-any-return]

    def pread_now(self, length: int, position: int) -> bytes | None:
        if not self.known.issuperset(range(position // 1000, (position + length - 1) // 1000 + 1)):
            return None
        return self.file.pread(length, position)  # type: ignore[no-any-return]

    def sync(self) -> None:
        raise AssertionError

    def fileno(self) -> int | None:
        return self.file.fileno() if self.descriptor else None  # type: ignore[no-any-return]


@pytest.mark.parametrize("descriptor", [True, False])
@pytest.mark.parametrize("size", [1000, 70_000, 3_000_000])
async def test_what_is_sent_and_not_in_memory_is_read_by_workers(size: int, descriptor: bool, tmp_path: Path) -> None:
    env = real_env(str(tmp_path), features=features_of("real"))
    file = env.disk.open("a", create=True)
    file.append([bytes(range(250)) * (size // 250)])
    cold = ColdFile(file, descriptor)
    listener = await env.net.listen("127.0.0.1", 0)
    client = await env.net.connect(*listener.address)
    server = await listener.accept()
    received = bytearray()
    async with trio.open_nursery() as nursery:
        rest = server.send_now([b"head", FileSlice(cold, 0, size), b"tail"])
        assert not cold.readers, "what is not in memory is left to send"
        nursery.start_soon(server.send, rest)
        while len(received) < size + 8:
            chunk = bytearray(65536)
            received += chunk[: await client.receive_into(memoryview(chunk))]
    assert received == b"head" + bytes(range(250)) * (size // 250) + b"tail"
    assert cold.readers and threading.get_ident() not in cold.readers
    assert cold.known == set(range(size // 1000 + 1)), "all of it was brought into memory ahead of sending"
    for each in (client, server, listener):
        await each.aclose()


def test_the_file_limit_rises_to_what_is_allowed() -> None:
    pytest.importorskip("resource")
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        limit = raise_file_limit()
        assert limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert limit is not None
        assert limit >= before[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
