"""What consumers see of a log in which records wait hidden for later (kbroker.log.content.delayed).

Clients pass over hidden batches by themselves, but would be sent all of them. So what a consumer is to have is walked
through by its headers, and hidden batches are left out: what is sent lies in several slices, with a skip marker behind
them where the last batch was hidden. Only logs that hide anything are read through here.

Who waits at the end of a log is woken by all that is hidden there, and looks again from where he is. So it is known
from where to where nothing else lies there.
"""

from __future__ import annotations

from kafka_wire.records import NO_PRODUCER_ID, NO_TIMESTAMP, ControlType, control_batch
from kbroker.env import Buffer, FileSlice
from kbroker.log import scan
from kbroker.log.content.delayed import is_hidden
from kbroker.log.log import PartitionLog
from kbroker.replication.reads import Scanned
from kbroker.watermark import Watermark

BATCHES_MAX = 512  # walked through in one go: a millisecond
BYTES_MAX = 1024 * 1024  # that are sent in one go


class Visible:
    """Reads all but what is hidden; one for each partition. Stands in for `log.reading` (reads.Reader)."""

    __slots__ = ("_log_end", "_first", "_after")

    def __init__(self) -> None:
        self._log_end: Watermark | None = None  # the log's `end` as it was: another one after a truncation
        self._first = self._after = 0  # from the one offset to below the other all is hidden

    def read(
        self, log: PartitionLog, offset: int, bytes_max: int, bound: int, at_least_one: bool, now: bool
    ) -> Scanned:
        """What is visible from offset to below bound, as much as one go takes. See reads.Reader."""
        start = min(self._behind_hidden(log, offset), bound)
        if start == bound:
            return Scanned([skip_marker(log, bound - 1)], bound, 0, False)
        slices, after = log.reading.read(start, min(bytes_max, BYTES_MAX), bound, at_least_one, now)
        parts: list[FileSlice | Buffer] = []
        left, is_last_hidden = BATCHES_MAX, False
        for piece in slices:
            begin, end = piece.position, piece.position + piece.length
            for position, header in scan.walk(piece.file, begin, end, chunk=scan.NEAR_BYTES, now=now):
                if not left:
                    end, after = position, header.base_offset
                    break
                left -= 1
                is_last_hidden = is_hidden(header)
                if is_last_hidden:
                    if position > begin:
                        parts.append(FileSlice(piece.file, begin, position - begin))
                    begin = position + header.size
            if end > begin:
                parts.append(FileSlice(piece.file, begin, end - begin))
            if not left:
                break
        length = sum(map(len, parts))
        if is_last_hidden:
            if not length:
                self._note_hidden(log, offset, after)
            parts.append(skip_marker(log, after - 1))
        return Scanned(parts, after, length, after < bound)

    def available(self, log: PartitionLog, offset: int, bound: int, most: int) -> int:
        """About how many bytes there are; those hidden count, until somebody has looked."""
        start = self._behind_hidden(log, offset)
        return log.bytes_between(start, bound, most) if start < bound else 0

    def _behind_hidden(self, log: PartitionLog, offset: int) -> int:
        """From where on there may be something visible."""
        return self._after if self._log_end is log.end and self._first <= offset < self._after else offset

    def _note_hidden(self, log: PartitionLog, first: int, after: int) -> None:
        if self._log_end is log.end and first <= self._after and self._first <= after:  # they meet
            first, after = min(first, self._first), max(after, self._after)
        self._log_end, self._first, self._after = log.end, first, after


def skip_marker(log: PartitionLog, offset: int) -> bytes:
    """A batch that tells a client to go on behind an offset, and nothing else.

    A control batch of no transaction: every client passes over it. An empty batch would do for most, kafkajs would stay
    where it is and ask again without pause.
    """
    return bytes(
        control_batch(
            ControlType.COMMIT,
            producer_id=NO_PRODUCER_ID,
            producer_epoch=-1,
            coordinator_epoch=0,
            timestamp=NO_TIMESTAMP,
            base_offset=offset,
            leader_epoch=log.epochs.epoch_at(offset),
            transactional=False,
        )
    )
