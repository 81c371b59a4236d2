"""Telling people of what clients have changed: topics, partitions, configs, and by whom. A bounded number of lines a
request, however much it changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from kbroker.api.context import Context
from kbroker.cluster.changes.config_changes import ConfigChange
from kbroker.cluster.image import TopicImage
from kbroker.config.keys import Scope
from kbroker.config.table import TABLE
from kbroker.events import (
    CONFIG_CHANGED,
    MORE_CHANGED,
    PARTITIONS_ADDED,
    TOPIC_CREATED,
    TOPIC_DELETED,
    first_ones,
    tell,
)

ID_SHOWN_MAX, VALUE_SHOWN_MAX = 100, 500  # characters
ASKED, AUTO = "asked", "auto"
HIDDEN = "(hidden)"

log = logging.getLogger("kbroker.admin")


class ConfigChanges:
    """What one request has changed, as it is written."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, str, str | None, str | None]] = []  # resource, name, old, new

    def note(self, change: ConfigChange, old: Mapping[str, str], new: Mapping[str, str]) -> None:
        """A resource has these configs now."""
        kind = change.scope.name.lower()
        resource = f"{kind} {change.name}" if change.name else f"all {kind}s"
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                was, is_now = _shown(change.scope, name, old.get(name)), _shown(change.scope, name, new.get(name))
                self._lines.append((resource, name, was, is_now))

    def tell(self, context: Context) -> None:
        """Tell of them."""
        lines, left = first_ones(self._lines)
        for resource, name, old, new in lines:
            tell(log, CONFIG_CHANGED, resource=resource, name=name, old=old, new=new, why=_by(context), **_who(context))
        _tell_left(left, "configs")


def tell_created(topics: Sequence[TopicImage], context: Context, how: str) -> None:
    """Topics are there. how: ASKED, or AUTO where a client asked about them only."""
    whom = _whom(context)
    why = f"by {whom}" if how == ASKED else f"as {whom} asked about it (auto.create.topics.enable)"
    told, left = first_ones(topics)
    for topic in told:
        tell(
            log,
            TOPIC_CREATED,
            topic=topic.name,
            partitions=len(topic.partitions),
            replication_factor=len(topic.partitions[0].replicas) if topic.partitions else 0,
            configs={name: _shown(Scope.TOPIC, name, value) for name, value in topic.configs.items()},
            how=how,
            why=why,
            **_who(context),
        )
    _tell_left(left, "topics created")


def tell_deleted(topics: Sequence[TopicImage], context: Context) -> None:
    """Topics are gone."""
    told, left = first_ones(topics)
    for topic in told:
        tell(log, TOPIC_DELETED, topic=topic.name, why=_by(context), **_who(context))
    _tell_left(left, "topics deleted")


def tell_grown(topics: Sequence[tuple[str, int]], context: Context) -> None:
    """Topics have more partitions: name and how many."""
    told, left = first_ones(topics)
    for name, partitions in told:
        tell(log, PARTITIONS_ADDED, topic=name, partitions=partitions, why=_by(context), **_who(context))
    _tell_left(left, "topics with more partitions")


def _tell_left(count: int, what: str) -> None:
    if count:
        tell(log, MORE_CHANGED, count=count, what=what)


def _who(context: Context) -> dict[str, Any]:
    return {"client_id": _cut(context.client_id or "", ID_SHOWN_MAX), "client": str(context.peer)}


def _by(context: Context) -> str:
    return f"by {_whom(context)}"


def _whom(context: Context) -> str:
    """In words."""
    who = _who(context)
    return f"client {who['client_id']} at {who['client']}" if who["client_id"] else f"a client at {who['client']}"


def _shown(scope: Scope, name: str, value: str | None) -> str | None:
    if value is None:
        return None
    key = TABLE[scope].get(name)
    return HIDDEN if key is None or key.sensitive else _cut(value, VALUE_SHOWN_MAX)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
