"""Long work in turns: generators that pause, so that a request of a hundred thousand entries holds nobody up.

    def _answers(request):                                # long work is a generator: it yields now and then
        rows = yield from each(_answer, request.rows)     # and returns what it made
        return Response(rows=rows)

    return answer(_answers(request))                      # a handler: small ones at once, long ones as a coroutine

A pause stands for a piece of work of some 50 to 100 us (`STRIDE` calls of a small function, `SLICE` elements of a
codec in slices). After so many of them the loop turns to others. Pauses are counted, not timed, so that a simulated run
is the same each time. All long work of a broker shares one floor, which goes round: a hundred long requests hold the
loop for no longer at a time than one does.

A generator may also yield a callable, `data = yield partial(decompress, ...)`: one long call that cannot pause. It is
made in a worker, one at a time in the whole broker, so that what such calls take in memory is bounded too.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable
from types import CoroutineType
from typing import Any, TypeAlias, TypeVar

import trio

from kbroker.env import Offload

STRIDE = 32  # calls between two pauses
STEPS = 100  # small steps between two pauses
PAUSES_A_TURN = 16  # about a millisecond
LONG_MAX = 8  # long requests that go on beyond their first turn; others wait, holding little

S = TypeVar("S")
T = TypeVar("T")

Work: TypeAlias = Generator[None, None, T]
Errand: TypeAlias = Callable[[], Any]
Errands: TypeAlias = Generator["Errand | None", Any, T]  # work that sends for something now and then

_places: trio.lowlevel.RunVar[dict[bool, trio.CapacityLimiter]] = trio.lowlevel.RunVar("long requests under way")
_locks: trio.lowlevel.RunVar[dict[str, trio.Lock]] = trio.lowlevel.RunVar("what is done one at a time")


class Effort:
    """Counts steps that are too small to pause after each: `if effort.spent(steps): yield`."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps = 0

    def spent(self, steps: int = 1) -> bool:
        """So many steps of about a microsecond are done; whether it is time to pause."""
        self._steps += steps
        if self._steps < STEPS:
            return False
        self._steps = 0
        return True


def each(function: Callable[[S], T], items: Iterable[S], stride: int = STRIDE) -> Work[list[T]]:
    """`[function(item) for item in items]`, with a pause after every stride calls."""
    done: list[T] = []
    for item in items:
        done.append(function(item))
        if not len(done) % stride:
            yield
    return done


def rest(steps: int) -> Work[None]:
    """So many small steps were done in one go: pause for as many as that stands for."""
    for _ in range(steps // STEPS):
        yield


def answer(work: Work[Any]) -> Any | Coroutine[Any, Any, Any]:
    """What work returns, if that takes no more than one turn; else a coroutine that goes on with it.

    Work may return a coroutine, of an answer that has to wait for something else: that is the answer then, which the
    coroutine of long work returns in its turn.
    """
    for _ in range(PAUSES_A_TURN):
        try:
            next(work)
        except StopIteration as stop:
            return stop.value
    return _answer_of(work)


async def _answer_of(work: Work[Any]) -> Any:
    return await finish(work)


def is_long(answer: object) -> bool:
    """Whether an answer is long work that goes on, not something that waits."""
    return isinstance(answer, CoroutineType) and answer.cr_code is _answer_of.__code__


def under_way(*, of_broker: bool = False) -> trio.CapacityLimiter:
    """Who answers a long request holds one of LONG_MAX places, to its end: what is half done takes memory.

    Not while it waits for something else than its turn. Brokers have places of their own: no crowd of clients keeps
    them from each other.
    """
    try:
        return _places.get()[of_broker]
    except LookupError:
        _places.set({each: trio.CapacityLimiter(LONG_MAX) for each in (False, True)})
        return _places.get()[of_broker]


def advance(work: Work[T], pauses: int) -> tuple[T] | None:
    """Go on with work for so many pauses; what it returned, in a tuple, if it came to its end."""
    for _ in range(pauses):
        try:
            next(work)
        except StopIteration as stop:
            return (stop.value,)
    return None


def at_once(work: Work[T]) -> T:
    """What work returns, without a pause: for work that is known to be small."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


async def finish(work: Work[T]) -> T:
    """Do work to its end; after each turn the loop sees to others, and the longest waiting other work has its turn."""
    floor = one_at_a_time("turns of long work")
    while True:
        async with floor:
            for _ in range(PAUSES_A_TURN):
                try:
                    next(work)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]


async def finish_unqueued(work: Work[T]) -> T:
    """Like finish, for work of the broker's own, such as a new picture of the cluster: it stands in no queue with that
    of clients.
    """
    while True:
        done = advance(work, PAUSES_A_TURN)
        if done is not None:
            return done[0]
        await trio.lowlevel.checkpoint()


async def finish_errands(work: Errands[T], errand: Errand | None, offload: Offload) -> T:
    """Like finish, for work that yields callables. errand: the one it waits for already."""
    floor = one_at_a_time("turns of long work")
    result, error = None, None
    while True:
        if errand is not None:
            async with one_at_a_time("long calls"):
                try:
                    result = await offload(errand)
                except Exception as raised:  # the generator's to handle
                    error = raised
        async with floor:
            for _ in range(PAUSES_A_TURN):
                try:
                    errand = work.throw(error) if error is not None else work.send(result)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                finally:
                    result = error = None  # an error holds this frame and all that the errand had: not in a circle
                if errand is not None:
                    break


def do_errands(work: Errands[T]) -> T:
    """Do all of it here and now: for work that is known to be small, or where nobody else is waiting."""
    result, error = None, None
    while True:
        try:
            errand = work.throw(error) if error is not None else work.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            result = error = None
        if errand is not None:
            try:
                result = errand()
            except Exception as raised:  # the generator's to handle
                error = raised


class Later:
    """An answer still to come, in the hands of who may be given up before coming to wait for it.

    Python would complain of a coroutine that nobody awaits; this one is closed with its holder.
    """

    __slots__ = ("coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.coroutine.__await__()

    def __del__(self) -> None:
        self.coroutine.close()


def then(
    answer: T | Later | Coroutine[Any, Any, T], step: Callable[[T], S | Coroutine[Any, Any, S]]
) -> S | Coroutine[Any, Any, S]:
    """`step(answer)` when the answer is there: now, or if it is to be waited for, in a coroutine.

    What step returns may be a coroutine, too.
    """
    if isinstance(answer, CoroutineType):
        answer = Later(answer)
    return _then(answer, step) if isinstance(answer, Later) else step(answer)  # type: ignore[arg-type]


async def _then(later: Later, step: Callable[[T], S | Coroutine[Any, Any, S]]) -> S:
    made = step(await later)
    return await made if isinstance(made, CoroutineType) else made  # type: ignore[return-value]


def one_at_a_time(what: str) -> trio.Lock:
    """The lock over what is done one at a time in the whole broker; first come, first served."""
    try:
        locks = _locks.get()
    except LookupError:
        locks = {}
        _locks.set(locks)
    if what not in locks:
        locks[what] = trio.Lock()
    return locks[what]
