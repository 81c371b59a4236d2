"""What is to be had over HTTP, and who answers it.

/                   this list
/healthz            the event loop lives          /readyz             the broker serves, or what it is doing
/metrics            for Prometheus                /api/v1/...         JSON
"""

from __future__ import annotations

from kbroker.api.context import Services
from kbroker.http.api import brokers, groups, topics
from kbroker.http.health import Life, health, readiness
from kbroker.http.messages import Answer, Refused, Request, json_answer, shown
from kbroker.http.metrics.page import Metrics
from kbroker.http.metrics.text import CONTENT_TYPE

INDEX = b"""\
/healthz                          whether the broker lives
/readyz                           whether it serves, and if not, what it is doing
/metrics                          for Prometheus
/api/v1/brokers                   who belongs to the cluster, and what each carries
/api/v1/topics                    all topics, a page at a time: ?limit=100&after=NAME
/api/v1/topics/NAME               one, with its partitions
/api/v1/groups                    the groups that this broker coordinates
/api/v1/groups/NAME               one, with its members, offsets and lag
/api/v1/groups/NAME/rebalances    its last rebalances
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
            case ("api", "v1", *rest):
                try:
                    return await self._json(self._services(), request._replace(path=tuple(rest)))
                except Refused as refused:
                    return json_answer({"error": refused.text}, refused.status)
        raise Refused(404, f"there is no {shown('/' + '/'.join(request.path))} here; / lists what there is")

    async def _json(self, services: Services, request: Request) -> Answer:
        match request.path:
            case ("brokers",):
                return await brokers.brokers(services)
            case ("topics",):
                return await topics.topics(services, request)
            case ("topics", name):
                return await topics.topic(services, name, request)
            case ("groups",):
                return await groups.groups(services, request)
            case ("groups", name):
                return await groups.group(services, name, request)
            case ("groups", name, "rebalances"):
                return await groups.rebalances(services, name)
        raise Refused(404, f"there is no {shown('/api/v1/' + '/'.join(request.path))} here; / lists what there is")

    def _services(self) -> Services:
        """Raises Refused where there is no broker yet, or no more."""
        services = self._life.services
        if services is None:
            raise Refused(503, f"the broker does not serve: {self._life.hindrance()}")
        return services
