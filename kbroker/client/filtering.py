"""Only the records that match: the filter language (`kbroker.filters`) around a consumer, on any Kafka broker.

    consumer = filtered(KafkaConsumer("orders", group_id="eu"), 'tags has "eu"')  a consumer like the one given
    for record in matching(records, 'country in ("de", "at")'): ...                  an iterator, async too
    @only('key prefix "user-"')                                                      a decorator for handlers
    def handle(record): ...

`filtered` takes a consumer of kafka-python, confluent-kafka (its AIOConsumer too) or aiokafka and answers with one that
has the same methods. Those that give records (iteration, poll, consume, getone, getmany) leave out what does not match
and go on waiting, no longer than they were told to; all others are the consumer's own.

- What is left out counts as consumed: the consumer's position has passed it. So automatic commits, commit() without
  arguments and position() are right, also where nothing matches for days. A commit of a record's offset + 1 is right
  too; what follows it and does not match is read, and left out, once more.
- The consumer is asked for more only if nothing of its last answer matched: nothing that matched waits in here while it
  is polled, commits, rebalances or fails. There is no buffer, and pausing, rebalances and backpressure are its own.
- What is no record passes: None, and confluent-kafka's messages with an error.
- A value is never looked at; a record without one (a tombstone) is judged as any other is.

A key that is not bytes, since the consumer has a deserializer: text is taken as UTF-8; for anything else give `key`, a
function that makes bytes (or None) of it. It is called only if the expression looks at the key.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast, overload

from kbroker.filters import Expression, FilterSyntaxError, parse

__all__ = ["Expression", "FilterSyntaxError", "filtered", "matching", "only", "parse"]

C = TypeVar("C")
R = TypeVar("R")
T = TypeVar("T")
P = ParamSpec("P")

KeyFunction: TypeAlias = "Callable[[Any], bytes | None]"
Passes: TypeAlias = "Callable[[Any], bool]"

SKIPPED_A_TURN = 100  # records that aiokafka's consumer has at hand and that are left out before others get their turn


def key_bytes(key: object) -> bytes | None:
    """A key as the filter language sees it. Raises TypeError for one that is neither bytes nor text."""
    if key is None or isinstance(key, bytes):
        return key
    if isinstance(key, str):
        return key.encode()
    if isinstance(key, bytearray | memoryview):
        return bytes(key)
    raise TypeError(f"the filter looks at the key, which is {type(key).__name__}: give key=, which makes bytes of it")


def filtered(consumer: C, expression: str | Expression, *, key: KeyFunction = key_bytes) -> C:
    """`consumer` with only the records that match. It has its methods and is typed as it, but is no instance of it.

    Raises FilterSyntaxError for the expression, TypeError for what is no consumer of a client known here.
    """
    passes = _judge(expression, key)
    for kind, is_one in _KINDS:
        if is_one(consumer):
            return cast(C, kind(consumer, passes))
    raise TypeError(f"{type(consumer).__name__} is no consumer of kafka-python, confluent-kafka or aiokafka")


@overload
def matching(records: Iterable[T], expression: str | Expression, *, key: KeyFunction = key_bytes) -> Iterator[T]: ...


@overload
def matching(
    records: AsyncIterable[T], expression: str | Expression, *, key: KeyFunction = key_bytes
) -> AsyncIterator[T]: ...


def matching(records: Any, expression: str | Expression, *, key: KeyFunction = key_bytes) -> Any:
    """The records that match, of an iterable (an iterator of them) or async iterable (an async iterator).

    A consumer of kafka-python or aiokafka is such an iterable. Raises FilterSyntaxError at once.
    """
    passes = _judge(expression, key)
    if _is_aiokafka(records):
        records = _Aiokafka(records, passes)  # which lets others have their turn
    return _matching_async(records, passes) if hasattr(records, "__aiter__") else filter(passes, records)


async def _matching_async(records: Any, passes: Passes) -> AsyncIterator[Any]:
    async for record in records:
        if passes(record):
            yield record


def only(
    expression: str | Expression, *, key: KeyFunction = key_bytes
) -> Callable[[Callable[P, R]], Callable[P, R | None]]:
    """A decorator for a function, `async def` too, or a method, whose first argument (after self) is a record.

    It is called for records that match; for others the answer is None.
    """
    passes = _judge(expression, key)

    def decorate(handler: Callable[P, R]) -> Callable[P, R | None]:
        names = list(inspect.signature(handler).parameters)
        at = 1 if names[:1] in (["self"], ["cls"]) else 0
        if len(names) <= at:
            raise TypeError(f"{handler!r} has no parameter for a record")

        def is_for(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
            return passes(args[at] if len(args) > at else kwargs[names[at]])

        @functools.wraps(handler)
        def handle(*args: P.args, **kwargs: P.kwargs) -> R | None:
            return handler(*args, **kwargs) if is_for(args, kwargs) else None

        @functools.wraps(handler)
        async def handle_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await cast("Awaitable[Any]", handler(*args, **kwargs)) if is_for(args, kwargs) else None

        return cast("Callable[P, R | None]", handle_async) if inspect.iscoroutinefunction(handler) else handle

    return decorate


# a record, of whichever client ----------------------------------------------------------------------------------------


def _judge(expression: str | Expression, key_of: KeyFunction) -> Passes:
    """Whether something that a consumer gave goes on to its user."""
    parsed = parse(expression) if isinstance(expression, str) else expression
    matches, reads_key = parsed.matches, parsed.reads_key

    def passes(record: Any) -> bool:
        if record is None:
            return True
        headers = record.headers
        if not callable(headers):  # kafka-python, aiokafka: attributes
            return matches(key_of(record.key) if reads_key else None, headers or ())
        if record.error() is not None:  # confluent-kafka: methods
            return True
        return matches(key_of(record.key()) if reads_key else None, headers() or ())

    return passes


# consumers ------------------------------------------------------------------------------------------------------------


class _Consumer:
    """A consumer's own attributes and methods, but for those that a subclass has."""

    def __init__(self, consumer: Any, passes: Passes) -> None:
        self._consumer, self._passes = consumer, passes

    def __getattr__(self, name: str) -> Any:
        if name == "_consumer":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self._consumer, name)

    def __repr__(self) -> str:
        return f"filtered({self._consumer!r})"

    def _kept(self, records: Iterable[T]) -> list[T]:
        return [record for record in records if self._passes(record)]

    def _kept_of_each(self, batches: dict[Any, list[T]]) -> dict[Any, list[T]]:
        kept = {partition: self._kept(records) for partition, records in batches.items()}
        return {partition: records for partition, records in kept.items() if records}


class _Blocking(_Consumer):
    def __enter__(self) -> _Blocking:
        self._consumer.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._consumer.__exit__(*error)


class _Async(_Consumer):
    async def __aenter__(self) -> _Async:
        await self._consumer.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> Any:
        return await self._consumer.__aexit__(*error)


class _KafkaPython(_Blocking):
    """kafka-python's KafkaConsumer. `consumer_timeout_ms` counts from the last record, matching or not."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while not self._passes(record := next(self._consumer)):
            pass
        return record

    def poll(self, timeout_ms: float = 0, max_records: int | None = None) -> dict[Any, list[Any]]:
        """Matching records by partition; none after `timeout_ms`. `max_records` counts all that are read at once."""
        until = _Until(timeout_ms / 1000)
        while True:
            left = until.left()
            batches = self._consumer.poll(timeout_ms=left * 1000, max_records=max_records)
            if (kept := self._kept_of_each(batches)) or not batches or left == 0:
                return kept


class _Confluent(_Blocking):
    """confluent-kafka's Consumer, DeserializingConsumer.

    With `enable.auto.offset.store=false` nothing is stored for what is left out, as its user might still be at work on
    what came before: position() tells how far he is.
    """

    def poll(self, timeout: float | None = None) -> Any:
        """The next message that matches or has an error; None after `timeout` seconds (None, negative: never)."""
        until = _Until(timeout)
        while True:
            left = until.left()
            message = self._consumer.poll(left)
            if self._passes(message):
                return message
            if left == 0:
                return None

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Any]:
        """Messages that match or have an error; none after `timeout` seconds (negative: never).

        The consumer is asked for `num_messages`, again only if none of what it gave matched: so they may be fewer.
        """
        until = _Until(timeout)
        while True:
            left = until.left()
            messages = self._consumer.consume(num_messages, left)
            if (kept := self._kept(messages)) or not messages or left == 0:
                return kept


class _ConfluentAsync(_Async):
    """confluent-kafka's AIOConsumer, as _Confluent."""

    async def poll(self, timeout: float | None = None) -> Any:
        """As _Confluent.poll."""
        until = _Until(timeout)
        while True:
            left = until.left()
            message = await self._consumer.poll(left)
            if self._passes(message):
                return message
            if left == 0:
                return None

    async def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Any]:
        """As _Confluent.consume."""
        until = _Until(timeout)
        while True:
            left = until.left()
            messages = await self._consumer.consume(num_messages, left)
            if (kept := self._kept(messages)) or not messages or left == 0:
                return kept


class _Aiokafka(_Async):
    """aiokafka's AIOKafkaConsumer. It gives what it has at hand without a pause: one is made where much is left out."""

    def __aiter__(self) -> AsyncIterator[Any]:
        self._consumer.__aiter__()  # which raises if it is closed
        return self

    async def __anext__(self) -> Any:
        return await self._next(self._consumer.__anext__)

    async def getone(self, *partitions: Any) -> Any:
        """The next record that matches."""
        return await self._next(functools.partial(self._consumer.getone, *partitions))

    async def getmany(
        self, *partitions: Any, timeout_ms: float = 0, max_records: int | None = None
    ) -> dict[Any, list[Any]]:
        """Matching records by partition; none after `timeout_ms`. `max_records` counts all that are read at once."""
        until = _Until(timeout_ms / 1000)
        while True:
            left = until.left()
            batches = await self._consumer.getmany(*partitions, timeout_ms=left * 1000, max_records=max_records)
            if (kept := self._kept_of_each(batches)) or not batches or left == 0:
                return kept
            await _Turn()

    async def _next(self, get: Callable[[], Awaitable[Any]]) -> Any:
        skipped = 0
        while not self._passes(record := await get()):
            skipped += 1
            if skipped % SKIPPED_A_TURN == 0:
                await _Turn()
        return record


class _Turn:
    """Awaited in a task of asyncio, all others that can go on do so first: asyncio.sleep(0)."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class _Until:
    """The end of a wait that several calls share. `timeout`: seconds; None and negative: for ever."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None or timeout < 0 else time.monotonic() + timeout

    def left(self) -> float:
        """Seconds that the next call may wait; 0: it is the last; -1: for ever."""
        return -1.0 if self._end is None else max(0.0, self._end - time.monotonic())


def _is_aiokafka(consumer: object) -> bool:
    return hasattr(consumer, "getmany")


_KINDS: tuple[tuple[type[_Consumer], Callable[[Any], bool]], ...] = (
    (_Aiokafka, _is_aiokafka),
    (_ConfluentAsync, lambda consumer: inspect.iscoroutinefunction(getattr(consumer, "consume", None))),
    (_Confluent, lambda consumer: hasattr(consumer, "consume") and hasattr(consumer, "poll")),
    (_KafkaPython, lambda consumer: hasattr(consumer, "poll") and hasattr(consumer, "__next__")),
)
