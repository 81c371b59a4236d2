"""Having a new segment in the place of those it was made of, so that a crash at any moment leaves one or the other.

    written, durable    renamed, .log last      the names are durable    the old ones renamed to *.deleted, then
    *.cleaned ────────▶ *.swap ───────────────▶ committed ─────────────▶ *.swap to their own names, .log.swap last
        │                   │ without .log.swap     │
        ▼                   ▼                       ▼
    removed             removed                 done again, as long as there is a .log.swap
    ------------------------------------ at the next open --------------------------------------------------------

What a new segment takes the place of, it tells itself: all that begin below its end. For that the last batch of what it
was made of is always in it, be it empty. (Kafka: LocalLog.replaceSegments, LogLoader.)
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress

from kbroker.env import Disk
from kbroker.log import scan
from kbroker.log.derived.aborted import SUFFIX as TRANSACTIONS
from kbroker.log.derived.tags import SUFFIX as TAGS
from kbroker.log.retention.dropping import DELETED

CLEANED, SWAP = ".cleaned", ".swap"
LOG = ".log"
INDEXES = (".timeindex", ".index", TRANSACTIONS)
OTHERS = (TAGS,)  # what else may lie beside a segment: there is no new one, and nobody needs the old one


def discard(disk: Disk, stem: str) -> None:
    """Remove the files of a new segment that is not to be. Raises OSError when they stay."""
    for suffix in (LOG + SWAP, *(index + SWAP for index in INDEXES)):
        _remove(disk, stem + suffix)
    for suffix in (LOG, *INDEXES):
        _remove(disk, stem + suffix + CLEANED)


def tidy(disk: Disk, directory: str) -> None:
    """Remove what a pass that was given up has left. May raise OSError."""
    for name in disk.list_dir(directory):
        if name.endswith(CLEANED):
            disk.remove(f"{directory}/{name}")


def commit(disk: Disk, stem: str, is_wanted: Callable[[], bool]) -> None:
    """From now on the new segment is to be had. Blocks. Raises OSError: it is not, unless that cannot be undone.

    is_wanted: whether it still is, as the last step is taken. A log that was closed meanwhile may be open again.
    """
    for suffix in (*INDEXES, LOG):
        if suffix == LOG and not is_wanted():
            raise FileNotFoundError(errno.ENOENT, "nobody wants it any more", stem + LOG + CLEANED)
        disk.rename(stem + suffix + CLEANED, stem + suffix + SWAP)
    disk.sync_dir(stem.rpartition("/")[0])


def take_place(disk: Disk, stem: str, old_stems: Iterable[str], number: int = 0) -> Iterator[str]:
    """Rename what is old, and then what is new. Yields the names that the old files have now: they may be removed.

    old_stems: of the old segments, the new one's own among them. number: of the swaps of this log; a file of the same
    segment that was replaced before may still wait for its removal, and here is no time to remove a large one.
    Raises OSError: then it is for the next open to do.
    """
    deleted = f".{number}{DELETED}" if number else DELETED
    for old in sorted(old_stems, reverse=True):
        for suffix in (*OTHERS, *INDEXES, LOG):
            if old == stem and suffix in INDEXES:
                continue  # the new ones come over it
            if disk.exists(old + suffix):
                disk.rename(old + suffix, old + suffix + deleted)
                yield old + suffix + deleted
    for suffix in (*INDEXES, LOG):
        if disk.exists(stem + suffix + SWAP):
            disk.rename(stem + suffix + SWAP, stem + suffix)


def complete(disk: Disk, directory: str) -> bool:
    """At an open: finish what was committed, remove what was not. Whether there was anything to finish. Blocks.

    May raise OSError; it is then done again at the next open.
    """
    try:
        names = disk.list_dir(directory)
    except FileNotFoundError:
        return False
    committed = [name[: -len(LOG + SWAP)] for name in names if name.endswith(LOG + SWAP)]
    for name in committed:
        end = _end(disk, f"{directory}/{name}{LOG}{SWAP}")
        old = {each.partition(".")[0] for each in names if each.endswith(LOG)}
        stems = [f"{directory}/{each}" for each in old | {name} if each.isdigit() and int(name) <= int(each) < end]
        for _ in take_place(disk, f"{directory}/{name}", stems):
            pass
    for name in names:
        if name.endswith(CLEANED) or (name.endswith(SWAP) and name.partition(".")[0] not in committed):
            _remove(disk, f"{directory}/{name}")
    if committed:
        disk.sync_dir(directory)
    return bool(committed)


def _end(disk: Disk, path: str) -> int:
    """The offset behind a segment's last batch."""
    offset = 0
    with closing(disk.open(path)) as file:
        for _, header in scan.walk(file, 0, file.size()):
            offset = header.next_offset
    return offset


def _remove(disk: Disk, path: str) -> None:
    with suppress(FileNotFoundError):
        disk.remove(path)
