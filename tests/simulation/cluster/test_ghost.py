"""The ghost and the histories know each anomaly: told wrong, they object."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.simulation.checker import Violation
from tests.simulation.cluster.ghost import Ghost, Identity
from tests.simulation.cluster.history import ClusterChecker, ReplicatedHistory

FIRST, SECOND, OTHER = Identity(0, 1, 11, 0), Identity(2, 2, 22, 0), Identity(2, 2, 33, 1)
A, B, C = b"p/0/", b"p/1/", b"p/2/"


@contextmanager
def broken(words: str) -> Iterator[None]:
    with pytest.raises(Violation, match=words):
        yield


def shown() -> Ghost:
    ghost = Ghost("t-0")
    assert ghost.expose("b1", [FIRST, SECOND], 3) == [FIRST, SECOND]
    return ghost


def test_R2_what_leaders_show_once_they_show_for_ever() -> None:
    ghost = shown()
    assert ghost.expose("b2", [FIRST], 2) == []  # less, for a while
    assert ghost.expose("b2", [SECOND], 3) == []
    with broken("where b1 showed"):
        ghost.expose("b2", [OTHER], 3)
    with broken("what was shown ends at 3"):
        ghost.expose("b2", [Identity(5, 5, 0, 1)], 6)
    with broken("within"):
        ghost.expose("b2", [Identity(3, 5, 0, 1)], 5)
    with broken("its log ends at 2"):
        ghost.expose("b2", [FIRST], 3)


def test_followers_show_what_leaders_showed() -> None:
    ghost = shown()
    ghost.check_shown("b2", [FIRST, SECOND], 3)
    with broken("no leader passed 3"):
        ghost.check_shown("b2", [], 4)
    with broken("a follower, shows"):
        ghost.check_shown("b2", [FIRST, OTHER], 3)


def test_R3_who_may_lead_has_everything() -> None:
    ghost = shown()
    ghost.check_complete("b2 elected", [FIRST, SECOND, Identity(3, 3, 0, 0)], 0)
    ghost.check_complete("b2 elected", [SECOND], 2)
    with broken("b2 elected: its log ends at 2"):
        ghost.check_complete("b2 elected", [FIRST], 0)
    with broken("where .* was shown"):
        ghost.check_complete("b2 elected", [FIRST, OTHER], 0)


def test_R4_what_was_shown_is_not_truncated() -> None:
    ghost = shown()
    ghost.check_truncation("b2", [OTHER, Identity(3, 3, 0, 1)], 2)
    with broken("loses"):
        ghost.check_truncation("b2", [SECOND], 2)


def history() -> ReplicatedHistory:
    checker = ClusterChecker()
    found = checker.partition("t", 0)
    checker.sent = dict.fromkeys((A, B, C), "t")
    checker.ordered.add("p")
    found.expose([(0, A), (1, B)], 2)
    return found


def test_clients_are_told_what_is_committed() -> None:
    found = history()
    found.acknowledged(0, [A, B], 0)
    found.read(0, [(0, A), (1, B)], 2, 0, (0, 0, 0))
    with broken("acknowledged .* yet no high watermark has passed 2"):
        found.acknowledged(2, [C], 0)
    with broken("is committed"):
        found.acknowledged(1, [C], 0)
    with broken("no leader has passed 2"):
        found.read(2, [], 3, 0, (0, 0, 0))
    with broken("is committed"):
        found.read(0, [(0, B)], 2, 0, (0, 0, 0))
    with broken("skipped"):
        found.read(0, [(1, B)], 2, 0, (0, 0, 0))
    with broken("the high watermark is 1"):
        found.read(0, [(0, A), (1, B)], 1, 0, (0, 0, 0))
    with broken("nothing was deleted"):
        found.read(2, [], 2, 1, (0, 0, 0))


def test_what_is_committed_is_in_order_and_once() -> None:
    with broken("duplicate"):
        history().expose([(2, A)], 3)
    with broken("nobody sent"):
        history().expose([(2, b"q/0/")], 3)
    found = history()
    found.expose([(2, C)], 3)
    found.values.pop(2)
    found.offsets.pop(C)
    with broken("reordered"):
        found.expose([(2, C)], 3)


def test_what_is_read_in_the_end_is_what_was_committed() -> None:
    found = history()
    found.complete(0, [(0, A), (1, B)])
    found.acknowledged(1, [B], 0)
    with broken("is lost"):
        found.complete(0, [(0, A)])
    with broken("not what was committed"):
        found.complete(0, [(0, A), (1, B), (2, C)])
