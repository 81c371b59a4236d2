"""The core of a transaction under random requests, against a model that knows only what has been promised:

 - who was told to be the producer last, and who might not have heard;
 - which partitions were added since the last end, and how that end was decided.

Nobody but the present producer (or the last one again, asking for the same) changes anything; what is decided stays
decided, also over a crash; no producer id and epoch are ever given out twice but to a producer that asks again.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.transactions import EndTxnResponse, InitProducerIdResponse
from kbroker.coordinators.effects import Compute, Effect, Order, Reply, Store
from kbroker.transactions.states import ENDING, IDLE, PREVIOUS
from kbroker.transactions.states import TransactionState as S
from kbroker.transactions.storage import decode_value, encode_value
from kbroker.transactions.transaction import EPOCH_LAST, EPOCH_MAX, Errand, Producer, Terms, Transaction
from kbroker.turns import at_once

TIMEOUT_MS = 60_000
FIRST_ID = 100
epochs = st.sampled_from([0, 5, EPOCH_LAST - 3, EPOCH_LAST - 2, EPOCH_LAST - 1, EPOCH_LAST])
partitions = st.sets(st.integers(0, 5), min_size=1, max_size=3)


def refusal(code: ErrorCode) -> ErrorCode:
    return code


class TransactionModel(RuleBasedStateMachine):
    """One transactional id; client: 2 if its producers go by transaction.version 2."""

    @initialize(epoch=epochs, client=st.sampled_from([0, 2]), server=st.sampled_from([1, 2]))
    def begin(self, epoch: int, client: int, server: int) -> None:
        self.client, self.terms = client, Terms(server, 900_000)
        self.last_id, self.now_ms = FIRST_ID, 1_000_000
        self.core = Transaction("x")
        self.stored: bytes | None = None  # what the log says
        self.given: set[Producer] = set()  # every one that was ever told
        self.present: Producer | None = None  # told last; None: fenced by the coordinator, nobody has another yet
        self.heard: Producer | None = None  # the one that present was made from: it may not have heard yet
        self.fenced: Producer | None = None  # by the coordinator; with version 2 it may ask for its abort, and go on
        self.is_open, self.added, self.start_ms = False, set[int](), 0
        self.decided: bool | None = None  # how the transaction that is ending, or ended last, ends
        self._init(None)
        while self.core.entry.producer_epoch < epoch <= 5:
            self._init(None)
        if epoch > 5:
            entry = self.core.entry._replace(producer_epoch=epoch)
            self.core.restore(entry, 0, now=0.0, now_ms=self.now_ms)
            self.stored = at_once(encode_value(entry, 1))
            self.present = Producer(entry.producer_id, epoch)

    # -- what producers do --------------------------------------------------------------------------------------------

    @rule()
    def somebody_new_begins(self) -> None:
        self._init(None)

    @rule()
    def the_producer_goes_on(self) -> None:
        if self.present is not None:
            self._init(self.present)

    @precondition(lambda self: self.heard is not None)
    @rule()
    def the_producer_asks_again(self) -> None:
        self._init(self.heard)

    @rule(producer=st.data())
    def a_fenced_one_begins(self, producer: Any) -> None:
        stale = self._stale(producer)
        if stale is not None:
            before = self.core.entry
            assert self._init_answer(stale) in (ErrorCode.PRODUCER_FENCED, ErrorCode.CONCURRENT_TRANSACTIONS)
            assert self.core.entry is before

    @rule(wanted=partitions)
    def the_producer_adds(self, wanted: set[int]) -> None:
        if self.present is None:
            return
        before, answer = self.core.entry, self._ask("add", self.present, wanted)
        if before.state in ENDING:
            assert answer is ErrorCode.CONCURRENT_TRANSACTIONS
            return
        assert answer is ErrorCode.NONE
        if not self.is_open:
            self.added, self.start_ms = set(), self.now_ms
        self.added |= wanted
        self.is_open, self.heard = True, None

    @rule(commit=st.booleans())
    def the_producer_ends(self, commit: bool) -> None:
        if self.present is None:
            return
        before, answer = self.core.entry, self._ask("end", self.present, commit)
        if before.state in ENDING:
            is_repeated = self.client < 2 and commit != self.decided
            assert answer is (ErrorCode.INVALID_TXN_STATE if is_repeated else ErrorCode.CONCURRENT_TRANSACTIONS)
        elif self.is_open or (self.client == 2 and not commit):
            self._decide(commit, answer)
        elif self.client < 2 and before.state is not S.EMPTY and commit == self.decided:
            assert answer is ErrorCode.NONE, "it asks again"
        else:
            assert answer is ErrorCode.INVALID_TXN_STATE

    def _decide(self, commit: bool, answer: Any) -> None:
        self.is_open, self.decided = False, commit
        if self.client == 2:
            assert isinstance(answer, Producer)
            self.heard, self.present = self.present, answer
            assert answer not in self.given and answer.epoch <= EPOCH_LAST
            self.given.add(answer)
        else:
            assert answer is ErrorCode.NONE

    @precondition(lambda self: self.client == 2 and self.heard is not None and self.decided is not None)
    @rule(commit=st.booleans())
    def the_end_is_asked_for_again(self, commit: bool) -> None:
        before, answer = self.core.entry, self._ask("end", self.heard, commit)
        assert self.core.entry is before
        if before.state in IDLE and before.state is not S.EMPTY:
            assert answer == (self.present if commit == self.decided else ErrorCode.INVALID_TXN_STATE)
        else:
            assert isinstance(answer, ErrorCode) and answer is not ErrorCode.NONE

    @rule(producer=st.data(), wanted=partitions, commit=st.booleans())
    def a_fenced_one_adds_or_ends(self, producer: Any, wanted: set[int], commit: bool) -> None:
        stale = self._stale(producer)
        if stale is None:
            return
        before = self.core.entry
        for answer in (self._ask("add", stale, wanted), self._ask("end", stale, commit)):
            assert isinstance(answer, ErrorCode) and answer is not ErrorCode.NONE, answer
        assert self.core.entry is before, "state unharmed"

    # -- what happens without them ------------------------------------------------------------------------------------

    @precondition(lambda self: self.core.entry.state in ENDING)
    @rule()
    def the_markers_are_written(self) -> None:
        assert self.core.entry.partitions == ({"t": self.added} if self.added else {})
        assert (self.core.entry.state is S.PREPARE_COMMIT) == self.decided
        self._perform(self.core.complete(self.terms, self.now_ms))
        self.added = set()

    @precondition(lambda self: self.core.entry.state is S.ONGOING)
    @rule()
    def it_times_out(self) -> None:
        effects = self.core.time_out(self.terms, fresh_id=None, now=0.0, now_ms=self.now_ms)
        if effects == [Order(Errand.PRODUCER_ID)]:
            effects = self.core.time_out(self.terms, fresh_id=self._fresh(), now=0.0, now_ms=self.now_ms)
        self._perform(effects)
        self._fenced_by_coordinator()

    def _fenced_by_coordinator(self) -> None:
        self.is_open, self.decided = False, False
        self.fenced, self.heard, self.present = self.present or self.fenced, None, None

    @rule(ms=st.integers(1, 100))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @precondition(lambda self: self.stored is not None)
    @rule()
    def the_coordinator_crashes(self) -> None:
        assert self.stored is not None
        entry = at_once(decode_value(self.stored))
        before = self.core.entry
        assert entry == before._replace(last_epoch=-1), "memory is what is stored"
        self.core = Transaction("x")
        self.core.restore(entry, 0, now=0.0, now_ms=self.now_ms)
        assert self.core.entry.last_epoch in (-1, before.last_epoch)
        if self.core.entry.last_epoch == -1:
            self.heard = None  # the epoch before is stored only as far as the end of a transaction tells

    # -- asking -------------------------------------------------------------------------------------------------------

    def _init(self, expected: Producer | None) -> None:
        before, answer = self.core.entry, self._init_answer(expected)
        if before.state in ENDING:
            assert answer is ErrorCode.CONCURRENT_TRANSACTIONS
        elif before.state is S.ONGOING:
            if expected is not None and expected != self.present:
                assert answer is ErrorCode.PRODUCER_FENCED
                return
            assert answer is ErrorCode.CONCURRENT_TRANSACTIONS, "the open transaction is aborted first"
            assert self.core.entry.state is S.PREPARE_ABORT
            self._fenced_by_coordinator()
        else:
            assert isinstance(answer, Producer), answer
            is_repeated = expected is not None and expected == self.heard
            assert answer == self.present if is_repeated else answer not in self.given
            assert answer.epoch <= EPOCH_LAST
            self.given.add(answer)
            if not is_repeated:
                self.heard, self.present, self.fenced = expected, answer, None
            self.decided = None

    def _init_answer(self, expected: Producer | None) -> Any:
        def ask() -> list[Effect]:
            fresh = self._fresh() if self.core.wants_id else None
            return self.core.init("t", expected, TIMEOUT_MS, self.terms, refusal, fresh_id=fresh, now_ms=self.now_ms)

        return self._answer(ask)

    def _ask(self, what: str, producer: Producer | None, more: Any) -> Any:
        assert producer is not None

        def add() -> list[Effect]:
            wanted = {"t": set(more)}
            return self.core.add("t", producer, wanted, 20, self.client, self.terms, now=0.0, now_ms=self.now_ms)

        def end() -> list[Effect]:
            fresh = self._fresh() if self.core.wants_id else None
            return self.core.end("t", producer, more, self.client, self.terms, fresh_id=fresh, now_ms=self.now_ms)

        return self._answer(add if what == "add" else end)

    def _answer(self, ask: Any) -> Any:
        try:
            response = self._perform(ask())
        except KafkaError as error:
            return error.code
        if isinstance(response, InitProducerIdResponse | EndTxnResponse):
            if response.producer_id == -1:
                return ErrorCode(response.error_code)
            return Producer(response.producer_id, response.producer_epoch)
        return response

    def _perform(self, effects: list[Effect]) -> Any:
        """Markers are ordered behind the decision, and only then."""
        answer: Any = None
        for number, effect in enumerate(effects):
            assert not isinstance(effect, Compute)
            if isinstance(effect, Store):
                ((_, self.stored),) = effect.records
            elif isinstance(effect, Reply):
                answer = effect.response
            else:
                assert effect == Order(Errand.MARKERS) and self.core.entry.state in ENDING
                assert number == len(effects) - 1 and isinstance(effects[0], Store)
        return answer

    def _fresh(self) -> int:
        self.last_id += 1
        return self.last_id

    def _stale(self, producer: Any) -> Producer | None:
        """One that was told of once, and is neither the present one nor the one before, which may not have heard."""
        alive = {self.present, self.heard, self.fenced}
        stale = sorted(self.given - alive)
        return producer.draw(st.sampled_from(stale)) if stale else None

    @invariant()
    def it_is_sound(self) -> None:
        entry = self.core.entry
        assert 0 <= entry.producer_epoch <= EPOCH_MAX
        assert (entry.state is S.ONGOING) == self.is_open
        assert (self.core.deadline is not None) == self.is_open
        assert not self.is_open or entry.start_ms == self.start_ms
        assert (entry.next_producer_id != -1) <= (entry.state in ENDING)
        if entry.state in (S.COMPLETE_COMMIT, S.COMPLETE_ABORT, S.EMPTY):
            assert not entry.partitions
        assert self.core.is_idle == (entry.state in IDLE)


TransactionModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTransactionModel = TransactionModel.TestCase


def test_who_has_ended_a_transaction_asks_no_more_for_the_epoch_it_had() -> None:
    """A request that comes so late is another's, or a copy's. (Kafka answers it with the epoch of now.)"""
    state = TransactionModel()
    state.begin(epoch=0, client=0, server=1)
    before = state.present
    state.the_producer_goes_on()
    assert before is not None and state._init_answer(before) == state.present, "the answer may be lost"
    state.the_producer_adds({0})
    state.the_producer_ends(commit=False)
    state.the_markers_are_written()
    assert state._init_answer(before) is ErrorCode.PRODUCER_FENCED


def test_no_state_is_left_but_by_the_table() -> None:
    """What may follow a decision: its completion, and nothing else."""
    followers = {state: {after for after, before in PREVIOUS.items() if state in before} for state in S}
    assert followers[S.PREPARE_COMMIT] == {S.COMPLETE_COMMIT}
    assert followers[S.PREPARE_ABORT] == {S.COMPLETE_ABORT}
    assert not followers[S.DEAD]
