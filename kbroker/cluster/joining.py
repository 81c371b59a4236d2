"""Joining: how a broker becomes part of the cluster, under a session of the store.

    load ──▶ checked ──▶ (may it have lost data? out of every ISR and ELR: R10) ──▶ registered ──▶ leaderships taken up
               │                                                                    one txn          in new epochs (R8)
               └ another directory, another cluster, a feature too new: refused

A registration belongs to a data directory: whoever holds its lock may replace the registration of the directory's
former process at once, without waiting for that session to end. Another directory under the same broker id is refused
while the other broker lives. So is a directory of another cluster than the store's, or of any when the store knows
none: a store that has lost its topics must not be taken for one that has deleted them.

A store that was restored from an older copy has forgotten which producer ids were given out since. Brokers remember;
whoever registers has the count go on from there (P4).

A broker may have lost what it had when the machine went down under it, when it comes with another directory than it
had, or with an older copy of it: one that knows nothing of the process that registered last. It then takes itself out
of whatever it might be elected from, before anybody sees it: its old registration goes first, as leaders that have it
rejoin demand it. Only then is it entered anew.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from kbroker.cluster.changes.config_changes import MIN_ISR
from kbroker.cluster.changes.features import ELIGIBLE, INITIAL, SUPPORTED, check_supported
from kbroker.cluster.elections import Rules, disown, take_up
from kbroker.cluster.image import NO_LEADER, NOTHING, BrokerImage, ClusterImage, PartitionImage, loaded
from kbroker.cluster.keys import Keys, decode, id_text
from kbroker.cluster.store import CoordinationStore, Delete, Entry, Guard, Op, Session, Unavailable, load
from kbroker.cluster.writer import PartitionWriter, Txn, Writer
from kbroker.config import BrokerConfig
from kbroker.env import Rng, address_text
from kbroker.turns import Work, each, finish_unqueued

ATTEMPTS_MAX = 10
SECRET_BYTES = 32

log = logging.getLogger("kbroker.cluster")


class BrokerIdentity(NamedTuple):
    """What a broker tells the cluster about itself."""

    id: int
    directory_id: str  # stays with the data directory; the caller holds the directory's lock
    endpoints: Mapping[str, tuple[str, int]] = NOTHING  # listener -> advertised (host, port)
    rack: str | None = None
    cluster_id: str = ""  # whose data is in the directory; "": it does not say
    has_logs: bool = False  # there is data in it
    is_lossy: bool = False  # writes that were not synced may be gone: the machine went down, or is another one (R10)
    incarnations: Sequence[str] = ()  # of the processes that the directory knows it was used by; (): it does not say
    producer_ids: int = 0  # all below it may have been given out, as far as the directory knows


class BrokerIdInUse(Exception):
    """Another live broker has this id."""

    def __init__(self, broker: BrokerImage, ttl_s: float) -> None:
        where = ", ".join(address_text(*each) for each in broker.endpoints.values()) or "an unknown address"
        super().__init__(
            f"broker id {broker.id} is in use by the broker at {where} (data directory {broker.directory_id}); "
            f"if that one is dead, its registration ends within {ttl_s:g} seconds"
        )


class OtherCluster(Exception):
    """The store is not that of the broker's data."""

    def __init__(self, home: str, found: str) -> None:
        """home: the cluster of the data, "" when it does not say. found: that of the store, "" when it knows none."""
        super().__init__(
            f"the broker's data is of {f'cluster {home}' if home else 'a cluster'},"
            f" the coordination store {f'of cluster {found}' if found else 'knows none'}"
        )
        self.home, self.found = home, found


class Moved(Exception):
    """The store was copied to another one, which is to be used."""

    def __init__(self, to: str) -> None:
        super().__init__(f"the cluster's metadata was moved to {to}: start with --coordination {to}")


class Joining:
    """The way of one process into the cluster, again after each session that was lost."""

    def __init__(
        self,
        store: CoordinationStore,
        keys: Keys,
        writer: Writer,
        rng: Rng,
        broker: BrokerIdentity,
        incarnation: str,
        config: Callable[[], BrokerConfig],
        session_ttl_s: float,
    ) -> None:
        """The arguments are those of Registration."""
        self._store = store
        self._keys = keys
        self._writer = writer
        self._partitions = PartitionWriter(writer, keys)
        self._rng = rng
        self._broker = broker
        self._incarnation = incarnation
        self._config = config
        self._ttl_s = session_ttl_s
        self._is_lossy = broker.is_lossy  # until it was registered once: what it has written since, it has
        self._epoch = 0  # the last it had: a store that was restored from an old copy might give it out again

    async def join(self, session: Session, cluster_id: str, producer_ids: int) -> tuple[ClusterImage, int]:
        """Register and take up leaderships. An image from before, and the revision at which all is done.

        Args:
            cluster_id: of the cluster that this process was part of before; "": of none.
            producer_ids: all below it may have been given out, as far as this broker knows.

        Raises BrokerIdInUse, OtherCluster, Moved, FeatureTooNew, StoreError.
        """
        for _ in range(ATTEMPTS_MAX):
            image, entries = await self.load()
            self._check_identity(image, cluster_id)
            if moved := entries.get(self._keys.moved):
                raise Moved(decode(moved.value)["to"])
            if self._may_have_lost(image):
                image, entries = await self._disown(image, entries)
            guards, ops = self._registration(image, entries, session, producer_ids)
            result = await self._writer.commit(guards, ops)
            if result.succeeded:
                if image.producer_ids < producer_ids:
                    text = "the coordination store is of an older copy: producer ids go on at %d, not at %d"
                    log.warning(text, producer_ids, image.producer_ids)
                self._is_lossy = False
                own = Guard(self._keys.broker(self._broker.id), result.revision)
                return image, max(result.revision, await self._take_up(image, own))
        raise Unavailable("others keep registering; gave up")

    async def load(self) -> tuple[ClusterImage, dict[bytes, Entry]]:
        """The image of what is stored, and the entries of the keys that a registration writes."""
        page = await load(self._store, self._keys.prefix)
        image = await finish_unqueued(loaded(page.entries, self._keys.prefix, page.revision))
        keys, own_id = self._keys, self._broker.id
        wanted = (
            keys.broker(own_id), keys.registration(own_id), keys.broker_epochs, keys.cluster, keys.secret,
            keys.features, keys.controller, keys.controller_epoch, keys.broker_config(""), keys.moved,
            keys.producer_ids,
        )  # fmt: skip
        return image, {entry.key: entry for key in wanted for entry in _found(page.entries, key)}

    def _check_identity(self, image: ClusterImage, cluster_id: str) -> None:
        home = cluster_id or self._broker.cluster_id
        if home != image.cluster_id if home else self._broker.has_logs and not image.cluster_id:
            raise OtherCluster(home, image.cluster_id)
        other = image.brokers.get(self._broker.id)
        if other is not None and other.directory_id != self._broker.directory_id:
            raise BrokerIdInUse(other, self._ttl_s)
        check_supported(image.features.levels)

    # What may be lost.

    def _may_have_lost(self, image: ClusterImage) -> bool:
        before, known = image.registrations.get(self._broker.id), self._broker.incarnations
        if self._is_lossy or before is None:
            return self._is_lossy
        is_older = bool(known) and before.incarnation not in (*known, self._incarnation)
        return is_older or before.directory_id != self._broker.directory_id

    async def _disown(
        self, image: ClusterImage, entries: dict[bytes, Entry]
    ) -> tuple[ClusterImage, dict[bytes, Entry]]:
        """Leave every ISR and ELR (R10). The image when this broker is in none of them, nor registered."""
        own = self._keys.broker(self._broker.id)
        told = False
        for _ in range(ATTEMPTS_MAX):
            if own in entries:
                await self._writer.commit([_guard(own, entries)], [Delete(own)])
            else:
                work = disown(image, self._broker.id, Rules(image, self._config()))
                partitions = await finish_unqueued(work)
                if not partitions:
                    return image, entries
                if not told:
                    told = True
                    log.warning(
                        "broker %d may have lost what was not synced: it leaves the in-sync replicas of %d partitions",
                        self._broker.id,
                        len(partitions),
                    )
                await self._partitions.write(partitions, Guard(own, 0))
            image, entries = await self.load()
        raise Unavailable("others keep changing this broker's partitions; gave up")

    # Registering.

    def _registration(
        self, image: ClusterImage, entries: Mapping[bytes, Entry], session: Session, producer_ids: int
    ) -> Txn:
        """What a new cluster begins with, this broker in a new epoch, and the controller key if it is nobody else's.

        The feature levels have to be those that were found to be supported.
        """
        keys, writer, own_id = self._keys, self._writer, self._broker.id
        epoch = self._epoch = max(self._epoch, _number(entries.get(keys.broker_epochs))) + 1
        broker = BrokerImage(
            own_id,
            epoch,
            self._broker.rack,
            self._broker.endpoints,
            self._broker.directory_id,
            self._incarnation,
            SUPPORTED,
        )
        ops: list[Op] = [
            writer.put(keys.broker(own_id), broker.fields(), session.id),
            writer.put(keys.registration(own_id), broker.fields()),
            writer.put(keys.broker_epochs, {"epoch": epoch}),
        ]
        if keys.cluster not in entries:
            ops += self._beginning(entries)
        if keys.secret not in entries:
            ops.append(writer.put(keys.secret, {"secret": b64encode(self._rng.token(SECRET_BYTES)).decode()}))
        if image.controller_id in (NO_LEADER, own_id):
            controller_epoch = max(image.controller_epoch, _number(entries.get(keys.controller_epoch))) + 1
            ops += [
                writer.put(keys.controller, {"broker": own_id, "epoch": controller_epoch}, session.id),
                writer.put(keys.controller_epoch, {"epoch": controller_epoch}),
            ]
        if image.producer_ids < producer_ids:
            ops.append(writer.put(keys.producer_ids, {"next": producer_ids}))
        written = {op.key: None for op in ops}
        return [_guard(key, entries) for key in {**written, keys.features: None, keys.moved: None}], ops

    def _beginning(self, entries: Mapping[bytes, Entry]) -> list[Op]:
        """A new cluster: its id, feature levels, and min.insync.replicas for all brokers. They have to agree on that
        where replicas may be eligible (Kafka: ActivationRecordsGenerator).
        """
        keys, writer = self._keys, self._writer
        ops: list[Op] = [
            writer.put(keys.cluster, {"id": id_text(self._rng.token(16))}),
            writer.put(keys.features, {"levels": INITIAL}),
        ]
        if INITIAL[ELIGIBLE] and keys.broker_config("") not in entries:
            configs = {MIN_ISR: str(self._config().get_int(MIN_ISR))}
            ops.append(writer.put(keys.broker_config(""), {"configs": configs}))
        return ops

    async def _take_up(self, image: ClusterImage, own: Guard) -> int:
        """Raise the leader epoch of every partition this broker leads, or waits for it. The last revision written."""
        first: list[PartitionImage] = []
        last = 0
        for attempt in range(ATTEMPTS_MAX):
            found = await finish_unqueued(take_up(image, self._broker.id, Rules(image, self._config())))
            first = found if not attempt else first
            found = await finish_unqueued(_in_epochs_of(first, found)) if attempt else found
            revision, is_done = await self._partitions.write(found, own)
            last = max(last, revision)
            if is_done:
                return last
            image, entries = await self.load()
            if _guard(own.key, entries) != own:
                raise Unavailable("the session was lost while registering")
        raise Unavailable("others keep changing this broker's partitions; gave up")


def _in_epochs_of(first: Sequence[PartitionImage], found: Sequence[PartitionImage]) -> Work[list[PartitionImage]]:
    """Those found again that would have the epoch they would have had at first: none is begun since."""
    epochs = dict((yield from each(lambda p: ((p.topic_id, p.index), p.leader_epoch), first)))
    again = yield from each(lambda p: epochs.get((p.topic_id, p.index)) == p.leader_epoch, found)
    return [partition for partition, is_same in zip(found, again, strict=True) if is_same]


def _found(entries: Sequence[Entry], key: bytes) -> Sequence[Entry]:
    """The entry of a key, or nothing. entries: in key order."""
    at = bisect_left(entries, key, key=lambda entry: entry.key)
    return entries[at : at + 1] if at < len(entries) and entries[at].key == key else ()


def _guard(key: bytes, entries: Mapping[bytes, Entry]) -> Guard:
    return Guard(key, entries[key].mod_revision if key in entries else 0)


def _number(entry: Entry | None) -> int:
    """The last epoch given out, 0 when none was."""
    return int(decode(entry.value)["epoch"]) if entry is not None else 0
