"""`kbroker log`: look into a broker's files, whether or not it runs; nothing is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kbroker.cli.broker.layout import LOCK, META, brokers_in
from kbroker.cli.errors import Failed
from kbroker.cli.lazy import LazyGroup
from kbroker.cli.progress import Progress
from kbroker.cli.tables import bytes_text, format_option, json_text, plural, table

if TYPE_CHECKING:
    from kafka_wire.records import BatchHeader
    from kbroker.cli.log_files.segments import Problem
    from kbroker.cli.log_files.small_files import Walked


log = LazyGroup(
    name="log",
    help="Look into a broker's log files, without a broker.",
    commands_at={
        "dump": ("kbroker.cli.log_files.dump:dump", "Show the batches of a segment file."),
        "verify": ("kbroker.cli.log_files.log:verify", "Check every segment, index and small file below a directory."),
        "ends": ("kbroker.cli.log_files.log:ends", "Tell how far each log of a data directory goes."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@click.command()
@click.argument(
    "directories",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIRECTORY...",
)
@format_option
def verify(directories: tuple[Path, ...], style: str) -> None:
    """Check all files of the logs below each DIRECTORY: CRCs, offsets, every field of every record, timestamps,
    indexes, aborted transactions, tags, producer snapshots, leader epochs, topic ids, checkpoints.

    A DIRECTORY is a broker's data, or one partition's. Nothing is changed. A bad batch is told by its offset with the
    reason; exit status 1 when there is one, or other damage. Beside a running broker, what it is writing just now may
    be passed over.
    """
    from kbroker.cli.log_files.segments import segment_paths

    counts, empty, problems = Counter[str](), list[str](), list[dict[str, str]]()
    for directory in directories:
        with held(directory) as holder:
            if holder:
                click.echo(f"kbroker: {holder} is writing to {directory}", err=True)
            partitions = segment_paths(directory)
            if not partitions and not _is_data_directory(directory):
                empty.append(str(directory))
            for partition in [each for each in partitions if any(each.glob("*.log.swap"))]:
                text = "compacted segments are taking the place of others; the next start ends that, then check again"
                click.echo(f"kbroker: {partition.relative_to(directory)} is left out: {text}", err=True)
                del partitions[partition]
            with Progress(_size(partitions), bytes_text) as progress:
                for path, problem in _verify_all(directory, partitions, bool(holder), Tally(counts, progress)):
                    problems.append({"file": str(path.relative_to(directory)), "problem": problem})
                    if style != "json":
                        progress.clear()
                        click.echo(f"{path.relative_to(directory)}: {problem}")
            counts["partition"] += len(partitions)
    what = ", ".join(plural(counts[name], name) for name in ("partition", "segment", "batch", "byte"))
    if style == "json":
        sums = {name: counts[one] for one, name in _COUNTED.items()}
        click.echo(json_text({**sums, "problems": problems}))
    if problems:
        raise Failed(f"{what}: {plural(len(problems), 'problem')}")
    if empty:
        raise Failed(f"there are no segments below {', '.join(empty)}: is that a broker's data?")
    click.echo(f"{what}: no damage", err=style == "json")


_COUNTED = {"partition": "partitions", "segment": "segments", "batch": "batches", "byte": "bytes"}


class Tally:
    """What was looked at, and who is told how far it is."""

    def __init__(self, counts: Counter[str], progress: Progress) -> None:
        self._counts, self._progress = counts, progress
        self._done = self._before = 0

    def batch(self, header: BatchHeader) -> None:
        """A batch of the segment at hand was looked at."""
        self._done += header.size
        self._progress.at(self._done)

    def segment(self, batches: int, size: int) -> None:
        """All of a segment was."""
        self._counts.update(segment=1, batch=batches, byte=size)
        self._before += size
        self._done = self._before


def _size(partitions: dict[Path, list[Path]]) -> int:
    return sum(path.stat().st_size for paths in partitions.values() for path in paths if path.exists())


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@format_option
def ends(directory: Path, style: str) -> None:
    """Tell how far each log in DIRECTORY goes: a broker's data, while the broker is stopped.

    With --format json, what `kbroker coord adopt-logs` takes in place of a directory of another machine.
    """
    from kbroker.cli.log_files.ends import ends_below

    with held(directory) as holder:
        if holder:
            raise Failed(f"{holder} is writing to {directory}: stop it first")
        try:
            found = ends_below(directory)
        except (OSError, ValueError) as error:
            raise Failed(f"{directory} is no broker's data: {error}") from None
    if style == "json":
        click.echo(json_text(found.told()))
        return
    rows = [(name, end.leader_epoch, end.end) for name, end in found.logs]
    click.echo(f"broker {found.broker_id} of cluster {found.cluster_id}")
    click.echo(table(("LOG", "LEADER EPOCH", "END"), rows))


def _is_data_directory(directory: Path) -> bool:
    """Whether a broker, or several of `kbroker start --brokers`, have been here: they may have no topics yet."""
    return (directory / META).exists() or bool(brokers_in(str(directory)))


def _verify_all(
    directory: Path, partitions: dict[Path, list[Path]], is_growing: bool, tally: Tally
) -> Iterator[tuple[Path, str]]:
    from kbroker.cli.log_files.small_files import check_data_directory, check_partition

    walked = []
    for paths in partitions.values():
        walked.append((yield from _verify_segments(paths, is_growing, tally)))
        yield from check_partition(walked[-1], is_growing=is_growing)
    yield from check_data_directory(directory, walked, is_growing=is_growing)


def _verify_segments(paths: list[Path], is_growing: bool, tally: Tally) -> Generator[Problem, None, Walked]:
    from kbroker.cli.log_files.segments import check_segment
    from kbroker.cli.log_files.small_files import Walked
    from kbroker.cli.log_files.tags import TagsCheck
    from kbroker.cli.log_files.transactions import AbortedIndexCheck, TransactionsCheck

    transactions = TransactionsCheck(int(paths[0].stem))
    due, epochs = 0, list[tuple[int, int]]()
    for path in paths:
        if int(path.stem) < due:
            yield path, f"begins before the end of the segment before it, offset {due}"
        elif 0 < due < int(path.stem):
            yield path, f"offsets {due} to {int(path.stem) - 1} are missing before it"
        grows = is_growing and path is paths[-1]
        try:
            aborted, tags = transactions.segment(path), TagsCheck(path)

            def follow(
                header: BatchHeader, data: memoryview, aborted: AbortedIndexCheck = aborted, tags: TagsCheck = tags
            ) -> Iterator[Problem]:
                tally.batch(header)
                yield from aborted.batch(header, data)
                yield from tags.batch(header, data)

            checked = yield from check_segment(path, follow, is_growing=grows)
            yield from aborted.end(checked.next_offset, is_growing=grows)
        except OSError as error:
            yield path, f"cannot be read: {error.strerror}"
            continue
        due = checked.next_offset
        epochs += checked.epochs
        tally.segment(checked.batches, checked.size)
    return Walked(paths[0].parent, int(paths[0].stem), due, epochs)


@contextmanager
def held(directory: Path) -> Iterator[str]:
    """Keep a broker from starting on the data meanwhile; yields who has it already, "" when nobody."""
    from kbroker.env import DirectoryLocked
    from kbroker.env.features import Features
    from kbroker.env.real_lock import take_lock

    paths = [each / LOCK for each in (directory, directory.parent) if (each / LOCK).exists()]
    if not paths:
        yield ""
        return
    try:
        lock = take_lock(str(paths[0]), Features.detect())
    except DirectoryLocked as error:
        yield error.holder
        return
    except OSError:  # a volume that is mounted for reading: nobody can write to it
        yield ""
        return
    try:
        yield ""
    finally:
        lock.release()
