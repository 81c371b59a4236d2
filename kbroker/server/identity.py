"""Who a data directory belongs to: `meta.properties`, written once, in Kafka's format.

version=1
node.id=1                               the broker it was made for; another one is refused
directory.id=T2bGzY8hQ0mJ5cF3n1xW9A     base64url, for ever: the same directory is the same broker, started again
"""

from __future__ import annotations

from base64 import urlsafe_b64encode

from kbroker.config import read_properties
from kbroker.env import Env

META = "meta.properties"


class StartFailed(Exception):
    """The broker cannot start as configured; the message is one line for people."""


def refuse_foreign(env: Env) -> None:
    """Raise StartFailed for a directory of Apache Kafka's own, or nobody knows whose, before anything in it is touched.

    Its files could be read, but its topics live in its own metadata log, and it would not know what was written here.
    """
    found = _read(env)
    if "cluster.id" in found:
        cluster = found["cluster.id"]
        raise StartFailed(f"{env.disk.root} belongs to Apache Kafka (cluster {cluster}): use another directory")


def _read(env: Env) -> dict[str, str]:
    try:
        return read_properties(env.disk.read(META).decode())
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        advice = "restore it; or remove it, and the directory gets a new id"
        raise StartFailed(f"{env.disk.root}/{META} is damaged: {advice}") from error


def directory_id(env: Env, node_id: int) -> str:
    """The id of the data directory, made up if it has none. The caller holds the directory's lock.

    Raises StartFailed when the directory belongs to another broker, OSError.
    """
    found = _read(env)
    owner = found.get("node.id", str(node_id))
    if owner != str(node_id):
        raise StartFailed(
            f"{env.disk.root} belongs to broker {owner}, not {node_id}: see node.id, or use another directory"
        )
    if "directory.id" not in found:
        made = urlsafe_b64encode(env.rng.token(16)).decode().rstrip("=")
        found = {"version": "1", "node.id": str(node_id), "directory.id": made}
        env.disk.write_atomic(META, "".join(f"{name}={value}\n" for name, value in found.items()).encode())
    return found["directory.id"]
