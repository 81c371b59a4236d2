"""Transactional producers, as those of Kafka behave. What they ask and are told goes into the ledger.

    begin ──▶ write, write, … ──▶ commit or abort ──▶ begin …
      ▲          │ an error that the transaction does not survive: abort
      └──────────┴ another producer has the id: a new life, with a new epoch

    rules       asked for                          a transaction takes part         what bumps the epoch
    old         AddPartitionsToTxn 3, Produce 11   by AddPartitionsToTxn            InitProducerId, after any doubt
    new         Produce 12, EndTxn 5               with its first batch (KIP-890)   every EndTxn

No answer is a doubt, not a failure: the same is asked again, the same batches with the same sequences. Who has asked
in vain for too long gives the transaction up; but a commit that was asked for is decided, and only another life may
end the asking.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import trio

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.groups import FindCoordinatorRequest
from kafka_wire.messages.produce_fetch import PartitionProduceData, ProduceRequest, TopicProduceData
from kafka_wire.messages.transactions import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTopic,
    EndTxnRequest,
    InitProducerIdRequest,
)
from kbroker.testing.client import BareClient
from kbroker.testing.world import World
from tests.simulation.checker import Violation
from tests.simulation.clients import BROKEN, PORT, Client, Doubt
from tests.simulation.transactions.ledger import Ledger, StableHistory, Transaction

NEW_RULES = 2  # transaction.version
PATIENCE_S = (4.0, 12.0)  # how long the same is asked again
LATE_S_MAX = 8.0

Rules = Callable[[], int]

E = ErrorCode
COORDINATOR_RETRIABLE = frozenset(
    {
        E.COORDINATOR_LOAD_IN_PROGRESS, E.COORDINATOR_NOT_AVAILABLE, E.NOT_COORDINATOR, E.CONCURRENT_TRANSACTIONS,
        E.REQUEST_TIMED_OUT,
    }
)  # fmt: skip
PRODUCE_RETRIABLE = frozenset(
    {
        E.NOT_LEADER_OR_FOLLOWER, E.KAFKA_STORAGE_ERROR, E.REQUEST_TIMED_OUT, E.NOT_ENOUGH_REPLICAS,
        E.NOT_ENOUGH_REPLICAS_AFTER_APPEND, E.CONCURRENT_TRANSACTIONS, E.COORDINATOR_LOAD_IN_PROGRESS,
        E.COORDINATOR_NOT_AVAILABLE, E.NOT_COORDINATOR,
    }
)  # fmt: skip
FENCED = frozenset({E.PRODUCER_FENCED, E.INVALID_PRODUCER_EPOCH, E.INVALID_PRODUCER_ID_MAPPING})
ABORTABLE = frozenset(
    {E.TRANSACTION_ABORTABLE, E.INVALID_TXN_STATE, E.OUT_OF_ORDER_SEQUENCE_NUMBER, E.UNKNOWN_PRODUCER_ID}
)


class Abortable(Exception):
    """The transaction has to be aborted; its producer goes on."""


class Fatal(Exception):
    """Another producer has the id, or nobody knows what became of this one's: a new life."""


class Sent(NamedTuple):
    """A batch on its way."""

    history: StableHistory
    values: list[bytes]
    data: bytes
    losses: int


class TransactionalClient(Client):
    """A producer with a transactional id, and what all such have in common.

    rules: by which transaction.version it goes, asked when a life begins.
    """

    ledger: Ledger
    background: trio.Nursery  # for what nobody waits for

    def __init__(
        self, world: World, name: str, ledger: Ledger, transactional_id: str, rules: Rules, timeout_ms: int
    ) -> None:
        super().__init__(world, name, ledger)
        self.ledger = ledger
        self.transactional_id = transactional_id
        self.rules = rules
        self.version = 0
        self.timeout_ms = timeout_ms
        self.late_host = f"{name}-late"
        world.client_env(self.late_host)
        self.lives = 0
        self.count = 0  # transactions begun
        self.number = 0  # values written
        self.producer_id, self.epoch = -1, -1
        self.has_doubt = False  # something of the present epoch may still arrive
        self.transaction: Transaction | None = None
        self._sequences: dict[str, int] = {}
        self._added: set[str] = set()
        self._written: set[str] = set()
        self._queues: dict[str, list[Sent]] = {}
        self.commits = 0

    @property
    def is_new(self) -> bool:
        """Whether this producer goes by the rules of KIP-890."""
        return self.version >= NEW_RULES

    @property
    def author(self) -> str:
        """Of values: each life has its own order."""
        return f"{self.name}.{self.lives}"

    # -- lives

    async def start_life(self) -> None:
        """Find the coordinator, and get an epoch that fences whoever had the id before."""
        self.transaction = None
        self.producer_id, self.epoch = -1, -1
        self.version = self.rules()
        request = FindCoordinatorRequest(key_type=1, coordinator_keys=[self.transactional_id])
        await self._patiently(lambda: self.call(request, 4), lambda answer: answer.coordinators[0].error_code)
        await self._init()
        self.lives += 1
        self._reset()

    async def _init(self) -> None:
        """InitProducerId; with what there is, it goes on with a new epoch."""
        request = InitProducerIdRequest(
            transactional_id=self.transactional_id,
            transaction_timeout_ms=self.timeout_ms,
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
        )
        answer = await self._patiently(lambda: self.call(request, 4), lambda answer: answer.error_code)
        self.trace("init", answer.producer_id, answer.producer_epoch)
        self._go_on_as(answer.producer_id, answer.producer_epoch)

    def _go_on_as(self, producer_id: int, epoch: int) -> None:
        before = (self.producer_id, self.epoch)
        if producer_id == before[0] and epoch < before[1]:
            raise Violation(f"{self.name}: epoch {epoch} after {before[1]}")
        self.ledger.producer_ids.add(producer_id)
        self.producer_id, self.epoch = producer_id, epoch

    def _reset(self) -> None:
        """A new epoch begins: sequences from 0, nothing on the way."""
        self._sequences = dict.fromkeys(self.histories, 0)
        self.has_doubt = False

    # -- transactions

    def begin(self) -> Transaction:
        """A transaction begins, as yet only here."""
        self.count += 1
        self.transaction = self.ledger.begin(f"{self.author}.{self.count}")
        self._added, self._written = set(), set()
        self._queues = {name: [] for name in self.histories}
        return self.transaction

    def put(self, history: StableHistory, values: list[bytes]) -> Sent:
        """A batch is to be sent."""
        assert self.transaction is not None
        self.ledger.write(self.transaction, history, values)
        self.ledger.ordered.add(self.author)
        self._written.add(str(history))
        sequence = self._sequences[str(history)]
        data = self.batch(
            values,
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
            base_sequence=sequence,
            transactional=True,
        )
        self._sequences[str(history)] = sequence + len(values)
        sent = Sent(history, values, bytes(data), history.losses)
        self._queues[str(history)].append(sent)
        return sent

    async def flush(self) -> None:
        """Have everything acknowledged. Raises Abortable, Fatal."""
        if not self.is_new:
            await self._add_partitions()
        with trio.move_on_after(self.random.uniform(*PATIENCE_S)):
            while waiting := [sent for queue in self._queues.values() for sent in queue]:
                try:
                    answers = await self.call_all([self._produce(sent) for sent in waiting], 12 if self.is_new else 11)
                except Doubt:
                    self.has_doubt = True
                    await self.rest()
                    continue
                failed: set[str] = set()
                for sent, answer in zip(waiting, answers, strict=True):
                    self._take(sent, answer.responses[0].partition_responses[0], failed)
                if failed:
                    await self.rest()
            return
        raise await self._impatience("nothing is acknowledged")

    async def _add_partitions(self) -> None:
        new = [name for name, queue in self._queues.items() if queue and name not in self._added]
        if not new:
            return
        topics: dict[str, list[int]] = {}
        for name in new:
            topics.setdefault(self.histories[name].topic, []).append(self.histories[name].index)
        request = AddPartitionsToTxnRequest(
            v3_and_below_transactional_id=self.transactional_id,
            v3_and_below_producer_id=self.producer_id,
            v3_and_below_producer_epoch=self.epoch,
            v3_and_below_topics=[AddPartitionsToTxnTopic(name=name, partitions=each) for name, each in topics.items()],
        )
        await self._patiently(
            lambda: self.call(request, 3),
            lambda answer: max(
                (each.partition_error_code for topic in answer.results_by_topic_v3_and_below
                 for each in topic.results_by_partition),
            ),
        )  # fmt: skip
        self._added |= set(new)

    def _produce(self, sent: Sent) -> ProduceRequest:
        data = PartitionProduceData(index=sent.history.index, records=sent.data)
        return ProduceRequest(
            transactional_id=self.transactional_id,
            acks=-1,
            timeout_ms=1000,
            topic_data=[TopicProduceData(name=sent.history.topic, partition_data=[data])],
        )

    def _take(self, sent: Sent, answer: Any, failed: set[str]) -> None:
        """An answer to a batch. failed: partitions of which an earlier batch was refused just now."""
        history, code = sent.history, answer.error_code
        self.trace(str(history), code, answer.base_offset)
        if code == E.NONE:
            self._queues[str(history)].remove(sent)  # a repetition may be recognised though the one before was refused
            history.acknowledged(answer.base_offset, sent.values, sent.losses)
            self.ledger.acks += 1
        elif code in PRODUCE_RETRIABLE or str(history) in failed:
            failed.add(str(history))
        elif code in ABORTABLE or code in FENCED:
            self.has_doubt = True
            raise Abortable(ErrorCode(code))
        else:
            raise history.broken(f"{self.name} was answered {ErrorCode(code)!r}")

    async def end(self, commit: bool) -> None:
        """Commit or abort. Raises Fatal; what became of the transaction is in the ledger, if anybody knows."""
        transaction = self.transaction
        assert transaction is not None
        if commit:
            self.ledger.ask(transaction)
        else:
            self.ledger.aborted(transaction)
        answer = await self._ask_end(commit)
        if commit:
            self.ledger.committed(transaction)
            self.commits += 1
        self.transaction = None
        if self.is_new:
            self._go_on_as(answer.producer_id, answer.producer_epoch)
            self._reset()
        elif self.has_doubt:
            await self._init()
            self._reset()

    async def _ask_end(self, commit: bool) -> Any:
        transaction, request = (
            self.transaction,
            EndTxnRequest(
                transactional_id=self.transactional_id,
                producer_id=self.producer_id,
                producer_epoch=self.epoch,
                committed=commit,
            ),
        )
        assert transaction is not None
        was_in_doubt = False

        async def ask() -> Any:
            nonlocal was_in_doubt
            try:
                return await self.call(request, 5 if self.is_new else 3)
            except Doubt:
                was_in_doubt = self.has_doubt = True
                raise

        try:
            answer = await self._patiently(ask, lambda answer: answer.error_code)
        except Abortable as error:
            # INVALID_TXN_STATE: it was aborted meanwhile, as nothing else ends it but what was asked for
            if commit and error.args[0] == E.INVALID_TXN_STATE:
                self.ledger.aborted(transaction)
            raise Fatal(error.args[0]) from None
        except Fatal:
            if commit and not was_in_doubt:
                self.ledger.aborted(transaction)
            raise
        self.trace("end", transaction.name, commit, answer.producer_id, answer.producer_epoch)
        return answer

    # -- habits

    def trace(self, *event: object) -> None:
        """Note an event of the run."""
        self.world.trace(self.name, *event)

    async def _patiently(self, ask: Callable[[], Any], code_of: Callable[[Any], int]) -> Any:
        """Ask until there is an answer that counts. Raises Abortable, Fatal; Abortable also when patience ends."""
        with trio.move_on_after(self.random.uniform(*PATIENCE_S)):
            while True:
                try:
                    answer = await ask()
                except Doubt:
                    self.has_doubt = True
                    await self.rest()
                    continue
                code = code_of(answer)
                if code == E.NONE:
                    return answer
                self.trace("refused", type(answer).__name__, code)
                if code in FENCED:
                    raise Fatal(ErrorCode(code))
                if code in ABORTABLE:
                    raise Abortable(ErrorCode(code))
                if code not in COORDINATOR_RETRIABLE:
                    raise Violation(f"{self.name}: {type(answer).__name__} has {ErrorCode(code)!r}")
                await trio.sleep(self.random.expovariate(20))
        raise await self._impatience("there is no answer")

    async def _impatience(self, why: str) -> Abortable:
        """Whatever was asked for may still happen, and an answer come: on a connection that nobody listens to."""
        await self.hang_up()
        self.has_doubt = True
        return Abortable(why)

    async def send_late(self, sent: Sent) -> None:
        """Send a batch over a connection that is very slow, and do not wait for an answer."""
        late_s = self.random.uniform(0, self.random.choice([0.1, LATE_S_MAX]))
        host = self.host_of(sent.history)
        self.world.network.slow(self.late_host, host, late_s)
        env, has_begun = self.world.client_env(self.late_host), trio.Event()
        self.background.start_soon(self._send_late, env, host, self._produce(sent), has_begun)
        await has_begun.wait()
        self.has_doubt = True

    async def _send_late(self, env: Any, host: str, request: ProduceRequest, has_begun: trio.Event) -> None:
        has_begun.set()
        with trio.move_on_after(4 * LATE_S_MAX):
            try:
                client = BareClient(await env.net.connect(host, PORT), self.late_host)
                await client.send(request, 12 if self.is_new else 11)
                await client.receive(ApiKey.PRODUCE, 12 if self.is_new else 11)
            except BROKEN:
                pass


class TransactionalProducer(TransactionalClient):
    """Writes to several partitions in each transaction. Some others share its id: they fence each other."""

    has_life = False
    failures = 0  # lives that ended since everything healed

    async def run(self) -> None:
        """Transactions until told to finish; then one more, committed."""
        while not self.finishing:
            await self._live()
        before = self.commits
        while self.commits == before:
            await self._live(last=True)

    async def _live(self, *, last: bool = False) -> None:
        try:
            if not self.has_life:
                pause_s = self.failures * self.random.random()  # or rivals fence each other for ever
                await trio.sleep(pause_s if last else self.random.expovariate(1))
                await self.start_life()
                self.has_life = True
            await self._transact(must_commit=last)
        except (Fatal, Abortable) as error:
            self.trace("dies", str(error.args[0]))
            self.has_life = False
            self.failures += last
            await self.rest()

    async def _transact(self, must_commit: bool) -> None:
        await self.rest()
        self.begin()
        is_late = not must_commit and self.random.random() < 0.25
        try:
            for _ in range(1 if is_late else self.random.randint(1, 3)):
                for _ in range(self.random.randint(1, 3)):
                    self._write()
                await self.flush()
                await self._stall(must_commit)
            if is_late:
                await self._write_late()
        except Abortable as error:
            self.trace("aborts", str(error.args[0]))
            await self.end(False)
            return
        if not must_commit and self.random.random() < 0.04:
            raise Fatal("left it open")
        await self.end(must_commit or self.random.random() < 0.75)

    def _write(self, among: Collection[str] = ()) -> Sent:
        history = self.histories[self.random.choice(list(among or self.histories))]
        count = self.random.randint(1, 3)
        assert isinstance(history, StableHistory)
        values = [
            b"%s/%d/%s" % (self.author.encode(), self.number + n, b"x" * self.random.randint(0, 100))
            for n in range(count)
        ]
        self.number += count
        return self.put(history, values)

    async def _stall(self, must_commit: bool) -> None:
        """Think, now and then longer than the transaction may take."""
        chance = 0 if must_commit else self.random.random()
        if chance > 0.97:
            await trio.sleep(self.timeout_ms / 1000 * self.random.uniform(0.9, 1.5))
        elif chance > 0.5:
            await trio.sleep(self.random.expovariate(10))

    async def _write_late(self) -> None:
        """A batch that nobody waits for: its transaction is aborted before it arrives, or just then."""
        sent = self._write([name for name in self.histories if name not in self._written])
        if not self.is_new:
            try:
                await self._add_partitions()
            except Abortable:
                pass
        await self.send_late(sent)
        await trio.sleep(self.random.random() * 0.5)
        raise Abortable("a batch was too late")
