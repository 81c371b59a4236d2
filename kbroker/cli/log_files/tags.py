"""Tag indexes as `log verify` and `log dump` read them: does what a `.tags` file says leave any tag of its segment out?

That would hide records from a view. What a broker would not believe is not judged: a block that is damaged, or tells of
batches that are not there, costs it a look at the segment, no more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kafka_wire.records import BatchHeader
from kbroker.cli.log_files.segments import Problems
from kbroker.log.content.tagged import Tagger
from kbroker.log.derived.tags import ABORTS, ANY, LOOK, SUFFIX, Piece, read_blocks

_WORDS = {ANY: "any", LOOK: "not known", ABORTS: "an abort"}


class TagsCheck:
    """A segment's index, compared with its batches as they pass."""

    def __init__(self, segment: Path) -> None:
        self.path = segment.with_suffix(SUFFIX)
        self.base_offset = int(segment.stem)
        self.pieces = [(piece, list[str]()) for piece in blocks(self.path)] if self.path.exists() else []

    def batch(self, header: BatchHeader, data: memoryview) -> Problems:
        """Follow a batch that is whole."""
        if not self.pieces:
            return
        offset, found = header.base_offset - self.base_offset, None
        for piece, lies in self.pieces:
            if not piece.offset <= offset < piece.next_offset:
                continue
            known = piece.numbers_of(bisect_right(piece.nexts, offset))
            if known.isdisjoint((ANY, LOOK)):
                found = Tagger(is_bounded=False).look_at(data, header) if found is None else found
                if LOOK not in found and not found <= known:
                    lies.append(f"leaves out tags of the batch at offset {header.base_offset}")
            if header.next_offset - self.base_offset == piece.next_offset and header.crc == piece.last_crc:
                yield from ((self.path, lie) for lie in lies)


def blocks(path: Path) -> Iterator[Piece]:
    """What a file says, as far as its blocks are whole. May raise OSError."""
    return (piece for piece in read_blocks(path.read_bytes()) if piece is not None)


def stretches(path: Path) -> Iterator[dict[str, Any]]:
    """Each stretch of a file: offsets, where it is, and which tags are there, `said` in words. May raise OSError."""
    base_offset = int(path.stem)
    for piece in blocks(path):
        for n in range(len(piece)):
            numbers = sorted(piece.numbers_of(n))
            begin = piece.begin_of(n)
            yield {
                "first_offset": base_offset + piece.offset_of(n),
                "last_offset": base_offset + piece.nexts[n] - 1,
                "position": begin,
                "size": piece.ends[n] - begin,
                "tags": [_WORDS.get(each, each) for each in numbers],
                "said": ", ".join([_WORDS.get(each, str(each)) for each in numbers]) or "none",
            }
