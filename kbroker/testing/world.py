"""A world that a seed decides: nodes, their disks, the network, time. One seed, one run, to the last bit.

    async def scenario(world):
        node = world.node("b0")
        node.start(serve)                     # async def serve(env): one process, until it returns or dies
        await trio.sleep(30)                  # simulated seconds cost nothing
        node.kill()                           # -9: not even a finally block gets to the disk or the network
        node.start(serve)                     # the next process, over the same disk
        node.power_loss()                     # what was not synced is gone, or half gone
        world.network.isolate("b1")

    trace = simulate(7, scenario)             # trace.hash is the same wherever and whenever this runs

    node    ── has a disk (`Volume`), a clock (`SteeredClock`), a name in the network; outlives its processes
    process ── one life of the program: has an `Env` with `workers` of its own, and a cancel scope. Once dead it is
               fenced: each call of its Env raises `Killed`, a BaseException, so that nothing the dying code still
               does has an effect

Every concern (network, each disk, faults, clients …) draws from a random generator of its own, seeded by name, so that
another fault does not change what clients do. A run that fails names its seed. A seed holds for one version of the code
only: one more task, and the schedule is another.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

import trio
from trio.lowlevel import Task

from kbroker.env import Env
from kbroker.testing.clock import JumpClock, SteeredClock
from kbroker.testing.disk import MemoryDisk
from kbroker.testing.net import Mark, MemoryNet, MemoryNetwork
from kbroker.testing.scheduler import FreezableQueue, deterministic_trio, install_queue
from kbroker.testing.volume import Volume
from kbroker.testing.workers import InlineHelper, Workers

Main = Callable[[Env], Awaitable[None]]
current_process: ContextVar[Process | None] = ContextVar("current_process", default=None)


class Killed(BaseException):
    """Raised by whatever a dead process asks of its Env."""


class Deadlock(Exception):
    """Every task waits for another, for ever; or some keep each other busy, and time does not move."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a run leaves behind. Equal hashes: equal runs."""

    seed: int | str
    hash: str
    events: int
    seconds: float  # simulated
    lines: list[str] = field(repr=False)  # the events as text, when asked for


def simulate(
    seed: int | str,
    main: Callable[[World], Awaitable[None]],
    *,
    keep_lines: bool = False,
    on_line: Callable[[str], None] | None = None,
    **options: float,
) -> Trace:
    """Run main in a new world. It ends, with all its processes, when main returns.

    keep_lines: keep the events in `Trace.lines`, to see where two runs part. on_line: called with each of them, also in
    a run that fails. options: of World. Raises what main or a process raises, with the seed in a note; Deadlock when
    nothing can ever happen again.
    """
    world = World(seed, keep_lines=keep_lines, on_line=on_line, **options)
    try:
        with deterministic_trio(f"{seed}/scheduler"):
            trio.run(world._run, main, clock=world.clock)
    except BaseException as error:
        cause = only_cause(error)
        cause.add_note(f"in the simulation of seed {seed!r}, after {world.now():.3f} s")
        raise cause from cause.__cause__
    if world.deadlocked:
        raise Deadlock(f"{world.deadlocked}, {world.now():.3f} s into seed {seed!r}")
    return Trace(seed, world.digest.hexdigest(), world.events, world.now(), world.lines)


class World:
    """Time, the network and the nodes of one simulation.

    latency_s, offload_s: mean seconds of a packet's way and of offloaded work (such as an fsync).
    """

    def __init__(
        self,
        seed: int | str,
        *,
        keep_lines: bool = False,
        on_line: Callable[[str], None] | None = None,
        latency_s: float = 0.001,
        offload_s: float = 0.002,
    ) -> None:
        self.seed = seed
        self.clock = JumpClock()
        self.clock.on_deadlock = self._end_deadlock
        self.digest = hashlib.blake2b(digest_size=16)
        self.events = 0
        self.lines: list[str] = []
        self.deadlocked = ""  # why, if it is
        self.offload_s = offload_s
        self._on_line = on_line or (self.lines.append if keep_lines else None)
        self._randoms: dict[str, random.Random] = {}
        self._nodes: dict[str, Node] = {}
        self._queue: FreezableQueue
        self.nursery: trio.Nursery  # of processes; a scenario may start tasks of its own there
        self.network = MemoryNetwork(
            rng=self.random("net"), clock=self.clock, delay=partial(_packet_delay, latency_s), trace=self.trace
        )

    def node(self, name: str, *, drift: float = 1.0) -> Node:
        """The node of that name, made when new. drift: seconds its clocks count in one of the world's."""
        if name not in self._nodes:
            self._nodes[name] = Node(self, name, drift)
        return self._nodes[name]

    def client_env(self, name: str) -> Env:
        """An Env for a client, which is a node that nobody kills."""
        return self.node(name).env

    def random(self, concern: str) -> random.Random:
        """The random generator of a concern, seeded by its name."""
        if concern not in self._randoms:
            self._randoms[concern] = random.Random(f"{self.seed}/{concern}")
        return self._randoms[concern]

    def now(self) -> float:
        """Seconds since the world began."""
        return self.clock.current_time()

    def trace(self, *event: object) -> None:
        """Add an event to the run's hash. Values only: their repr must not hold an address."""
        line = f"{self.now()!r} {event!r}"
        self.digest.update(line.encode())
        self.events += 1
        if self._on_line is not None:
            self._on_line(line)

    async def _run(self, main: Callable[[World], Awaitable[None]]) -> None:
        self._queue = install_queue(_is_frozen, self._end_livelock)
        self.clock.on_idle = self._queue.note_idle
        async with trio.open_nursery() as self.nursery:
            try:
                await main(self)
            finally:
                for node in self._nodes.values():
                    node.kill()
                self.nursery.cancel_scope.cancel()

    def _end_deadlock(self) -> None:
        if self.deadlocked:
            raise Deadlock(f"cancelled tasks still wait, in the simulation of seed {self.seed!r}")
        self.deadlocked = "nothing can happen any more"
        self.nursery.cancel_scope.cancel()

    def _end_livelock(self) -> None:
        """Tasks keep each other busy. Who they are is seen where they are cancelled."""
        self.deadlocked = "time does not move any more"
        self.nursery.cancel_scope.cancel()

    def _note_freezing(self) -> None:
        processes = [node.process for node in self._nodes.values()]
        self._queue.freezing = any(process is not None and process.frozen for process in processes)


class Node:
    """A machine: its disk and clock stay while processes come and go. Made by `World.node`."""

    def __init__(self, world: World, name: str, drift: float) -> None:
        self.world = world
        self.name = name
        self.clock = SteeredClock(origin=0.0, drift=drift, now=world.now)  # data and liveness time; jump them at will
        self.volume = Volume(world.random(f"disk/{name}"), now_ms=self.clock.data_ms, trace=partial(world.trace, name))
        self.process: Process | None = None  # the live one
        self.processes = 0

    @property
    def env(self) -> Env:
        """The Env of the live process; of a new one, when there is none."""
        return self._live().env

    @property
    def running(self) -> bool:
        """Whether there is a process with a program."""
        return self.process is not None and self.process.started

    def start(self, main: Main) -> None:
        """Run a program as this node's process. An exception it raises while alive fails the simulation."""
        process = self._live()
        assert not process.started, f"{self.name} runs already"
        process.started = True
        self.world.trace("start", self.name, self.processes)
        self.world.nursery.start_soon(process.run, main, name=f"{self.name}#{self.processes}")

    def kill(self) -> None:
        """End the process as kill -9 does: connections break, locks are released, the page cache stays."""
        self._end("kill", Mark.RESET)

    def power_loss(self) -> None:
        """End the machine: peers hear nothing any more, and the disk loses what it had not made durable."""
        self.world.trace("power-loss", self.name)
        if self.process is not None:
            self.world.network.lose_power(self.name)
        self.volume.power_loss()
        self._end_process()

    def pause(self) -> None:
        """Stop the process as SIGSTOP does: none of its code runs, while timeouts pass and the kernel takes packets."""
        self._freeze(True)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._freeze(False)

    def _end(self, how: str, farewell: Mark) -> None:
        if self.process is not None:
            self.world.trace(how, self.name)
            self.process.net.abort(farewell)
            self.volume.kill()
            self._end_process()

    def _freeze(self, frozen: bool) -> None:
        if self.process is not None:
            self.world.trace("pause" if frozen else "resume", self.name)
            self.process.frozen = frozen
            self.world._note_freezing()

    def _live(self) -> Process:
        if self.process is None:
            self.processes += 1
            self.process = Process(self)
        return self.process

    def _end_process(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.die()
            self.world._note_freezing()


class Process:
    """One life of a node's program. Made by `Node.start`."""

    def __init__(self, node: Node) -> None:
        world, name = node.world, node.name
        self.node = node
        self.dead = False
        self.frozen = False
        self.started = False
        self.scope = trio.CancelScope()
        self.net: MemoryNet = world.network.host(name, alive=self.check)
        disk = MemoryDisk(node.volume, holder=f"a process of {name}", alive=self._call)
        rng = SeededRng(world.random(f"rng/{name}/{node.processes}"), self.check)
        self._workers = Workers(world.random(f"offload/{name}"), world.offload_s, self.check)
        helper = InlineHelper(disk, self._workers)
        self.env = Env(ProcessClock(node.clock, self.check), disk, self.net, rng, self._workers, helper)

    def check(self) -> None:
        """Raise Killed when this process is dead."""
        if self.dead:
            raise Killed

    def _call(self) -> None:
        """An operation of the disk is about to happen. Others may come first, and then the process be dead."""
        self.check()
        self._workers.before_a_call()
        self.check()

    def die(self) -> None:
        """From here on nothing it does counts; its tasks unwind."""
        self.dead = True
        self.frozen = False
        self.scope.cancel()

    async def run(self, main: Main) -> None:
        """Run the program to its end, whichever."""
        current_process.set(self)
        try:
            with self.scope:
                await main(self.env)
        except BaseException as error:
            if not self.dead:
                raise
            if (cancelled := cancelled_part(error)) is not None:
                raise cancelled from None
        if not self.dead:
            self.node._end("exit", Mark.END)


class ProcessClock:
    """A node's clock, as long as the process lives."""

    def __init__(self, clock: SteeredClock, alive: Callable[[], None]) -> None:
        self._clock = clock
        self._alive = alive

    def data_ms(self) -> int:
        """Milliseconds since the epoch."""
        self._alive()
        return self._clock.data_ms()

    def liveness(self) -> float:
        """Seconds on a clock that never goes back."""
        self._alive()
        return self._clock.liveness()

    async def sleep(self, seconds: float) -> None:
        """Wait in the I/O domain."""
        await self._clock.sleep(seconds)
        self._alive()

    async def sleep_data(self, seconds: float) -> bool:
        """The same, between looks at data time."""
        is_set = await self._clock.sleep_data(seconds)
        self._alive()
        return is_set


class SeededRng:
    """An Rng that repeats itself."""

    def __init__(self, generator: random.Random, alive: Callable[[], None] = lambda: None) -> None:
        self._random = generator
        self._alive = alive

    def token(self, length: int) -> bytes:
        """Random bytes."""
        self._alive()
        return self._random.randbytes(length)

    def below(self, bound: int) -> int:
        """A random integer, 0 <= n < bound."""
        self._alive()
        return self._random.randrange(bound)


def only_cause(error: BaseException) -> BaseException:
    """The exception inside groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def cancelled_part(error: BaseException) -> BaseException | None:
    """What of an exception is trio's cancellation, which must never be swallowed."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[0]
    return error if isinstance(error, trio.Cancelled) else None


def _packet_delay(mean_s: float, rng: random.Random) -> float:
    """Mostly short, now and then fifty times as long."""
    delay = mean_s * (0.2 + rng.expovariate(1 / 0.8))
    return delay + mean_s * 50 * rng.random() if rng.random() < 0.01 else delay


def _is_frozen(task: Task) -> bool:
    process = task.context.get(current_process)
    return process is not None and process.frozen
