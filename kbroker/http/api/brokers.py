"""/api/v1/brokers: who belongs to the cluster, and what each carries."""

from __future__ import annotations

from collections import Counter

from kbroker.api.context import Services
from kbroker.env import address_text
from kbroker.http.api.listing import Row, document
from kbroker.http.messages import Answer
from kbroker.turns import Effort, Work, finish


async def brokers(services: Services) -> Answer:
    """All brokers that are registered; they are few."""
    image = services.image
    leaders, replicas = await finish(_loads(services))
    rows: list[Row] = []
    for id, broker in sorted(image.registrations.items()):
        host, port = next(iter(broker.endpoints.values()), ("", -1))
        rows.append(
            {
                "id": id,
                "host": host,
                "port": port,
                "rack": broker.rack,
                "fenced": id not in image.brokers,
                "leaders": leaders[id],
                "replicas": replicas[id],
                "controller": id == image.controller_id,
                "listeners": {name: address_text(*address) for name, address in broker.endpoints.items()},
            }
        )
    fields = {"cluster_id": image.cluster_id, "controller": image.controller_id, "told_by": services.node_id}
    return document({**fields, "brokers": iter(rows)})


def _loads(services: Services) -> Work[tuple[Counter[int], Counter[int]]]:
    """How many partitions each leads, and has replicas of."""
    leaders, replicas, effort = Counter[int](), Counter[int](), Effort()
    for topic in services.image.topics.values():
        for partition in topic.own_partitions:
            leaders[partition.leader] += 1
            replicas.update(partition.replicas)
            if effort.spent(2):
                yield
    return leaders, replicas
