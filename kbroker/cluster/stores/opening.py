"""The store that a configuration names, opened by the engine for it (`kbroker.coordination`).

(nothing)                  coord.db in the data directory: one broker's own
sqlite:PATH                one file, shared by the broker processes of one machine
etcd://HOST:PORT,...       etcd, for brokers of several machines; etcds:// by TLS
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import PurePath

from kbroker.cluster.keys import CLUSTER, Keys
from kbroker.cluster.store import CoordinationStore, Unavailable, Unreachable
from kbroker.config import BrokerConfig, StoreAddress
from kbroker.env import Env, Tls

OWN_FILE = "coord.db"
RETRY_S = 2.0

log = logging.getLogger("kbroker.cluster")


class StoreMissing(Exception):
    """There should be a store at this place, and there is none. Nothing was made instead."""

    def __init__(self, place: str) -> None:
        super().__init__(f"{place} is lost or empty")
        self.place = place


@asynccontextmanager
async def open_when_reachable(
    address: StoreAddress, config: BrokerConfig, env: Env, *, is_expected: bool, patience_s: float
) -> AsyncIterator[CoordinationStore]:
    """The same as `open_store`, tried for so long: machines that start together do not start at once."""
    async with AsyncExitStack() as stack:
        give_up_at = env.clock.liveness() + patience_s
        while True:
            try:
                opening = open_store(address, config, env, is_expected=is_expected)
                store = await stack.enter_async_context(opening)
                break
            except Unreachable as error:
                if env.clock.liveness() >= give_up_at:
                    raise
                log.warning("%s; trying again", error)
            await env.clock.sleep(RETRY_S)
        yield store


@asynccontextmanager
async def open_store(
    address: StoreAddress, config: BrokerConfig, env: Env, *, is_expected: bool = False
) -> AsyncIterator[CoordinationStore]:
    """The store, open while the block runs.

    Args:
        address: which one.
        config: how to get into an etcd.
        env: its disk is the data directory.
        is_expected: there is data that goes with it, so a new file would be the wrong one.

    Raises Unavailable, which names the store, when it cannot be used; StoreMissing.
    """
    place = address.path or address.text or f"{env.disk.root}/{OWN_FILE}"
    async with AsyncExitStack() as stack:
        try:
            if address.engine == "etcd":
                opening = _etcd(address, config, env)
            else:
                opening = _sqlite(address, env, StoreMissing(place) if is_expected else None)
            store = await stack.enter_async_context(opening)
        except Unavailable as error:
            raise type(error)(f"{place} cannot be used: {error}") from error
        except OSError as error:
            of = f"{error.filename}: " if error.filename and address.engine == "etcd" else ""
            raise Unavailable(f"{place} cannot be used: {of}{error.strerror or error}") from error
        yield store


def _sqlite(
    address: StoreAddress, env: Env, if_missing: StoreMissing | None
) -> AbstractAsyncContextManager[CoordinationStore]:
    from kbroker.cluster.stores.sqlite import open_sqlite  # here: who has another store does without

    disk, name = env.disk, OWN_FILE
    if address.path:
        path = PurePath(address.path)
        try:
            disk, name = env.disk.elsewhere(str(path.parent), create=if_missing is None), path.name
        except FileNotFoundError as error:
            raise if_missing or error from None
    if if_missing is not None and not (disk.exists(name) and disk.size(name)):
        raise if_missing
    return open_sqlite(disk, name, clock=env.clock, offload=env.offload)


def _etcd(address: StoreAddress, config: BrokerConfig, env: Env) -> AbstractAsyncContextManager[CoordinationStore]:
    try:
        from kbroker.cluster.stores.etcd.opening import open_etcd
    except ImportError as error:
        raise Unavailable(f"the package {error.name} is missing: pip install 'kbroker[etcd]'") from error
    names = ("kbroker.etcd.tls.ca", "kbroker.etcd.tls.certificate", "kbroker.etcd.tls.key")
    tls = Tls(*map(config.get_str, names)) if address.is_tls else None
    return open_etcd(
        address.members,
        dial=lambda member: env.net.rpc_channel(member, tls),
        clock=env.clock,
        prefix=Keys(CLUSTER).prefix,
        user=config.get_str("kbroker.etcd.user"),
        password=config.get_str("kbroker.etcd.password"),
    )
