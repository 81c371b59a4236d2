"""TransactionShard: the transactional ids of one partition of `__transaction_state` that is led here."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from kafka_wire.errors import ErrorCode, KafkaError, ProtocolError
from kbroker.coordinators.effects import Effect, Pair, StateRecord, Store
from kbroker.coordinators.shard import BATCH_BYTES_FIXED, RECORD_BYTES_FIXED, Shard, Tasks
from kbroker.env import Clock
from kbroker.events import TRANSACTION_TIMED_OUT, tell
from kbroker.replication.partition import Partition
from kbroker.transactions.states import IDLE
from kbroker.transactions.storage import decode_key, decode_value, encode_key, measured
from kbroker.transactions.transaction import Errand, Terms, Transaction
from kbroker.turns import Work

VALUE_BYTES_FIXED = 128  # of a record, besides its partitions and its id, at most

log = logging.getLogger("kbroker.transactions")


class Surroundings(Protocol):
    """What a shard needs of its coordinator."""

    @property
    def version(self) -> int:
        """transaction.version, as it is finalized."""

    def carry_out(self, shard: TransactionShard, transaction: Transaction, errand: Errand) -> None:
        """A transaction ordered something."""


class TransactionShard(Shard):
    """One partition's transactional ids. What changes them goes through here."""

    __slots__ = ("_transactions", "_surroundings", "_found_ending")

    def __init__(self, partition: Partition, clock: Clock, tasks: Tasks, surroundings: Surroundings) -> None:
        super().__init__(partition, clock, tasks)
        self._transactions: dict[str, Transaction] = {}
        self._surroundings = surroundings
        self._found_ending: list[Transaction] = []

    @property
    def transactions(self) -> Mapping[str, Transaction]:
        """All of them, by id."""
        return self._transactions

    @property
    def terms(self) -> Terms:
        """What holds for all of them."""
        fixed = BATCH_BYTES_FIXED + RECORD_BYTES_FIXED + VALUE_BYTES_FIXED
        return Terms(self._surroundings.version, self.partition.log.config.max_message_bytes - fixed)

    def transaction(self, transactional_id: str) -> Transaction:
        """The transaction of an id. Raises KafkaError INVALID_PRODUCER_ID_MAPPING for an unknown one, as Kafka."""
        found = self._transactions.get(transactional_id)
        if found is None:
            raise KafkaError(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
        return found

    def take_found_ending(self) -> list[Transaction]:
        """Those that were decided, and not carried out, when the log was read. They are given out once."""
        taken, self._found_ending = self._found_ending, []
        return taken

    def keep(self, transaction: Transaction) -> None:
        """An id is there from now on."""
        self._transactions[transaction.transactional_id] = transaction

    def forget(self, transactional_ids: Iterable[str]) -> list[Effect]:
        """Take ids out that have no transaction under way. The effects are those of no single core."""
        keys = []
        for each in transactional_ids:
            assert self._transactions[each].entry.state in IDLE
            del self._transactions[each]
            self.alarms.pop(each, None)
            keys.append((encode_key(each), None))
        return [Store(tuple(keys))]

    # -- as a shard ---------------------------------------------------------------------------------------------------

    def names(self) -> Collection[str]:
        """Of all transactional ids."""
        return self._transactions.keys()

    def deadline(self, name: str) -> float | None:
        """When that transaction is to be aborted."""
        transaction = self._transactions.get(name)
        return None if transaction is None else transaction.deadline

    def on_alarm(self, name: str, now: float, now_ms: int) -> Iterable[Effect]:
        """The time of a transaction is over."""
        tell(log, TRANSACTION_TIMED_OUT, partition=str(self), transactional_id=name)
        return self._transactions[name].time_out(self.terms, fresh_id=None, now=now, now_ms=now_ms)

    def resign(self, code: ErrorCode) -> Iterable[Effect]:
        """Nobody waits in a core."""
        return ()

    def pair_of(self, record: StateRecord | Pair) -> Pair:
        """Cores make records themselves."""
        assert isinstance(record, tuple)
        return record

    def carry_out(self, name: str, what: object) -> None:
        """What a transaction ordered."""
        assert isinstance(what, Errand)
        transaction = self._transactions.get(name)
        if transaction is not None and self.closed is None:
            self._surroundings.carry_out(self, transaction, what)

    def summary(self) -> str:
        """What it holds."""
        return f"{len(self._transactions)} transactional ids"

    def restore(self, live: dict[bytes, bytes]) -> Work[None]:
        """Take over what a replay found. A record that cannot be read costs its id, not others."""
        self._transactions = {}
        for key in list(live):
            try:
                yield from self._restore_one(key, live[key])
            except ProtocolError as error:
                log.error("%s: a record cannot be read: %s", self, error)
            yield

    def _restore_one(self, key: bytes, value: bytes) -> Work[None]:
        transactional_id = decode_key(key)
        if transactional_id is None:
            return
        entry = yield from decode_value(value)
        size = yield from measured(entry.partitions)
        transaction = self._transactions[transactional_id] = Transaction(transactional_id)
        transaction.restore(entry, size, now=self.clock.liveness(), now_ms=self.clock.data_ms())
        if transaction.is_ending:
            self._found_ending.append(transaction)
