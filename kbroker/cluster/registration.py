"""Registration: a broker's part in the cluster. It joins, keeps the image up to date, and leaves.

    run ──▶ session ──▶ joined (joining.py) ──▶ following ────────────────── session lost ──▶ session ──▶ ...
                                                │ every batch of the watch: image = image.applied(batch)
                                                │ on_image(old, new)
                                                └ beside it the controller (controller.py), if this broker is it

The first image that on_image sees shows this broker registered in its new epoch, and every partition it leads in a new
leader epoch (R8). A session that is lost ends all leaderships (on_lost); the broker then joins again.

A broker that is about to stop hands over first: it says that it is leaving, so that nobody gives it anything more, and
gives the partitions it leads to others that are in sync.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.admin import Admin
from kbroker.cluster.controller import Controller
from kbroker.cluster.elections import Rules, leave
from kbroker.cluster.image import ClusterImage
from kbroker.cluster.isr_changes import IsrChange, IsrOutcome, IsrWriter
from kbroker.cluster.joining import BrokerIdentity, Joining
from kbroker.cluster.keys import CLUSTER, Keys, id_text
from kbroker.cluster.store import Batch, Compacted, CoordinationStore, Delete, Guard, Op, Session, StoreError
from kbroker.cluster.writer import PartitionWriter, Writer
from kbroker.config import BrokerConfig
from kbroker.env import Clock, Rng
from kbroker.turns import finish_unqueued
from kbroker.watermark import Watermark

SESSION_TTL_S = 6.0
APPLY_WAIT_S = 10.0  # an admin change that was written must be visible by then
RETRY_S = 0.5  # after the store failed

log = logging.getLogger("kbroker.cluster")


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
        config: Callable[[], BrokerConfig] = BrokerConfig,
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
            config: this broker's configuration, as it is now.
            cluster: this cluster's name in the store: letters, digits, - and _.
            session_ttl_s: a dead broker is noticed after this.
        """
        self.broker = broker
        self.image = ClusterImage()
        self.lease = 0
        self.session: Session | None = None  # None: not registered
        self.producer_ids = broker.producer_ids  # all below it may have been given out (P4)
        self.incarnation = id_text(rng.token(16))
        self._store = store
        self._clock = clock
        self._on_image = on_image
        self._on_lost = on_lost
        self._ttl_s = session_ttl_s
        self._keys = Keys(cluster)
        self._writer = Writer(store, clock, f"{broker.id}.{self.incarnation[:8]}")
        self._partitions = PartitionWriter(self._writer, self._keys)
        self._config = config
        self._joining = Joining(
            store, self._keys, self._writer, rng, broker, self.incarnation, config, session_ttl_s
        )  # fmt: skip
        self.admin = Admin(self, store, self._writer, self._keys, rng, config)
        self._controller = Controller(self, store, clock, self._writer, self._keys, config)
        self._isr_writer = IsrWriter(broker.id, self._writer, self._keys, lambda: self.image, self.wait_shown)
        self._applied = Watermark()

    @property
    def secret(self) -> bytes:
        """By which the brokers of the cluster know each other; b"" before this one was part of it."""
        return self.image.secret

    @property
    def broker_epoch(self) -> int:
        """Of the current registration; -1 when there is none."""
        mine = self.image.brokers.get(self.broker.id)
        return mine.epoch if mine is not None and self.session is not None else -1

    @property
    def valid_until(self) -> float:
        """Liveness clock: before it, the cluster cannot have taken this broker for dead."""
        return self.session.valid_until if self.session is not None else float("-inf")

    @property
    def is_proven(self) -> bool:
        """Whether the cluster certainly still takes this broker for alive. False: it may, or not (R14)."""
        return self._clock.liveness() < self.valid_until

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be part of the cluster until cancelled. started() when the first image is applied.

        Raises Fenced, BrokerIdInUse, OtherCluster, Moved, FeatureTooNew, and StoreError when the store fails before
        started().
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
        if not await self.wait_shown(revision):
            raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, "The change was written, but is not yet visible here.")

    async def wait_shown(self, revision: int) -> bool:
        """Until this broker's own image shows a revision; False if that does not happen in time."""
        with trio.move_on_after(APPLY_WAIT_S), suppress(StoreError):
            await self._applied.wait_past(revision - 1)
            return True
        return False

    async def alter_isr(self, changes: Sequence[IsrChange]) -> list[IsrOutcome]:
        """Change ISRs of partitions that this broker leads, each another; what became of each, in order.

        An outcome that is certain is told when `image` shows it. Raises nothing: a store that fails is UNKNOWN.
        """
        return await self._isr_writer.write(changes)

    # Leaving.

    def stand_down(self) -> None:
        """As the controller decide nothing more, nor become it: all brokers of the cluster stop."""
        self._controller.stand_down()

    async def hand_over(self, partitions: Iterable[tuple[str, int]] | None = None) -> None:
        """Leave the ISR, and leadership, of partitions in which another live broker is in sync; of others not.

        partitions: (topic, index) of those whose data this broker can no longer rely on, as its disk failed. None: of
        all, before an orderly stop; afterwards nobody gives this broker anything more.

        The caller bounds it in time: it takes as long as the store does. Raises nothing: what was not handed over is
        elected anew when this broker is gone.
        """
        wanted = None if partitions is None else set(partitions)
        try:
            while await self._hand_over_once(wanted):
                pass
        except StoreError as error:
            log.warning("broker %d could not hand over what it has: %s", self.broker.id, error)

    async def _hand_over_once(self, wanted: Collection[tuple[str, int]] | None) -> bool:
        """One step of it; whether there is more to do."""
        image = self.image
        mine = image.brokers.get(self.broker.id)
        if self.session is None or mine is None or len(image.brokers) == 1:
            return False
        own = Guard(self._keys.broker(mine.id), mine.mod_revision)
        if wanted is None and not mine.leaving:
            guards = [own]
            ops: list[Op] = [self._writer.put(own.key, replace(mine, leaving=True).fields(), self.lease)]
            if image.controller_id == mine.id:
                guards.append(Guard(self._keys.controller, image.controller_revision))
                ops.append(Delete(self._keys.controller))
            revision = (await self._writer.commit(guards, ops)).revision
        else:
            found = await finish_unqueued(leave(image, mine.id, Rules(image, self._config()), wanted))
            if not found:
                return False
            log.info("broker %d hands over %d partitions", mine.id, len(found))
            revision, _ = await self._partitions.write(found, own)
        return await self.wait_shown(revision)

    # Joining.

    async def _live(self, session: Session, ready: Callable[[], None]) -> None:
        """Join under this session and follow the cluster until it is lost."""
        image, joined_at = await self._joining.join(session, self.image.cluster_id, self.producer_ids)
        if image.revision < self.image.revision:
            log.error(
                "the coordination store went back from revision %d to %d: it was restored from an older copy",
                self.image.revision,
                image.revision,
            )
            self._applied.close(StoreError("the coordination store went back"))
            self._applied = Watermark()
        self.lease = session.id
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, session.lost, nursery.cancel_scope)
            try:
                image = await self._follow_until(image, joined_at)
                self.session = session
                self._publish(image)
                ready()
                nursery.start_soon(self._controller.run)
                await self._follow()
            except (StoreError, Fenced) as error:
                failure = error
            nursery.cancel_scope.cancel()
        if self.session is not None:
            self.session = None
            self._on_lost()
        if failure is not None:
            raise failure

    # Following.

    async def _follow_until(self, image: ClusterImage, revision: int) -> ClusterImage:
        """The image at revision or a little later, shown to nobody in between."""
        try:
            async with self._store.watch(self._keys.prefix, image.revision + 1) as batches:
                async for batch in batches:
                    image = await finish_unqueued(image.applied(batch.events, self._keys.prefix, batch.revision))
                    if image.revision >= revision:
                        return image
        except Compacted:
            pass
        return (await self._joining.load())[0]

    async def _follow(self) -> None:
        """Keep the image up to date until this broker's registration is gone. Raises Fenced.

        While the store fails, the image stays as it is: what this broker leads it goes on leading (R14 decides what it
        may answer), until the store says that the session is over.
        """
        is_history_gone = is_failing = False
        while True:
            try:
                if is_history_gone:
                    image, _ = await self._joining.load()
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
        return self._publish(await finish_unqueued(work))

    def _publish(self, image: ClusterImage) -> bool:
        """Make this the image, if this broker is registered in it; whether it is."""
        mine = image.brokers.get(self.broker.id)
        if mine is None:
            return False
        if mine.incarnation != self.incarnation:
            raise Fenced(f"another process has registered as broker {self.broker.id}")
        old, self.image = self.image, image
        self.producer_ids = max(self.producer_ids, image.producer_ids)
        self._on_image(old, image)
        self._controller.on_image(old, image)
        self._applied.advance(image.revision)
        return True


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
