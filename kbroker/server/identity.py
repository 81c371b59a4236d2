"""Who a data directory belongs to: `meta.properties`, in Kafka's format.

version=1
node.id=1                                     the broker it was made for; another one is refused
directory.id=T2bGzY8hQ0mJ5cF3n1xW9A           base64url, for ever: the same directory is the same broker, started again
kbroker.cluster.id=Hk4kjZ4jQJmDeYoEAs-3xQ     whose data this is, as soon as the broker was part of a cluster

What topics there are stands in the coordination store, not here. A store that knows no cluster, or another one, is the
wrong one: it was lost, or the directory was taken elsewhere. With it the broker would hide all that is here, and could
delete it; it does not start. (Kafka: MetaPropertiesEnsemble. Its own name for the cluster's id marks its directories,
and keeps it from starting on ours.)

`incarnations` has a line for each process that has used the directory, the latest last. The store knows which of them
registered last: a directory that does not is an older copy of itself, put back from a backup, and lacks what was
acknowledged since. (Kafka: the broker epoch in its CleanShutdownFile.)

`producer-ids` has a number: ids of producers below it may have been given out. The coordination store counts them, but
might be restored from an older copy.
"""

from __future__ import annotations

import logging
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import NamedTuple

from kbroker.config import read_properties
from kbroker.env import Env

META = "meta.properties"
VERSION = "1"
CLUSTER_ID = "kbroker.cluster.id"
KAFKA_CLUSTER_ID = "cluster.id"
INCARNATIONS = "incarnations"
INCARNATIONS_MAX = 1000
PRODUCER_IDS = "producer-ids"
GUIDE = "docs/recovery.md tells how to go on"

_ID = re.compile(r"[A-Za-z0-9_-]{22}")

log = logging.getLogger("kbroker")


class StartFailed(Exception):
    """The broker cannot start as configured; the message is one line for people."""


class StoreUnreachable(StartFailed):
    """The coordination store does not answer; later it may."""


class Home(NamedTuple):
    """What a data directory says of itself."""

    node_id: int
    directory_id: str
    cluster_id: str  # "": it was part of none yet, or does not say


def refuse_foreign(env: Env) -> None:
    """Raise StartFailed for a directory of Apache Kafka's own, or nobody knows whose, before anything in it is touched.

    Its files could be read, but its topics live in its own metadata log, and it would not know what was written here.
    """
    _read(env)


def identify(env: Env, node_id: int, *, is_used: bool) -> Home:
    """Who the data directory is, with an id made up if it has none. The caller holds the directory's lock.

    is_used: something is kept in it. Raises StartFailed when the directory belongs to another broker, OSError.
    """
    found = _read(env)
    if found is None:
        if is_used:
            log.warning("%s/%s is gone: the directory gets a new id", env.disk.root, META)
        found = Home(node_id, urlsafe_b64encode(env.rng.token(16)).decode().rstrip("="), "")
        _write(env, found)
    if found.node_id != node_id:
        raise StartFailed(
            f"{env.disk.root} belongs to broker {found.node_id}, not {node_id}: see node.id, or use another directory"
        )
    return found


def note_cluster(env: Env, home: Home, cluster_id: str) -> None:
    """Have the directory say of which cluster it is. May raise OSError."""
    if home.cluster_id != cluster_id:
        _write(env, home._replace(cluster_id=cluster_id))


def incarnations(env: Env) -> list[str]:
    """The processes that have used the directory, as far as it knows; [] where it does not say. May raise OSError."""
    try:
        return env.disk.read(INCARNATIONS).decode(errors="replace").split()
    except FileNotFoundError:
        return []


def note_incarnation(env: Env, known: Sequence[str], incarnation: str) -> None:
    """Have the directory know of one more, before others do. Without room for that the broker starts all the same: it
    will be taken to have lost something, should others have it all.
    """
    lines = "".join(f"{each}\n" for each in [*known, incarnation][-INCARNATIONS_MAX:])
    try:
        env.disk.write_atomic(INCARNATIONS, lines.encode(), sync=True)
    except OSError as error:
        log.warning("%s/%s was not brought up to date: %s", env.disk.root, INCARNATIONS, error)


def producer_ids(env: Env) -> int:
    """Ids of producers below this may have been given out, as far as the directory knows. May raise OSError."""
    try:
        return int(env.disk.read(PRODUCER_IDS))
    except FileNotFoundError:
        return 0
    except ValueError:
        text = "%s/%s is damaged: how far producer ids were given out, the coordination store alone knows"
        log.warning(text, env.disk.root, PRODUCER_IDS)
        return 0


def note_producer_ids(env: Env, end: int) -> None:
    """Have the directory know that ids of producers below end may be given out. Without room for that they are."""
    try:
        env.disk.write_atomic(PRODUCER_IDS, b"%d\n" % end, sync=True)
    except OSError as error:
        log.warning("%s/%s was not brought up to date: %s", env.disk.root, PRODUCER_IDS, error)


def wrong_store(env: Env, home: str, found: str, store: str = "the coordination store") -> StartFailed:
    """Why a directory of cluster `home` ("" for one that does not say) does not go with a store of cluster `found`."""
    data = f"data of cluster {home}" if home else "data of a cluster"
    if found:
        advice = "use the store or the directory that goes with the other"
        return StartFailed(f"{env.disk.root} holds {data}, but {store} is that of cluster {found}: {advice}; {GUIDE}")
    advice = "restore the store, or move the data away to begin anew"
    return StartFailed(f"{env.disk.root} holds {data}, but {store} is lost or empty: {advice}; {GUIDE}")


def _read(env: Env) -> Home | None:
    """What the file says; None when there is none. Raises StartFailed, OSError."""
    try:
        found = read_properties(env.disk.read(META).decode())
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise _damaged(env) from error
    if KAFKA_CLUSTER_ID in found:
        cluster = found[KAFKA_CLUSTER_ID]
        raise StartFailed(f"{env.disk.root} belongs to Apache Kafka (cluster {cluster}): use another directory")
    version, node_id = found.get("version", ""), found.get("node.id", "")
    directory_id, cluster_id = found.get("directory.id", ""), found.get(CLUSTER_ID, "")
    if version.isdecimal() and version != VERSION:
        raise StartFailed(f"{env.disk.root}/{META} has version {version}: another kbroker wrote it, this one knows 1")
    is_whole = version and node_id.isdecimal() and _ID.fullmatch(directory_id)
    if not is_whole or (CLUSTER_ID in found and not _ID.fullmatch(cluster_id)):
        raise _damaged(env)
    return Home(int(node_id), directory_id, cluster_id)


def _damaged(env: Env) -> StartFailed:
    return StartFailed(f"{env.disk.root}/{META} is damaged: restore it; or remove it, and the directory gets a new id")


def _write(env: Env, home: Home) -> None:
    lines = [f"version={VERSION}", f"node.id={home.node_id}", f"directory.id={home.directory_id}"]
    lines += [f"{CLUSTER_ID}={home.cluster_id}"] if home.cluster_id else []
    env.disk.write_atomic(META, "".join(f"{line}\n" for line in lines).encode())
