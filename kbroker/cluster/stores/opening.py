"""The store that a configuration names, opened by the engine for it (`kbroker.coordination`).

(nothing)      coord.db in the data directory: one broker's own
sqlite:PATH    one file, shared by the broker processes of one machine
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import PurePath

from kbroker.cluster.store import CoordinationStore, Unavailable
from kbroker.cluster.stores.sqlite import open_sqlite
from kbroker.config import StoreAddress
from kbroker.env import Disk, Env

OWN_FILE = "coord.db"


class StoreMissing(Exception):
    """There should be a store at this place, and there is none. Nothing was made instead."""

    def __init__(self, place: str) -> None:
        super().__init__(f"{place} is lost or empty")
        self.place = place


@asynccontextmanager
async def open_store(address: StoreAddress, env: Env, *, is_expected: bool = False) -> AsyncIterator[CoordinationStore]:
    """The store, open while the block runs.

    Args:
        address: which one.
        env: its disk is the data directory.
        is_expected: there is data that goes with it, so a new one would be the wrong one.

    Raises Unavailable, which names the store, when it cannot be used; StoreMissing.
    """
    async with AsyncExitStack() as stack:
        place = address.path or f"{env.disk.root}/{OWN_FILE}"
        try:
            disk, name = _file(address, env)
            if is_expected and not (disk.exists(name) and disk.size(name)):
                raise StoreMissing(place)
            store = await stack.enter_async_context(open_sqlite(disk, name, clock=env.clock, offload=env.offload))
        except (Unavailable, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else None
            raise Unavailable(f"{place} cannot be used: {why or error}") from error
        yield store


def _file(address: StoreAddress, env: Env) -> tuple[Disk, str]:
    """The disk of the file's directory, and its name there."""
    if not address.path:
        return env.disk, OWN_FILE
    path = PurePath(address.path)
    return env.disk.elsewhere(str(path.parent)), path.name
