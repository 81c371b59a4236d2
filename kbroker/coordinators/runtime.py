"""Runtime: hands requests to shards, performs what their cores return, and does what is due without a request.

    request ──submit──▶ shard.core.event ──effects──▶ perform ──▶ the answer, or a coroutine of it
                          alarm ──on_alarm──▶ perform              a log that has grown ──▶ compaction

Made once for a kind of coordinators; `run` it before partitions are led.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.coordinators.alarms import Alarms
from kbroker.coordinators.effects import Compute, Effect
from kbroker.coordinators.leading import Leading
from kbroker.coordinators.routing import InternalTopic
from kbroker.coordinators.shard import APPEND_ERRORS, Refuse, Shard, Tasks, Ticket, same, told
from kbroker.env import Env
from kbroker.events import STATE_NOT_STORED, tell
from kbroker.log.directory import LogDirectory
from kbroker.replication.partition import Partition
from kbroker.turns import Work, each, finish

S = TypeVar("S", bound=Shard)
log = logging.getLogger("kbroker.coordinators")


class Runtime(Generic[S]):
    """The shards of one internal topic, served."""

    def __init__(
        self,
        env: Env,
        logs: LogDirectory,
        topic: InternalTopic,
        make: Callable[[Partition, Tasks], S],
        on_active: Callable[[S], Work[None]],
    ) -> None:
        """
        Args:
            make: a new shard of a partition.
            on_active: what there is to do when a shard that was loaded is active.
        """
        self.env = env
        self.logs = logs
        self.leading = Leading(env, topic, lambda partition: make(partition, self), self.start, self._take_up)
        self._on_active = on_active
        self._alarms: Alarms[S] = Alarms()
        self._nursery: trio.Nursery | None = None

    async def run(
        self, *duties: Callable[[], Awaitable[None]], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Load, ring alarms, have logs compacted, and do these duties besides; until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._alarms.run, self.env.clock, self._ring)
                for duty in duties:
                    nursery.start_soon(duty)
                task_status.started()
        finally:
            self._nursery = None

    def start(self, work: Callable[..., Awaitable[object]], *args: object) -> None:
        """Have work done as a task of the runtime; not when the broker is going down."""
        if self._nursery is not None:
            self._nursery.start_soon(work, *args)

    # -- requests -----------------------------------------------------------------------------------------------------

    def submit(
        self,
        name: str,
        event: Callable[[S, Ticket], Iterable[Effect]],
        refuse: Refuse,
        wait_s: float,
        *,
        late: ErrorCode = ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ) -> Any | Coroutine[Any, Any, Any]:
        """Give a core an event, and perform what it returns.

        Args:
            event: called with the shard and the request's ticket; may raise KafkaError before it changes anything.
            refuse: the answer that stands for an error.
            wait_s: how long an answer may take.
            late: the error when it took longer.

        Returns the answer, or a coroutine of it when it has to wait.
        """
        try:
            shard = self.leading.shard(name)
            ticket = Ticket(refuse)
            self.perform(shard, name, event(shard, ticket))
        except KafkaError as error:
            return refuse(told(error))
        if ticket.response is not None:
            return ticket.response
        return _answer(shard, ticket, wait_s, late)

    def when_committed(self, shard: S, offset: int, wait_s: float) -> ErrorCode | Coroutine[Any, Any, ErrorCode]:
        """NONE when the record at offset is committed; else why it will not be, or not in time."""
        ticket = Ticket(same)
        shard.after(offset, partial(ticket.answer, ErrorCode.NONE))
        if ticket.response is not None:
            return ErrorCode(ticket.response)
        return _answer(shard, ticket, wait_s, ErrorCode.COORDINATOR_NOT_AVAILABLE)

    def perform(self, shard: S, name: str, effects: Iterable[Effect]) -> None:
        """Perform a core's effects and see to its deadline. Raises KafkaError with what a client is told."""
        try:
            shard.perform(name, effects)
        except KafkaError as error:
            code = APPEND_ERRORS.get(error.code, ErrorCode.UNKNOWN_SERVER_ERROR)
            tell(log, STATE_NOT_STORED, partition=str(shard), name=name, reason=str(error))
            self.leading.restart(shard, code)
            raise KafkaError(code) from error
        self.note(shard, name)

    @contextmanager
    def contained(self, shard: S, name: str) -> Iterator[None]:
        """For events that nobody waits for: whatever goes wrong with one stays with its shard, which starts over."""
        try:
            yield
        except KafkaError:
            pass  # it does already, if something was not stored
        except Exception:
            log.exception("%s: %s failed, its partition is loaded again", shard, name)
            self.leading.restart(shard, ErrorCode.COORDINATOR_NOT_AVAILABLE)

    def note(self, shard: S, name: str) -> None:
        """Something happened to a core: set its alarm, see how long the log is."""
        self._alarms.note(shard, name, shard.deadline(name))
        self.note_growth(shard)

    # -- duties -------------------------------------------------------------------------------------------------------

    def _take_up(self, shard: S) -> Work[None]:
        """A shard was loaded."""
        yield from each(lambda name: self._alarms.note(shard, name, shard.deadline(name)), list(shard.names()))
        yield from self._on_active(shard)
        self.note_growth(shard)

    def on_waiting(self, shard: Shard) -> None:
        """Something begins to wait for the high watermark."""
        self.start(self._settle, shard)

    def on_compute(self, shard: Shard, name: str, compute: Compute) -> None:
        """A core wants something computed in turns."""
        self.start(self._compute, shard, name, compute)

    def on_closing(self, answers: Work[None]) -> None:
        """A shard is closed, and there are many to be told."""
        self.start(finish, answers)

    async def _compute(self, shard: S, name: str, compute: Compute) -> None:
        with self.contained(shard, name):
            made = await finish(compute.work)
            await trio.lowlevel.checkpoint()  # what is made of it is a turn of its own
            if shard.closed is None:
                now, now_ms = self.env.clock.liveness(), self.env.clock.data_ms()
                self.perform(shard, name, compute.then(made, now, now_ms))

    async def _settle(self, shard: S) -> None:
        try:
            await shard.wait_committed(self.env.offload)
        except KafkaError:
            self.leading.restart(shard, ErrorCode.NOT_COORDINATOR)

    def _ring(self, shard: S, name: str) -> None:
        """Wake a core."""
        now, deadline = self.env.clock.liveness(), shard.deadline(name)
        if deadline is None:
            return
        with self.contained(shard, name):
            self.perform(shard, name, shard.on_alarm(name, now, self.env.clock.data_ms()) if deadline <= now else ())

    def note_growth(self, shard: S) -> None:
        """Something was appended: a log that has become too long is compacted."""
        if shard.is_active and shard.closed is None and not shard.is_compacting and shard.is_bloated:
            shard.is_compacting = True
            self.start(self._compact, shard)

    async def _compact(self, shard: S) -> None:
        """Have all that is in a shard's log by now compacted, as far as it is stable."""
        partition, gone = shard.partition, 0
        try:
            done = await self.logs.cleaner.compact_all(partition.log, partition.high_watermark)
            gone = done.records_before - done.records_after
        except KafkaError as error:
            if shard.closed is None:
                log.warning("%s was not compacted: %s", shard, error)
        shard.compacted(gone)
        shard.is_compacting = False


async def _answer(shard: Shard, ticket: Ticket, wait_s: float, late: ErrorCode) -> Any:
    """Wait for a ticket's answer, for so long."""
    if shard.closed is not None:
        ticket.answer(ticket.refuse(shard.closed))
    shard.tickets.add(ticket)
    try:
        with trio.move_on_after(wait_s):
            return await ticket.wait()
        return ticket.refuse(late)
    finally:
        shard.tickets.discard(ticket)
