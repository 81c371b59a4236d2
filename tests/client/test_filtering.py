"""Filtered consumers, on consumers of a script; with the real clients: compat/filtering."""

from __future__ import annotations

import asyncio
import copy
import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import pytest

from kbroker.client import filtering
from kbroker.client.filtering import FilterSyntaxError, filtered, matching, only, parse

EU = 'tags has "eu"'


class Record:
    """As kafka-python and aiokafka have them."""

    def __init__(self, offset: int, tags: str | None = None, key: Any = None) -> None:
        self.offset, self.key, self.value = offset, key, None
        self.headers = [] if tags is None else [("kbroker-tags", tags.encode())]

    def __repr__(self) -> str:
        return f"Record({self.offset})"


class Message:
    """As confluent-kafka has them."""

    def __init__(self, offset: int, tags: str | None = None, key: Any = None, error: str | None = None) -> None:
        self._record, self._error = Record(offset, tags, key), error

    def offset(self) -> int:
        return self._record.offset

    def key(self) -> Any:
        return self._record.key

    def headers(self) -> Any:
        return self._record.headers or None

    def error(self) -> Any:
        return self._error


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(filtering, "time", clock)
    return clock


class Script:
    """Answers in turn; each takes so many seconds. What is asked for is noted. At its end: nothing, after the wait."""

    def __init__(self, clock: Clock, *answers: tuple[float, Any], empty: Any = None) -> None:
        self.clock, self.answers, self.empty = clock, list(answers), empty
        self.waits: list[float] = []

    def next(self, wait: float) -> Any:
        self.waits.append(round(wait, 3))
        if not self.answers:
            assert wait >= 0, "waits for ever"
            self.clock.now += wait
            return self.empty
        seconds, answer = self.answers.pop(0)
        self.clock.now += seconds
        if isinstance(answer, Exception):
            raise answer
        return answer


class KafkaPython:
    def __init__(self, script: Script | None = None, records: list[Record] | None = None) -> None:
        self.script, self.records, self.closed = script, iter(records or []), False
        self.paused_partitions: list[str] = []

    def __enter__(self) -> KafkaPython:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        return next(self.records)

    def poll(self, timeout_ms: float = 0, max_records: int | None = None) -> Any:
        assert self.script is not None
        return self.script.next(timeout_ms / 1000)

    def pause(self, *partitions: str) -> None:
        self.paused_partitions += partitions


class Confluent:
    def __init__(self, script: Script) -> None:
        self.script = script

    def poll(self, timeout: float = -1) -> Any:
        return self.script.next(timeout)

    def consume(self, num_messages: int = 1, timeout: float = -1) -> Any:
        return self.script.next(timeout)


class ConfluentAsync:
    def __init__(self, script: Script) -> None:
        self.script = script

    async def poll(self, *args: float) -> Any:
        return self.script.next(*args)

    async def consume(self, num_messages: int, timeout: float) -> Any:
        return self.script.next(timeout)


class Aiokafka:
    def __init__(self, script: Script | None = None, records: list[Record] | None = None) -> None:
        self.script, self.records, self.started = script, iter(records or []), False

    async def __aenter__(self) -> Aiokafka:
        self.started = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.started = False

    def __aiter__(self) -> AsyncIterator[Record]:
        return self

    async def __anext__(self) -> Record:
        for record in self.records:
            return record
        raise StopAsyncIteration

    async def getone(self, *partitions: str) -> Record:
        return next(self.records)

    async def getmany(self, *partitions: str, timeout_ms: float = 0, max_records: int | None = None) -> Any:
        assert self.script is not None
        return self.script.next(timeout_ms / 1000)


def run(call: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(call)


def offsets(found: Any) -> Any:
    if isinstance(found, dict):
        return {partition: offsets(records) for partition, records in found.items()}
    if isinstance(found, list):
        return [offsets(each) for each in found]
    if found is None:
        return None
    return found.offset() if callable(found.offset) else found.offset


Records = list[Any]


class Form(NamedTuple):
    """A way to get records: the consumer, how it is asked (for so many seconds), what its answers look like."""

    consumer: Callable[[Script], Any]
    ask: Callable[[Any, float], Any]
    answer: Callable[[Records], Any]
    make: type


def as_one(records: Records) -> Any:
    return records[0] if records else None


def as_batches(records: Records) -> Any:
    return {"p": records} if records else {}


FORMS = {
    "kafka-python poll": Form(KafkaPython, lambda c, s: c.poll(timeout_ms=s * 1000), as_batches, Record),
    "confluent poll": Form(Confluent, lambda c, s: c.poll(s), as_one, Message),
    "confluent consume": Form(Confluent, lambda c, s: c.consume(9, s), list, Message),
    "confluent async poll": Form(ConfluentAsync, lambda c, s: run(c.poll(s)), as_one, Message),
    "confluent async consume": Form(ConfluentAsync, lambda c, s: run(c.consume(9, s)), list, Message),
    "aiokafka getmany": Form(Aiokafka, lambda c, s: run(c.getmany(timeout_ms=s * 1000)), as_batches, Record),
}
forms = pytest.mark.parametrize("form", FORMS)


def ask(form: str, clock: Clock, seconds: float, *answers: tuple[float, Records]) -> tuple[Any, Script]:
    """What a filtered consumer answers, its own having these answers; each takes so many seconds."""
    consumer, asked, answer, _ = FORMS[form]
    script = Script(clock, *((took, answer(records)) for took, records in answers), empty=answer([]))
    return asked(filtered(consumer(script), EU), seconds), script


@forms
def test_what_does_not_match_is_left_out(form: str, clock: Clock) -> None:
    make = FORMS[form].make
    records = [make(2, "eu"), make(3), make(4, "vip,eu")]
    found, _ = ask(form, clock, 1, (0, [make(1, "vip")]), (0, records))
    assert offsets(found) == offsets(FORMS[form].answer([make(2), make(4)]))


@forms
def test_it_waits_on_while_nothing_matches_but_no_longer_than_it_was_told_to(form: str, clock: Clock) -> None:
    make = FORMS[form].make
    found, script = ask(form, clock, 1, (0.3, [make(1)]), (0.5, [make(2)]), (0.1, [make(3)]))
    assert found == FORMS[form].answer([])
    assert clock.now == pytest.approx(101)
    assert script.waits == [1, 0.7, 0.2, 0.1]


@forms
def test_without_a_wait_it_asks_once(form: str, clock: Clock) -> None:
    make = FORMS[form].make
    found, script = ask(form, clock, 0, (0, [make(1)]), (0, [make(2, "eu")]))
    assert found == FORMS[form].answer([]) and script.waits == [0]


@forms
def test_a_match_is_given_at_once_and_nothing_more_is_asked_for(form: str, clock: Clock) -> None:
    make = FORMS[form].make
    found, script = ask(form, clock, 1, (0.3, [make(1, "eu")]), (0, [make(2, "eu")]))
    assert offsets(found) == offsets(FORMS[form].answer([make(1)]))
    assert script.waits == [1]


@forms
def test_a_flood_of_what_does_not_match_ends_with_the_time(form: str, clock: Clock) -> None:
    make = FORMS[form].make
    found, script = ask(form, clock, 1, *[(0.01, [make(each)]) for each in range(1000)])
    assert not found
    assert 100 <= len(script.waits) <= 102


@pytest.mark.parametrize(
    "form", ["confluent poll", "confluent consume", "confluent async poll", "confluent async consume"]
)
def test_confluents_errors_pass_and_it_waits_for_ever_when_told_so(form: str, clock: Clock) -> None:
    found, script = ask(form, clock, -1, (3600, [Message(1)]), (3600, [Message(2, error="down")]))
    (message,) = found if isinstance(found, list) else [found]
    assert message.error() == "down"
    assert script.waits == [-1, -1]


def test_confluents_poll_waits_for_ever_by_default(clock: Clock) -> None:
    script = Script(clock, (9, Message(1)), (9, Message(2, "eu")))
    assert filtered(Confluent(script), EU).poll().offset() == 2
    script = Script(clock, (9, Message(1)), (9, Message(2, "eu")))
    assert run(filtered(ConfluentAsync(script), EU).poll()).offset() == 2


@forms
def test_an_exception_of_the_consumer_is_its_users(form: str, clock: Clock) -> None:
    own, asked, answer, make = FORMS[form]
    script = Script(clock, (0, answer([make(1)])), (0, ConnectionError("gone")), (0, answer([make(2, "eu")])))
    consumer = filtered(own(script), EU)
    with pytest.raises(ConnectionError):
        asked(consumer, 1)
    assert offsets(asked(consumer, 1)) == offsets(answer([make(2)]))


def test_partitions_without_a_match_are_left_out(clock: Clock) -> None:
    script = Script(clock, (0, {"p": [Record(1)], "q": [Record(2, "eu")]}))
    assert offsets(filtered(KafkaPython(script), EU).poll(timeout_ms=100)) == {"q": [2]}


def test_kafka_pythons_consumer_is_iterated_and_otherwise_its_own() -> None:
    own = KafkaPython(records=[Record(0), Record(1, "eu"), Record(2, "vip"), Record(3, "eu")])
    with filtered(own, EU) as consumer:
        assert [record.offset for record in consumer] == [1, 3]
        consumer.pause("p")
    assert own.closed and own.paused_partitions == ["p"]
    with pytest.raises(AttributeError, match="nonsense"):
        consumer.nonsense  # type: ignore[attr-defined]  # noqa: B018
    assert "KafkaPython" in repr(consumer) and copy.copy(consumer).closed


def test_aiokafkas_consumer_is_iterated_and_asked_for_one() -> None:
    records = [Record(0), Record(1, "eu"), Record(2, "vip"), Record(3, "eu"), Record(4), Record(5, "eu")]

    async def all_of_it() -> None:
        own = Aiokafka(records=records)
        async with filtered(own, EU) as consumer:
            assert own.started
            assert (await consumer.getone()).offset == 1
            assert [record.offset async for record in consumer] == [3, 5]
        assert not own.started

    run(all_of_it())


def aiokafka_forms(records: list[Record]) -> dict[str, Callable[[], Awaitable[Any]]]:
    async def iterate(source: Any) -> list[int]:
        return [record.offset async for record in source]

    return {
        "iteration": lambda: iterate(filtered(Aiokafka(records=records), EU)),
        "matching": lambda: iterate(matching(Aiokafka(records=records), EU)),
        "getone": lambda: filtered(Aiokafka(records=records), EU).getone(),
    }


def turns_beside(work: Awaitable[object]) -> int:
    """How often another task has its turn until that is done."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both() -> None:
        task = asyncio.create_task(other())
        await work
        task.cancel()

    run(both())
    return turns


@pytest.mark.parametrize("form", aiokafka_forms([]))
def test_others_have_their_turn_while_aiokafka_gives_what_is_left_out(form: str) -> None:
    records = [Record(0)] * 1000 + [Record(1, "eu")]
    assert turns_beside(aiokafka_forms(records)[form]()) >= 10


def test_others_have_their_turn_between_batches_of_aiokafka(clock: Clock) -> None:
    script = Script(clock, *[(0.01, {"p": [Record(1)]})] * 10, empty={})
    assert turns_beside(filtered(Aiokafka(script), EU).getmany(timeout_ms=100)) >= 9


def test_records_of_any_iterable_and_async_iterable_are_matched() -> None:
    records = [Record(0), Record(1, "eu")]
    assert [record.offset for record in matching(records, parse(EU))] == [1]
    assert [m.offset() for m in matching([Message(0), Message(1, "eu"), Message(2, error="x")], EU)] == [1, 2]
    assert list(matching([None, Message(0)], EU)) == [None]

    async def source() -> AsyncIterator[Record]:
        for record in records:
            yield record

    async def all_of_it() -> list[int]:
        return [record.offset async for record in matching(source(), EU)]

    assert run(all_of_it()) == [1]


def test_filters_around_filters_both_count(clock: Clock) -> None:
    records = [Record(0, "eu", b"x"), Record(1, "eu", b"y"), Record(2, "us", b"x")]
    twice = filtered(filtered(KafkaPython(Script(clock, (0, {"p": records}))), EU), 'key = "x"')
    assert offsets(twice.poll(timeout_ms=10)) == {"p": [0]}
    assert offsets(list(matching(filtered(KafkaPython(records=records), EU), 'key = "x"'))) == [0]
    messages = [Message(0, "eu", b"y"), Message(1, "us", b"x"), Message(2, "eu", b"x")]
    answers = [(0, message) for message in messages]
    assert filtered(filtered(Confluent(Script(clock, *answers)), EU), 'key = "x"').poll(1).offset() == 2


def test_a_handler_is_called_for_what_matches_only() -> None:
    @only(EU)
    def handle(record: Any, more: int = 0) -> tuple[int, int]:
        """Handles."""
        return record.offset, more

    assert handle(Record(1)) is None
    assert handle(Record(2, "eu")) == (2, 0)
    assert handle(Record(2, "eu"), more=3) == (2, 3)
    assert handle(record=Record(2, "eu")) == (2, 0)
    assert handle(record=Record(1)) is None
    assert (handle.__name__, handle.__doc__) == ("handle", "Handles.")


def test_handlers_may_be_async_and_methods() -> None:
    class Handlers:
        @only(EU)
        async def handle(self, record: Any) -> int:
            await asyncio.sleep(0)
            return int(record.offset)

        @classmethod
        @only(EU)
        def handle_all(cls, message: Any) -> int:
            return int(message.offset())

    assert inspect.iscoroutinefunction(Handlers.handle)
    assert run(Handlers().handle(Record(1))) is None  # type: ignore[arg-type]
    assert run(Handlers().handle(Record(2, "eu"))) == 2  # type: ignore[arg-type]
    assert Handlers.handle_all(Message(1)) is None
    assert Handlers.handle_all(Message(2, "eu")) == 2
    with pytest.raises(TypeError, match="no parameter for a record"):
        only(EU)(lambda: None)


@pytest.mark.parametrize("key", [b"user-1", "user-1", bytearray(b"user-1"), memoryview(b"user-1")])
def test_keys_are_bytes_or_text(key: Any) -> None:
    records: list[Any] = [Record(1, key=key), Message(1, key=key), Record(2), Message(2), Record(3, key=b"x")]
    assert offsets(list(matching(records, 'key prefix "user-"'))) == [1, 1]


def test_other_keys_need_a_function_if_the_expression_looks_at_them() -> None:
    records = [Record(1, "eu", key=7), Record(2, "eu", key=8), Record(3, "eu")]
    with pytest.raises(TypeError, match="which is int: give key="):
        list(matching(records, 'key = "7"'))
    assert offsets(list(matching(records, EU))) == [1, 2, 3]
    to_bytes = lambda key: None if key is None else str(key).encode()  # noqa: E731
    assert offsets(list(matching(records, 'key = "7"', key=to_bytes))) == [1]
    assert offsets(list(filtered(KafkaPython(records=records), 'key = "8"', key=to_bytes))) == [2]


def test_what_is_wrong_is_told_at_once() -> None:
    for use in (lambda text: filtered(KafkaPython(), text), lambda text: matching([], text), only):
        with pytest.raises(FilterSyntaxError, match="position 5"):
            use("a = b")
    with pytest.raises(TypeError, match="list is no consumer of kafka-python, confluent-kafka or aiokafka"):
        filtered([], EU)


def test_it_needs_neither_trio_nor_a_client_library_nor_the_broker() -> None:
    program = "import sys, kbroker.client.filtering; print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in modules if name.startswith(("kbroker.", "kafka_wire"))}
    assert ours == {name for name in ours if name.startswith(("kbroker.client", "kbroker.filters"))}
    assert not {"trio", "asyncio", "kafka", "aiokafka", "confluent_kafka", "click", "cramjam"} & set(modules)
