"""The tags of a record: the header `kbroker-tags`, UTF-8, separated by commas.

    kbroker-tags: eu, vip        the tags "eu" and "vip"

Spaces and tabs around a tag do not count, empty tags are none, a tag that is there twice is there once; several headers
`kbroker-tags` add up, one without a value adds nothing. Tags are compared as bytes: upper and lower case differ.
"""

from __future__ import annotations

from collections.abc import Iterable

TAGS_HEADER = "kbroker-tags"
BLANKS = b" \t"


def split_tags(value: bytes) -> set[bytes]:
    """The tags that a header's value names."""
    tags = {tag.strip(BLANKS) for tag in value.split(b",")}
    tags.discard(b"")
    return tags


def tags_of(headers: Iterable[tuple[str, bytes | None]]) -> set[bytes]:
    """The tags of a record with these headers (name, value)."""
    tags = set[bytes]()
    for name, value in headers:
        if name == TAGS_HEADER and value:
            tags |= split_tags(value)
    return tags
