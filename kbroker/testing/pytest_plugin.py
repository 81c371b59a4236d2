"""The pytest plugin: fixtures for a Kafka that starts in milliseconds, needs nothing else, and does what a test says.

    def test_orders(kbroker):
        kbroker.create_topic("orders", partitions=3)
        app.send(kbroker.bootstrap_servers)
        assert kbroker.topic("orders").wait_for(1)[0].value == b"..."

`kbroker` is a broker of the test's own: the session has one on a port that stays, and each test finds another broker
there. pytest loads this module at every start, also where nobody uses it: it imports nothing but what pytest has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kbroker.testing.handles import KBroker


@pytest.fixture(scope="session")
def make_kbroker() -> Iterator[Callable[..., KBroker]]:
    """Make a broker that lives until the session ends: make_kbroker(config={...}, topics={...}, port=0)."""
    from kbroker.testing.embedded.thread import ThreadBroker
    from kbroker.testing.handles import KBroker

    made: list[KBroker] = []

    def make(*, config: dict[str, str] | None = None, topics: dict[str, int] | None = None, port: int = 0) -> KBroker:
        made.append(KBroker(ThreadBroker(port=port, config=config, topics=topics)))
        return made[-1]

    yield make
    for broker in made:
        broker.embedded.close()


@pytest.fixture(scope="session")
def _kbroker_session(make_kbroker: Callable[..., KBroker]) -> KBroker:
    return make_kbroker()


@pytest.fixture
def kbroker(_kbroker_session: KBroker) -> KBroker:
    """A broker of this test's own."""
    _kbroker_session.embedded.renew()
    return _kbroker_session
