"""Transactional ids that nobody has used for `transactional.id.expiration.ms` are forgotten, in data time.

A tombstone for each, in batches that `__transaction_state` takes (T7). An id with a transaction under way stays.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from kafka_wire.errors import KafkaError
from kbroker.config import BrokerConfig
from kbroker.coordinators.runtime import Runtime
from kbroker.transactions.shard import TransactionShard
from kbroker.turns import Work, finish

FORGET_IDS = 32  # in one batch, between two pauses

log = logging.getLogger("kbroker.transactions")


class Housekeeping:
    """The duties of the transaction coordinator."""

    def __init__(self, runtime: Runtime[TransactionShard], config: Callable[[], BrokerConfig]) -> None:
        """config: the broker's configs as they are now."""
        self.runtime = runtime
        self.config = config
        self.duties: Sequence[Callable[[], Awaitable[None]]] = (self._expire_all,)

    async def _expire_all(self) -> None:
        name = "transaction.remove.expired.transaction.cleanup.interval.ms"
        while True:
            await self.runtime.env.clock.sleep_data(self.config().get_int(name) / 1000)
            for shard in self.runtime.leading.active():
                try:
                    await finish(self.expire(shard))
                except Exception:
                    log.exception("%s: unused transactional ids were not forgotten", shard)

    def expire(self, shard: TransactionShard) -> Work[None]:
        """Forget the ids of a shard that nobody uses."""
        before_ms = self.runtime.env.clock.data_ms() - self.config().get_int("transactional.id.expiration.ms")
        ids = iter(list(shard.transactions))
        while shard.closed is None and (some := list(islice(ids, FORGET_IDS))):
            over = [each for each in some if _is_over(shard, each, before_ms)]
            if over:
                try:
                    self.runtime.perform(shard, "", shard.forget(over))
                except KafkaError as error:
                    log.warning("%s: unused transactional ids were not forgotten: %s", shard, error)
            yield


def _is_over(shard: TransactionShard, transactional_id: str, before_ms: int) -> bool:
    transaction = shard.transactions.get(transactional_id)
    return transaction is not None and transaction.is_idle and transaction.entry.updated_ms <= before_ms
