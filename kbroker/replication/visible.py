"""What consumers see of a log in which records wait hidden for later (kbroker.log.content.delayed).

Clients pass over hidden batches by themselves, but would be sent all of them. So what a consumer is to have is walked
through by its headers, and hidden batches are left out: what is sent lies in several slices, with a skip marker behind
them where the last batch was hidden. Only logs that hide anything are read through here.
"""

from __future__ import annotations

from kafka_wire.records import NO_PRODUCER_ID, NO_TIMESTAMP, ControlType, control_batch
from kbroker.env import Buffer, FileSlice
from kbroker.log import scan
from kbroker.log.content.delayed import is_hidden
from kbroker.log.log import PartitionLog
from kbroker.replication.reads import Scanned

BATCHES_MAX = 512  # walked through in one go: a millisecond
BYTES_MAX = 1024 * 1024  # that are sent in one go


class Visible:
    """Reads all but what is hidden. Stands in for `log.reading` (reads.Reader)."""

    __slots__ = ()

    def read(
        self, log: PartitionLog, offset: int, bytes_max: int, bound: int, at_least_one: bool, now: bool
    ) -> Scanned:
        """What is visible from offset to below bound, as much as one go takes. See reads.Reader."""
        slices, after = log.reading.read(offset, min(bytes_max, BYTES_MAX), bound, at_least_one, now)
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
            parts.append(skip_marker(log, after - 1))
        return Scanned(parts, after, length, after < bound)

    def available(self, log: PartitionLog, offset: int, bound: int, most: int) -> int:
        """About how many bytes there are; those hidden count, until somebody has looked."""
        return log.bytes_between(offset, bound, most)


VISIBLE = Visible()


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
