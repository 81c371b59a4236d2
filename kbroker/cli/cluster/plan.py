"""Which replicas partitions are to have. Pure: partitions and brokers in, replicas out.

As little moves as possible. A replica stays where it is if its broker is wanted and does not have its fair share
already; what is missing goes to the broker with the fewest replicas, first to one in a rack that the partition is not
in yet. A new replica takes the place of the one it replaces, so that who is preferred to lead changes only where it
must, or where a broker would lead more than its fair share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from kbroker.cli.cluster.reads import Broker, Partition, TopicPartition
from kbroker.cli.tables import plural

Targets = dict[TopicPartition, tuple[int, ...]]


class Impossible(Exception):
    """There are too few brokers; the message says for what."""


def spread(partitions: Sequence[Partition], brokers: Sequence[Broker], factor: int | None = None) -> Targets:
    """These partitions, spread evenly over these brokers. factor: how many replicas each is to have; None: as many as
    it has. Only those that change are returned. Raises Impossible.
    """
    planner = _Planner(brokers)
    factors = {each.key: factor or len(each.replicas) for each in partitions}
    for each in partitions:
        _check(each, factors[each.key], brokers)
    share, lead_share = _share(sum(factors.values()), len(brokers)), _share(len(partitions), len(brokers))
    # Who has many replicas has little choice: first come those.
    ordered = sorted(partitions, key=lambda each: (-factors[each.key], each.key))
    kept = {each.key: planner.keep(each.replicas, share, factors[each.key]) for each in ordered}
    filled = {each.key: planner.fill(kept[each.key], factors[each.key]) for each in ordered}
    targets = {each.key: planner.led_fairly(filled[each.key], lead_share) for each in partitions}
    return {each.key: targets[each.key] for each in partitions if targets[each.key] != each.replicas}


def drained(partitions: Sequence[Partition], leaving: Sequence[int], brokers: Sequence[Broker]) -> Targets:
    """Other replicas for those that are on the leaving brokers, on the other brokers. Raises Impossible."""
    staying = [broker for broker in brokers if broker.id not in leaving]
    planner = _Planner(staying)
    planner.note(partitions)
    targets: Targets = {}
    for each in partitions:
        if set(each.replicas) & set(leaving):
            _check(each, len(each.replicas), staying)
            kept = [None if replica in leaving else replica for replica in each.replicas]
            targets[each.key] = planner.fill(kept, len(each.replicas))
    return targets


def _check(partition: Partition, factor: int, brokers: Sequence[Broker]) -> None:
    if factor > len(brokers):
        there = ", ".join(str(broker.id) for broker in brokers) or "none"
        place = f"{partition.topic} {partition.partition}"
        raise Impossible(f"{place} needs {plural(factor, 'broker')} for its replicas, and there are: {there}")


def _share(total: int, count: int) -> int:
    """The most that one of count may have when total is spread evenly."""
    return -(-total // max(1, count))


class _Planner:
    """Counts what each broker has been given."""

    def __init__(self, brokers: Sequence[Broker]) -> None:
        self.racks: Mapping[int, str | None] = {broker.id: broker.rack for broker in brokers}
        self.given: Counter[int] = Counter()
        self.led: Counter[int] = Counter()

    def note(self, partitions: Sequence[Partition]) -> None:
        """What the brokers have already and keep."""
        for each in partitions:
            self.given.update(each.replicas)

    def keep(self, replicas: Sequence[int], share: int, factor: int) -> list[int | None]:
        """The replicas that stay, in their places; None where one has to be found."""
        kept: list[int | None] = []
        for replica in replicas[:factor]:
            stays = replica in self.racks and self.given[replica] < share
            self.given[replica] += stays
            kept.append(replica if stays else None)
        return kept

    def fill(self, kept: Sequence[int | None], factor: int) -> tuple[int, ...]:
        """With a broker in each empty place, and further ones up to factor."""
        filled: list[int | None] = [*kept, *[None] * (factor - len(kept))]
        for place, replica in enumerate(filled):
            if replica is None:
                filled[place] = found = self._best(filled)
                self.given[found] += 1
        return tuple(replica for replica in filled if replica is not None)

    def _best(self, present: Sequence[int | None]) -> int:
        racks = {self.racks.get(replica) for replica in present if replica is not None}
        free = [broker_id for broker_id in self.racks if broker_id not in present]
        return min(free, key=lambda id: (self.racks[id] is not None and self.racks[id] in racks, self.given[id], id))

    def led_fairly(self, replicas: tuple[int, ...], share: int) -> tuple[int, ...]:
        """The same, another one first where the first leads enough."""
        first = replicas[0]
        if self.led[first] >= share:
            first = min(replicas, key=lambda id: (self.led[id], replicas.index(id)))
        self.led[first] += 1
        return (first, *(replica for replica in replicas if replica != first))
