"""What the tests of partitions share."""

from __future__ import annotations

from trio.testing import wait_all_tasks_blocked

from kbroker.cluster.image import PartitionImage
from kbroker.cluster.keys import Keys, Stamp, decode, encode
from kbroker.cluster.store import Guard, Put
from kbroker.testing.broker import MemoryBroker

TOPIC_ID = b"i" * 16


def image(
    epoch: int, isr: tuple[int, ...], *, leader: int = -2, replicas: tuple[int, ...] = (), revision: int = 0,
    elr: tuple[int, ...] = (),
) -> PartitionImage:  # fmt: skip
    """A partition in a leader epoch. The first of the ISR leads, if nothing else is said."""
    leader = isr[0] if leader == -2 else leader
    return PartitionImage(TOPIC_ID, 0, replicas or isr, isr, leader, epoch, epoch, mod_revision=revision, elr=elr)


async def add_replica(broker: MemoryBroker, replica_id: int) -> None:
    """Let each partition have another replica, which is not in sync, as if a reassignment had begun."""
    store = broker.machine.store
    page = await store.range(Keys("kbroker").prefix + b"p/")
    for key, value, mod_revision, _ in page.entries:
        fields = decode(value)
        fields |= {"replicas": [*fields["replicas"], replica_id], "partition_epoch": fields["partition_epoch"] + 1}
        result = await store.txn([Guard(key, mod_revision)], [Put(key, encode(fields, Stamp("test", replica_id)))])
        assert result.succeeded
    await wait_all_tasks_blocked()
