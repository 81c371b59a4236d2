"""The controller: one broker at a time that sees to it that every partition is as it should be.

    absent ── any live broker claims the key, in a new controller epoch ──▶ one broker's session owns it
                                                                              │ session ends: absent
    a new image, or a second ──▶ decide (elections.py: pure, in turns) ──▶ write ──▶ wait until the image shows it ──┐
            └────────────────────────────────────────────────────────────────────────────────────────────────────────┘

It keeps no state that a successor would need: what is to be done follows from the image alone. Every write is guarded
by the partition it changes and by the controller's own key: one that was deposed, and does not know, changes nothing. A
transaction that fails was decided on something that has changed: what it was for is decided anew from a later image.

Only topics that have changed are looked at, all of them when a broker or a configuration has. It takes no more than a
tenth of the broker's time, whatever is changing. Beside that it gives partitions back to their preferred leaders, lets
internal topics grow to the replication factor they are configured to, deletes what interrupted changes left behind,
and the history of the store that nobody needs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from kafka_wire.errors import KafkaError
from kbroker.cluster.admin import Admin
from kbroker.cluster.changes.internal_topics import WANTED, grown, larger_min_isr
from kbroker.cluster.elections import Rules, balance, decide
from kbroker.cluster.image import NO_LEADER, ClusterImage, PartitionImage
from kbroker.cluster.joining import BrokerIdentity
from kbroker.cluster.keys import Keys, decode
from kbroker.cluster.store import CoordinationStore, Guard, StoreError
from kbroker.cluster.writer import TXN_PARTITIONS, PartitionWriter, Writer
from kbroker.config import BrokerConfig
from kbroker.env import Clock
from kbroker.turns import finish_unqueued

TICK_S = 1.0
RETRY_S = 0.5  # after the store failed
REST_FACTOR, REST_MAX_S = 10, 0.5  # after a decision: so many times as long as it took
SHARE_MIN = 6  # partitions in a transaction, where others keep changing them
HOUSEKEEPING_S = 1800.0  # history of at least this long is kept, and at least HISTORY_MIN revisions at a start
HISTORY_MIN = 10_000

log = logging.getLogger("kbroker.cluster")


class Home(Protocol):
    """What the controller needs of the registration it belongs to."""

    broker: BrokerIdentity
    image: ClusterImage
    lease: int  # the broker's session
    admin: Admin

    async def wait_shown(self, revision: int) -> bool:
        """Until this broker's own image shows a revision; False if that does not happen in time."""


class Controller:
    """One broker as the controller, or waiting to be it."""

    def __init__(
        self,
        home: Home,
        store: CoordinationStore,
        clock: Clock,
        writer: Writer,
        keys: Keys,
        config: Callable[[], BrokerConfig],
    ) -> None:
        self._home = home
        self._store = store
        self._clock = clock
        self._writer = writer
        self._partitions = PartitionWriter(writer, keys)
        self._keys = keys
        self._config = config
        self._news = trio.Event()
        self._changed: dict[str, None] = {}  # topics to be looked at, in order
        self._all = True  # look at all of them
        self._share = TXN_PARTITIONS  # in a transaction; less where others keep changing them
        self._stands_down = False
        self._balanced_s = 0.0  # liveness clock: when preferred leaders were last looked at

    @property
    def is_it(self) -> bool:
        """Whether this broker is the controller, as far as it knows."""
        return self._home.image.controller_id == self._home.broker.id

    def on_image(self, old: ClusterImage, new: ClusterImage) -> None:
        """Note what is to be looked at."""
        is_one_step = new.base == old.revision
        if not self.is_it or not is_one_step or any(
            getattr(old, part) is not getattr(new, part)
            for part in ("brokers", "registrations", "broker_configs", "features", "controller_revision")
        ):  # fmt: skip
            self._all = True
            self._changed.clear()
        elif not self._all:
            self._changed.update(dict.fromkeys(new.touched))
        self._news.set()

    def stand_down(self) -> None:
        """Decide nothing more: all brokers stop, and who goes first is not to be missed by the others."""
        self._stands_down = True

    async def run(self) -> None:
        """Be ready to decide until cancelled: for as long as the broker's session lasts."""
        self._all = True
        self._balanced_s = self._clock.liveness()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            nursery.start_soon(self._keep_house)
            while True:
                try:
                    await self._round()
                except StoreError as error:
                    log.warning("the controller could not write, and will try again: %s", error)
                    self._all = True
                    await self._clock.sleep(RETRY_S)
                await self._news.wait()
                self._news = trio.Event()

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            if self.is_it:
                await self._secure()
            self._news.set()

    async def _round(self) -> None:
        """Claim what nobody has; as the controller, decide and write until there is nothing more to do."""
        if self._stands_down:
            return
        if self._home.image.controller_id == NO_LEADER:
            await self._claim()
        while self.is_it and not self._stands_down and (self._all or self._changed or self._is_balancing_due()):
            begun = self._clock.liveness()
            partitions = await self._decide()
            rest_s = min(REST_MAX_S, REST_FACTOR * (self._clock.liveness() - begun))
            if partitions:
                await self._write(partitions)
            if rest_s:
                await self._clock.sleep(rest_s)

    async def _claim(self) -> None:
        """Become the controller, if nobody is faster and this broker is still registered."""
        keys, home, writer = self._keys, self._home, self._writer
        mine = home.image.brokers.get(home.broker.id)
        if mine is None or mine.leaving:
            return
        last = await self._store.get(keys.controller_epoch)
        epoch = max(home.image.controller_epoch, decode(last.value)["epoch"] if last is not None else 0) + 1
        guards = [
            Guard(keys.controller, 0),
            Guard(keys.controller_epoch, last.mod_revision if last is not None else 0),
            Guard(keys.broker(mine.id), mine.mod_revision),
        ]
        ops = [
            writer.put(keys.controller, {"broker": mine.id, "epoch": epoch}, home.lease),
            writer.put(keys.controller_epoch, {"epoch": epoch}),
        ]
        result = await writer.commit(guards, ops)
        await home.wait_shown(result.revision)
        if result.succeeded:
            log.info("broker %d is the controller, in epoch %d", mine.id, epoch)

    async def _decide(self) -> list[PartitionImage]:
        """What has to be changed, by the image as it is now."""
        image, config = self._home.image, self._config()
        names = list(image.topics if self._all else self._changed)
        self._all = False
        self._changed.clear()
        partitions = await finish_unqueued(decide(image, names, Rules(image, config)))
        if not WANTED.keys().isdisjoint(names):
            known = {(partition.topic_id, partition.index) for partition in partitions}
            more = await finish_unqueued(grown(image, config))
            partitions += [p for p in more if (p.topic_id, p.index) not in known]
        if not partitions and self._is_balancing_due():
            self._balanced_s = self._clock.liveness()
            partitions = await finish_unqueued(balance(image, image.topics))
            if partitions:
                log.info("%d partitions go back to their preferred leaders", len(partitions))
        return partitions

    def _is_balancing_due(self) -> bool:
        config = self._config()
        interval_s = config.get_int("leader.imbalance.check.interval.seconds")
        is_due = self._clock.liveness() - self._balanced_s >= interval_s
        return is_due and config.get_bool("auto.leader.rebalance.enable")

    async def _write(self, partitions: Sequence[PartitionImage]) -> None:
        """Write what was decided, and wait until the image shows it, or why not."""
        held = Guard(self._keys.controller, self._home.image.controller_revision)
        revision, is_done = await self._partitions.write(partitions, held, txn_partitions=self._share)
        self._share = TXN_PARTITIONS if is_done else max(SHARE_MIN, self._share // 2)
        self._all = self._all or not is_done
        await self._home.wait_shown(revision)

    async def _secure(self) -> None:
        """Raise min.insync.replicas of internal topics that have grown."""
        changes = larger_min_isr(self._home.image, self._config())
        for change, error in zip(changes, await self._home.admin.alter_configs(changes), strict=True):
            if isinstance(error, KafkaError):
                log.warning("%s cannot be configured, and will be later: %s", change.name, error)

    async def _keep_house(self) -> None:
        """As the controller: delete what interrupted changes left behind, and the history nobody needs."""
        compact_before = self._home.image.revision - HISTORY_MIN
        while True:
            try:
                if self.is_it:
                    await self._home.admin.reap_strays()
                    if compact_before > 0:
                        await self._store.compact(compact_before)
            except StoreError as error:
                log.warning("housekeeping failed, and will be tried again: %s", error)
            compact_before = self._home.image.revision
            await self._clock.sleep(HOUSEKEEPING_S)
