"""One broker: what it is made of, in which order that comes up, and how it goes down.

    up:   listeners bound (clients queue) ─▶ data directory locked ─▶ store open ─▶ registered, leaderships taken in a
          new epoch ─▶ logs open ─▶ topics asked for at start created ─▶ accepting
    down: the nursery is cancelled (connections, then duties) ─▶ logs closed clean ─▶ session given back

Everything that runs, runs in the nursery of `run_broker`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.api import registry
from kbroker.api.context import Services
from kbroker.api.fetch_sessions import FetchSessions
from kbroker.cluster.member import BrokerRegistration, Member, NewTopic
from kbroker.cluster.store import CoordinationStore
from kbroker.config import BrokerConfig
from kbroker.env import Env, Listener
from kbroker.log.directory import LogDirectory
from kbroker.server.listener import Server
from kbroker.server.replicas import Replicas

WILDCARDS = ("", "0.0.0.0", "::")
CLOSE_TIMEOUT_S = 5.0

log = logging.getLogger("kbroker")


@dataclass(frozen=True, slots=True)
class Ready:
    """What a broker tells once it serves."""

    cluster_id: str
    node_id: int
    listeners: Mapping[str, tuple[str, int]]  # name -> address bound
    advertised: Mapping[str, tuple[str, int]]


class StartFailed(Exception):
    """The broker cannot start as configured; the message is one line for people."""
