"""/api/v1/topics: the topics of the cluster; /api/v1/topics/NAME: one, with its partitions.

Query: limit, after (the last name of the page before, or the last partition). Offsets are asked of the brokers that
lead; null, and so is a sum of them, where one does not answer. Bytes are those of the replicas here; null where there
is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice

from kbroker.api.context import Services
from kbroker.cluster.image import PartitionImage, TopicImage
from kbroker.cluster.keys import id_text
from kbroker.config import topic_config
from kbroker.http.api.listing import Row, document, limit_of, page
from kbroker.http.messages import Answer, Refused, Request, shown
from kbroker.http.offsets import Key, Offsets, ends_of, starts_of
from kbroker.turns import Effort, Work, finish

VIEW_PARTS = ("kbroker.view.tags", "kbroker.view.filter")
PARTITION_MAX = 2**31 - 1
PARTITIONS_MAX = 50_000  # whose offsets are looked for, for one page of topics


async def topics(services: Services, request: Request) -> Answer:
    """A page of them, in the order of their names. Raises Refused."""
    limit, after = limit_of(request), request.query.get("after")
    image = services.image
    names, following = await finish(page(image.topics, after, limit))
    keys = [(name, each.index) for name in names for each in islice(image.topics[name].partitions, PARTITIONS_MAX)]
    starts, ends = await _both(services, keys[:PARTITIONS_MAX])
    rows = [await finish(_row(services, image.topics[name], starts, ends)) for name in names]
    return document({"topics": iter(rows), "next": following})


async def _both(services: Services, keys: Sequence[Key]) -> tuple[Offsets, Offsets]:
    """Where these partitions begin and end, as far as that is known."""
    return await starts_of(services, keys), await ends_of(services, keys)


def _row(services: Services, topic: TopicImage, starts: Offsets, ends: Offsets) -> Work[Row]:
    """One line of `kbroker topic list`."""
    records: int | None = 0
    size: int | None = 0
    effort = Effort()
    for each in topic.partitions:
        if effort.spent(3):
            yield
        key = topic.name, each.index
        held = services.partitions.get((topic.kept_as, each.index))
        is_known = records is not None and key in starts and key in ends
        records = records + ends[key] - starts[key] if records is not None and is_known else None
        size = size + held.log.size if size is not None and held is not None else None
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


async def topic(services: Services, name: str, request: Request) -> Answer:
    """One topic, with a page of its partitions. Raises Refused."""
    found = services.image.topics.get(name)
    if found is None:
        raise Refused(404, f"there is no topic {shown(name)}")
    first = request.number("after", -1, 0, PARTITION_MAX) + 1
    some = found.partitions[first : first + limit_of(request)]
    starts, ends = await _both(services, [(name, each.index) for each in some])
    configs = {key: {"value": value, "source": "DYNAMIC_TOPIC_CONFIG"} for key, value in sorted(found.configs.items())}
    fields = {
        "name": found.name,
        "id": id_text(found.id),
        "view_of": found.view.source if found.view is not None else None,
        "internal": found.internal,
        "configs": configs,
    }
    following = some[-1].index if some and some[-1].index + 1 < len(found.partitions) else None
    rows = map(partial(_partition, services, found, starts, ends), some)
    return document({**fields, "partitions": rows, "next": following})


def _partition(services: Services, topic: TopicImage, starts: Offsets, ends: Offsets, image: PartitionImage) -> Row:
    held = services.partitions.get((topic.kept_as, image.index))
    return {
        "partition": image.index,
        "leader": image.leader,
        "epoch": image.leader_epoch,
        "replicas": list(image.replicas),
        "isr": list(image.isr),
        "first": starts.get((topic.name, image.index)),
        "end": ends.get((topic.name, image.index)),
        "bytes": held.log.size if held is not None else None,
    }
