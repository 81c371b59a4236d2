"""What `kbroker group describe --rebalances` makes of the rebalances a broker tells."""

from __future__ import annotations

import json

from kafka_wire.messages.group_admin import DescribedGroup
from kafka_wire.messages.rebalances import GroupRebalance, RebalanceMember, RebalancePartition, UnownedSeconds
from kbroker.cli.groups.timeline import SHOWN_MAX, Told, as_json, as_text, read

METRIC = "kbroker_group_partition_unowned_seconds_total"
BEGAN_MS = 1_700_000_000_000


def came(**after_ms: int) -> list[RebalanceMember]:
    return [RebalanceMember(member_id=name, after_ms=ms) for name, ms in after_ms.items()]


DONE = GroupRebalance(
    began_ms=BEGAN_MS,
    reason="b joined",
    generation=2,
    joined_ms=2500,
    took_ms=3000,
    awaited=came(a=1000, gone=-1, c=2500),
    given_up=["gone"],
    partitions_moved=1,
    partitions_unowned=2,
    unowned_ms_max=2000,
    unowned=[
        RebalancePartition(topic="t", partition=0, ms=500),
        RebalancePartition(topic="t", partition=1, ms=2000),
    ],
)
CUT = GroupRebalance(began_ms=BEGAN_MS + 5000, reason="c left", took_ms=250, awaited=came(a=-1))
UNDER_WAY = GroupRebalance(began_ms=BEGAN_MS + 5250, reason="d joined", awaited=came(a=-1, b=10))
TOTALS = [UnownedSeconds(topic="t", partition=0, seconds=0.0), UnownedSeconds(topic="t", partition=1, seconds=2.00049)]


def test_for_people() -> None:
    assert as_text("g", Told([DONE, CUT, UNDER_WAY], TOTALS)).splitlines() == [
        "g: 3 rebalances, newest first",
        "2023-11-14T22:13:25.250Z  under way: d joined",
        "    waited for     a (not yet), b (0.010 s)",
        "2023-11-14T22:13:25.000Z  cut short by the next after 0.250 s: c left",
        "    waited for     a (did not come)",
        "2023-11-14T22:13:20.000Z  generation 2 after 3.000 s: b joined",
        "    waited for     gone (did not come), c (2.500 s), a (1.000 s)",
        "    given up       gone",
        "    moved          1 partition",
        "    without owner  t 1 (2.000 s), t 0 (0.500 s)",
        "Without an owner since this coordinator started (kbroker_group_partition_unowned_seconds_total):",
        "GROUP  TOPIC  PARTITION  SECONDS",
        "g      t              0      0.0",
        "g      t              1      2.0",
    ]


def test_for_programs() -> None:
    told = json.loads(json.dumps(as_json(Told([DONE, UNDER_WAY], TOTALS))))
    newest, oldest = told["rebalances"]
    assert (newest["took_ms"], newest["generation"], newest["joined_ms"]) == (None, None, None)
    assert newest["awaited"] == [{"member_id": "a", "after_ms": None}, {"member_id": "b", "after_ms": 10}]
    assert oldest == {
        "began": "2023-11-14T22:13:20.000Z",
        "began_ms": BEGAN_MS,
        "reason": "b joined",
        "generation": 2,
        "joined_ms": 2500,
        "took_ms": 3000,
        "awaited": [
            {"member_id": "a", "after_ms": 1000},
            {"member_id": "gone", "after_ms": None},
            {"member_id": "c", "after_ms": 2500},
        ],
        "given_up": ["gone"],
        "partitions_moved": 1,
        "partitions_unowned": 2,
        "unowned_ms_max": 2000,
        "unowned": [{"topic": "t", "partition": 0, "ms": 500}, {"topic": "t", "partition": 1, "ms": 2000}],
    }
    assert told[METRIC] == [
        {"topic": "t", "partition": 0, "seconds": 0.0},
        {"topic": "t", "partition": 1, "seconds": 2.0},
    ]


def test_no_timeline_is_not_an_empty_one() -> None:
    assert read(DescribedGroup(group_id="g")) is None
    assert as_text("g", None) == "g: this broker keeps no timeline"
    assert as_json(None) == {"rebalances": None, METRIC: None}
    empty = read(DescribedGroup(group_id="g", rebalances=[]))
    assert empty == Told([], [])
    assert as_text("g", empty) == "g: no rebalance since this coordinator started"
    assert as_json(empty) == {"rebalances": [], METRIC: []}


def test_long_lists_are_cut_for_people() -> None:
    many = [RebalancePartition(topic="t", partition=n, ms=n) for n in range(SHOWN_MAX + 5)]
    counted = GroupRebalance(took_ms=0, generation=1, partitions_unowned=2000, unowned=many, given_up=["x"] * 11)
    text = as_text("g", Told([counted], [])).splitlines()
    assert text[2].endswith("x, x and 1 more")
    assert text[3].startswith("    without owner  t 14 (0.014 s), t 13 (0.013 s), ")
    assert text[3].endswith("t 5 (0.005 s) and 1990 more"), "of all that were counted, not of those itemised"


def test_a_clock_far_off() -> None:
    for ms in (-5, 1 << 62):
        assert as_text("g", Told([GroupRebalance(began_ms=ms)], [])).splitlines()[1] == f"{ms}  under way: "
