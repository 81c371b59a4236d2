"""Registration: a broker's part in the cluster. It registers, claims the controller key, takes up its leaderships, and
keeps the image up to date.

    run ──▶ session ──▶ registered ──▶ leader epochs raised ──▶ following ── session lost ──▶ session ──▶ ...
                        (one txn, with                          │ every batch of the watch: image = image.applied(batch)
                        the controller key)                     └ on_image(old, new)

The first image that on_image sees shows this broker registered in its new epoch, and every partition it leads in a new
leader epoch (R8). A session that is lost ends all leaderships (on_lost); the broker then registers again.

Registration belongs to a data directory: whoever holds its lock may replace the registration of the directory's former
process at once, without waiting for that session to end. Another directory under the same broker id is refused. So is a
directory of another cluster than the store's, or of any when the store knows none: a store that has lost its topics
must not be taken for one that has deleted them.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.admin import TXN_OPS, Admin
from kbroker.cluster.elections import take_up
from kbroker.cluster.features import INITIAL, SUPPORTED, check_supported
from kbroker.cluster.image import BrokerImage, ClusterImage, PartitionImage, loaded
from kbroker.cluster.isr_changes import IsrChange, IsrOutcome, IsrWriter
from kbroker.cluster.keys import CLUSTER, Keys, decode, id_text
from kbroker.cluster.store import (
    Batch,
    Compacted,
    CoordinationStore,
    Entry,
    Guard,
    Op,
    Session,
    StoreError,
    Unavailable,
    load,
)
from kbroker.cluster.writer import Txn, Writer
from kbroker.env import Clock, Rng
from kbroker.turns import PAUSES_A_TURN, Work
from kbroker.watermark import Watermark

SESSION_TTL_S = 6.0
APPLY_WAIT_S = 10.0  # an admin change that was written must be visible by then
RETRY_S = 0.5  # after the store failed
ATTEMPTS_MAX = 10
SECRET_BYTES = 32
HOUSEKEEPING_S = 1800.0  # history of at least this long is kept, and at least HISTORY_MIN revisions at a start
HISTORY_MIN = 10_000

T = TypeVar("T")
log = logging.getLogger("kbroker.cluster")


@dataclass(frozen=True, slots=True)
class BrokerIdentity:
    """What a broker tells the cluster about itself."""

    id: int
    directory_id: str  # stays with the data directory; the caller holds the directory's lock
    endpoints: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # listener -> advertised (host, port)
    rack: str | None = None
    cluster_id: str = ""  # whose data is in the directory; "": it does not say
    has_logs: bool = False  # there is data in it


class BrokerIdInUse(Exception):
    """Another live broker has this id."""

    def __init__(self, broker: BrokerImage, ttl_s: float) -> None:
        where = ", ".join(f"{host}:{port}" for host, port in broker.endpoints.values()) or "an unknown address"
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


class Fenced(Exception):
    """Another process has registered as this broker: two processes have the same data directory."""


class Registration:
    """One broker as part of the cluster. Made once, `run` once."""

    def __init__(
        self,
        store: CoordinationStore,
        clock: Clock,
        broker: BrokerIdentity,
        on_image: Callable[[ClusterImage, ClusterImage], None],
        *,
        rng: Rng,
        on_lost: Callable[[], None] = lambda: None,
        topic_defaults: Callable[[], tuple[int, int]] = lambda: (1, 1),
        cluster: str = CLUSTER,
        session_ttl_s: float = SESSION_TTL_S,
    ) -> None:
        """Nothing is done before `run`.

        Args:
            store: the coordination store, open.
            clock: its liveness clock tells when the session ends.
            broker: who this is.
            on_image: called with (old, new) for every new image, in order; must not wait. The first old one is empty.
            rng: for ids and placement.
            on_lost: called when the session is lost: lead nothing until an image brings new epochs.
            topic_defaults: partitions and replication factor of a topic that asks for -1.
            cluster: this cluster's name in the store: letters, digits, - and _.
            session_ttl_s: a dead broker is noticed after this.
        """
        self.broker = broker
        self.image = ClusterImage()
        self.lease = 0
        self.session: Session | None = None  # None: not registered
        self.incarnation = id_text(rng.token(16))
        self._store = store
        self._clock = clock
        self._rng = rng
        self._on_image = on_image
        self._on_lost = on_lost
        self._ttl_s = session_ttl_s
        self._keys = Keys(cluster)
        self._writer = Writer(store, clock, f"{broker.id}.{self.incarnation[:8]}")
        self.admin = Admin(self, store, self._writer, self._keys, rng, topic_defaults)
        self._applied = Watermark()
        self._isr_writer = IsrWriter(broker.id, self._writer, self._keys, lambda: self.image, self._wait_shown)

    @property
    def broker_epoch(self) -> int:
        """Of the current registration; -1 when there is none."""
        mine = self.image.brokers.get(self.broker.id)
        return mine.epoch if mine is not None and self.session is not None else -1

    @property
    def valid_until(self) -> float:
        """Liveness clock: before it, no other broker can have been given what this one leads."""
        return self.session.valid_until if self.session is not None else float("-inf")

    @property
    def is_proven(self) -> bool:
        """Whether what this broker leads is certainly still its own. False: it may be, or not (R14)."""
        return self._clock.liveness() < self.valid_until

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be part of the cluster until cancelled. started() when the first image is applied.

        Raises BrokerIdInUse, OtherCluster, FeatureTooNew, Fenced, and StoreError when the store fails before started().
        """
        started = False

        def ready() -> None:
            nonlocal started
            if not started:
                started = True
                task_status.started()

        while True:
            try:
                async with self._store.session(self._ttl_s) as session:
                    await self._live(session, ready)
            except StoreError as error:
                if not started:
                    raise
                log.warning("the coordination store failed: %s", error)
                await self._clock.sleep(RETRY_S)
            log.warning("broker %d lost its session and registers again", self.broker.id)

    async def wait_applied(self, revision: int) -> None:
        """Until the image shows the change of this revision; KafkaError REQUEST_TIMED_OUT if that takes too long.

        Other brokers are waited for before a client is answered, see applying.py.
        """
        if not await self._wait_shown(revision):
            raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, "The change was written, but is not yet visible here.")

    async def _wait_shown(self, revision: int) -> bool:
        """Until this broker's own image shows a revision; False if that does not happen in time."""
        with trio.move_on_after(APPLY_WAIT_S):
            await self._applied.wait_past(revision - 1)
            return True
        return False

    async def alter_isr(self, changes: Sequence[IsrChange]) -> list[IsrOutcome]:
        """Change ISRs of partitions that this broker leads, each another; what became of each, in order.

        An outcome that is certain is told when `image` shows it. Raises nothing: a store that fails is UNKNOWN.
        """
        return await self._isr_writer.write(changes)

    # Joining.

    async def _live(self, session: Session, ready: Callable[[], None]) -> None:
        """Join under this session and follow the cluster until it is lost."""
        image, joined_at = await self._join(session)
        self.lease = session.id
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, session.lost, nursery.cancel_scope)
            try:
                image = await self._follow_until(image, joined_at)
                self.session = session
                self._publish(image)
                ready()
                nursery.start_soon(self._keep_house)
                await self._follow()
            except (StoreError, Fenced) as error:
                failure = error
            nursery.cancel_scope.cancel()
        if self.session is not None:
            self.session = None
            self._on_lost()
        if failure is not None:
            raise failure

    async def _join(self, session: Session) -> tuple[ClusterImage, int]:
        """Register and take up leaderships. An image from before, and the revision at which all is done."""
        for _ in range(ATTEMPTS_MAX):
            image, entries = await self._load()
            self._check_identity(image)
            guards, ops = self._registration(image, entries, session)
            result = await self._writer.commit(guards, ops)
            if result.succeeded:
                own = Guard(self._keys.broker(self.broker.id), result.revision)
                return image, max(result.revision, await self._take_up(image, own))
        raise Unavailable("others keep registering; gave up")

    async def _load(self) -> tuple[ClusterImage, dict[bytes, Entry]]:
        """The image of what is stored, and the entries of the keys that a registration writes."""
        page = await load(self._store, self._keys.prefix)
        image = await in_turns(loaded(page.entries, self._keys.prefix, page.revision))
        keys = self._keys
        wanted = (
            keys.broker(self.broker.id), keys.registration(self.broker.id), keys.broker_epochs, keys.cluster,
            keys.secret, keys.features, keys.controller, keys.controller_epoch,
        )  # fmt: skip
        return image, {entry.key: entry for key in wanted for entry in _found(page.entries, key)}

    def _check_identity(self, image: ClusterImage) -> None:
        home = self.image.cluster_id or self.broker.cluster_id
        if home != image.cluster_id if home else self.broker.has_logs and not image.cluster_id:
            raise OtherCluster(home, image.cluster_id)
        other = image.brokers.get(self.broker.id)
        if other is not None and other.directory_id != self.broker.directory_id:
            raise BrokerIdInUse(other, self._ttl_s)
        check_supported(image.features.levels)

    def _registration(self, image: ClusterImage, entries: Mapping[bytes, Entry], session: Session) -> Txn:
        """Cluster id and feature levels if there are none, this broker in a new epoch, and the controller key if it is
        nobody else's. The feature levels have to be those that were found to be supported.
        """
        keys, writer, own_id = self._keys, self._writer, self.broker.id
        epoch = _number(entries.get(keys.broker_epochs)) + 1
        broker = BrokerImage(
            own_id,
            epoch,
            self.broker.rack,
            self.broker.endpoints,
            self.broker.directory_id,
            self.incarnation,
            SUPPORTED,
        )
        ops: list[Op] = [
            writer.put(keys.broker(own_id), broker.fields(), session.id),
            writer.put(keys.registration(own_id), broker.fields()),
            writer.put(keys.broker_epochs, {"epoch": epoch}),
        ]
        if keys.cluster not in entries:
            ops += [
                writer.put(keys.cluster, {"id": id_text(self._rng.token(16))}),
                writer.put(keys.features, {"levels": INITIAL}),
            ]
        if keys.secret not in entries:
            ops.append(writer.put(keys.secret, {"secret": b64encode(self._rng.token(SECRET_BYTES)).decode()}))
        if image.controller_id in (-1, own_id):
            controller_epoch = _number(entries.get(keys.controller_epoch)) + 1
            ops += [
                writer.put(keys.controller, {"broker": own_id, "epoch": controller_epoch}, session.id),
                writer.put(keys.controller_epoch, {"epoch": controller_epoch}),
            ]
        written = {op.key: None for op in ops}
        return [_guard(key, entries) for key in {**written, keys.features: None}], ops

    async def _take_up(self, image: ClusterImage, own: Guard) -> int:
        """Raise the leader epoch of every partition this broker leads, or waits for it. The last revision written."""
        done: set[tuple[bytes, int]] = set()
        revision = 0
        for _ in range(ATTEMPTS_MAX):
            changed = await in_turns(take_up(image, self.broker.id))
            wanted = [p for p in changed if (p.topic_id, p.index) not in done] if done else changed
            if not wanted:
                return revision
            chunks = [wanted[i : i + TXN_OPS] for i in range(0, len(wanted), TXN_OPS)]
            results = await self._writer.commit_all(self._taking_up(chunk, own) for chunk in chunks)
            revision = max([revision, *(result.revision for result in results if result.succeeded)])
            if all(result.succeeded for result in results):
                return revision
            for chunk, result in zip(chunks, results, strict=True):
                if result.succeeded:
                    done.update((p.topic_id, p.index) for p in chunk)
            image, entries = await self._load()
            if _guard(own.key, entries) != own:
                raise Unavailable("the session was lost while registering")
        raise Unavailable("others keep changing this broker's partitions; gave up")

    def _taking_up(self, partitions: Sequence[PartitionImage], own: Guard) -> Txn:
        keys = [self._keys.partition(p.topic_id, p.index) for p in partitions]
        guards = [Guard(key, p.mod_revision) for key, p in zip(keys, partitions, strict=True)]
        return [*guards, own], [self._writer.put(key, p.fields()) for key, p in zip(keys, partitions, strict=True)]

    # Following.

    async def _follow_until(self, image: ClusterImage, revision: int) -> ClusterImage:
        """The image at revision or a little later, shown to nobody in between."""
        try:
            async with self._store.watch(self._keys.prefix, image.revision + 1) as batches:
                async for batch in batches:
                    image = await in_turns(image.applied(batch.events, self._keys.prefix, batch.revision))
                    if image.revision >= revision:
                        return image
        except Compacted:
            pass
        return (await self._load())[0]

    async def _follow(self) -> None:
        """Keep the image up to date until this broker's registration is gone. Raises Fenced.

        While the store fails, the image stays as it is: what this broker leads it goes on leading (R14 decides what it
        may answer), until the store says that the session is over.
        """
        is_history_gone = is_failing = False
        while True:
            try:
                if is_history_gone:
                    image, _ = await self._load()
                    is_history_gone = False
                    if not self._publish(image):
                        return
                async with self._store.watch(self._keys.prefix, self.image.revision + 1) as batches:
                    async for batch in batches:
                        if is_failing:
                            is_failing = False
                            log.info("the coordination store answers again")
                        if not await self._take(batch):
                            return
            except Compacted:
                is_history_gone = True
            except StoreError as error:
                if not is_failing:
                    is_failing = True
                    log.warning("the coordination store fails: %s", error)
                await self._clock.sleep(RETRY_S)

    async def _take(self, batch: Batch) -> bool:
        if not batch.events:
            self.image = replace(self.image, revision=max(batch.revision, self.image.revision))
            self._applied.advance(batch.revision)
            return True
        work = self.image.applied(batch.events, self._keys.prefix, batch.revision)
        return self._publish(await in_turns(work))

    def _publish(self, image: ClusterImage) -> bool:
        """Make this the image, if this broker is registered in it; whether it is."""
        mine = image.brokers.get(self.broker.id)
        if mine is None:
            return False
        if mine.incarnation != self.incarnation:
            raise Fenced(f"another process has registered as broker {self.broker.id}")
        old, self.image = self.image, image
        self._on_image(old, image)
        self._applied.advance(image.revision)
        return True

    async def _keep_house(self) -> None:
        """As the controller: delete what interrupted changes left behind, and the history nobody needs."""
        compact_before = self.image.revision - HISTORY_MIN
        while True:
            try:
                if self.image.controller_id == self.broker.id:
                    await self.admin.reap_strays()
                    if compact_before > 0:
                        await self._store.compact(compact_before)
            except StoreError as error:
                log.warning("housekeeping failed, and will be tried again: %s", error)
            compact_before = self.image.revision
            await self._clock.sleep(HOUSEKEEPING_S)


async def in_turns(work: Work[T]) -> T:
    """Do work to its end, now and then letting others go on. Unlike that of clients it stands in no queue."""
    while True:
        for _ in range(PAUSES_A_TURN):
            try:
                next(work)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
        await trio.lowlevel.checkpoint()


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _found(entries: Sequence[Entry], key: bytes) -> Sequence[Entry]:
    """The entry of a key, or nothing. entries: in key order."""
    at = bisect_left(entries, key, key=lambda entry: entry.key)
    return entries[at : at + 1] if at < len(entries) and entries[at].key == key else ()


def _guard(key: bytes, entries: Mapping[bytes, Entry]) -> Guard:
    return Guard(key, entries[key].mod_revision if key in entries else 0)


def _number(entry: Entry | None) -> int:
    """The last epoch given out, 0 when none was."""
    return int(decode(entry.value)["epoch"]) if entry is not None else 0
