"""TCP: streams that ask the kernel first and wait only when it has nothing to give.

`receive_into` and `send` make the system call at once; only EAGAIN costs a wait. So that a busy connection does not
starve the others, each stream has a credit of bytes: every call spends what it moved and a bit more, and when nothing
is left the task lets the others have their turn. A wait fills it up again.

    credit 4 MiB, a call costs 64 KiB + bytes moved:  a checkpoint after 64 small calls, or after some 4 MiB

A send that fails or is cancelled midway has sent part of a frame; nothing sensible can follow, so the stream counts as
broken from then on.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import trio

from kbroker.env import AddressInUse, Buffer, FileSlice, Handle, RpcChannel, Tls
from kbroker.env.descriptors import EXHAUSTED, Descriptors
from kbroker.env.features import Features
from kbroker.env.procfs import port_holder
from kbroker.env.real_poller import Poller, Reader

Address: TypeAlias = "tuple[str, int]"

JOIN_MAX = 65536  # up to here copying is cheaper than another system call or an iovec
CHUNK = 262144  # read and sent at a time where sendfile cannot be used; and the most that is read ahead of sending
SENDFILE_MAX = 1 << 20  # asked of one sendfile
PROBE = 131072  # of a file: whether its last byte is in memory tells of all of it, for the system reads ahead as far
BUFFERS_MAX = 512  # in one sendmsg; systems allow 1024 or more
CREDIT = 4 << 20
TURN_COST = CREDIT // 64
BACKLOG = 1024

ACCEPT_RETRY_S = 1.0
MSG_MORE = getattr(socket, "MSG_MORE", 0)  # what follows is on its way: it may share a packet
NO_MEMORY = (errno.ENOMEM, errno.ENOBUFS)

log = logging.getLogger("kbroker.net")


class RealStream:
    """One TCP connection."""

    __slots__ = (
        "local",
        "peer",
        "sent",
        "_socket",
        "_features",
        "_credit",
        "_broken",
        "_closed",
        "_reader",
        "_waiting",
    )

    def __init__(self, connected: socket.socket, peer: Address, features: Features) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.local = as_address(connected.getsockname())
        self.peer = peer
        self.sent = 0
        self._socket = connected
        self._features = features
        self._credit = CREDIT
        self._broken = False  # a send ended midway
        self._closed = False
        self._reader: Reader | None = None  # while watched and open
        self._waiting: trio.CancelScope | None = None  # of the task that watches

    async def receive_into(self, view: memoryview) -> int:
        """Receive at least one byte into view; 0 at the end of the stream."""
        if self._credit < 0:
            await self._yield()
        while True:
            try:
                received = self._socket.recv_into(view)
            except BlockingIOError:
                await self._wait_readable()
            except OSError as error:
                raise self._failure() from error
            else:
                self._credit -= received + TURN_COST
                return received

    def receive_now(self, view: memoryview) -> int | None:
        """Receive what is there; None when nothing is, 0 at the end of the stream."""
        reader = self._reader
        try:
            received = self._socket.recv_into(view)
        except BlockingIOError:
            if reader is not None:
                reader.drained = True
            return None
        except OSError as error:
            raise self._failure() from error
        if reader is not None and received < len(view) and not reader.hung_up:
            reader.drained = True
        return received

    def watch(self, step: Callable[[], bool], nursery: trio.Nursery, then: Callable[[], bool] | None = None) -> None:
        """From now on call step, and then what follows it, whenever there may be something to receive."""
        self._reader = reader = Reader(step, self.close, then)
        if self._features.epoll:
            Poller.current().register(self._socket.fileno(), reader)
        else:
            nursery.start_soon(self._watch, reader)

    def has_hung_up(self) -> bool:
        """Whether the peer has ended or broken the connection; some systems tell only the latter without reading."""
        if self._features.epoll:
            return self._reader is not None and self._reader.hung_up
        if not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(self._socket.fileno(), getattr(select, "POLLRDHUP", 0))  # errors and hang-ups are told anyway
        return bool(poll.poll(0))

    def pause(self) -> None:
        """Do not call step any more."""
        if self._reader is not None:
            self._reader.paused = True

    def resume(self, again: bool) -> None:
        """Call step as before. again: and soon, whether or not something has arrived."""
        reader = self._reader
        if reader is None:
            return
        reader.paused = False
        if self._features.epoll:
            if again or not reader.drained:
                Poller.current().call_soon(reader)
        elif self._waiting is not None:
            self._waiting.cancel()

    def send_now(self, parts: Sequence[Buffer | FileSlice]) -> Sequence[Buffer | FileSlice]:
        """Send parts as far as they go at once; returns what is left, where they are large or a disk is to wait for."""
        if self._broken or self._closed:
            raise self._failure()
        if len(parts) == 1 and type(parts[0]) is bytes:
            data = parts[0]
            if len(data) > JOIN_MAX:
                return parts
        elif FileSlice in map(type, parts):
            return self._send_files_now(parts)
        elif sum(map(len, parts)) > JOIN_MAX:
            return parts
        else:
            data = b"".join(parts)  # type: ignore[arg-type]  # no slices
        sent = self._send_buffer_now(data, 0)
        return () if sent == len(data) else (memoryview(data)[sent:],)

    def _send_files_now(self, parts: Sequence[Buffer | FileSlice]) -> Sequence[Buffer | FileSlice]:
        """The same with slices of files among them. Where sendfile fails, `_send_file` finds out why."""
        for number, part in enumerate(parts):
            if isinstance(part, FileSlice):
                sent = self._send_slice_now(part)
                if sent < len(part):
                    return (FileSlice(part.file, part.position + sent, len(part) - sent), *parts[number + 1 :])
            elif len(part) > JOIN_MAX:
                return parts[number:]
            else:
                sent = self._send_buffer_now(part, MSG_MORE if number + 1 < len(parts) else 0)
                if sent < len(part):
                    return (memoryview(part)[sent:], *parts[number + 1 :])
        return ()

    def _send_slice_now(self, part: FileSlice) -> int:
        position, length = part.position, part.length
        try:
            descriptor = self._sendfile_descriptor(part)
            if (
                descriptor is None
                or length > SENDFILE_MAX
                or _missing(part.file, position, position + length) is not None
            ):
                return 0
            sent = os.sendfile(self._socket.fileno(), descriptor, position, length)
        except OSError:
            return 0
        self._note(sent)
        return sent

    def _send_buffer_now(self, data: Buffer, flags: int) -> int:
        try:
            sent = self._socket.send(data, flags)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._broken = True
            raise self._failure() from error
        self._note(sent)
        return sent

    async def send(self, parts: Sequence[Buffer | FileSlice]) -> None:
        """Send all parts in order. An OSError comes from the disk under a slice; the stream is then broken, too."""
        if self._broken or self._closed:
            raise self._failure()
        if self._credit < 0:
            await self._yield()
        try:
            rest = parts if FileSlice in map(type, parts) else self.send_now(parts)
            if rest:
                await self._send_large(rest)
        except BaseException:
            self._broken = True
            raise

    def close(self) -> None:
        """Close at once, without waiting for the peer; idempotent."""
        if not self._closed:
            self._closed = True
            if self._reader is not None and self._features.epoll:
                Poller.current().forget(self._socket.fileno())
            if self._waiting is not None:
                self._waiting.cancel()
            self._reader = None  # it knows who knows us: memory is free at once, without a garbage collection
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def aclose(self) -> None:
        """The same, and a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed here."""
        return self._closed

    def abandon(self) -> None:
        """In a forked child: let go of its copy. What watches the socket is the parent's, and stays."""
        self._closed = True
        self._socket.close()

    # -- sending ------------------------------------------------------------------------------------------------------

    async def _send_large(self, parts: Sequence[Buffer | FileSlice]) -> None:
        """Small slices are read, big ones handed to sendfile; what has been read is sent before it gets much."""
        run: list[Buffer] = []
        size = 0
        for part in parts:
            if isinstance(part, FileSlice) and len(part) > JOIN_MAX:
                await self._send_buffers(run)
                await self._send_file(part)
                run, size = [], 0
                continue
            run.append(await _read(part) if isinstance(part, FileSlice) else part)
            size += len(part)
            if size > CHUNK:
                await self._send_buffers(run)
                run, size = [], 0
        await self._send_buffers(run)

    async def _send_buffers(self, buffers: list[Buffer]) -> None:
        joined = join_small(buffers)
        if len(joined) == 1 or not self._features.sendmsg:
            for each in joined:
                await self._send_all(memoryview(each))
            return
        pending = [memoryview(each) for each in joined]
        while pending:
            try:
                sent = self._socket.sendmsg(pending[:BUFFERS_MAX])
            except BlockingIOError:
                await self._wait_writable()
            except OSError as error:
                raise self._failure() from error
            else:
                pending = after(pending, sent)
                await self._spend(sent)

    async def _send_all(self, rest: memoryview) -> None:
        while rest:
            try:
                sent = self._socket.send(rest)
            except BlockingIOError:
                await self._wait_writable()
            except OSError as error:
                raise self._failure() from error
            else:
                rest = rest[sent:]
                await self._spend(sent)

    async def _send_file(self, part: FileSlice) -> None:
        """By sendfile as far as it goes. When it stops for another reason than a full socket, reading and sending
        either works or tells whose fault it is: the disk's (OSError) or the connection's (BrokenResourceError)."""
        position, end = part.position, part.position + part.length
        ready = position  # up to here the file is in memory
        while position < end and (descriptor := self._sendfile_descriptor(part)) is not None:
            if position == ready:
                ready = min(position + SENDFILE_MAX, end)
                await _have_in_memory(part.file, position, ready)
            try:
                sent = os.sendfile(self._socket.fileno(), descriptor, position, ready - position)
            except BlockingIOError:
                await self._wait_writable()
                continue
            except OSError:
                break
            if not sent:  # the file has become shorter
                break
            position += sent
            await self._spend(sent)
        while position < end:
            chunk = FileSlice(part.file, position, min(end - position, CHUNK))
            await self._send_all(memoryview(await _read(chunk)))
            position += len(chunk)

    def _sendfile_descriptor(self, part: FileSlice) -> int | None:
        return part.file.fileno() if self._features.sendfile else None

    # -- waiting and failing ------------------------------------------------------------------------------------------

    async def _watch(self, reader: Reader) -> None:
        """Where there is no epoll: watch this stream in a task of its own."""
        while not self._closed:
            reader.drained = False
            if (not reader.paused and reader.call_all()) or self._closed:
                await self._yield()
                continue
            with trio.CancelScope() as self._waiting, suppress(trio.ClosedResourceError):
                await (trio.sleep_forever() if reader.paused else self._wait_readable())

    def _note(self, sent: int) -> None:
        self.sent += sent
        self._credit -= sent + TURN_COST

    async def _spend(self, sent: int) -> None:
        self._note(sent)
        if self._credit < 0:
            await self._yield()

    async def _yield(self) -> None:
        await trio.lowlevel.checkpoint()
        self._credit = CREDIT

    async def _wait_readable(self) -> None:
        await trio.lowlevel.wait_readable(self._socket)
        self._credit = CREDIT

    async def _wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self._socket)
        self._credit = CREDIT

    def _failure(self) -> trio.ClosedResourceError | trio.BrokenResourceError:
        if self._closed:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError(f"the connection to {self.peer[0]}:{self.peer[1]} is broken")


async def _read(part: FileSlice) -> Buffer:
    """The bytes; a worker reads what is not in memory. OSError when the file has become shorter."""
    data = part.read_now()
    return data if data is not None else await trio.to_thread.run_sync(part.read)


async def _have_in_memory(file: Handle, position: int, end: int) -> None:
    """Have a worker wait for the disk, if need be, before sendfile does in the event loop."""
    missing = _missing(file, position, end)
    if missing is not None:
        await trio.to_thread.run_sync(_read_through, file, missing, end)


def _missing(file: Handle, position: int, end: int) -> int | None:
    """From where on a part of a file is not in memory, as far as looking at a byte here and there tells; None: it is.

    May raise OSError.
    """
    for at in range(position, end, PROBE):
        if file.pread_now(1, min(at + PROBE, end) - 1) is None:
            return at
    return None


def _read_through(file: Handle, position: int, end: int) -> None:
    for at in range(position, end, CHUNK):
        file.pread(min(CHUNK, end - at), at)


def join_small(buffers: Sequence[Buffer]) -> list[Buffer]:
    """The same bytes in fewer buffers: neighbours joined as long as the result stays small."""
    joined: list[Buffer] = []
    run: list[Buffer] = []
    size = 0
    for each in buffers:
        if run and size + len(each) > JOIN_MAX:
            joined.append(run[0] if len(run) == 1 else b"".join(run))
            run, size = [], 0
        run.append(each)
        size += len(each)
    if run:
        joined.append(run[0] if len(run) == 1 else b"".join(run))
    return joined


def after(views: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of views when the first sent bytes are gone."""
    for index, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[index + 1 :]]
        sent -= len(view)
    return []


class RealListener:
    """A bound and listening socket."""

    def __init__(self, listening: socket.socket, features: Features, descriptors: Descriptors) -> None:
        listening.setblocking(False)
        self.address = as_address(listening.getsockname())
        self._socket = listening
        self._features = features
        self._descriptors = descriptors
        self._closed = False

    async def accept(self) -> RealStream:
        """The next connection. Skips those that are gone already; without a descriptor it hangs up on them."""
        await trio.lowlevel.checkpoint()
        is_somebody_there = False  # known only in a shortage of descriptors
        while True:
            try:
                connected, peer = self._socket.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
            except OSError as error:
                if self._closed:
                    raise trio.ClosedResourceError("this listener was closed") from None
                if error.errno in EXHAUSTED:
                    is_somebody_there = await self._see_to_shortage(is_somebody_there)
                elif error.errno in NO_MEMORY:
                    log.warning("cannot accept on port %d: %s", self.address[1], error)
                    await trio.sleep(ACCEPT_RETRY_S)
                await trio.lowlevel.checkpoint()  # ECONNABORTED; on Linux also errors of the new connection (accept(2))
            else:
                self._descriptors.look()
                try:
                    return RealStream(connected, as_address(peer), self._features)
                except OSError:  # reset since
                    connected.close()

    async def _see_to_shortage(self, is_somebody_there: bool) -> bool:
        """There is no descriptor to accept with, which on Linux is said even when there is nobody to be accepted."""
        if not is_somebody_there:
            await trio.lowlevel.wait_readable(self._socket)
            return True
        if not self._descriptors.make_room():
            await self._hang_up()
        return False

    async def _hang_up(self) -> None:
        """Accept a client with a descriptor of the reserve, and close at once: it need not wait to learn that."""
        if not self._descriptors.give():
            await trio.sleep(ACCEPT_RETRY_S)
            return
        with suppress(OSError):
            self._socket.accept()[0].close()
        self._descriptors.fill()

    async def aclose(self) -> None:
        """Stop listening; idempotent."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """The same at once."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def abandon(self) -> None:
        """In a forked child: let go of its copy."""
        self._closed = True
        self._socket.close()


class RealNet:
    """The operating system's TCP."""

    def __init__(self, features: Features, descriptors: Descriptors | None = None) -> None:
        self._features = features
        self._descriptors = descriptors or Descriptors()

    def when_short(self, release: Callable[[int], int]) -> None:
        """Whom to ask for descriptors when there is none left."""
        self._descriptors.when_short(release)

    async def listen(self, host: str, port: int) -> RealListener:
        """Bind the first address of host; "" and "::" mean all addresses of both families."""
        family, address = (await self._resolve(host, port, socket.AI_PASSIVE))[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # on Windows this option would let two processes share the port
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
            listening.bind(address)
            listening.listen(BACKLOG)
            self._descriptors.start()
            return RealListener(listening, self._features, self._descriptors)
        except OSError as error:
            listening.close()
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(host, port, port_holder(port)) from error
            raise

    async def connect(self, host: str, port: int) -> RealStream:
        """Try the addresses of host in turn; the last failure is raised."""
        failure = OSError(f"{host} has no address")
        for family, address in await self._resolve(host, port, 0):
            attempt = self._descriptors.retry(partial(trio.socket.socket, family, socket.SOCK_STREAM))
            try:
                await attempt.connect(address)
                return RealStream(socket.socket(fileno=attempt.detach()), as_address(address), self._features)
            except OSError as error:
                failure = error
            finally:
                attempt.close()  # nothing left to close when detached
        raise failure

    def rpc_channel(self, address: str, tls: Tls | None) -> RpcChannel:
        """A channel of grpcio."""
        try:
            from kbroker.env.real_grpc import GrpcChannel
        except ImportError as error:
            raise OSError(f"{error.name or 'grpcio'} is missing: pip install 'kbroker[etcd]'") from error
        return GrpcChannel(address, tls)

    async def _resolve(self, host: str, port: int, flags: int) -> list[tuple[int, tuple[str, int]]]:
        """Families and addresses of a host, IPv4 first: a listener binds one, and most clients try that one first."""
        if not host and flags:
            host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
        name = host.encode() if host.isascii() else host  # of text Python makes IDNA first, and imports its tables
        found = await trio.socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)
        found.sort(key=lambda row: row[0] != socket.AF_INET)
        return [(row[0], row[4]) for row in found]  # type: ignore[misc]  # longer tuples for IPv6 go back to bind as they came


def as_address(name: tuple[str, int]) -> Address:
    """A socket's name as (host, port); an IPv4 peer of a dual-stack socket looks like IPv4."""
    return name[0].removeprefix("::ffff:"), name[1]
