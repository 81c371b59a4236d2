"""Where brokers that are started together keep their data: side by side in one directory, beside the store they share.

    kbroker-data/                       of one broker
        meta.properties  coord.db  topic-0/ ...
    kbroker-data/                       of several, started with --brokers
        coord.db                        the coordination store
        broker-1/  broker-2/ ...        each with its meta.properties, topic-0/ ...

The two are not mixed: whoever starts one as the other would see none of its topics.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from kbroker.cli.errors import Misconfigured

META = "meta.properties"  # in each directory that a broker has used (server/identity.py)
LOCK = ".lock"  # of a directory that is in use (log/directory.py)
STORE_FILE = "coord.db"
BROKERS_MAX = 64
_NAME = re.compile(r"broker-(\d{1,9})")


def directory_of(data_dir: str, broker_id: int) -> str:
    """The directory of one of several brokers."""
    return str(Path(data_dir) / f"broker-{broker_id}")


def brokers_in(data_dir: str) -> list[int]:
    """The ids of the brokers that were started together there. A partition of a topic may have such a name, too."""
    found = [_NAME.fullmatch(path.parent.name) for path in Path(data_dir).glob(f"broker-*/{META}")]
    return sorted(int(match[1]) for match in found if match)


def refuse_several(data_dir: str) -> None:
    """Raise Misconfigured where a broker by itself would begin anew in the directory of several."""
    ids = brokers_in(data_dir)
    if ids:
        raise Misconfigured(
            f"{data_dir} holds the data of {named(ids)}: start with --brokers {len(ids)}, or use another directory"
        )


def refuse_others(data_dir: str, ids: Collection[int]) -> None:
    """Raise Misconfigured where these brokers cannot be started: the directory is of one alone, or of others too."""
    if (Path(data_dir) / META).exists():
        raise Misconfigured(
            f"{data_dir} holds the data of one broker: start it without --brokers, or use another directory"
        )
    left_out = [broker_id for broker_id in brokers_in(data_dir) if broker_id not in ids]
    if left_out:
        raise Misconfigured(
            f"{data_dir} holds data of {named(left_out)}, which would not run with --brokers {len(ids)}"
            f" ({named(sorted(ids))}): start more brokers; or, once nothing is left on it,"
            f" move {directory_of(data_dir, left_out[-1])} away"
        )


def unusable(error: OSError, data_dir: str = "the data directory") -> str:
    """Why a directory cannot be used; where it is a matter of rights, also who would have to have them."""
    what = error.strerror or str(error)
    if isinstance(error, FileExistsError):
        what = "it is no directory"  # which was to be made
    elif isinstance(error, PermissionError) and hasattr(os, "geteuid"):
        what += f" (to user {os.geteuid()})"
    return f"cannot use {error.filename or data_dir}: {what}"


def in_use(holder: str) -> str:
    """That another process has a directory, and what to do."""
    return f"the data directory is in use by {holder}. Another directory: kbroker --data-dir DIR"


def named(ids: Collection[int]) -> str:
    """ "broker 1", "brokers 1, 2, 3"."""
    return f"broker{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids))}"
