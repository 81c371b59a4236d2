"""Telling people of a disk that refuses: clients are answered KAFKA_STORAGE_ERROR, and know no more than that.

A log that cannot be written or read is named with the reason, again every minute while clients ask; of many such logs
the first few, and how many more. Owns: what it told last.
"""

from __future__ import annotations

import logging

from kafka_wire.errors import KafkaError
from kbroker.env import Clock

AGAIN_S = 60.0
LOGS_MAX = 10

log = logging.getLogger(__name__)


class Troubles:
    """One for all logs of a data directory."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._told: set[str] = set()  # since then
        self._untold = 0
        self._since = float("-inf")

    def tell(self, topic: str, partition: int, error: Exception) -> None:
        """A client was refused because of the disk."""
        now = self.clock.liveness()
        if now - self._since >= AGAIN_S:
            if self._untold:
                log.error("the disk refused clients of other partitions, too: %d times", self._untold)
            self._told.clear()
            self._untold, self._since = 0, now
        name = f"{topic}-{partition}"
        if name in self._told:
            return
        if len(self._told) >= LOGS_MAX:
            self._untold += 1
            return
        self._told.add(name)
        text = error.message if isinstance(error, KafkaError) else str(error)
        log.error("the disk refuses clients of partition %s: %s", name, text)
