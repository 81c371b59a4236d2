"""A network in memory: TCP as programs see it, with the ways in which it disappoints.

    network = MemoryNetwork(seed=7)
    net = network.host("b0")                  # a Net; others connect to ("b0", port), it itself also to "localhost"
    network.cut("b0", "b1")                   # one way: what b0 sends is held, not dropped, until heal()
    network.reset("b0", "b1")                 # every connection between the two breaks

One direction of a connection is a `Pipe`:

    send ─▶ in flight (until the latency has passed and the way is not cut) ─▶ buffer ─▶ receive_into
            └──────────────── bounded together: the sender waits when full ─────────────┘

A receiver often gets less than there is, in pieces of any size, so frames must be put together. Latency needs a clock
that fires timers (`JumpClock`, as in the simulation); without one it is 0. All chance comes from one `random.Random`.
"""

from __future__ import annotations

import errno
import os
import random
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TypeAlias

import trio

from kbroker.env import AddressInUse, Buffer, FileSlice, RpcChannel, Tls, address_text
from kbroker.testing.clock import JumpClock

Address: TypeAlias = "tuple[str, int]"

BUFFER_SIZE = 262144
BACKLOG = 1024
TURNS_MAX = 16  # calls without a wait before the others get a turn
FIRST_PORT = 40000
LOOPBACK = "127.0.0.1"
OWN_NAMES = ("", "localhost", LOOPBACK, "::1", "0.0.0.0", "::")
ANYBODY = "*"


class Mark(Enum):
    """What a pipe carries besides bytes."""

    END = "end"
    RESET = "reset"


class Pipe:
    """One direction of a connection."""

    def __init__(self, network: MemoryNetwork, source: str, target: str) -> None:
        self.network = network
        self.source = source
        self.target = target
        self.buffer = bytearray()  # arrived, not yet received
        self.queued = 0  # bytes in flight and in the buffer
        self.ended = False  # the sender has closed, and all it sent has arrived
        self.reset = False
        self.reader_closed = False
        self.arrived = trio.lowlevel.ParkingLot()
        self.drained = trio.lowlevel.ParkingLot()
        self.reverse: Pipe = self  # the other direction; set when the connection is made
        self._in_flight: deque[tuple[float, bytes | Mark]] = deque()
        self._last_arrival = 0.0
        self._scheduled = False

    def room(self) -> int:
        """How many bytes may be pushed now."""
        return max(0, self.network.buffer_size - self.queued)

    def push(self, item: bytes | Mark) -> None:
        """Send on its way; it arrives after all that was sent before."""
        if not isinstance(item, Mark):
            self.queued += len(item)
        arrival = self.network.now() + self.network.latency(self.source, self.target)
        self._last_arrival = max(self._last_arrival, arrival)
        self._in_flight.append((self._last_arrival, item))
        self.network.pipes[self] = None
        self.schedule()

    def schedule(self) -> None:
        """See to it that what is in flight arrives; held while the way is cut."""
        if self._in_flight and not self._scheduled and not self.network.is_cut(self.source, self.target):
            self._scheduled = True
            self.network.call_at(self._in_flight[0][0], self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if self.network.is_cut(self.source, self.target):
            return
        now = self.network.now()
        while self._in_flight and self._in_flight[0][0] <= now:
            self._arrive(self._in_flight.popleft()[1])
        if self._in_flight:
            self.schedule()
        else:
            self.network.pipes.pop(self, None)

    def _arrive(self, item: bytes | Mark) -> None:
        self.network.trace("net", self.source, self.target, item if isinstance(item, Mark) else zlib.crc32(item))
        if isinstance(item, Mark):
            self.ended = True
            self.reset |= item is Mark.RESET
            if self.reset:
                self.buffer.clear()
                self.reverse.drained.unpark_all()  # who waits to send learns of it, too
        elif self.reader_closed:
            self.reverse.push(Mark.RESET)
        elif not self.reset:
            self.buffer += item
        self.arrived.unpark_all()

    def take(self, view: memoryview) -> int:
        """Receive what has arrived, or a part of it."""
        size = self.network.segment(min(len(view), len(self.buffer)))
        with memoryview(self.buffer) as buffer:
            view[:size] = buffer[:size]
        del self.buffer[:size]
        self.queued -= size
        self.drained.unpark_all()
        return size


class MemoryStream:
    """One end of a connection."""

    def __init__(self, net: MemoryNet, incoming: Pipe, outgoing: Pipe, local: Address, peer: Address) -> None:
        self.local = local
        self.peer = peer
        self.sent = 0
        self._alive = net.alive
        self._in = incoming
        self._out = outgoing
        self._turns = 0
        self._closed = False
        self._broken = False
        self._paused = False
        self._wanted = False  # step is to be called though nothing may have arrived
        self._net = net
        net.streams[self] = None

    async def receive_into(self, view: memoryview) -> int:
        """Receive at least one byte into view; 0 at the end of the stream."""
        await self._begin()
        while (received := self.receive_now(view)) is None:
            await self._wait(self._in.arrived)
        return received

    def receive_now(self, view: memoryview) -> int | None:
        """Receive what is there; None when nothing is, 0 at the end of the stream."""
        self._alive()
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._in.buffer:
            return self._in.take(view)
        if self._in.reset:
            raise trio.BrokenResourceError(f"{self.peer} has reset the connection")
        return 0 if self._in.ended else None

    def watch(self, step: Callable[[], bool], nursery: trio.Nursery, then: Callable[[], bool] | None = None) -> None:
        """From now on call step, and then what follows it, whenever there may be something to receive."""
        nursery.start_soon(self._watch, step, then)

    def has_hung_up(self) -> bool:
        """Whether the peer has ended or broken the connection, and that has arrived."""
        return self._in.ended

    def pause(self) -> None:
        """Do not call step any more."""
        self._paused = True

    def resume(self, again: bool) -> None:
        """Call step as before. again: and soon, whether or not something has arrived."""
        self._paused = False
        self._wanted |= again
        self._in.arrived.unpark_all()

    async def _watch(self, step: Callable[[], bool], then: Callable[[], bool] | None) -> None:
        while not self._closed:
            self._wanted = again = False
            if not self._paused:
                again = step()
                if then is not None:
                    again = then()
            await trio.lowlevel.checkpoint()
            self._alive()
            arrived = (self._in.buffer or self._in.ended) and not self._paused
            if not (again or arrived or self._wanted or self._closed):
                await self._wait(self._in.arrived)

    def send_now(self, parts: Sequence[Buffer | FileSlice]) -> Sequence[Buffer | FileSlice]:
        """Send as much as there is room for; returns what is left."""
        self._alive()
        self._check_sending()
        data = memoryview(b"".join([part.read() if isinstance(part, FileSlice) else part for part in parts]))
        room = self._out.room()
        if room and data:
            self._push(data[:room])
        return (data[room:],) if room < len(data) else ()

    async def send(self, parts: Sequence[Buffer | FileSlice]) -> None:
        """Send all parts in order, waiting while the buffer is full; broken for good when that fails midway."""
        await self._begin()
        try:
            self._check_sending()
            rest = memoryview(b"".join([part.read() if isinstance(part, FileSlice) else part for part in parts]))
            while rest:
                self._check_sending()
                if room := self._out.room():
                    self._push(rest[:room])
                    rest = rest[room:]
                else:
                    await self._wait(self._out.drained)
        except BaseException:
            self._broken = True
            raise

    def close(self) -> None:
        """Close, without waiting for the peer; idempotent. Unread bytes make it a reset, as in TCP."""
        self._alive()
        self.hang_up(Mark.RESET if self._in.buffer else Mark.END)

    async def aclose(self) -> None:
        """The same, and a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def hang_up(self, mark: Mark | None) -> None:
        """Close at once. mark: what the peer is told; None, as in a power failure, tells it nothing."""
        if self._closed:
            return
        self._closed = True
        self._net.streams.pop(self, None)
        if mark is not None:
            self._in.reader_closed = True
            self._in.buffer.clear()
            self._out.push(mark)
        self._in.arrived.unpark_all()
        self._out.drained.unpark_all()

    def reset(self) -> None:
        """Break the connection from here: both sides see it."""
        self._in.reset = self._in.ended = True
        self._in.arrived.unpark_all()
        self._out.drained.unpark_all()
        self._out.push(Mark.RESET)

    def _push(self, data: memoryview) -> None:
        self._out.push(bytes(data))
        self.sent += len(data)

    def _check_sending(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._broken or self._in.reset:
            raise trio.BrokenResourceError(f"the connection to {self.peer} is broken")

    async def _begin(self) -> None:
        self._alive()
        self._turns += 1
        if self._turns > TURNS_MAX:
            self._turns = 0
            await trio.lowlevel.checkpoint()
            self._alive()

    async def _wait(self, lot: trio.lowlevel.ParkingLot) -> None:
        self._turns = 0
        await lot.park()
        self._alive()


class MemoryListener:
    """A port of a host, and the connections nobody has accepted yet."""

    def __init__(self, net: MemoryNet, address: Address) -> None:
        self.address = address
        self._net = net
        self._backlog: deque[MemoryStream] = deque()
        self._offered = trio.lowlevel.ParkingLot()
        self._closed = False

    async def accept(self) -> MemoryStream:
        """The next connection."""
        await trio.lowlevel.checkpoint()
        self._net.alive()
        while not self._backlog:
            if self._closed:
                raise trio.ClosedResourceError("this listener was closed")
            await self._offered.park()
            self._net.alive()
        return self._backlog.popleft()

    async def aclose(self) -> None:
        """Stop listening; connections in the backlog are reset."""
        self._net.alive()
        self.stop(Mark.RESET)
        await trio.lowlevel.checkpoint()

    def stop(self, mark: Mark | None) -> None:
        """Close at once. mark: see `MemoryStream.hang_up`."""
        if not self._closed:
            self._closed = True
            del self._net.network.listeners[self._net.name, self.address[1]]
            for stream in self._backlog:
                stream.hang_up(mark)
            self._offered.unpark_all()

    def offer(self, stream: MemoryStream) -> bool:
        """A connection has arrived; False when too many are waiting."""
        if len(self._backlog) >= BACKLOG:
            return False
        self._backlog.append(stream)
        self._offered.unpark()
        return True


class MemoryNet:
    """The network as one process of one host sees it. alive: called in every operation; raises when it is dead."""

    def __init__(self, network: MemoryNetwork, name: str, alive: Callable[[], None]) -> None:
        self.network = network
        self.name = name
        self.alive = alive
        self.streams: dict[MemoryStream, None] = {}
        self.listeners: list[MemoryListener] = []

    def when_short(self, release: Callable[[int], int]) -> None:
        """There is no shortage of descriptors in memory."""

    async def listen(self, host: str, port: int) -> MemoryListener:
        """Listen on a port of this host; 0 picks a free one."""
        await trio.lowlevel.checkpoint()
        self.alive()
        if host not in (*OWN_NAMES, self.name):
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL), host)
        port = port or self.network.free_port()
        if (self.name, port) in self.network.listeners:
            raise AddressInUse(host, port, self.name)
        listener = self.network.listeners[self.name, port] = MemoryListener(self, (host, port))
        self.listeners.append(listener)
        return listener

    async def connect(self, host: str, port: int) -> MemoryStream:
        """Open a connection; waits while the way is cut, either way."""
        self.alive()
        own = host in OWN_NAMES
        target = self.name if own else host
        if target not in self.network.hosts:
            raise OSError(f"unknown host {host}")
        await self.network.wait_passage(self.name, target)
        local, remote = (LOOPBACK if own else self.name, self.network.free_port()), (LOOPBACK if own else target, port)
        listener = self.network.listeners.get((target, port))
        stream = self._join(listener, local, remote) if listener else None
        try:
            await self.network.wait_passage(target, self.name)
            self.alive()
        except BaseException:
            if stream:
                stream.hang_up(Mark.RESET)
            raise
        if stream is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens on {address_text(host, port)}")
        return stream

    def rpc_channel(self, address: str, tls: Tls | None) -> RpcChannel:
        """There are no such servers in memory."""
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), address)

    def abort(self, mark: Mark | None) -> None:
        """The process is gone: everything it had open closes. mark: see `MemoryStream.hang_up`."""
        for listener in self.listeners:
            listener.stop(mark)
        for stream in list(self.streams):
            stream.hang_up(mark)

    def _join(self, listener: MemoryListener, local: Address, remote: Address) -> MemoryStream | None:
        """Both ends of a new connection, one of them into the listener's backlog."""
        there = listener._net
        outgoing, incoming = Pipe(self.network, self.name, there.name), Pipe(self.network, there.name, self.name)
        outgoing.reverse, incoming.reverse = incoming, outgoing
        theirs = MemoryStream(there, outgoing, incoming, remote, local)
        ours = MemoryStream(self, incoming, outgoing, local, remote)
        if listener.offer(theirs):
            return ours
        theirs.hang_up(Mark.RESET)
        ours.hang_up(Mark.RESET)
        return None


class MemoryNetwork:
    """All hosts, the ways between them, and what happens to those.

    rng or seed: of everything left to chance. clock: fires timers; without one there is no latency. buffer_size: bytes
    one direction of a connection holds. fragment: whether receivers get random pieces.
    """

    def __init__(
        self,
        *,
        seed: int | str = 0,
        rng: random.Random | None = None,
        clock: JumpClock | None = None,
        delay: Callable[[random.Random], float] = lambda rng: 0.0,
        buffer_size: int = BUFFER_SIZE,
        fragment: bool = True,
        trace: Callable[..., None] = lambda *event: None,
    ) -> None:
        self.rng = rng or random.Random(f"{seed}/net")
        self.clock = clock
        self.delay = delay
        self.buffer_size = buffer_size
        self.fragment = fragment
        self.trace = trace
        self.hosts: dict[str, MemoryNet] = {}  # the latest process of each
        self.listeners: dict[tuple[str, int], MemoryListener] = {}
        self.pipes: dict[Pipe, None] = {}  # with something in flight
        self._cuts: dict[tuple[str, str], None] = {}
        self._slow: dict[tuple[str, str], float] = {}
        self._dark: dict[str, list[MemoryStream]] = {}  # hosts without power, and the connections they had
        self._healed = trio.lowlevel.ParkingLot()
        self._ports = FIRST_PORT

    def host(self, name: str, *, alive: Callable[[], None] = lambda: None) -> MemoryNet:
        """The network for a new process of a host, which gets power if it had none."""
        net = self.hosts[name] = MemoryNet(self, name, alive)
        for stream in self._dark.pop(name, []):
            stream._out.push(Mark.RESET)  # what a rebooted host answers to those who still talk to its past
        self._set_free()
        return net

    # -- misfortune ---------------------------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """Hold what source sends to target. "*" is everybody."""
        self._cuts[source, target] = None
        self.trace("cut", source, target)

    def isolate(self, host: str) -> None:
        """Cut a host off, both ways. It still reaches itself."""
        self.cut(host, ANYBODY)
        self.cut(ANYBODY, host)

    def slow(self, source: str, target: str, seconds: float) -> None:
        """Add to the latency from source to target; 0 ends it."""
        self._slow[source, target] = seconds

    def heal(self) -> None:
        """Undo every cut and slowness; what was held goes on its way."""
        self._cuts.clear()
        self._slow.clear()
        self.trace("heal")
        self._set_free()

    def reset(self, one: str, other: str = ANYBODY) -> None:
        """Break every connection of a host (to another)."""
        self.trace("reset", one, other)
        for stream in list(self.hosts[one].streams):
            if other in (ANYBODY, stream._out.target):
                stream.reset()

    def lose_power(self, name: str) -> None:
        """A host goes dark: peers hear nothing of it until it comes up again."""
        net = self.hosts[name]
        self._dark[name] = list(net.streams)
        net.abort(None)

    # -- for pipes ----------------------------------------------------------------------------------------------------

    def is_cut(self, source: str, target: str) -> bool:
        """Whether nothing gets from source to target now."""
        if target in self._dark:
            return True
        if not self._cuts or source == target:
            return False
        return any(way in self._cuts for way in ((source, target), (source, ANYBODY), (ANYBODY, target)))

    def latency(self, source: str, target: str) -> float:
        """Seconds from source to target, this time."""
        return self.delay(self.rng) + self._slow.get((source, target), 0.0) if self.clock else 0.0

    def segment(self, size: int) -> int:
        """How many of size bytes a receiver gets: all, or any number."""
        return self.rng.randint(1, size) if self.fragment and size > 1 and self.rng.random() < 0.3 else size

    def now(self) -> float:
        """Seconds on the clock; 0 without one."""
        return self.clock.current_time() if self.clock else 0.0

    def call_at(self, when: float, action: Callable[[], None]) -> None:
        """Call action at a time; now, when there is no clock."""
        if self.clock:
            self.clock.call_at(when, action)
        else:
            action()

    def free_port(self) -> int:
        """A port number never given out before."""
        self._ports += 1
        return self._ports

    async def wait_passage(self, source: str, target: str) -> None:
        """Wait as long as a packet takes from source to target."""
        arrived = trio.Event()
        self.call_at(self.now() + self.latency(source, target), arrived.set)
        await arrived.wait()
        while self.is_cut(source, target):
            await self._healed.park()

    def _set_free(self) -> None:
        for pipe in list(self.pipes):
            pipe.schedule()
        self._healed.unpark_all()
