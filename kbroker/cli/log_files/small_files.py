"""What lies beside the segments, as `log verify` checks it: whose data, leader epochs, producers, checkpoints.

Each file is read as the broker reads it, and held against the batches: who reads only its format does not see that it
belongs to another log.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kbroker.cli.log_files.segments import Problems
from kbroker.env.features import Features
from kbroker.env.real_disk import RealDisk
from kbroker.log.checkpoints import LOG_STARTS, METADATA, RECOVERY_POINTS, OffsetCheckpoint, read_topic_id
from kbroker.log.derived import epochs as leader_epochs
from kbroker.log.derived.epochs import LeaderEpochs
from kbroker.log.derived.producers import CorruptSnapshot, ProducerStates
from kbroker.log.derived.snapshots import SUFFIX as SNAPSHOT


class Walked(NamedTuple):
    """What the segments of a partition hold."""

    directory: Path
    first_offset: int
    end_offset: int
    epochs: Sequence[tuple[int, int]]  # (epoch, offset) where another one begins


def check_partition(walked: Walked, *, is_growing: bool) -> Problems:
    """The files of one partition. is_growing: a broker writes it, and may be ahead of what was read."""
    directory = walked.directory
    for path in sorted(directory.glob("*index")):
        if not path.with_suffix(".log").exists():
            yield path, "its segment is not there"
    if is_partition(directory) and topic_id_of(directory) is None:
        yield directory / METADATA, "does not say whose data this is" if (directory / METADATA).exists() else "missing"
    yield from _check_epochs(walked, is_growing)
    for path in sorted(directory.glob(f"*{SNAPSHOT}")):
        if path.stem.isdecimal():
            yield from _check_snapshot(path, walked.end_offset, is_growing)


def topic_id_of(directory: Path) -> bytes | None:
    """Whose data it is; None when it does not say."""
    try:
        return read_topic_id(_disk(directory.parent), directory.name)
    except OSError:
        return None


def _check_epochs(walked: Walked, is_growing: bool) -> Problems:
    path, epochs = walked.directory / leader_epochs.FILE_NAME, LeaderEpochs()
    try:
        is_whole = epochs.load(_disk(walked.directory.parent), walked.directory.name)
    except FileNotFoundError:
        return  # it is made of the batches
    except OSError as error:
        yield path, f"cannot be read: {error.strerror}"
        return
    if not is_whole:
        yield path, "is damaged"
        return
    start = epochs.entries[0][1] if epochs.entries else 0  # that of the log may lie inside its first segment
    for epoch, offset in walked.epochs:
        if offset < start:
            continue
        if epochs.epoch_at(offset) != epoch and not (is_growing and epoch > epochs.latest):
            yield path, f"offset {offset} is of epoch {epochs.epoch_at(offset)}, its batch of epoch {epoch}"
            break  # what follows is most often wrong with it
    if epochs.entries and epochs.entries[-1][1] > walked.end_offset and not is_growing:
        yield (
            path,
            f"epoch {epochs.latest} begins at offset {epochs.entries[-1][1]}, the log ends at {walked.end_offset}",
        )


def _check_snapshot(path: Path, end_offset: int, is_growing: bool) -> Problems:
    offset, producers = int(path.stem), ProducerStates()
    try:
        producers.load(path.read_bytes())
    except CorruptSnapshot as error:
        yield path, f"is damaged: {error}"
        return
    except OSError as error:
        yield path, f"cannot be read: {error.strerror}"
        return
    if offset > end_offset and not is_growing:
        yield path, f"is of offset {offset}, the log ends at {end_offset}"
    for producer_id, producer in producers.by_id.items():
        if producer.batches and producer.batches[-1].last_offset >= offset:
            yield path, f"producer {producer_id} has a batch at offset {producer.batches[-1].last_offset}, not below it"


def check_data_directory(root: Path, partitions: Sequence[Walked], *, is_growing: bool) -> Problems:
    """What a data directory says of its partitions: the checkpoints, and that those of a topic agree whose they are."""
    known = {walked.directory.name: walked for walked in partitions if walked.directory.parent == root}
    for name in (RECOVERY_POINTS, LOG_STARTS):
        if (root / name).exists():
            yield from _check_checkpoint(root, name, known, is_growing)
    yield from _check_topic_ids(known)


def _check_checkpoint(root: Path, name: str, known: dict[str, Walked], is_growing: bool) -> Problems:
    checkpoint, path = OffsetCheckpoint(_disk(root), name), root / name
    try:
        if not checkpoint.load():
            yield path, "is damaged"
    except OSError as error:
        yield path, f"cannot be read: {error.strerror}"
    for (topic, index), offset in checkpoint.offsets.items():
        walked = known.get(f"{topic}-{index}")
        if walked is None and offset and not any((root / f"{topic}-{index}").glob("*.log.swap")):  # left out
            yield path, f"{topic}-{index} is at offset {offset}, and has no segment"
        elif walked is not None and offset > walked.end_offset and not is_growing:
            yield path, f"{topic}-{index} is at offset {offset}, its log ends at {walked.end_offset}"


def _check_topic_ids(known: dict[str, Walked]) -> Problems:
    by_topic: dict[str, bytes] = {}
    by_id: dict[bytes, str] = {}
    for name, walked in sorted(known.items()):
        topic_id, topic = topic_id_of(walked.directory), name.rpartition("-")[0]
        if topic_id is None or not is_partition(walked.directory):
            continue
        path = walked.directory / METADATA
        if by_topic.setdefault(topic, topic_id) != topic_id:
            yield path, f"another topic id than that of the other partitions of {topic}"
        elif by_id.setdefault(topic_id, topic) != topic:
            yield path, f"the topic id of {by_id[topic_id]}"


def is_partition(directory: Path) -> bool:
    """Whether its name is that of a log."""
    topic, _, index = directory.name.rpartition("-")
    return bool(topic) and index.isascii() and index.isdecimal()


def _disk(root: Path) -> RealDisk:
    return RealDisk(str(root), Features.detect())
