"""Targets of requests, as people and programs write them."""

from __future__ import annotations

import pytest

from kbroker.http.messages import parse_target


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", ("",)),
        (b"/metrics", ("metrics",)),
        (b"//metrics", ("metrics",)),  # http://host:port/ and /metrics
        (b"/api/v1/groups/a%2Fb", ("api", "v1", "groups", "a/b")),
    ],
)
def test_slashes_at_the_beginning_are_one(target: bytes, path: tuple[str, ...]) -> None:
    assert parse_target(target).path == path
