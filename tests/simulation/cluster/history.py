"""What the clients of replicated partitions are told, and whether it is what leaders have committed.

exposed ─▶ the values below the high watermark of any leader, told by the watch at that moment: each once, in the
order of their producer, sent by somebody to this partition
acknowledged (acks=all), read ─▶ must have been exposed before
"""

from __future__ import annotations

import trio

from tests.simulation.checker import Checker, PartitionHistory, Records, Value, Violation


class ReplicatedHistory(PartitionHistory):
    """One partition, as its clients know it, beside what its leaders have exposed. Nothing of it is ever lost."""

    def __init__(self, checker: ClusterChecker, topic: str, index: int) -> None:
        super().__init__(checker, topic, index, durable=True, shrinks=False)
        self.end = 0  # what is below is exposed
        self._latest: dict[str, int] = {}  # producer -> the number of its last value

    def expose(self, records: Records, end: int) -> None:
        """A leader's high watermark has passed these, the next after what was exposed."""
        for offset, value in records:
            self._expose(offset, value)
            producer, number = Value.parse(value)
            latest = self._latest.get(producer, -1)
            if producer in self.checker.ordered and number <= latest:
                raise self.broken(f"{value!r} at {offset} comes after number {latest}: reordered")
            self._latest[producer] = number
        self.end = max(self.end, end)

    def acknowledged(self, base_offset: int, values: list[bytes], losses: int) -> None:
        """All in-sync replicas are said to have them (R6)."""
        if base_offset < 0:
            raise self.broken(f"acknowledged at offset {base_offset}")
        for offset, value in enumerate(values, base_offset):
            self._check_exposed("acknowledged", offset, value)
            self.acked[offset] = value
            self.checker.acked_in[value] = self
        self.floor = max(self.floor, base_offset + len(values))

    def read(
        self, position: int, records: Records, high_watermark: int, log_start: int, asked: tuple[int, int, int]
    ) -> None:
        """A fetch from position was answered."""
        if high_watermark > self.end:
            raise self.broken(f"the high watermark is told to be {high_watermark}, no leader has passed {self.end}")
        if log_start > 0:
            raise self.broken(f"log start {log_start}, and nothing was deleted")
        for expected, (offset, value) in enumerate(records, position):
            if offset != expected:
                raise self.broken(f"read {offset} after {expected - 1}: skipped or out of order")
            if offset >= high_watermark:
                raise self.broken(f"read {offset}, the high watermark is {high_watermark}")
            self._check_exposed("read", offset, value)
        self.floor = max(self.floor, position + len(records))

    def _check_exposed(self, how: str, offset: int, value: bytes) -> None:
        if offset >= self.end:
            raise self.broken(f"{how} {value!r} at {offset}, yet no high watermark has passed {self.end}")
        if self.values.get(offset) != value:
            raise self.broken(f"{how} {value!r} at {offset}, where {self.values.get(offset)!r} is committed")

    def complete(self, start: int, records: Records) -> None:
        """Everything there is, read from the log start after all has healed."""
        super().complete(start, records)
        if dict(records) != self.values:
            odd = sorted(set(records) ^ set(self.values.items()))
            raise self.broken(f"what is read in the end is not what was committed: {odd[:4]}")


class ClusterChecker(Checker):
    """Everything that was told or seen; the first promise that was broken, whoever noticed."""

    def __init__(self) -> None:
        super().__init__()
        self.violation: BaseException | None = None
        self._is_broken = trio.Event()

    def partition(self, topic: str, index: int) -> ReplicatedHistory:
        """The history of a new partition."""
        history = ReplicatedHistory(self, topic, index)
        self.histories.append(history)
        return history

    def report(self, violation: BaseException) -> None:
        """Note what was seen where nothing may be raised, in the midst of a broker's code."""
        if self.violation is None:
            self.violation = violation
            self._is_broken.set()

    def report_failure(self, error: BaseException) -> None:
        """Note what a broker takes for a failure of its own."""
        violation = Violation(f"a broker failed inside: {error!r}")
        violation.__cause__ = error
        self.report(violation)

    async def raise_when_broken(self) -> None:
        """Raise what is reported, when it is."""
        await self._is_broken.wait()
        assert self.violation is not None
        raise self.violation
