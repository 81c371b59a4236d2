"""What the clients of a broker were told, and whether all of it can be true at once. After jepsen.tests.kafka.

A `PartitionHistory` keeps, for one partition of one topic id, the ghost: every (offset -> value) that anybody was
shown or had acknowledged. It only grows, but for a power failure, which may take what was not flushed:

    ghost   [ start ............ acknowledged, read ............ floor )     no high watermark may be below floor
                                             [ end after a power failure: what is above is forgotten, unless the
                                               topic flushes every message: then what is acknowledged must be there

Ops are ok, fail or info. A timeout or a broken connection is info: it happened, or will happen, or not. So no error is
ever taken for "not written"; a value is a phantom only if nobody ever sent it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from kafka_wire.records import BatchHeader, CorruptRecords, check_crc, headers, read_records
from kbroker.testing.volume import Directory, Inode, Volume

Records = list[tuple[int, bytes]]  # (offset, value)


class Violation(AssertionError):
    """The broker broke a promise."""


class Value(NamedTuple):
    """What is in a record's value: who wrote it, as the how many-th to this partition; then anything."""

    producer: str
    number: int

    @classmethod
    def parse(cls, data: bytes) -> Value:
        producer, number, _ = data.split(b"/", 2)
        return cls(producer.decode(), int(number))


class PartitionHistory:
    """One partition, as its clients know it.

    durable: the topic flushes before it acknowledges. shrinks: retention may take the oldest records.
    """

    def __init__(self, checker: Checker, topic: str, index: int, *, durable: bool, shrinks: bool) -> None:
        self.checker = checker
        self.topic = topic
        self.index = index
        self.durable = durable
        self.shrinks = shrinks
        self.values: dict[int, bytes] = {}
        self.offsets: dict[bytes, int] = {}
        self.acked: dict[int, bytes] = {}
        self.floor = 0  # the least that any later high watermark may be
        self.start = 0  # the least that any later log start may be
        self.start_max = 0  # as far as deleting was asked for
        self.start_unsure = False  # the disk refused to note where it is
        self.epoch = -1
        self.losses = 0  # grows with a power failure, and with the recovery from it

    def __str__(self) -> str:
        return f"{self.topic}-{self.index}"

    def broken(self, what: str) -> Violation:
        """A promise was broken here; the padding of values is of no interest."""
        what = re.sub(r"x{4,}", "x…", what)
        return Violation(f"{self}: {what}")

    # -- producers

    def acknowledged(self, base_offset: int, values: list[bytes], losses: int) -> None:
        """An acknowledgement came. losses: power failures when the request was sent."""
        if base_offset < 0:
            raise self.broken(f"acknowledged at offset {base_offset}")
        if losses != self.losses and not self.durable:
            return  # sent before the failure: worth nothing now
        for offset, value in enumerate(values, base_offset):
            self._expose(offset, value)
            self.acked[offset] = value
            self.checker.acked_in[value] = self
        self.floor = max(self.floor, base_offset + len(values))

    # -- consumers

    def read(
        self, position: int, records: Records, high_watermark: int, log_start: int, asked: tuple[int, int, int]
    ) -> None:
        """A fetch from position was answered. asked: `promise()` when it was sent."""
        losses, floor, start = asked
        if losses != self.losses:
            return
        self.saw_bounds(log_start, high_watermark, asked)
        if log_start > position and records:
            raise self.broken(f"read from {position}, below the log start {log_start}")
        for expected, (offset, value) in enumerate(records, position):
            if offset != expected:
                raise self.broken(f"read {offset} after {expected - 1}: skipped or out of order")
            if offset >= high_watermark:
                raise self.broken(f"read {offset}, the high watermark is {high_watermark}")
            self._expose(offset, value)

    def promise(self) -> tuple[int, int, int]:
        """What holds from now on: (power failures, least high watermark, least log start)."""
        return self.losses, self.floor, self.start

    def saw_bounds(self, log_start: int, high_watermark: int, asked: tuple[int, int, int]) -> None:
        """Log start and high watermark were told."""
        losses, floor, start = asked
        if losses != self.losses:
            return
        if high_watermark < floor:
            raise self.broken(f"high watermark {high_watermark} after {floor} was acknowledged or read")
        if log_start < start and not self.start_unsure:
            raise self.broken(f"log start {log_start} after {start}")
        if not self.shrinks and log_start > self.start_max:
            raise self.broken(f"log start {log_start}, though only what is below {self.start_max} was to be deleted")
        self.floor = max(self.floor, high_watermark)
        if not self.start_unsure:
            self.start = max(self.start, log_start)

    def saw_epoch(self, epoch: int) -> None:
        """Metadata told a leader epoch, in order of the asking."""
        if epoch < self.epoch:
            raise self.broken(f"leader epoch {epoch} after {self.epoch}")
        self.epoch = epoch

    def deleted(self, low_watermark: int, asked: int, losses: int) -> None:
        """DeleteRecords was answered."""
        if low_watermark < asked:
            raise self.broken(f"records below {asked} deleted, but the log start is {low_watermark}")
        if losses == self.losses:
            self.start = max(self.start, low_watermark)
            self.start_unsure = False

    def _expose(self, offset: int, value: bytes) -> None:
        if self.checker.sent.get(value) != self.topic:
            raise self.broken(f"{value!r} at offset {offset}: nobody sent that to this topic")
        other = self.checker.acked_in.get(value)
        if other is not None and other is not self:
            raise self.broken(f"{value!r} at offset {offset} is of an earlier topic of that name, or another partition")
        known = self.values.setdefault(offset, value)
        if known != value:
            raise self.broken(f"offset {offset} holds {value!r}, and held {known!r}")
        at = self.offsets.setdefault(value, offset)
        if at != offset:
            if not (self.losses and at < self.start):  # its producer's state may have gone with it
                raise self.broken(f"{value!r} at offset {offset}, and at {at}: duplicate")
            self.offsets[value] = offset

    # -- failures and the end

    def power_lost(self) -> None:
        """The machine went down: what was not flushed may be gone."""
        self.losses += 1
        self.start = 0

    def recovered(self, end: int) -> None:
        """After a power failure the log ends here. What was asked before is void once more."""
        self.losses += 1
        lost = sorted(offset for offset in self.acked if offset >= end)
        if lost and self.durable:
            raise self.broken(f"acknowledged after a flush and lost: {lost}; the log ends at {end}")
        for offset in [each for each in self.values if each >= end]:
            value = self.values.pop(offset)
            self.acked.pop(offset, None)
            if self.offsets.get(value) == offset:
                del self.offsets[value]
            if self.checker.acked_in.get(value) is self:
                del self.checker.acked_in[value]
        self.floor = min(self.floor, end)

    def complete(self, start: int, records: Records) -> None:
        """Everything there is, read from the log start after all has healed."""
        there = dict(records)
        for offset, value in sorted(self.acked.items()):
            if offset >= start and offset not in there:
                raise self.broken(f"offset {offset} was acknowledged for {value!r} and is lost")
        latest: dict[str, int] = {}
        for offset, data in sorted(self.values.items()):
            producer, number = Value.parse(data)
            if producer in self.checker.ordered and number <= latest.get(producer, -1):
                raise self.broken(f"{data!r} at {offset} comes after number {latest[producer]}: reordered")
            latest[producer] = number


class Checker:
    """Everything that was told, in all partitions."""

    def __init__(self) -> None:
        self.sent: dict[bytes, str] = {}  # value -> topic
        self.ordered: set[str] = set()  # producers whose values keep their order
        self.acked_in: dict[bytes, PartitionHistory] = {}
        self.producer_ids: set[int] = set()
        self.topic_ids: dict[str, bytes] = {}
        self.histories: list[PartitionHistory] = []
        self.disk_is_sound = True  # so far nothing but the power has failed it
        self.acks = 0
        self.reads = 0

    def history(self, topic: str, index: int, *, durable: bool, shrinks: bool) -> PartitionHistory:
        """The history of a new partition."""
        self.histories.append(PartitionHistory(self, topic, index, durable=durable, shrinks=shrinks))
        return self.histories[-1]

    def saw_producer_id(self, producer_id: int) -> None:
        """P4."""
        if producer_id in self.producer_ids:
            raise Violation(f"producer id {producer_id} was given twice")
        self.producer_ids.add(producer_id)

    def saw_topic_id(self, topic: str, topic_id: bytes) -> None:
        """Metadata told the id of a topic that nobody deletes."""
        known = self.topic_ids.setdefault(topic, topic_id)
        if known != topic_id:
            raise Violation(f"topic {topic} has id {topic_id.hex()}, and had {known.hex()}")


def whole_batches(data: bytes) -> Iterator[tuple[int, BatchHeader]]:
    """Where the batches of an answer begin, and their headers. Raises Violation for bytes that are no whole batches."""
    end, epoch = 0, -1
    for at, header in headers(data):
        if at != end or header.magic != 2 or not check_crc(data, at, header):
            raise Violation(f"corrupt batch at byte {at} of an answer: {header}")
        if header.leader_epoch < epoch:
            raise Violation(f"a batch of leader epoch {header.leader_epoch} behind one of {epoch}")
        end, epoch = at + header.size, header.leader_epoch
        yield at, header
    if end != len(data):
        raise Violation(f"{len(data) - end} bytes behind the last batch of an answer")


def read_batches(data: bytes, position: int) -> Records:
    """(offset, value) of the records of an answer from position on. Raises Violation for bytes that are not whole."""
    return [
        (record.offset, record.value or b"")
        for at, _ in whole_batches(data)
        for record in read_records(data, at, max_bytes=1 << 20)
        if record.offset >= position
    ]


# -- the files, for the moments in which no client can look -----------------------------------------------------------


class Image(NamedTuple):
    """The batches of a log directory: (base offset, last offset, crc), without gap; the next offset."""

    batches: list[tuple[int, int, int]]
    end: int


NOTHING = Image([], 0)


def log_images(volume: Volume) -> dict[str, Image]:
    """What a recovery of each log should find, by directory."""
    return {
        name: _image(node)
        for name, node in sorted(volume.root.entries.items())
        if isinstance(node, Directory) and not name.endswith(("-delete", "-stray"))
    }


def _segments(directory: Directory) -> list[tuple[int, bytes]]:
    """Base offsets and contents, as the next open has them: what is committed to take the place of others has it."""
    found: dict[int, bytes] = {}
    for suffix in (".log", ".log.swap"):
        for name in sorted(name for name in directory.entries if name.endswith(suffix)):
            node, base = directory.entries[name], int(name.partition(".")[0])
            assert isinstance(node, Inode)
            if suffix != ".log":
                end = max((header.next_offset for _, header in headers(bytes(node.data))), default=base)
                found = {each: data for each, data in found.items() if not base <= each < end}
            found[base] = bytes(node.data)
    return sorted(found.items())


def _image(directory: Directory) -> Image:
    batches: list[tuple[int, int, int]] = []
    end = -1
    for base, data in _segments(directory):
        if end not in (-1, base):
            break
        end, size = base, 0
        for header in _whole_batches(data, base):
            batches.append((header.base_offset, header.last_offset, header.crc))
            end, size = header.next_offset, size + header.size
        if size < len(data):
            break
    return Image(batches, max(end, 0))


def _whole_batches(data: bytes, expected: int) -> Iterator[BatchHeader]:
    try:
        for at, header in headers(data):
            if header.magic != 2 or header.base_offset != expected or not check_crc(data, at, header):
                return
            yield header
            expected = header.next_offset
    except CorruptRecords:
        return


def durable_ends(volume: Volume) -> dict[str, int]:
    """The recovery points on the disk: whatever happens, a log may not end below its own."""
    node = volume.find("recovery-point-offset-checkpoint")
    if not isinstance(node, Inode):
        return {}
    lines = [line.split(" ") for line in bytes(node.data).decode().splitlines()[2:]]
    return {f"{topic}-{partition}": int(offset) for topic, partition, offset in lines}


def compare_images(before: dict[str, Image], after: dict[str, Image], name: str, *, power_loss: bool) -> None:
    """Judge a log after a restart by what it was: the same but for its oldest part; after a power loss a prefix."""
    was, now = before.get(name, NOTHING).batches, after.get(name, NOTHING).batches
    if not was:
        return
    first = max(was[0][0], now[0][0]) if now else was[0][0]
    was = [batch for batch in was if batch[0] >= first]
    now = [batch for batch in now if batch[0] >= first]
    if now != was[: len(now)]:
        raise Violation(f"{name}: not what it was before the restart: {now} was {was}")
    if not power_loss and len(now) < len(was) and now:
        raise Violation(f"{name}: lost {was[len(now) :]} in a restart without power loss")
