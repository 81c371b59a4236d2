"""Lost replies: whatever is lost, the writer knows in the end whether its transaction happened."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from kbroker.cluster.store import Ambiguous, Delete, Guard, Put, TxnResult, Unavailable
from kbroker.cluster.writer import ATTEMPTS_MAX, COMMIT_S, Writer, for_each
from tests.cluster.tools import FaultyStore, RunClock


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(RunClock())


@pytest.fixture
def writer(store: FaultyStore) -> Writer:
    return Writer(store, RunClock(), "0.test")


def test_no_two_values_are_equal(writer: Writer) -> None:
    assert writer.put(b"a", {"n": 1}).value != writer.put(b"a", {"n": 1}).value


FAULTS = [{"lose_replies": 1}, {"lose_requests": 3}, {"refuse": 3}, {"lose_replies": 2, "refuse": 1}]


@pytest.mark.parametrize("fault", FAULTS)
async def test_R5_a_lost_reply_is_not_a_failure(
    store: FaultyStore, writer: Writer, autojump_clock: MockClock, fault: dict[str, int]
) -> None:
    for name, times in fault.items():
        setattr(store, name, times)
    op = writer.put(b"a", {"n": 1})
    result = await writer.commit([Guard(b"a", 0)], [op])
    entry = await store.get(b"a")
    assert entry is not None and result == (True, entry.mod_revision)
    assert (await store.info()).revision == 1  # once


async def test_a_lost_reply_of_a_refused_transaction_is_a_refusal(
    store: FaultyStore, writer: Writer, autojump_clock: MockClock
) -> None:
    await store.txn([Guard(b"a", 0)], [Put(b"a", b'{"by":"another"}')])
    store.lose_replies = 1
    assert not (await writer.commit([Guard(b"a", 0)], [writer.put(b"a", {})])).succeeded
    store.lose_replies = 1
    assert not (await writer.commit([Guard(b"a", 9)], [Delete(b"a")])).succeeded


async def test_a_silent_store_is_given_up(store: FaultyStore, writer: Writer, autojump_clock: MockClock) -> None:
    store.lose_requests = 100
    with pytest.raises(Ambiguous):
        await writer.commit([Guard(b"a", 0)], [writer.put(b"a", {})])
    assert store.txns == ATTEMPTS_MAX
    store.lose_requests, store.refuse = 0, 100
    with pytest.raises(Unavailable):
        await writer.commit([Guard(b"a", 0)], [writer.put(b"a", {})])


async def test_a_slow_store_is_given_up_in_time(
    store: FaultyStore, writer: Writer, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(*_: object) -> TxnResult:
        await trio.sleep(8)
        raise Unavailable("no answer within 8 s")

    monkeypatch.setattr(store, "txn", slow)
    with pytest.raises(Unavailable), trio.fail_after(COMMIT_S + 9):
        await writer.commit([Guard(b"a", 0)], [writer.put(b"a", {})])


async def test_a_transaction_is_made_when_its_turn_comes() -> None:
    """However many there are, so many are worked on, and no more exist."""
    made = under_way = most = 0

    async def work(number: int, item: int) -> None:
        nonlocal under_way, most
        assert number == item
        under_way += 1
        most = max(most, under_way, made - number)
        await trio.lowlevel.checkpoint()
        under_way -= 1

    def items() -> Iterator[int]:
        nonlocal made
        for made in range(1, 101):
            yield made - 1

    await for_each(work, items(), 8)
    assert made == 100 and under_way == 0 and most == 8


async def test_many_transactions_and_one_that_fails(
    store: FaultyStore, writer: Writer, autojump_clock: MockClock
) -> None:
    txns = [([Guard(b"%d" % i, 0)], [writer.put(b"%d" % i, {})]) for i in range(30)]
    txns[7] = ([Guard(b"7", 5)], [writer.put(b"7", {})])
    results = await writer.commit_all(txns)  # type: ignore[arg-type]
    assert [number for number, result in enumerate(results) if not result.succeeded] == [7]
    store.refuse = 1000
    with pytest.raises(Unavailable):
        await writer.commit_all(txns)  # type: ignore[arg-type]
