"""Odd sequences of requests, answered as Apache Kafka 4.3 answers them, but where we know better."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from kbroker.api.context import Context
from kbroker.api.registry import APIS, load
from kbroker.transactions.states import TransactionState
from kbroker.transactions.storage import Entry, encode_key, encode_value
from kbroker.turns import at_once
from tests.transactions.sequences import SEQUENCES, Sequence, recorded, talk
from tests.transactions.tools import Rig, done, rig

PRIMED_ID = 500_000

_REFUSED = "UNSUPPORTED_VERSION"
DIFFERENT: dict[str, list[str]] = {
    # Kafka fails at the first retry (UNKNOWN_SERVER_ERROR), and fences at the second after the id was changed, though
    # nobody else has begun: here a producer may ask as often as it likes.
    "the last epochs, by a producer's init": [
        "A/32765; Empty A/32765",
        "A/32766; Empty A/32766",
        "A/32766; Empty A/32766",
        *["B/0; Empty B/0"] * 3,
        "B/1; Empty B/1",
    ],
    "the last epoch, abort without a transaction": [
        "B/0; CompleteAbort B/0",
        "CompleteAbort B/0",
        "B/0; CompleteAbort B/0",
        *["B/0; Empty B/0"] * 2,
        "B/1; Empty B/1",
    ],
    # In Kafka the record cannot be made, and the id is never free again (CONCURRENT_TRANSACTIONS).
    "level 0: end of version 5": [
        "A/0; Empty A/0",
        f"{_REFUSED}; Empty A/0",
        f"{_REFUSED}; Empty A/0",
        "Empty A/0",
        f"{_REFUSED}; Empty A/0",
    ],
}


@pytest.mark.parametrize("sequence", [pytest.param(each, id=each.name) for each in SEQUENCES])
async def test_it_ends_as_in_kafka(sequence: Sequence, autojump_clock: MockClock) -> None:
    expected = DIFFERENT.get(sequence.name) or recorded()[sequence.name]
    async with rig(version=sequence.transaction_version) as made:
        known = {}
        if sequence.epoch is not None:
            await _prime(made, sequence.name, sequence.epoch)
            known[PRIMED_ID] = "A"
        outcomes = await _run(made, talk(sequence, sequence.name, known))
    told = [f"{step} -> {outcome}" for step, outcome in zip(sequence.steps, outcomes, strict=True)]
    assert told == [f"{step} -> {outcome}" for step, outcome in zip(sequence.steps, expected, strict=True)]


def test_what_is_different_is_different() -> None:
    """A sequence that Kafka answers alike needs no word of explanation."""
    assert [name for name, outcomes in DIFFERENT.items() if recorded()[name] == outcomes] == []


async def _prime(made: Rig, transactional_id: str, epoch: int) -> None:
    """Have the log know an id, as if it had been used for long, and load it."""
    entry = Entry(TransactionState.EMPTY, PRIMED_ID, epoch, -1, -1, -1, 60_000, {}, -1, made.env.clock.data_ms(), 0)
    made.shard.append([(encode_key(transactional_id), at_once(encode_value(entry, 1)))])
    made.lead(2)
    await made.loaded()


async def _run(made: Rig, steps: Any) -> list[str]:
    load()
    services = SimpleNamespace(
        transactions=made.coordinator, producer_ids=made.ids, image=made.registration.image, env=made.env
    )
    reply = None
    while True:
        try:
            wanted = steps.send(reply)
        except StopIteration as stop:
            outcomes: list[str] = stop.value
            return outcomes
        if isinstance(wanted, float):
            await trio.sleep(wanted)
            reply = None
        else:
            request, version = wanted
            context = SimpleNamespace(services=services, version=version)
            reply = await done(APIS[type(request).__wire__.key].handle(request, cast(Context, context)))
