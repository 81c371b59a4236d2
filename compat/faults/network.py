"""A TCP proxy in userspace: what a network can do to the processes of a test, at will and undone again.

    with Network(owner_of) as network:
        port = network.open("peer", target=1, address=("127.0.0.1", 29092))     # tell the others this port
        network.rule(Rule(delay_s=0.1, bytes_per_s=375_000), "peer", source=2)  # broker 2 is slow when it asks others
        network.rule(SILENT, "peer", target=1)                                  # nothing reaches 1, nothing comes back
        network.reset("client")                                                 # connections are torn down
        network.heal()

A connection has a kind (which door it came in by), a target, and a source: the broker whose process made it, found out
from /proc, or None, a client. A rule applies to what it names, at once and to connections that exist already; the last
rule that fits counts. What a silent link holds is delivered when it speaks again, as TCP does; also the news that an
end is closed. Owns one thread, which runs trio, and the ports.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, TypeVar

import trio

T = TypeVar("T")

CHUNK = 1 << 16
HELD_MAX = 4096  # chunks in one direction of a connection
LINGER_NONE = struct.pack("ii", 1, 0)  # closing sends RST


class Rule(NamedTuple):
    """What a link does. `forth` and `back` say whether bytes pass from and to the one that connected."""

    delay_s: float = 0.0  # one way
    bytes_per_s: float = 0.0  # each way, all connections together; 0: unlimited
    forth: bool = True
    back: bool = True


OPEN, SILENT = Rule(), Rule(forth=False, back=False)


class Link(NamedTuple):
    """Whom a connection joins. As a pattern, ANY stands for all."""

    kind: str
    source: int | None
    target: int | None


ANY = -1
Owner = Callable[[int], int | None]


class Network:
    """The doors, the rules and the connections."""

    def __init__(self, owner_of: Owner = lambda port: None) -> None:
        self.owner_of = owner_of
        self.rules: list[tuple[Link, Rule]] = []
        self.connections: dict[Link, set[trio.CancelScope]] = {}
        self._changed = trio.Event()
        self._free_at: dict[tuple[Link, bool], float] = {}
        self._up = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), daemon=True)
        self._token: trio.lowlevel.TrioToken
        self._nursery: trio.Nursery

    def __enter__(self) -> Network:
        self._thread.start()
        self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._nursery.cancel_scope.cancel)
        self._thread.join(10)

    def open(self, kind: str, target: int, address: tuple[str, int]) -> int:
        """A door to this address; its port."""

        async def listen() -> int:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self._nursery.start_soon(self._serve, listener, kind, target, address)
            return int(listener.socket.getsockname()[1])

        return trio.from_thread.run(listen, trio_token=self._token)

    def rule(self, rule: Rule, kind: str, source: int | None = ANY, target: int = ANY) -> None:
        """From now on these links are so."""

        def change() -> None:
            self.rules.append((Link(kind, source, target), rule))
            self._tell()

        self._do(change)

    def isolate(self, broker: int, rule: Rule = SILENT, kind: str = "peer") -> None:
        """What it asks of others and what they ask of it. One way: `forth` is what it says, `back` what it hears."""
        self.rule(rule, kind, source=broker)
        self.rule(rule._replace(forth=rule.back, back=rule.forth), kind, target=broker)

    def heal(self) -> None:
        """All links are as new; what was held passes."""

        def change() -> None:
            self.rules.clear()
            self._tell()

        self._do(change)

    def reset(self, kind: str, source: int | None = ANY, target: int = ANY) -> int:
        """Tear down the connections that there are; how many."""

        def tear() -> int:
            scopes = [
                s for link, all in self.connections.items() if fits(Link(kind, source, target), link) for s in all
            ]
            for scope in scopes:
                scope.cancel()
            return len(scopes)

        return self._do(tear)

    def _do(self, call: Callable[[], T]) -> T:
        return trio.from_thread.run_sync(call, trio_token=self._token)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _rule(self, link: Link) -> Rule:
        return next((rule for pattern, rule in reversed(self.rules) if fits(pattern, link)), OPEN)

    async def _main(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._up.set()
            await trio.sleep_forever()

    async def _serve(self, listener: trio.SocketListener, kind: str, target: int, address: tuple[str, int]) -> None:
        async def joined(inner: trio.SocketStream) -> None:
            source = await trio.to_thread.run_sync(self.owner_of, inner.socket.getpeername()[1])
            await self._join(inner, Link(kind, source, target), address)

        await trio.serve_listeners(joined, [listener])

    async def _join(self, inner: trio.SocketStream, link: Link, address: tuple[str, int]) -> None:
        """One connection, from its beginning to its end; torn down on both sides when one breaks."""
        outer: trio.SocketStream | None = None
        is_over = False  # both directions have ended in order
        scopes = self.connections.setdefault(link, set())
        with trio.CancelScope() as scope:
            scopes.add(scope)
            try:
                await self._passable(link, forth=True)
                outer = await trio.open_tcp_stream(*address)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._carry, inner, outer, link, True)
                    nursery.start_soon(self._carry, outer, inner, link, False)
                is_over = True
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                scopes.discard(scope)
                for end in (inner, outer):
                    if end is not None:
                        (let_go if is_over else hang_up)(end)

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream, link: Link, forth: bool) -> None:
        """One direction, to its end. Reading goes on while what was read waits for its time."""
        held, waiting = trio.open_memory_channel[tuple[float, bytes]](HELD_MAX)
        broken: list[BaseException] = []

        async def read() -> None:
            with held:
                try:
                    while data := await source.receive_some(CHUNK):
                        await held.send((trio.current_time(), bytes(data)))
                except trio.BrokenResourceError as reason:
                    broken.append(reason)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            async for at, data in waiting:
                await self._take_time(link, forth, at, len(data))
                await sink.send_all(data)
            await self._passable(link, forth)
            if broken:
                raise broken[0]
            await sink.send_eof()

    async def _take_time(self, link: Link, forth: bool, at: float, size: int) -> None:
        await self._passable(link, forth)
        rule = self._rule(link)
        due = at + rule.delay_s
        if rule.bytes_per_s:
            due = max(due, self._free_at.get((link, forth), 0.0)) + size / rule.bytes_per_s
            self._free_at[link, forth] = due
        if due > trio.current_time():
            await trio.sleep_until(due)
            await self._passable(link, forth)

    async def _passable(self, link: Link, forth: bool) -> None:
        while not (self._rule(link).forth if forth else self._rule(link).back):
            await self._changed.wait()


def fits(pattern: Link, link: Link) -> bool:
    return pattern.kind == link.kind and pattern.source in (ANY, link.source) and pattern.target in (ANY, link.target)


def let_go(stream: trio.SocketStream) -> None:
    """Close; the system still delivers what it has taken."""
    stream.socket.close()


def hang_up(stream: trio.SocketStream) -> None:
    """Close with RST, which takes away what is not delivered yet."""
    with suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    stream.socket.close()
