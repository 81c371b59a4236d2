"""What the broker takes from the world: clock, disk, net, rng, offload, helper.

Nothing above this package touches os, socket, time, random or threads; it gets an `Env` instead. `real.py` binds the
operating system, `kbroker.testing` binds fakes with faults and a seeded, deterministic simulation. Timeouts above are
trio cancel scopes: they run on the clock of the trio run, which is the I/O domain (always real, except in simulation).

This module holds the contracts only, so that importing it costs nothing.

    real.py          an Env of the operating system     features.py      which system calls it has
    real_disk.py     files                              real_lock.py     the lock of a data directory
    real_net.py      TCP                                real_poller.py   watching many connections (epoll)
    real_grpc.py     remote calls, where an extra is installed
    descriptors.py   when there is none left            procfs.py        which process is in the way
    real_watch.py    files that others write to         real_helper.py   a process that computes
    machine.py       which boot this is, and on what its files lie
    real_process.py  what this process uses
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    import trio

Buffer: TypeAlias = "bytes | bytearray | memoryview"
Metadata: TypeAlias = "Sequence[tuple[str, str]]"  # of a remote call: names and values
T = TypeVar("T")


class Clock(Protocol):
    """Two of the three time domains; the third, I/O, is the trio run's own clock."""

    def data_ms(self) -> int:
        """Milliseconds since the epoch: timestamps, retention, compaction, delay, expiry. Tests may jump it."""

    def liveness(self) -> float:
        """Seconds on a clock that never goes back: sessions, rebalances, transaction timeouts."""

    async def sleep(self, seconds: float) -> None:
        """Wait in the I/O domain."""

    async def sleep_data(self, seconds: float) -> bool:
        """Wait between two looks at what depends on data time: as `sleep` does, but shorter where somebody is about to
        set the data clock, or has just set it. True where that is so: what is to be noted by the old time, or is due by
        the new one, is seen to at once."""


class Handle(Protocol):
    """An open file, for those who must not lose it: slices on their way to a client, workers.

    It stays open until the last who holds it lets go of it, whoever closes the File or removes its name meanwhile.
    Every method may raise OSError; that error belongs to the disk.
    """

    path: str

    def pread(self, length: int, position: int) -> bytes:
        """Up to length bytes from position; fewer only at the end of the file."""

    def pread_now(self, length: int, position: int) -> Buffer | None:
        """The same, unless the disk would have to be waited for: then None, and it is for a worker to `pread`.

        Where the system cannot tell, all is taken to be in memory.
        """

    def sync(self) -> None:
        """Make what was appended durable (fdatasync). Blocks."""

    def fileno(self) -> int | None:
        """A descriptor for sendfile, or None when the file is not one of the operating system's."""


class File(Handle, Protocol):
    """One file of a Disk. Appends and reads go to the page cache, in the event loop; `sync` blocks: offload it."""

    @property
    def handle(self) -> Handle:
        """The open file itself. What is taken before `close` works after it, what is taken after it refuses."""

    def size(self) -> int:
        """Bytes in the file, without a system call."""

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write all buffers at the end, in one system call where there is one. Returns the bytes written: all of them.

        On OSError some of the bytes may have reached the file: the caller truncates back to the size it knew.
        """

    def truncate(self, size: int) -> None:
        """Cut the file to size bytes."""

    def close(self) -> None:
        """Let go of the handle; idempotent. Every later use raises OSError."""


class FileSlice:
    """A range of an open file, to be sent without reading it where the system can (sendfile), else by `read`."""

    __slots__ = ("file", "position", "length")

    def __init__(self, file: Handle, position: int, length: int) -> None:
        self.file = file  # a file's `handle` where the file may be closed before the slice is read
        self.position = position
        self.length = length

    def __len__(self) -> int:
        return self.length

    def read(self) -> bytes:
        """The bytes; OSError when the file has become shorter."""
        data = self.file.pread(self.length, self.position)
        if len(data) != self.length:
            raise OSError(f"{self.file.path} ends before {self.position + self.length}")
        return data

    def read_now(self) -> Buffer | None:
        """The same, unless the disk would have to be waited for: then None."""
        data = self.file.pread_now(self.length, self.position)
        if data is not None and len(data) != self.length:
            raise OSError(f"{self.file.path} ends before {self.position + self.length}")
        return data


class Lock(Protocol):
    """Exclusive possession of a file name, gone with the process."""

    def release(self) -> None:
        """Give it up; idempotent."""


class DirectoryLocked(Exception):
    """Another process holds the lock; holder says which, where that is known (such as "process 4711")."""

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(f"{path} is in use by {holder}")
        self.holder = holder


class FileWatch(Protocol):
    """An eye on a file that other processes write to."""

    async def wait_written(self) -> None:
        """Until it may have been written to since the watch began, or since the last time; within milliseconds of that
        where the system tells, else after a fraction of a second in any case."""

    def close(self) -> None:
        """Watch it no more; idempotent. Nobody may be waiting."""


class Disk(Protocol):
    """A directory tree. Paths are relative to its root, with "/" between names. Methods may raise OSError."""

    root: str  # for people: where this is
    boot_id: str  # of this run of the operating system, "" when unknown; the page cache survives while it is the same

    def elsewhere(self, directory: str, *, create: bool) -> Disk:
        """Another directory of the same machine as a tree of its own. OSError where there is none.

        directory: as people write it, relative to where the process was started. create: if it is absent.
        """

    def filesystem(self) -> str:
        """The type of the file system that the root lies on, such as "ext4" or "nfs4"; "" when unknown."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open for reading and appending. create=True makes an absent file; else FileNotFoundError."""

    def read(self, path: str) -> bytes:
        """The whole of a small file."""

    def write_atomic(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        """Replace a small file whole: temporary file, fsync, rename, directory fsync. sync=False skips both fsyncs."""

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""

    def size(self, path: str) -> int:
        """Bytes in a file that need not be open."""

    def modified_ms(self, path: str) -> int:
        """When the file was last written, milliseconds since the epoch."""

    def list_dir(self, path: str) -> list[str]:
        """Names in a directory, sorted."""

    def make_dirs(self, path: str) -> None:
        """Create a directory and its parents; present ones are fine."""

    def rename(self, old: str, new: str) -> None:
        """Rename a file or directory, replacing a file."""

    def remove(self, path: str) -> None:
        """Delete a file."""

    def remove_tree(self, path: str) -> None:
        """Delete a directory with all it holds; an absent one is fine."""

    def sync_dir(self, path: str) -> None:
        """Make creations, renames and deletions in a directory durable. Blocks; a no-op where the system has none."""

    def watch(self, path: str) -> FileWatch:
        """Watch a file that is there. OSError where there are no other processes."""

    def lock(self, path: str) -> Lock:
        """Take the lock file; DirectoryLocked when another process has it."""

    def free_bytes(self) -> int:
        """What the volume has left for us."""

    def total_bytes(self) -> int:
        """The volume's size."""


class Stream(Protocol):
    """A byte stream to one peer. Broken connections raise trio.BrokenResourceError, own closing ClosedResourceError."""

    local: tuple[str, int]  # the address this connection arrived on
    peer: tuple[str, int]
    sent: int  # bytes handed to the system so far: while it grows, the peer reads

    async def receive_into(self, view: memoryview) -> int:
        """Read at least one byte into view, waiting if there is none; 0 at the end of the stream.

        Optimistic: takes what is there without a checkpoint, but makes one now and then so that others get a turn.
        """

    def receive_now(self, view: memoryview) -> int | None:
        """Receive what is there into view; None when there is nothing yet, 0 at the end of the stream."""

    def watch(self, step: Callable[[], bool], nursery: trio.Nursery, then: Callable[[], bool] | None = None) -> None:
        """From now on call step whenever there may be something to receive, and again, after others, while it is True.

        step receives with `receive_now`; it must not wait, and what it raises is a bug. Called once, before anything
        else. Where a stream has to be watched by a task of its own, that runs in nursery; otherwise a connection that
        waits costs no task.

        then: called after each step, but perhaps after steps of other streams; it says in place of step whether to
        call again.
        """

    def has_hung_up(self) -> bool:
        """Whether the peer is known to have ended or broken the connection, though more may be there to be received."""

    def pause(self) -> None:
        """Do not call step any more."""

    def resume(self, again: bool) -> None:
        """Call step as before. again: and soon, whether or not something has arrived."""

    def send_now(self, parts: Sequence[Buffer | FileSlice]) -> Sequence[Buffer | FileSlice]:
        """Send what goes without waiting; what is left, very large parts among it, is to be given to `send`."""

    async def send(self, parts: Sequence[Buffer | FileSlice]) -> None:
        """Send all parts in order: buffers joined when small, big slices by sendfile, waiting as the peer demands."""

    def close(self) -> None:
        """Close at once, without waiting for the peer; idempotent. Whoever waits for the stream is told that it was."""

    async def aclose(self) -> None:
        """The same, and a checkpoint."""


class Listener(Protocol):
    """A bound address that hands out connections."""

    address: tuple[str, int]  # with the real port when 0 was asked for

    async def accept(self) -> Stream:
        """The next connection. Skips those that break in the backlog; without a descriptor it hangs up on who comes."""

    async def aclose(self) -> None:
        """Stop listening."""


def address_text(host: str, port: int) -> str:
    """As in a listener, and as clients are given it: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class AddressInUse(OSError):
    """The port is taken; holder says by whom where that is known (such as "process 4711 (java)"), else ""."""

    def __init__(self, host: str, port: int, holder: str) -> None:
        super().__init__(f"{address_text(host, port)} is in use" + (f" by {holder}" if holder else ""))
        self.host, self.port, self.holder = host, port, holder


class CallFailed(Exception):
    """A remote call was refused, or not answered."""

    def __init__(self, code: int, text: str, is_unsent: bool = False) -> None:
        """code: gRPC's status; 0: a stream has ended in good order. is_unsent: the peer has certainly not seen it."""
        super().__init__(f"{text or 'no reason given'} (gRPC code {code})")
        self.code, self.text, self.is_unsent = code, text, is_unsent


class Tls(NamedTuple):
    """Whom to trust and how to show who we are: paths of PEM files, "" for none (ca: for those the library brings)."""

    ca: str = ""
    certificate: str = ""
    key: str = ""


class RpcStream(Protocol):
    """A remote call in which both sides send when they like."""

    def send(self, message: bytes) -> None:
        """Have a message sent, soon."""

    async def receive(self) -> bytes:
        """The next message. CallFailed when there will be none, each time it is asked."""

    def close(self) -> None:
        """End it; idempotent. Nobody may be receiving."""


class RpcChannel(Protocol):
    """A connection to one server of remote calls (gRPC), made when it is needed and again after it broke."""

    async def call(self, method: str, message: bytes, timeout_s: float, metadata: Metadata = ()) -> bytes:
        """Ask and have the answer; CallFailed."""

    def stream(self, method: str, metadata: Metadata = ()) -> RpcStream:
        """Begin a call in which both sides send."""

    def close(self) -> None:
        """Disconnect; idempotent."""


class Usage(NamedTuple):
    """What a process uses of its system. None: that is not told here."""

    cpu_s: float  # of all threads, since it began
    collections: Sequence[int]  # of Python's garbage, by generation
    resident_bytes: int | None = None
    virtual_bytes: int | None = None
    open_fds: int | None = None
    max_fds: int | None = None
    threads: int | None = None
    started_s: float | None = None  # since the epoch
    read_bytes: int | None = None  # from disks, not from memory
    written_bytes: int | None = None


class Process(Protocol):
    """What can be measured of this process; for who tells people of it, not for what the broker does."""

    def now(self) -> float:
        """Seconds, never 0, on a clock that is cheap to look at."""

    def loop_cpu_s(self) -> float:
        """Seconds of CPU of the thread that calls: the event loop's."""

    def usage(self) -> Usage:
        """All of it. Blocks for moments: offload it."""


class Net(Protocol):
    """Connections to others and from others."""

    def when_short(self, release: Callable[[int], int]) -> None:
        """Whom to ask when the process has no descriptor left, for a client or a file: release(count) closes so many
        files that are used least, and says how many it has closed. Called in the event loop."""

    async def listen(self, host: str, port: int) -> Listener:
        """Bind and listen; port 0 picks a free one. Raises AddressInUse, or OSError (unknown host, no permission)."""

    async def connect(self, host: str, port: int) -> Stream:
        """Open a connection; OSError when refused."""

    def rpc_channel(self, address: str, tls: Tls | None) -> RpcChannel:
        """A channel to "host:port", without TLS if that is None. OSError where there is none, or tls cannot be read."""


class Rng(Protocol):
    """Randomness: from the system, or seeded."""

    def token(self, length: int) -> bytes:
        """Random bytes (topic IDs, member IDs)."""

    def below(self, bound: int) -> int:
        """A random integer, 0 <= n < bound."""


class Offload(Protocol):
    """Run blocking or long work elsewhere (a bounded pool of threads; inline in simulation)."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


T_co = TypeVar("T_co", covariant=True)


class Steps(Protocol[T_co]):
    """Long work elsewhere. It pauses after each step until the next one is asked for."""

    async def step(self) -> T_co | None:
        """The next step, when it is done; None: finished. Raises what the work does, OSError when that is lost."""


class Helper(Protocol):
    """Computes what takes many seconds beside the event loop, in a process of its own: a thread would share the GIL."""

    def begin(self, work: Callable[..., Iterator[T]], *args: Any) -> AbstractAsyncContextManager[Steps[T]]:
        """Have work(disk, *args) done. disk: the data directory's. Who leaves the context before the end gives it up.

        work: a generator function of a module, to be found by its name; arguments and steps are values that pickle.
        OSError when there is no process to be had.
        """

    def close(self) -> None:
        """Let go of what is idle; idempotent."""


@dataclass(frozen=True, slots=True)
class Env:
    """The world, as one argument."""

    clock: Clock
    disk: Disk
    net: Net
    rng: Rng
    offload: Offload
    helper: Helper
