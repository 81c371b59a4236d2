"""What is to be had over HTTP, and who answers it.

/                   this list
/healthz            the event loop lives          /readyz             the broker serves, or what it is doing
/metrics            for Prometheus
"""

from __future__ import annotations

from kbroker.api.context import Services
from kbroker.http.health import Life, health, readiness
from kbroker.http.messages import Answer, Refused, Request, shown
from kbroker.http.metrics.page import Metrics
from kbroker.http.metrics.text import CONTENT_TYPE

INDEX = b"""\
/healthz                          whether the broker lives
/readyz                           whether it serves, and if not, what it is doing
/metrics                          for Prometheus
"""


class Paths:
    """Answers requests about one broker."""

    def __init__(self, life: Life, metrics: Metrics) -> None:
        self._life = life
        self._metrics = metrics
        self._requests = 0  # so far

    async def answer(self, request: Request) -> Answer:
        """The answer. Raises Refused."""
        self._requests += 1
        match request.path:
            case ("",):
                return Answer(INDEX)
            case ("healthz",):
                return health()
            case ("readyz",):
                return readiness(self._life)
            case ("metrics",):
                return Answer(await self._metrics.page(self._services(), self._requests), CONTENT_TYPE)
        raise Refused(404, f"there is no {shown('/' + '/'.join(request.path))} here; / lists what there is")

    def _services(self) -> Services:
        """Raises Refused where there is no broker yet, or no more."""
        services = self._life.services
        if services is None:
            raise Refused(503, f"the broker does not serve: {self._life.hindrance()}")
        return services
