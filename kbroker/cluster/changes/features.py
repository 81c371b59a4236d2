"""Feature levels: what the brokers of a cluster have agreed to do (KIP-584, KIP-1022).

    FEATURES     what this release can do: a range of levels a feature; each broker registers its own
    Finalized    what the cluster does: one level a feature, stored under `features`, part of every image
    updated      the rules by which a client may change it

A new cluster begins with the levels of its release. One that was made before there were levels goes on as it was
(BEFORE). From then on a level changes only when somebody asks for it (`kbroker feature upgrade`, UpdateFeatures), once
every broker can do it. Level 0 is a feature that is not in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError

METADATA, TRANSACTION, GROUP = "metadata.version", "transaction.version", "group.version"
ELIGIBLE = "eligible.leader.replicas.version"


class Feature(NamedTuple):
    """One feature, as this release knows it."""

    name: str
    low: int
    high: int
    initial: int  # level in a new cluster
    before: int  # level in a cluster that has no levels stored


FEATURES: Mapping[str, Feature] = {
    feature.name: feature
    for feature in (
        Feature(METADATA, 7, 30, initial=30, before=30),  # which release of Apache Kafka this is like; 30: 4.3
        Feature(TRANSACTION, 0, 2, initial=2, before=0),  # 1: flexible records; 2: an epoch a transaction (KIP-890)
        Feature(GROUP, 0, 1, initial=1, before=1),  # 1: the consumer protocol (KIP-848)
        Feature(ELIGIBLE, 0, 1, initial=1, before=0),  # 1: who leaves too small an ISR may still lead (KIP-966)
    )
}
SUPPORTED: Mapping[str, tuple[int, int]] = {name: (feature.low, feature.high) for name, feature in FEATURES.items()}
INITIAL: Mapping[str, int] = {name: feature.initial for name, feature in FEATURES.items()}
DISABLED = (0, 0)  # the range of what a broker does not know


class Finalized(NamedTuple):
    """The levels of a cluster."""

    levels: Mapping[str, int]  # of the features in use
    epoch: int  # grows with every change: the revision of the store that brought it; 0: nothing is stored

    @property
    def transaction_version(self) -> int:
        """By which rules transactions run: 2 is KIP-890 as a whole."""
        return self.levels.get(TRANSACTION, 0)

    @property
    def group_version(self) -> int:
        """1 where the consumer protocol of KIP-848 may be used."""
        return self.levels.get(GROUP, 0)

    @property
    def has_eligible_replicas(self) -> bool:
        """Whether a replica that leaves an ISR too small for acks=all may still be elected (KIP-966)."""
        return self.levels.get(ELIGIBLE, 0) >= 1


BEFORE = Finalized(MappingProxyType({name: f.before for name, f in FEATURES.items() if f.before}), 0)


class UpgradeType(IntEnum):
    """What a client says a change is (KIP-778)."""

    UPGRADE = 1
    SAFE_DOWNGRADE = 2
    UNSAFE_DOWNGRADE = 3


class FeatureUpdate(NamedTuple):
    """A level wished for, as a client says it."""

    feature: str
    level: int
    upgrade_type: int


class FeatureTooNew(Exception):
    """The cluster does what this release cannot."""


def check_supported(levels: Mapping[str, int]) -> None:
    """Raise FeatureTooNew unless this release can be part of a cluster of these levels."""
    for name, level in levels.items():
        low, high = SUPPORTED.get(name, DISABLED)
        if level and not low <= level <= high:
            can = f"supports {low}-{high}" if high else "does not know it"
            raise FeatureTooNew(f"the cluster is at level {level} of {name}, and this release {can}")


def updated(
    current: Mapping[str, int],
    updates: Iterable[FeatureUpdate],
    brokers: Mapping[int, Mapping[str, tuple[int, int]]],
    controller_id: int,
) -> dict[str, int]:
    """The levels after these updates: all of them, or none.

    Args:
        current: the levels so far.
        updates: in the order of the request, each feature once.
        brokers: the ranges that each broker has registered.
        controller_id: who is named where this release itself is the obstacle.

    Raises KafkaError INVALID_UPDATE_VERSION with Kafka's texts (FeatureControlManager).
    """
    levels = dict(current)
    for update in updates:
        why = _why_not(update, current.get(update.feature, 0), brokers, controller_id)
        if why:
            text = "The update failed for all features since the following feature had an error: "
            raise KafkaError(ErrorCode.INVALID_UPDATE_VERSION, text + why)
        levels[update.feature] = update.level
    return {name: level for name, level in levels.items() if level}


def _why_not(
    update: FeatureUpdate, current: int, brokers: Mapping[int, Mapping[str, tuple[int, int]]], controller_id: int
) -> str:
    """Why a feature may not be given a level; "" if it may."""
    name, level, upgrade_type = update
    invalid = f"Invalid update version {level} for feature {name}. "
    if upgrade_type not in UpgradeType.__members__.values():
        return invalid + "The controller does not support the given upgrade type."
    if level < 0:
        return invalid + "A feature version cannot be less than 0."
    ranges = {f"Local controller {controller_id}": SUPPORTED, **{f"Broker {id}": own for id, own in brokers.items()}}
    for who, supported in ranges.items():
        low, high = supported.get(name, DISABLED)
        if not low <= level <= high:
            only = f" only supports versions {low}-{high}" if high else " does not support this feature."
            return invalid + who + only
    if name not in FEATURES:
        return invalid + f"Feature {name} not found."
    if level < current and upgrade_type == UpgradeType.UPGRADE:
        downgrade = "Can't downgrade the version of this feature without setting the upgrade type to either safe or "
        return invalid + downgrade + "unsafe downgrade."
    if level > current and upgrade_type != UpgradeType.UPGRADE:
        return invalid + "Can't downgrade to a newer version."
    if name == METADATA and level < current:  # no cluster is below 30, which changed Kafka's own metadata
        unsafe = upgrade_type == UpgradeType.UNSAFE_DOWNGRADE
        return f"Unsupported metadata.version downgrade from {current} to {level}. " + (
            "Unsafe metadata downgrade is not supported in this version."
            if unsafe
            else "Refusing to perform the requested downgrade because it might delete metadata information."
        )
    return ""
