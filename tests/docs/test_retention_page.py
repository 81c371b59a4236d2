"""The configs in the tables of docs/retention.md have an effect."""

from __future__ import annotations

import re

from kbroker.config import Scope
from kbroker.config.table import find
from tests.docs.pages import DOCS

PAGE = "retention.md"


def test_every_config_of_the_tables_is_one() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    rows = re.findall(r"^\| ?(`[a-z.]+`)? \| (`[a-z.]+`)?.*\|$", text, re.MULTILINE)
    assert len(rows) > 12
    for topic, broker in rows:
        if topic:
            assert find(Scope.TOPIC, topic.strip("`")).effect, topic
        if broker:
            assert find(Scope.BROKER, broker.strip("`")).effect, broker
