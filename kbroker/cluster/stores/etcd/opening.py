"""What is looked at before an etcd is used: that it answers, is one cluster, is new enough, and lets us in."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from kbroker.cluster.store import Unavailable, Unreachable
from kbroker.cluster.stores.etcd.client import REFUSALS, TRY_S_MAX, Cluster
from kbroker.cluster.stores.etcd.messages import STATUS
from kbroker.cluster.stores.etcd.store import EtcdStore
from kbroker.env import CallFailed, Clock, RpcChannel

OLDEST = (3, 4, 23)
RECOMMENDED = ((3, 5, 33), (3, 6, 14), (3, 7, 1))  # of each line of versions the first with all fixes that matter here
NOT_TOLD = ""  # the version of a member that keeps its state to itself

log = logging.getLogger("kbroker.cluster")


@asynccontextmanager
async def open_etcd(
    addresses: Sequence[str],
    *,
    dial: Callable[[str], RpcChannel],
    clock: Clock,
    prefix: bytes,
    user: str = "",
    password: str = "",
) -> AsyncIterator[EtcdStore]:
    """The store in an etcd cluster, while the block runs.

    Args:
        addresses: of its members, host:port.
        dial: makes a channel to one. May raise OSError.
        clock: its liveness clock measures sessions.
        prefix: all keys begin with it.
        user, password: of etcd; "" for none.

    Raises Unavailable, OSError.
    """
    cluster = Cluster(addresses, dial, user, password, prefix)
    store = EtcdStore(cluster, clock, await _look(cluster))
    try:
        await store.info()
        yield store
    finally:
        store.close()


async def _look(cluster: Cluster) -> str:
    """Ask every member for its state; the oldest version. Raises Unavailable, OSError."""
    answers: dict[str, tuple[int, str]] = {}  # by member: id of its cluster, version
    failures: dict[str, Unavailable] = {}

    async def ask(address: str, channel: RpcChannel) -> None:
        try:
            answers[address] = await _status(cluster, channel)
        except CallFailed as error:
            failures[address] = cluster.unavailable(error)
        finally:
            channel.close()

    channels = {address: cluster.dial(address) for address in cluster.addresses}
    async with trio.open_nursery() as nursery:
        for address, channel in channels.items():
            nursery.start_soon(ask, address, channel)
    if not answers:
        is_refused = not all(isinstance(failure, Unreachable) for failure in failures.values())
        raise (Unavailable if is_refused else Unreachable)(_listed(failures))
    ids = {address: f"cluster {cluster_id:x}" for address, (cluster_id, _) in answers.items() if cluster_id}
    if len(set(ids.values())) > 1:
        raise Unavailable(f"these are members of different clusters: {_listed(ids)}")
    if failures:
        log.warning("members of etcd that cannot be used now: %s", _listed(failures))
    versions = {address: version for address, (_, version) in answers.items() if version}
    for address, version in versions.items():
        _check_version(address, version)
    return min(versions.values(), key=_numbers, default="unknown")


async def _status(cluster: Cluster, channel: RpcChannel) -> tuple[int, str]:
    """The id of a member's cluster, and its version. Raises CallFailed."""
    if cluster.user:
        await cluster.renew(channel, "")
    try:
        packed = await channel.call(STATUS.path, b"", TRY_S_MAX, cluster.metadata)
    except CallFailed as error:
        if error.code in REFUSALS:
            return 0, NOT_TOLD  # not everybody's business there: whether we may read and write is found out next
        raise
    status = STATUS.answer.FromString(packed)
    return status.header.cluster_id, status.version


def _check_version(address: str, version: str) -> None:
    """Raise Unavailable for one that lacks what we need, warn of one with known faults."""
    numbers = _numbers(version)
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise Unavailable(f"{address} is etcd {version}, which is too old: at least {oldest} is needed")
    mended = max((each for each in RECOMMENDED if each[:2] <= numbers[:2]), default=())
    if not mended or (mended[:2] == numbers[:2] and numbers < mended):
        advice = ", ".join(".".join(map(str, each)) for each in RECOMMENDED)
        log.warning("etcd %s at %s has faults that may lose leases or events: %s mend them", version, address, advice)


def _numbers(version: str) -> tuple[int, ...]:
    """ "3.6.0-rc.2" is 3, 6, 0."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("-")[0])[:3])


def _listed(told: Mapping[str, object]) -> str:
    return "; ".join(f"{address}: {what}" for address, what in told.items())
