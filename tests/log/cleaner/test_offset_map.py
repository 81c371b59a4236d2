"""The map of keys: exact, bounded, and the same whichever of its two forms it has."""

from __future__ import annotations

from random import Random

import pytest

from kbroker.log.cleaner.offset_map import DICT_ENTRY_BYTES, DICT_SHARE, MEMORY_MIN, OffsetMap


def keys(count: int) -> list[bytes]:
    return [b"%d" % n if n % 3 else b"a key that is longer than its digest would be %d" % n for n in range(count)]


@pytest.mark.parametrize("count", [10, MEMORY_MIN // DICT_SHARE // DICT_ENTRY_BYTES, 3000, 20_000])
def test_the_newest_offset_of_each_key_is_found(count: int) -> None:
    rng, newest, found = Random(count), dict[bytes, int](), OffsetMap(MEMORY_MIN)
    names = keys(count)
    for offset in range(2 * count):
        key = names[offset % count] if offset < count else rng.choice(names)
        assert found.put(key, offset)
        newest[key] = offset
    assert all(found.get(key) == offset for key, offset in newest.items())
    assert found.get(b"another") == found.get(b"another, and a long one at that, longer than 32") == -1


def test_a_key_is_not_another_ones_digest() -> None:
    from hashlib import blake2b

    long = b"x" * 40
    digest = blake2b(long, digest_size=32).digest()
    found = OffsetMap(MEMORY_MIN)
    found.put(long, 1)
    found.put(digest, 2)
    assert (found.get(long), found.get(digest)) == (1, 2)


def test_it_takes_as_many_keys_as_its_memory_holds_and_says_when_that_is_all() -> None:
    found = OffsetMap(MEMORY_MIN)
    count = 0
    while found.put(b"key-%d" % count, count):
        count += 1
    assert 0.6 * MEMORY_MIN / 24 < count * 1.34 < MEMORY_MIN / 24
    assert found.put(b"key-0", 10**9) and found.get(b"key-0") == 10**9, "a key that is there can still be newer"
    assert not found.put(b"one more", 1) and found.get(b"one more") == -1
