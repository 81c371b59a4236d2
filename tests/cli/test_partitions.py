"""Partitions as people name them, in the same way everywhere; those that are not there; what went wrong with some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import pytest
from click.testing import CliRunner

from kbroker.cli.cluster.reads import Partition
from kbroker.cli.errors import Failed
from kbroker.cli.topics import offsets, partitions
from kbroker.cli.topics.offsets import Ends, all_ends
from kbroker.cli.topics.partitions import (
    SHOWN_MAX,
    NumbersType,
    PartitionsType,
    check_all,
    check_led,
    check_there,
    partition_option,
)


@pytest.mark.parametrize(("text", "found"), [("0", (0,)), ("2,0,2", (0, 2))])
def test_numbers_by_themselves_and_behind_a_topic(text: str, found: tuple[int, ...]) -> None:
    assert NumbersType().convert(text, None, None) == found
    assert PartitionsType().convert(f"t:{text}", None, None) == ("t", found)


@pytest.mark.parametrize("text", ["", "x", "-1", "1,", "0-2", "٣", "9" * 10])
def test_what_are_no_partitions(text: str) -> None:
    for convert in (NumbersType().convert, lambda numbers, *rest: PartitionsType().convert(f"t:{numbers}", *rest)):
        with pytest.raises(click.UsageError, match="is no"):
            convert(text, None, None)


def test_a_topic_alone_means_all_its_partitions() -> None:
    assert PartitionsType().convert("t", None, None) == ("t", ())
    for text in ("", ":1"):
        with pytest.raises(click.UsageError):
            PartitionsType().convert(text, None, None)


def test_the_option_takes_both_forms_and_is_repeatable() -> None:
    @click.command()
    @partition_option
    def command(numbers: Sequence[int]) -> None:
        click.echo(numbers)

    result = CliRunner().invoke(command, ["-p", "3,1", "-p", "1", "--partition", "0"])
    assert result.output == "(0, 1, 3)\n"
    assert CliRunner().invoke(command, []).output == "()\n"


def test_partitions_that_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [Partition("t", 0, 1, (1,), (1,)), Partition("t", 1, -1, (1,), ()), Partition("u", 0, 2, (2,), (2,))]
    monkeypatch.setattr(partitions.reads, "partitions", lambda client, topics: there)
    assert [each.key for each in partitions.partitions(None, [("u", ()), ("t", (1,)), ("u", (0,))])] == [
        ("t", 1),
        ("u", 0),
    ]
    assert partitions.leaders(None, ("t", ())) == {("t", 0): 1, ("t", 1): -1}
    with pytest.raises(Failed, match="^topic t has no partition 2: it has 0 to 1$"):
        partitions.partitions(None, [("u", (0,)), ("t", (1, 2))])


def test_what_a_topic_has() -> None:
    check_there("t", (0, 2), (0, 1, 2))
    for there, has in (((0, 1, 2), "0 to 2"), ((0,), "only 0"), ((), "none")):
        with pytest.raises(Failed, match=f"^line 3: topic t has no partition 7: it has {has}$"):
            check_there("t", (9, 7), there, "line 3: ")


def test_the_same_reason_is_told_once() -> None:
    check_all({("t", 0): None})
    with pytest.raises(Failed, match=r"^g: t 1, t 2: refused; t 3: lost\.$"):
        check_all({("t", 2): "refused.", ("t", 0): None, ("t", 3): "lost.", ("t", 1): "refused."}, "g: ")
    with pytest.raises(Failed, match=f"t {SHOWN_MAX - 1} and 5 more: refused$"):
        check_all({("t", number): "refused" for number in range(SHOWN_MAX + 5)})


def test_who_needs_all_ends_is_told_of_those_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(client: Any, leaders: Any) -> dict[tuple[str, int], Ends]:
        return {("t", 0): Ends(0, 3)}

    monkeypatch.setattr(offsets, "ends", ends)
    assert all_ends(None, {("t", 0): 1}) == {("t", 0): (0, 3)}
    with pytest.raises(Failed, match="^t 1: its leader does not answer$"):
        all_ends(None, {("t", 0): 1, ("t", 1): 1})
    with pytest.raises(Failed, match="^t 1: no leader at present$"):
        check_led({("t", 0): 1, ("t", 1): -1})
