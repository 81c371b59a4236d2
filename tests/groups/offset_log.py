"""A log of committed offsets, read naively: the model that offsets and their replay are held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from hypothesis import strategies as st

from kbroker.groups.storage.records import OffsetCommitValue

Place: TypeAlias = "tuple[str, str, int]"  # group, topic, partition
Values: TypeAlias = "dict[Place, OffsetCommitValue | None]"


class Commit(NamedTuple):
    """A batch of one group: by whom (-1: in no transaction), and the places it changes; None: they are removed."""

    producer_id: int
    group: str
    values: Values


class Marker(NamedTuple):
    """The end of a producer's transaction."""

    producer_id: int
    is_commit: bool


Event: TypeAlias = "Commit | Marker"


@dataclass
class Said:
    """What a log says, as Kafka reads it: a batch or marker is at the offset that is its number."""

    committed: dict[Place, tuple[int, OffsetCommitValue]] = field(default_factory=dict)
    pending: dict[int, dict[Place, tuple[int, OffsetCommitValue]]] = field(default_factory=dict)

    @property
    def values(self) -> dict[Place, OffsetCommitValue]:
        return {place: value for place, (_, value) in self.committed.items()}

    def unstable(self) -> set[Place]:
        return {place for changes in self.pending.values() for place in changes}

    def open_at(self, place: Place) -> list[tuple[int, int, OffsetCommitValue]]:
        """(offset, producer id, value) of what may still become of a place."""
        after = self.committed.get(place, (-1, None))[0]
        found = [
            (changes[place][0], pid, changes[place][1]) for pid, changes in self.pending.items() if place in changes
        ]
        return sorted(each for each in found if each[0] > after)


def read(log: list[Event]) -> Said:
    said = Said()
    for offset, event in enumerate(log):
        if isinstance(event, Marker):
            for place, (at, value) in said.pending.pop(event.producer_id, {}).items():
                if event.is_commit and at > said.committed.get(place, (-1, None))[0]:
                    said.committed[place] = at, value
            continue
        for place, found in event.values.items():
            if event.producer_id >= 0:
                assert found is not None
                said.pending.setdefault(event.producer_id, {})[place] = offset, found
            elif found is not None:
                said.committed[place] = offset, found
            else:
                said.committed.pop(place, None)
                for changes in said.pending.values():
                    changes.pop(place, None)
    return said


def value(offset: int) -> OffsetCommitValue:
    return OffsetCommitValue(offset=offset, metadata="", commit_timestamp=0)


VALUES = st.integers(0, 99).map(value)
PRODUCERS = st.integers(0, 2)


def _commits(
    producers: st.SearchStrategy[int], values: st.SearchStrategy[OffsetCommitValue | None]
) -> st.SearchStrategy[Event]:
    def of(group: str) -> st.SearchStrategy[Event]:
        places = st.tuples(st.just(group), st.sampled_from("tu"), st.integers(0, 1))
        return st.builds(Commit, producers, st.just(group), st.dictionaries(places, values, min_size=1, max_size=3))

    return st.sampled_from("gh").flatmap(of)


EVENTS: st.SearchStrategy[Event] = (
    _commits(st.just(-1), VALUES)
    | _commits(st.just(-1), st.none() | VALUES)
    | _commits(PRODUCERS, VALUES)
    | _commits(PRODUCERS, VALUES)
    | st.builds(Marker, PRODUCERS, st.booleans())
)
LOGS = st.lists(EVENTS, max_size=25)
