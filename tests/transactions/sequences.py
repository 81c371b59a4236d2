"""Odd sequences of requests about one transactional id, in a short notation, and what becomes of them step by step.

    init                 InitProducerId           init A/0      … of a producer that goes on        init timeout=1000
    add3 A/0 t-0 t-1     AddPartitionsToTxn 3     add5 …        of a broker, transaction.version 2   verify A/0 t-0
    end4 A/0 commit      EndTxn 4                 end5 A/0 abort                                    wait

A/0 is the first producer id that was seen, with epoch 0; the next id is B. `wait` waits until nothing is under way, an
open transaction included. Each step's outcome tells the answer, then how DescribeTransactions sees the id:

    end5 A/0 commit   ──▶   A/1; CompleteCommit A/1

A sequence runs as a generator that yields (request, version), or seconds to let pass, and is sent the responses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.transactions import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
    DescribeTransactionsRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

RECORDED = Path(__file__).parent.parent / "data" / "transaction-sequences.json"
TOPIC, PARTITIONS = "t", 4
PATIENCE_S, PAUSE_S = 15.0, 0.02
UNDER_WAY = ("Ongoing", "PrepareCommit", "PrepareAbort")
NOT_THERE = (ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)

Talk: TypeAlias = Generator["tuple[Any, int] | float", Any, list[str]]


class Sequence(NamedTuple):
    """What is asked; epoch: of the producer A that is there before; None: the id is new."""

    name: str
    steps: tuple[str, ...]
    epoch: int | None = None
    transaction_version: int = 2  # of the cluster


def _matrix(version: int) -> list[Sequence]:
    """Every end of a transaction, asked again, crossed, and asked for by others, in every state."""
    made, add, end = [], "add3" if version < 5 else "add5", f"end{version}"
    states = {
        "Empty": ("init", "init A/0"),
        "Ongoing": ("init", f"{add} A/0 t-0"),
        "CompleteCommit": ("init", f"{add} A/0 t-0", f"{end} A/0 commit", "wait"),
        "CompleteAbort": ("init", f"{add} A/0 t-0", f"{end} A/0 abort", "wait"),
    }
    for state, steps in states.items():
        for epoch in range(-1, 3):
            for result in ("commit", "abort"):
                made.append(
                    Sequence(f"{end} {result} of epoch {epoch} in {state}", (*steps, f"{end} A/{epoch} {result}"))
                )
    return made


# Name @ the epoch of a producer A that is there before: steps.
_ODD = """
a new producer fences the one before:
    init, init, init A/0, init A/1, add3 A/0 t-0, end4 A/0 abort
init is asked again:
    init, init A/0, init A/0, init A/0, init A/1, init A/1, init A/0, init A/7
init of a producer of another id:
    init, init Z/0, init Z/32766
init of a new id by a producer that had one:
    init Z/5, init A/0
init with an odd producer:
    init A/-1, init -1/0, init
timeouts:
    init timeout=0, init timeout=-1, init timeout=900001, init timeout=900000, init timeout=1
an unknown id:
    add3 A/0 t-0, add5 A/0 t-0, verify A/0 t-0, end4 A/0 commit, end5 A/0 abort
init over an open transaction, version 2:
    init, add5 A/0 t-0, init, wait, init, end5 A/0 abort, add5 A/0 t-0
init over an open transaction, version 0:
    init, add3 A/0 t-0, init, wait, init, end4 A/0 abort, add3 A/0 t-0
init of the same producer over its open transaction:
    init, add5 A/0 t-0, init A/0, wait, init A/0, init A/0
init of a producer of version 0 over its open transaction:
    init, add3 A/0 t-0, init A/0, wait, init A/0
the fenced one ends after init has aborted:
    init, add5 A/0 t-0, init, wait, end5 A/0 commit, end5 A/0 abort, init
time out, then abort:
    init timeout=50, add5 A/0 t-0, wait, end5 A/0 abort, end5 A/1 abort
time out, then commit:
    init timeout=50, add5 A/0 t-0, wait, end5 A/0 commit, add5 A/0 t-0, init A/0, add5 A/1 t-0
time out of version 0:
    init timeout=50, add3 A/0 t-0, wait, end4 A/0 commit, end4 A/0 abort, add3 A/0 t-0, init A/0, init
add other producers, partitions that are not there:
    init, add3 A/1 t-0, add3 Z/0 t-0, add3 A/0 t-0 t-9, add3 A/0 u-0, add3 A/0 t-0, add3 A/0 t-0, add3 A/0 t-1
verify:
    init, verify A/0 t-0, add3 A/0 t-0, verify A/0 t-0 t-1, verify A/1 t-0, verify Z/0 t-0, verify A/0 t-9,
    end4 A/0 commit, wait, verify A/0 t-0
transactions of both versions:
    init, add3 A/0 t-0, end4 A/0 commit, wait, add5 A/0 t-0, end5 A/0 commit, wait, end4 A/1 commit,
    end4 A/0 commit, add3 A/1 t-1, end5 A/1 abort, wait, end4 A/2 abort, end5 A/1 abort, init A/1, init A/2
init asks again after an end of version 2:
    init, add5 A/0 t-0, end5 A/0 commit, wait, init A/0, init A/0, init A/1, end5 A/0 commit
aborts without a transaction:
    init, end5 A/0 abort, wait, end5 A/0 abort, end5 A/1 abort, wait, end5 A/2 commit
the last epochs, by init @32763:
    init, init, init, init
the last epochs, by a producer's init @32764:
    init A/32764, init A/32765, init A/32765, init A/32766, init A/32766, init A/32766, init B/0
the last epochs, by ends of version 2 @32765:
    add5 A/32765 t-0, end5 A/32765 commit, wait, add5 A/32766 t-0, end5 A/32766 commit, wait,
    end5 A/32766 commit, end5 A/32766 abort, add5 A/32766 t-0, end5 B/0 commit, add5 B/0 t-0, end5 B/0 abort,
    wait
the last epoch, abort without a transaction @32766:
    end5 A/32766 abort, wait, end5 A/32766 abort, init A/32766, init A/32766, init B/0
the last epoch is fenced by init @32766:
    add5 A/32766 t-0, init, wait, end5 A/32766 abort, init A/32766, init
the last epoch is fenced by init, version 0 @32766:
    add3 A/32766 t-0, init, wait, end4 A/32766 abort, init
the last epoch times out @32765:
    init timeout=50, add5 A/32766 t-0, wait, end5 A/32766 abort, init A/32766, init
the last epoch times out, then init @32765:
    init timeout=50, add5 A/32766 t-0, wait, init A/32766
the last epoch ends in version 0 @32766:
    add3 A/32766 t-0, end4 A/32766 commit, wait, end4 A/32766 commit, init A/32766, init A/32766, end4 B/0 abort
"""

# The same in a cluster of each transaction.version.
_AT_EACH_LEVEL = """
end of version 5:
    init, add5 A/0 t-0, end5 A/0 commit, wait, end5 A/0 commit
end of version 4:
    init, add3 A/0 t-0, end4 A/0 commit, wait, end4 A/0 commit
init over an open transaction:
    init, add3 A/0 t-0, init, wait, end4 A/0 abort, init
time out:
    init timeout=50, add3 A/0 t-0, wait, end4 A/0 abort, init A/0, init
"""


def _read(text: str, transaction_version: int = 2) -> list[Sequence]:
    made, prefix = [], "" if transaction_version == 2 else f"level {transaction_version}: "
    for paragraph in re.split(r"\n(?=\S)", text.strip()):
        title, _, steps = paragraph.partition(":")
        name, _, epoch = title.partition(" @")
        split = tuple(" ".join(step.split()) for step in steps.split(","))
        made.append(Sequence(prefix + name, split, int(epoch) if epoch else None, transaction_version))
    return made


SEQUENCES = [
    *_matrix(4), *_matrix(5), *_read(_ODD), *(each for level in (0, 1) for each in _read(_AT_EACH_LEVEL, level))
]  # fmt: skip


def talk(sequence: Sequence, transactional_id: str, known: dict[int, str] | None = None) -> Talk:
    """Run a sequence. known: letters of producer ids that are there before."""
    return _Conversation(transactional_id, dict(known or {})).run(sequence.steps)


class _Conversation:
    def __init__(self, transactional_id: str, letters: dict[int, str]) -> None:
        self.transactional_id = transactional_id
        self.letters = letters

    def run(self, steps: tuple[str, ...]) -> Talk:
        outcomes = []
        for step in steps:
            said = "" if step == "wait" else (yield from self._ask(step))
            state = yield from self._state(is_patient=step == "wait")
            outcomes.append(f"{said}; {state}" if said else state)
        return outcomes

    def _ask(self, step: str) -> Generator[Any, Any, str]:
        verb, *words = step.split()
        request, version = self._request(verb, words)
        for _ in range(int(PATIENCE_S / PAUSE_S)):
            response = yield request, version
            if getattr(response, "error_code", 0) not in NOT_THERE:
                break
            yield PAUSE_S
        if verb.startswith(("add", "verify")) and not response.error_code:
            of_one = response.results_by_transaction
            topics = of_one[0].topic_results if of_one else response.results_by_topic_v3_and_below
            codes = {
                (t.name, p.partition_index): p.partition_error_code for t in topics for p in t.results_by_partition
            }
            return " ".join(ErrorCode(code).name for _, code in sorted(codes.items()))
        if response.error_code or response.producer_id == -1:
            return ErrorCode(response.error_code).name
        return self._producer(response.producer_id, response.producer_epoch)

    def _request(self, verb: str, words: list[str]) -> tuple[Any, int]:
        timeout_ms = 60_000
        if words and words[0].startswith("timeout="):
            timeout_ms = int(words.pop(0).removeprefix("timeout="))
        producer_id, epoch = self._id(words.pop(0)) if words else (-1, -1)
        if verb == "init":
            return InitProducerIdRequest(
                transactional_id=self.transactional_id,
                transaction_timeout_ms=timeout_ms,
                producer_id=producer_id,
                producer_epoch=epoch,
            ), 5
        if verb.startswith("end"):
            return EndTxnRequest(
                transactional_id=self.transactional_id,
                producer_id=producer_id,
                producer_epoch=epoch,
                committed=words[0] == "commit",
            ), int(verb[3:])
        topics: dict[str, list[int]] = {}
        for word in words:
            name, _, index = word.partition("-")
            topics.setdefault(name, []).append(int(index))
        added = [AddPartitionsToTxnTopic(name=name, partitions=indexes) for name, indexes in topics.items()]
        if verb == "add3":
            return AddPartitionsToTxnRequest(
                v3_and_below_transactional_id=self.transactional_id,
                v3_and_below_producer_id=producer_id,
                v3_and_below_producer_epoch=epoch,
                v3_and_below_topics=added,
            ), 3
        return AddPartitionsToTxnRequest(
            transactions=[
                AddPartitionsToTxnTransaction(
                    transactional_id=self.transactional_id,
                    producer_id=producer_id,
                    producer_epoch=epoch,
                    verify_only=verb == "verify",
                    topics=added,
                )
            ]
        ), 5

    def _state(self, is_patient: bool) -> Generator[Any, Any, str]:
        """Once no markers are under way: an answer comes before these are written."""
        for _ in range(int(PATIENCE_S / PAUSE_S)):
            response = yield DescribeTransactionsRequest(transactional_ids=[self.transactional_id]), 0
            (state,) = response.transaction_states
            is_under_way = state.transaction_state in (UNDER_WAY if is_patient else UNDER_WAY[1:])
            if not is_under_way and state.error_code not in NOT_THERE:
                break
            yield PAUSE_S
        if state.error_code:
            return ErrorCode(state.error_code).name
        return f"{state.transaction_state} {self._producer(state.producer_id, state.producer_epoch)}"

    def _producer(self, producer_id: int, epoch: int) -> str:
        return f"{self.letters.setdefault(producer_id, chr(ord('A') + len(self.letters)))}/{epoch}"

    def _id(self, word: str) -> tuple[int, int]:
        letter, _, epoch = word.rpartition("/")
        ids = {known: producer_id for producer_id, known in self.letters.items()}
        return ids.get(letter, int(letter) if letter == "-1" else 987_654_321), int(epoch)


def recorded() -> dict[str, list[str]]:
    """What Apache Kafka made of them, by name."""
    found: dict[str, list[str]] = json.loads(RECORDED.read_text())
    return found
