"""Changes of an ISR as a partition's leader wishes for them, written by the leader itself.

Each is guarded by the partition as the leader has it, by the leader's own registration, and by the registration of
every broker that joins, in the epoch in which it was seen to fetch (R7, KIP-841, KIP-903): a broker that has started
again meanwhile may have lost what it had.

    changes ──▶ batches ──▶ succeeded ──────────────▶ WRITTEN ┐
                    ├─ a guard failed: halves, ... one ▶ REFUSED ┴▶ when the image shows the store as it was then
                    └─ no answer ───────────────────▶ UNKNOWN
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import NamedTuple

from kbroker.cluster.elections import NO_ELR, with_isr
from kbroker.cluster.image import ClusterImage, PartitionImage
from kbroker.cluster.keys import Keys
from kbroker.cluster.store import Guard, StoreError
from kbroker.cluster.writer import IN_FLIGHT_MAX, PartitionWriter, Txn, Writer, for_each

BATCH = 45  # partitions in a transaction
MEMBERS_MAX = 50  # brokers that join them, and this one


class IsrChange(NamedTuple):
    """An ISR that the leader of a partition wishes for."""

    partition: PartitionImage  # as its leader has it
    isr: tuple[int, ...]  # all members, the leader among them
    joining: Mapping[int, int]  # who is not in it yet -> the broker epoch seen in its fetches (KIP-903); 49 at most
    min_isr: int  # min.insync.replicas of the topic


class IsrOutcome(Enum):
    """What became of a change."""

    WRITTEN = auto()  # and the image shows it
    REFUSED = auto()  # it has not happened and never will; the image shows why
    UNKNOWN = auto()  # it may have happened, or still happen: the same change again tells


class IsrWriter:
    """Writes the changes of one broker."""

    def __init__(
        self,
        broker_id: int,
        writer: Writer,
        keys: Keys,
        image: Callable[[], ClusterImage],
        wait_shown: Callable[[int], Awaitable[bool]],
    ) -> None:
        """wait_shown: until the image shows a revision of the store; False if that does not happen in time."""
        self._id = broker_id
        self._writer = writer
        self._partitions = PartitionWriter(writer, keys)
        self._keys = keys
        self._image = image
        self._wait_shown = wait_shown

    async def write(self, changes: Sequence[IsrChange]) -> list[IsrOutcome]:
        """Do these changes, each of another partition; what became of each, in order. Bounded by the store's patience.

        An answer that is certain is given when this broker's image shows it, so who gets it never knows less than it.
        """
        image = self._image()
        outcomes = dict.fromkeys(range(len(changes)), IsrOutcome.REFUSED)
        possible = [n for n, change in enumerate(changes) if _is_possible(change, self._id, image)]

        async def one(_: int, numbers: list[int]) -> None:
            outcomes.update(await self._commit(image, changes, numbers))

        await for_each(one, _batches(changes, possible), IN_FLIGHT_MAX)
        return [outcomes[number] for number in range(len(changes))]

    async def _commit(
        self, image: ClusterImage, changes: Sequence[IsrChange], numbers: Sequence[int]
    ) -> dict[int, IsrOutcome]:
        """One batch: as a whole, else its halves."""
        try:
            result = await self._writer.commit(*self._txn(image, [changes[number] for number in numbers]))
        except StoreError:
            return dict.fromkeys(numbers, IsrOutcome.UNKNOWN)
        if not result.succeeded and len(numbers) > 1:
            middle = len(numbers) // 2
            first = await self._commit(image, changes, numbers[:middle])
            return {**first, **await self._commit(image, changes, numbers[middle:])}
        if not await self._wait_shown(result.revision):
            return dict.fromkeys(numbers, IsrOutcome.UNKNOWN)
        return dict.fromkeys(numbers, IsrOutcome.WRITTEN if result.succeeded else IsrOutcome.REFUSED)

    def _txn(self, image: ClusterImage, changes: Sequence[IsrChange]) -> Txn:
        members = {self._id: None, **{id: None for change in changes for id in change.joining}}
        held = [Guard(self._keys.broker(id), image.brokers[id].mod_revision) for id in members]
        has_elr = image.features.has_eligible_replicas
        made = [with_isr(c.partition, c.isr, c.min_isr if has_elr else NO_ELR) for c in changes]
        return self._partitions.txn(made, *held)


def _is_possible(change: IsrChange, own_id: int, image: ClusterImage) -> bool:
    """Whether it can still happen: this broker is registered, and so is each that joins, in the epoch that was seen."""
    assert set(change.isr) <= {own_id, *change.partition.isr, *change.joining} and len(change.joining) < MEMBERS_MAX
    joining = ((image.brokers.get(id), epoch) for id, epoch in change.joining.items())
    return own_id in image.brokers and all(
        broker is not None and broker.epoch == epoch and not broker.leaving for broker, epoch in joining
    )


def _batches(changes: Sequence[IsrChange], numbers: Sequence[int]) -> Iterator[list[int]]:
    """These changes, by as many as a transaction has room for."""
    batch: list[int] = []
    joining: set[int] = set()
    for number in numbers:
        more = joining | changes[number].joining.keys()
        if batch and (len(batch) == BATCH or len(more) >= MEMBERS_MAX):
            yield batch
            batch, more = [], set(changes[number].joining)
        batch.append(number)
        joining = more
    if batch:
        yield batch
