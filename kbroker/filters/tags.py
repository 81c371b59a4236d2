"""The tags of a record: the header `kbroker-tags`, UTF-8, separated by commas.

    kbroker-tags: eu, vip        the tags "eu" and "vip"

Spaces and tabs around a tag do not count, empty tags are none, a tag that is there twice is there once; several headers
`kbroker-tags` add up, one without a value adds nothing. Tags are compared as bytes: upper and lower case differ.
"""

from __future__ import annotations

from collections.abc import Iterable

TAGS_HEADER = "kbroker-tags"
BLANKS = b" \t"
SPLIT_BYTES = 64 * 1024  # of a value that are split in one go, for which all other threads wait


def split_tags(value: bytes) -> set[bytes]:
    """The tags that a header's value names."""
    if len(value) > SPLIT_BYTES:
        return _split_long(value)
    tags = {tag.strip(BLANKS) for tag in value.split(b",")}
    tags.discard(b"")
    return tags


def _split_long(value: bytes) -> set[bytes]:
    tags, at = set[bytes](), 0
    while at <= len(value):
        end = value.find(b",", at + SPLIT_BYTES)
        end = end if end >= 0 else len(value)
        tags.update([tag.strip(BLANKS) for tag in value[at:end].split(b",")])
        at = end + 1
    tags.discard(b"")
    return tags


def tags_of(headers: Iterable[tuple[str, bytes | None]]) -> set[bytes]:
    """The tags of a record with these headers (name, value)."""
    tags = set[bytes]()
    for name, value in headers:
        if name == TAGS_HEADER and value:
            tags |= split_tags(value)
    return tags
