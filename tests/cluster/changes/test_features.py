"""Feature levels: what a cluster begins with, keeps, and may be told; who may be part of it."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.changes.config_changes import MIN_ISR, ConfigChange, ConfigOp
from kbroker.cluster.changes.features import (
    BEFORE,
    ELIGIBLE,
    FEATURES,
    GROUP,
    INITIAL,
    METADATA,
    SUPPORTED,
    TRANSACTION,
    FeatureTooNew,
    FeatureUpdate,
    UpgradeType,
    updated,
)
from kbroker.cluster.keys import Keys, decode
from kbroker.cluster.registration import Registration
from kbroker.cluster.store import Delete, Guard, Put
from kbroker.config.keys import Scope
from tests.cluster.tools import FaultyStore, HandClock, RunClock, make_registration, running

KEYS = Keys("kbroker")
UP, DOWN = UpgradeType.UPGRADE, UpgradeType.SAFE_DOWNGRADE


AT_1 = {**INITIAL, TRANSACTION: 1}


async def raised(broker: Registration, level: int = 2) -> None:
    await broker.admin.update_features([FeatureUpdate(TRANSACTION, level, UP)])


async def lowered(broker: Registration, level: int = 1) -> None:
    await broker.admin.update_features([FeatureUpdate(TRANSACTION, level, DOWN)])


async def put(store: Any, key: bytes, value: bytes) -> None:
    entry = await store.get(key)
    assert (await store.txn([Guard(key, entry.mod_revision if entry else 0)], [Put(key, value)])).succeeded


def test_levels_lie_within_their_ranges() -> None:
    for feature in FEATURES.values():
        assert feature.low <= feature.before <= feature.initial <= feature.high or feature.before == 0


async def test_a_new_cluster_begins_with_the_levels_of_its_release(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as broker:
        assert broker.image.features.levels == INITIAL
        assert broker.image.features.epoch == (await store.get(KEYS.features)).mod_revision > 0


async def test_a_cluster_from_before_there_were_levels_goes_on_as_it_was(clock: HandClock) -> None:
    store = FaultyStore(clock)
    async with running(make_registration(store, clock)):
        pass
    features = await store.get(KEYS.features)
    assert features is not None
    await store.txn([Guard(KEYS.features, features.mod_revision)], [Delete(KEYS.features)])
    async with running(make_registration(store, clock)) as broker:
        assert broker.image.features == BEFORE
        assert (broker.image.features.transaction_version, broker.image.features.group_version) == (0, 1)
        await raised(broker)
        assert broker.image.features.levels == {**BEFORE.levels, TRANSACTION: 2}


async def test_a_change_is_seen_when_it_returns_and_outlives_the_broker(clock: HandClock) -> None:
    store = FaultyStore(clock)
    async with running(make_registration(store, clock)) as broker:
        before = broker.image.features.epoch
        await lowered(broker)
        assert broker.image.features.transaction_version == 1
        assert broker.image.features.epoch > before
    async with running(make_registration(store, clock)) as broker:
        assert broker.image.features.transaction_version == 1


async def test_what_changes_nothing_writes_nothing(clock: HandClock) -> None:
    store = FaultyStore(clock)
    async with running(make_registration(store, clock)) as broker:
        txns, finalized = store.txns, broker.image.features
        await broker.admin.update_features([FeatureUpdate(TRANSACTION, 1, DOWN)], validate_only=True)
        await broker.admin.update_features([FeatureUpdate(GROUP, INITIAL[GROUP], UP)])
        await broker.admin.update_features([])
        assert (store.txns, broker.image.features) == (txns, finalized)


async def test_level_0_is_a_feature_that_is_not_in_use(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as broker:
        await broker.admin.update_features([FeatureUpdate(GROUP, 0, DOWN)])
        assert GROUP not in broker.image.features.levels
        assert broker.image.features.group_version == 0


async def test_a_lost_reply_is_not_a_refusal(autojump_clock: MockClock) -> None:
    store = FaultyStore(RunClock())
    async with running(make_registration(store, RunClock())) as broker:
        store.lose_replies = 1
        await lowered(broker)
        assert broker.image.features.transaction_version == 1


async def test_who_cannot_do_what_the_cluster_does_is_no_part_of_it(clock: HandClock) -> None:
    store = FaultyStore(clock)
    async with running(make_registration(store, clock)):
        pass
    for levels, why in (
        ({METADATA: 31}, "metadata.version, and this release supports 7-30"),
        ({"share.version": 1}, "level 1 of share.version, and this release does not know it"),
    ):
        await put(store, KEYS.features, b'{"levels":%s}' % str(levels).replace("'", '"').encode())
        with pytest.raises(FeatureTooNew, match=why):
            await make_registration(store, clock).run()


def test_every_broker_has_to_be_able() -> None:
    older = {1: SUPPORTED, 2: {**SUPPORTED, TRANSACTION: (0, 1)}, 3: {}}
    at_0 = {**INITIAL, TRANSACTION: 0}
    assert updated(at_0, [FeatureUpdate(TRANSACTION, 1, UP)], {2: older[2]}, 1)[TRANSACTION] == 1
    for who, level, why in (
        (2, 2, "Broker 2 only supports versions 0-1"),
        (3, 1, "Broker 3 does not support this feature."),
    ):
        with pytest.raises(KafkaError, match=why) as refused:
            updated(at_0, [FeatureUpdate(TRANSACTION, level, UP)], {1: SUPPORTED, who: older[who]}, 1)
        assert refused.value.code is ErrorCode.INVALID_UPDATE_VERSION


async def test_a_broker_that_registers_meanwhile_is_asked_too(clock: HandClock) -> None:
    store = FaultyStore(clock)

    async def an_older_broker_registers() -> None:
        entry = await store.get(KEYS.broker(0))
        epochs = await store.get(KEYS.broker_epochs)
        assert entry is not None and epochs is not None
        older = entry.value.replace(b'"transaction.version":[0,2]', b'"transaction.version":[0,1]')
        assert older != entry.value
        await put(store, KEYS.broker(7), older)
        await put(store, KEYS.broker_epochs, epochs.value)

    async with running(make_registration(store, clock)) as broker:
        await lowered(broker)
        store.before_txn = an_older_broker_registers
        with pytest.raises(KafkaError, match="Broker 7 only supports versions 0-1"):
            await raised(broker)
        assert broker.image.features.levels == AT_1


async def test_levels_raised_while_a_broker_registers_are_looked_at_again(clock: HandClock) -> None:
    store = FaultyStore(clock)
    async with running(make_registration(store, clock)):
        pass

    async def levels_are_raised() -> None:
        await put(store, KEYS.features, b'{"levels":{"metadata.version":31}}')

    store.before_txn = levels_are_raised
    with pytest.raises(FeatureTooNew):
        await make_registration(store, clock).run()


async def test_a_registration_says_what_the_broker_can_do(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as broker:
        assert broker.image.brokers[0].features == SUPPORTED
        stored = decode((await store.get(KEYS.broker(0))).value)["features"]
        assert stored == {name: list(levels) for name, levels in SUPPORTED.items()}


async def test_with_eligible_replicas_all_brokers_have_one_min_insync_replicas(clock: HandClock) -> None:
    store = FaultyStore(clock)
    async with running(make_registration(store, clock)) as broker:
        own = ConfigChange(Scope.BROKER, "0", [(ConfigOp.SET, MIN_ISR, "3"), (ConfigOp.SET, "log.retention.ms", "5")])
        (refused,) = await broker.admin.alter_configs([own])
        assert refused is not None
        await broker.admin.update_features([FeatureUpdate(ELIGIBLE, 0, DOWN)])
        removed = ConfigChange(Scope.BROKER, "", [(ConfigOp.DELETE, MIN_ISR, None)])
        assert await broker.admin.alter_configs([own, removed]) == [None, None]
        await broker.admin.update_features([FeatureUpdate(ELIGIBLE, 1, UP)])
        assert broker.image.broker_configs == {"": {MIN_ISR: "1"}, "0": {"log.retention.ms": "5"}}
