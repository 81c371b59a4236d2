"""/api/v1/topics: the topics of the cluster; /api/v1/topics/NAME: one, with its partitions.

Query: limit, after (the last name of the page before, or the last partition). Records, bytes and offsets are told of
partitions that are led here; a sum over a topic is null where others lead some of it.
"""

from __future__ import annotations

from functools import partial

from kbroker.api.context import Services
from kbroker.cluster.image import PartitionImage, TopicImage
from kbroker.cluster.keys import id_text
from kbroker.config import topic_config
from kbroker.http.api.listing import Row, document, limit_of, page
from kbroker.http.messages import Answer, Refused, Request, shown
from kbroker.turns import Effort, Work, finish

VIEW_PARTS = ("kbroker.view.tags", "kbroker.view.filter")
PARTITION_MAX = 2**31 - 1


async def topics(services: Services, request: Request) -> Answer:
    """A page of them, in the order of their names. Raises Refused."""
    limit, after = limit_of(request), request.query.get("after")
    names, following = await finish(page(services.image.topics, after, limit))
    rows: list[Row] = []
    for name in names:
        topic = services.image.topics.get(name)
        if topic is not None:
            rows.append(await finish(_row(services, topic)))
    return document({"topics": iter(rows), "next": following})


def _row(services: Services, topic: TopicImage) -> Work[Row]:
    """One line of `kbroker topic list`."""
    records: int | None = 0
    size: int | None = 0
    effort = Effort()
    for each in topic.partitions:
        found = services.partitions.get((topic.kept_as, each.index))
        if effort.spent(3):
            yield
        if found is None or not found.leading:
            records = size = None
            break
        assert records is not None and size is not None
        records += found.high_watermark.value - found.log.start_offset
        size += found.log.size
    config = topic_config(topic.configs, services.config)
    is_part = any(part in topic.configs for part in VIEW_PARTS)
    return {
        "name": topic.name,
        "partitions": len(topic.partitions),
        "replicas": max(len(each.replicas) for each in topic.partitions),
        "records": None if is_part else records,
        "bytes": size,
        "cleanup_policy": config.cleanup_policy,
        "retention_ms": config.retention_ms,
        "retention_bytes": config.retention_bytes,
        "view_of": topic.view.source if topic.view is not None else None,
        "internal": topic.internal,
    }


def topic(services: Services, name: str, request: Request) -> Answer:
    """One topic, with a page of its partitions. Raises Refused."""
    found = services.image.topics.get(name)
    if found is None:
        raise Refused(404, f"there is no topic {shown(name)}")
    first = request.number("after", -1, 0, PARTITION_MAX) + 1
    some = found.partitions[first : first + limit_of(request)]
    configs = {key: {"value": value, "source": "DYNAMIC_TOPIC_CONFIG"} for key, value in sorted(found.configs.items())}
    fields = {
        "name": found.name,
        "id": id_text(found.id),
        "view_of": found.view.source if found.view is not None else None,
        "internal": found.internal,
        "configs": configs,
    }
    following = some[-1].index if some and some[-1].index + 1 < len(found.partitions) else None
    return document({**fields, "partitions": map(partial(_partition, services, found), some), "next": following})


def _partition(services: Services, topic: TopicImage, image: PartitionImage) -> Row:
    found = services.partitions.get((topic.kept_as, image.index))
    is_led = found is not None and found.leading
    return {
        "partition": image.index,
        "leader": image.leader,
        "epoch": image.leader_epoch,
        "replicas": list(image.replicas),
        "isr": list(image.isr),
        "first": found.log.start_offset if found is not None and is_led else None,
        "next": found.high_watermark.value if found is not None and is_led else None,
        "bytes": found.log.size if found is not None else None,
    }
