"""Whether the broker lives, and whether it serves; owns what is known of its life.

    starting ──attach──▶ joining the cluster ──▶ opening logs ──on_ready──▶ ready ──▶ leaving, or ended
                                                                             └── session lost ──▶ registered again

Liveness is that the event loop answers, and no more: whoever restarts what is not live must not do so for a store
that is away, or for logs that take long to open.
"""

from __future__ import annotations

from kbroker.api.context import Services
from kbroker.http.messages import Answer, json_answer


class Life:
    """What is known of the broker beside the server."""

    def __init__(self) -> None:
        self.services: Services | None = None  # as soon as there are any, until the broker has ended
        self.has_served = False
        self._has_ended = False

    def attach(self, services: Services) -> None:
        """The broker's parts are there."""
        self.services = services

    def note_ready(self) -> None:
        """The broker serves."""
        self.has_served = True

    def detach(self) -> None:
        """The broker has ended."""
        self.services, self._has_ended = None, True

    def hindrance(self) -> str:
        """Why the broker does not serve at this moment; "" when it does."""
        services = self.services
        if services is None:
            return "stopping" if self._has_ended else "opening the data directory and the coordination store"
        if not self.has_served:
            return _coming_up(services)
        if services.registration.session is None:
            return "the session with the coordination store is lost: registering again"
        mine = services.image.brokers.get(services.node_id)
        return "stopping: what it leads is handed over" if mine is not None and mine.leaving else ""


def _coming_up(services: Services) -> str:
    if services.registration.session is None:
        return "joining the cluster"
    opened, total = services.replicas.opening
    if opened < total:
        return f"opening logs: {opened} of {total} partitions done"
    return "waiting for other brokers, or for the topics asked for"


def health() -> Answer:
    """/healthz: there is an answer."""
    return json_answer({"status": "alive"})


def readiness(life: Life) -> Answer:
    """/readyz: 200 when clients are served, else 503 and what is being done."""
    hindrance = life.hindrance()
    if not hindrance:
        return json_answer({"status": "ready"})
    return json_answer({"status": "unavailable" if life.has_served else "starting", "detail": hindrance}, 503)
