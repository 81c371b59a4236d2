"""LifeNet: the system's network, as long as one life of a broker: what a process that is killed lets go of."""

from __future__ import annotations

from collections.abc import Callable

from kbroker.env import RpcChannel, Tls
from kbroker.env.descriptors import Descriptors
from kbroker.env.features import Features
from kbroker.env.real_net import RealListener, RealNet, RealStream
from kbroker.testing.embedded.forks import let_go_in_children

KEPT_MIN = 64  # streams remembered before the first look at which of them are closed


class LifeNet:
    """A Net. alive: raises when the life is over. Nothing goes out after `abort`."""

    def __init__(self, features: Features, alive: Callable[[], None]) -> None:
        self._real = RealNet(features, Descriptors(reserve=0))
        self._alive = alive
        self._listeners: list[LifeListener] = []
        self._streams: list[RealStream] = []
        self._look_at = KEPT_MIN
        let_go_in_children(self)

    def when_short(self, release: Callable[[int], int]) -> None:
        """See Net."""
        self._real.when_short(release)

    async def listen(self, host: str, port: int) -> LifeListener:
        """See Net."""
        self._alive()
        listener = LifeListener(await self._real.listen(host, port), self)
        self._listeners.append(listener)
        return listener

    async def connect(self, host: str, port: int) -> RealStream:
        """See Net."""
        self._alive()
        return self.note(await self._real.connect(host, port))

    def rpc_channel(self, address: str, tls: Tls | None) -> RpcChannel:
        """See Net."""
        return self._real.rpc_channel(address, tls)

    def note(self, stream: RealStream) -> RealStream:
        """One more connection."""
        self._alive()
        if len(self._streams) >= self._look_at:
            self._streams = [each for each in self._streams if not each.is_closed]
            self._look_at = max(KEPT_MIN, 2 * len(self._streams))
        self._streams.append(stream)
        return stream

    def abort(self) -> None:
        """Close everything at once, as the system does for a process that was killed."""
        for listener in self._listeners:
            listener.close()
        for stream in self._streams:
            stream.close()

    def abandon(self) -> None:
        """In a forked child: let go of its copies."""
        for listener in self._listeners:
            listener.abandon()
        for stream in self._streams:
            if not stream.is_closed:
                stream.abandon()


class LifeListener:
    """A Listener that notes whom it lets in."""

    def __init__(self, listener: RealListener, net: LifeNet) -> None:
        self.address = listener.address
        self._listener = listener
        self._net = net

    async def accept(self) -> RealStream:
        """See Listener."""
        return self._net.note(await self._listener.accept())

    async def aclose(self) -> None:
        """See Listener."""
        await self._listener.aclose()

    def close(self) -> None:
        """The same at once."""
        self._listener.close()

    def abandon(self) -> None:
        """In a forked child: let go of its copy."""
        self._listener.abandon()
