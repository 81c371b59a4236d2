"""The fuzz targets under Hypothesis: whatever arrives is decoded or refused, and nothing else happens (B1, B2, B3, B4).

`python -m tests.fuzz.run` gives the same targets to Atheris, for as long as one likes.
"""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_wire import codegen
from kafka_wire.errors import ProtocolError
from tests.fuzz.targets import PAIRS, TARGETS, filled, mutated

SEEDS = {name: list(target.seeds()) for name, target in TARGETS.items()}
per_target = pytest.mark.parametrize("name", TARGETS)


@per_target
def test_B1_valid_inputs_pass(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name].run(seed)


@per_target
@settings(deadline=None)
@given(data=st.binary(max_size=300))
def test_B1_any_bytes_are_decoded_or_refused(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


@per_target
@settings(deadline=None)
@given(rng=st.randoms(use_true_random=False))
def test_B1_broken_inputs_are_decoded_or_refused(name: str, rng: random.Random) -> None:
    for _ in range(10):
        TARGETS[name].run(mutated(rng.choice(SEEDS[name]), rng))


@settings(deadline=None)
@given(pair=st.sampled_from(PAIRS), rng=st.randoms(use_true_random=False))
def test_messages_round_trip(pair: tuple[Any, int], rng: random.Random) -> None:
    cls, version = pair
    message = filled(cls, version, rng)
    encoded = codegen.encode(message, version)
    decoded = codegen.decode(cls, version, encoded)
    assert codegen.encode(decoded, version) == encoded
    for cut in {0, len(encoded) // 2, len(encoded) - 1} - {-1, len(encoded)}:
        with pytest.raises(ProtocolError):
            codegen.decode(cls, version, encoded[:cut])


@pytest.mark.parametrize("count", [b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\x0f"])
def test_B2_counts_and_lengths_do_not_allocate(count: bytes) -> None:
    """Every message, filled with lengths as large as they can be said, takes next to no memory."""
    body = count * 50
    for cls, version in PAIRS:
        codegen.decoder(cls, version)
    tracemalloc.start()
    for cls, version in PAIRS:
        for shift in range(12):
            try:
                codegen.decode(cls, version, bytes(shift) + body)
            except ProtocolError:
                pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
