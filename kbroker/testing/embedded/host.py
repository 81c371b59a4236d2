"""Host: one broker after another on the same port, in the loop of whoever embeds it.

    Host ─ port            from first to last
         ─ machine ┐       until `renew`, which leaves nothing of what was there
         ─ controls┘
           ─ life          from `start` to `stop`, `kill`, or a failure

    start ─▶ serving ─▶ stop: clean │ kill: as by kill -9 ─▶ start: same port, same data
                   └──▶ renew: another machine, another broker

Everything here is called in the loop. What fails while it serves is told by `failure`, and by the log.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import trio

from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.store import CoordinationStore
from kbroker.config import BrokerConfig, ConfigError
from kbroker.env import DirectoryLocked, Env, address_text
from kbroker.server.broker import Ready, run_broker
from kbroker.server.identity import StartFailed
from kbroker.testing.broker import Life
from kbroker.testing.clock import SteeredClock
from kbroker.testing.control.controls import Controls
from kbroker.testing.embedded.port import Port
from kbroker.testing.embedded.portal import CannotStart
from kbroker.testing.world import only_cause

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

# What differs from Kafka's defaults: an internal topic of fifty partitions is nothing that a test wants to wait for.
TEST_CONFIG = {"offsets.topic.num.partitions": "4", "transaction.state.log.num.partitions": "4"}

log = logging.getLogger("kbroker")


class EmbeddedMachine(Protocol):
    """What outlives a process: see machines.py."""

    clock: SteeredClock
    life: Life

    way: CoordinationStore | None  # to the coordination store; None: to the one that the configuration names

    def env(self) -> Env:
        """The world of a new process."""

    def kill(self) -> None:
        """End its process."""

    async def forget(self) -> None:
        """Have others know that it has ended."""


class Host:
    """A broker, or none, on a port. make_machine: called at each `renew`.

    config: Kafka's names. Nothing runs before the first `renew`. What starts a broker raises CannotStart.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        port: Port,
        config: Mapping[str, str],
        make_machine: Callable[[], EmbeddedMachine],
    ) -> None:
        self.port = port
        self.failure = ""  # why the latest life ended by itself
        self.machine: EmbeddedMachine | None = None
        self.controls: Controls | None = None
        self._nursery = nursery
        self._base = dict(config)
        self._config = self._base
        self._make_machine = make_machine
        self._life: _Life | None = None
        self._prepared: _Prepared | None = None
        self._turn = trio.Lock()  # of who starts and ends it

    @property
    def is_running(self) -> bool:
        """Whether there is a broker."""
        return self._life is not None and not self._life.ended.is_set()

    async def renew(
        self,
        config: Mapping[str, str] | None = None,
        topics: Mapping[str, int] | None = None,
        saved: Mapping[str, Any] | None = None,
        brokers_min: int = 1,
    ) -> None:
        """End the broker and forget its machine; start one on a new machine.

        config: beside the host's own. topics: name -> partitions, to be there from the start. saved: of the controls of
        an earlier process. brokers_min: so many of its cluster are to live before it is ready. A broker that was
        prepared with the same wishes is the one.
        """
        wish = _Wish(dict(config or {}), dict(topics or {}), saved, brokers_min)
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await prepared.done.wait()
            is_as_wished = prepared.wish == wish and self.is_running
            if is_as_wished and self.controls is not None and not len(self.controls.journal):
                return  # and no client that was left over has been there already
        async with self._turn:
            await self._renew(wish)

    def prepare(self, config: Mapping[str, str] | None = None) -> None:
        """Begin to `renew`, and do not wait for it: what is likely to be asked for next."""
        self._prepared = prepared = _Prepared(_Wish(dict(config or {}), {}, None, 1))
        self._nursery.start_soon(self._prepare, prepared)

    async def _prepare(self, prepared: _Prepared) -> None:
        try:
            async with self._turn:
                await self._renew(prepared.wish)
        except CannotStart:
            pass  # who asks for it tries again, and is told
        finally:
            prepared.done.set()

    async def _renew(self, wish: _Wish) -> None:
        await self._kill()
        self._config = {**self._base, **wish.config}
        self.machine = machine = self._make_machine()
        self.controls = Controls(machine.clock)
        if wish.saved is not None:
            self.controls.restore(wish.saved)
        await self._start(wish.topics, wish.brokers_min)

    async def start(self) -> None:
        """Start a broker on the machine, and wait until it serves. Nothing to do where it runs."""
        async with self._turn:
            if not self.is_running:
                await self._start({}, brokers_min=1)

    async def _start(self, topics: Mapping[str, int], brokers_min: int) -> None:
        assert self.machine is not None and self.controls is not None, "there is no machine before `renew`"
        settings = self._settings()
        self.failure = ""
        self.machine.life = Life()
        self.port.make_room()
        life = _Life(self.machine.life)
        serve = partial(
            run_broker,
            self.machine.env(),
            settings,
            store=self.machine.way,
            topics=[NewTopic(*each) for each in topics.items()],
            brokers_min=brokers_min,
            on_ready=life.on_ready,
            apis=self.controls.apis(),
        )
        self._life = life
        self._nursery.start_soon(self._live, life, serve)
        await life.settled.wait()
        if life.error is not None and not life.was_ready:
            raise _cannot_start(life.error)

    async def stop(self) -> None:
        """Stop it cleanly. Nothing to do where none runs."""
        async with self._turn:
            if self._life is not None:
                self._life.of_machine.scope.cancel()
                await self._life.ended.wait()

    async def kill(self) -> None:
        """End it as kill -9 does, and wait until its tasks are gone. Nothing to do where none runs."""
        async with self._turn:
            await self._kill()

    async def _kill(self) -> None:
        if self.is_running and self._life is not None and self.machine is not None:
            self.machine.kill()
            await self._life.ended.wait()
            await self.machine.forget()

    def call(self, method: str, args: Any, kwargs: Any) -> Any:
        """Call a method of the controls by name."""
        assert self.controls is not None, "there are no controls before `renew`"
        assert not method.startswith("_"), method
        return getattr(self.controls, method)(*args, **kwargs)

    async def _live(self, life: _Life, serve: Callable[[], Awaitable[None]]) -> None:
        try:
            await life.of_machine.live(serve)
        except Exception as error:
            life.error = error
            if life.was_ready:
                cause = only_cause(error)
                self.failure = f"{type(cause).__name__}: {cause}"
                log.critical("the broker failed", exc_info=error)
        finally:
            life.ended.set()
            life.settled.set()
            self.port.hold()

    def _settings(self) -> BrokerConfig:
        listener = f"PLAINTEXT://{address_text(self.port.host, self.port.number)}"
        try:
            return BrokerConfig().with_values({"listeners": listener, **TEST_CONFIG, **self._config})
        except ConfigError as error:
            raise CannotStart(str(error)) from None


class _Wish(NamedTuple):
    """What a broker is to have."""

    config: dict[str, str]
    topics: dict[str, int]
    saved: Mapping[str, Any] | None
    brokers_min: int


class _Prepared:
    """A broker that is likely to be wanted soon."""

    def __init__(self, wish: _Wish) -> None:
        self.wish = wish
        self.done = trio.Event()


class _Life:
    """One run of a broker."""

    def __init__(self, of_machine: Life) -> None:
        self.of_machine = of_machine
        self.settled = trio.Event()  # it serves, or has ended
        self.ended = trio.Event()
        self.was_ready = False
        self.error: Exception | None = None

    def on_ready(self, ready: Ready) -> None:
        self.was_ready = True
        self.settled.set()


def _cannot_start(error: Exception) -> BaseException:
    """Why it did not start; a bug stays what it is."""
    cause = only_cause(error)
    if isinstance(cause, StartFailed | ConfigError | OSError | DirectoryLocked):
        return CannotStart(str(cause)).with_traceback(None)
    return cause
