"""One partition of a view: the reading half of a Partition, over the one of its source.

Offsets, leader epochs, the leadership and what consumers are told of transactions are the source's. A filter reads in
place of the log (reading.py); a view that is late ends where its source ended so long ago (ages.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.config import ViewSpec
from kbroker.config.keys import LONG_MAX
from kbroker.log.derived.epochs import NO_EPOCH
from kbroker.log.log import PartitionLog
from kbroker.replication.doubt import InDoubt
from kbroker.replication.partition import READ_COMMITTED, READ_UNCOMMITTED, Partition
from kbroker.replication.reads import ReadResult
from kbroker.replication.stable import StableOffset
from kbroker.views.ages import Ages
from kbroker.views.results import Results
from kbroker.watermark import Watermark

if TYPE_CHECKING:
    from kbroker.filters import Expression
    from kbroker.views.reading import FilteredReader


class ViewPartition:
    """What a view shows of a partition of this broker. See Partition for what is not told here."""

    __slots__ = ("spec", "source", "reader", "_ages", "_now_ms", "_waited")

    def __init__(
        self, spec: ViewSpec, source: Partition, results: Results, ages: Ages | None, now_ms: Callable[[], int]
    ) -> None:
        """ages: of the source's records, for a view that is late. now_ms: the data clock."""
        self.spec = spec
        self.source = source
        self.reader = None if spec.expression is None else _filtered(spec.expression, spec.is_exact, results)
        self._ages = ages
        self._now_ms = now_ms
        self._waited: dict[int, StableOffset] = {}  # by isolation level: what readers wait for

    # what is the source's

    @property
    def log(self) -> PartitionLog:
        """The source's."""
        return self.source.log

    @property
    def topic(self) -> str:
        """The source, for what is told of its disk."""
        return self.source.topic

    @property
    def index(self) -> int:
        """As at the source."""
        return self.source.index

    @property
    def leading(self) -> bool:
        """Whether the source is led here."""
        return self.source.leading

    @property
    def leader_epoch(self) -> int:
        """As at the source."""
        return self.source.leader_epoch

    @property
    def is_catching_up(self) -> bool:
        """As at the source."""
        return self.source.is_catching_up

    def check_leader(self, current_leader_epoch: int = NO_EPOCH) -> None:
        """As at the source."""
        self.source.check_leader(current_leader_epoch)

    def check_follower(self, replica_id: int, current_leader_epoch: int) -> None:
        """As at the source."""
        self.source.check_follower(replica_id, current_leader_epoch)

    def doubt(self, refusal: KafkaError | None = None) -> InDoubt | None:
        """As at the source."""
        return self.source.doubt(refusal)

    def parting(
        self, offset: int, current_leader_epoch: int, last_fetched_epoch: int, *, only_leader: bool = True
    ) -> tuple[int, int] | None:
        """As at the source."""
        return self.source.parting(offset, current_leader_epoch, last_fetched_epoch, only_leader=only_leader)

    def epoch_end(self, epoch: int) -> tuple[int, int]:
        """As at the source."""
        return self.source.epoch_end(epoch)

    # what is the view's

    @property
    def high_watermark(self) -> Watermark:
        """The source's, or of a view that is late, where that was so long ago."""
        return self.source.high_watermark if self._ages is None else self.watermark(READ_UNCOMMITTED)

    @property
    def last_stable_offset(self) -> int:
        """The bound of read_committed readers."""
        return self.bound(READ_COMMITTED)

    def bound(self, isolation: int) -> int:
        """Up to where a reader of that isolation level may see."""
        bound = self.source.bound(isolation)
        return bound if self._ages is None else min(bound, self._shown_below(self._ages))

    def watermark(self, isolation: int) -> Watermark:
        """What a reader of that isolation level waits for: `bound`. It ends as the source's does, and with the view."""
        found = self._waited.get(isolation)
        if found is None or found.follows is not self.source.high_watermark:
            if found is not None:
                found.set()
            found = self._waited[isolation] = StableOffset(self.source.high_watermark, lambda: self.bound(isolation))
        found.set()
        return found

    def ring(self) -> None:
        """Time has passed: ring for who waits for it."""
        for watermark in self._waited.values():
            watermark.set()

    def end(self) -> None:
        """The view is no more, or another one: let go of who waits for this one."""
        for watermark in self._waited.values():
            watermark.close(KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
        if self.reader is not None:
            self.reader.end()

    def read(
        self,
        offset: int,
        bytes_max: int,
        current_leader_epoch: int = NO_EPOCH,
        *,
        isolation: int = READ_UNCOMMITTED,
        at_least_one: bool = True,
        now: bool = False,
        only_leader: bool = True,
    ) -> ReadResult:
        """As at the source, but for what the view does not show."""
        below = LONG_MAX if self._ages is None else self._shown_below(self._ages)
        return self.source.read(
            offset, bytes_max, current_leader_epoch, isolation=isolation, at_least_one=at_least_one, now=now,
            only_leader=only_leader, through=self.reader, below=below,
        )  # fmt: skip

    def available(self, offset: int, most: int, isolation: int = READ_UNCOMMITTED) -> int:
        """About how many bytes read would find."""
        below = LONG_MAX if self._ages is None else self._shown_below(self._ages)
        return self.source.available(offset, most, isolation, through=self.reader, below=below)

    def _shown_below(self, ages: Ages) -> int:
        return ages.end_by(self._now_ms() - self.spec.lag_ms)


def _filtered(expression: Expression, is_exact: bool, results: Results) -> FilteredReader:
    from kbroker.views.reading import FilteredReader, Selection  # only where there are filters

    return FilteredReader(Selection(expression, is_exact=is_exact), results)
