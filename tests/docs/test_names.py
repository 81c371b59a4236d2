"""A config that the docs name is spelt as kbroker's table or Kafka's clients have it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kbroker.config.table import TABLE
from kbroker.config.topic_keys import TOPIC_KEYS
from tests.docs.pages import DOCS, ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), *sorted((DOCS / "how-to").glob("*.md"))]
CONFIGS = {name for keys in TABLE.values() for name in keys}
# Of clients, Streams and MirrorMaker; features; properties of files.
OTHERS = {
    *("allow.auto.create.topics", "auto.offset.reset", "bootstrap.servers", "client.id", "enable.auto.commit"),
    *("enable.auto.offset.store", "enable.idempotence", "group.id", "group.instance.id", "group.protocol"),
    *("heartbeat.interval.ms", "isolation.level", "linger.ms", "max.poll.interval.ms", "max.request.size"),
    *("processing.guarantee", "replication.factor", "security.protocol", "session.timeout.ms"),
    *("transaction.timeout.ms", "transactional.id", "delivery.timeout.ms", "reconnect.backoff.ms", "socket.timeout.ms"),
    *("eligible.leader.replicas.version", "group.version", "metadata.version", "transaction.version"),
    *("cluster.id", "directory.id", "kbroker.cluster.id"),
}
NAME = re.compile(r"`([a-z][a-z0-9]*(?:\.[a-z]+){1,})(?:=[^`]*)?`")
FIRST_WORDS = {name.partition(".")[0] for name in CONFIGS | OTHERS}
LAST_WORDS = {name.rpartition(".")[2] for name in CONFIGS | OTHERS}


def misspelt(text: str) -> set[str]:
    """What looks like a config, begins and ends as one, and is none."""
    found = {name for name in NAME.findall(text) if name.count(".") > 1 or name in CONFIGS}
    found = {name for name in found if name.partition(".")[0] in FIRST_WORDS and name.rpartition(".")[2] in LAST_WORDS}
    return found - CONFIGS - OTHERS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_config_that_a_page_names_is_one(page: Path) -> None:
    assert not misspelt(page.read_text(encoding="utf-8"))


def test_a_misspelt_config_is_found() -> None:
    assert misspelt("`min.insync.replica.ms`, `retention.ms`") == {"min.insync.replica.ms"}
    assert misspelt("`max.connections.ip`") and not misspelt("`kbroker.client.filtering`, `orders.5m`")
    assert {key.name for key in TOPIC_KEYS} <= CONFIGS
