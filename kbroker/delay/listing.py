"""What is pending in a partition, a page at a time, for who asks: read from the schedule, then from the log."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.delay.delayer import Delayer
from kbroker.delay.reads import read_pending
from kbroker.delay.schedule import Entry
from kbroker.env import Env
from kbroker.log.content.delayed import Hidden, key_digest

RECORDS_MAX = 1000  # of a page
BYTES_MAX = 8 << 20  # of its records, or one record


class Listed(NamedTuple):
    """A record that is pending."""

    entry: Entry
    hidden: Hidden


class Listing(NamedTuple):
    """A page of them, in the order in which they are due."""

    records: list[Listed]
    next: tuple[int, int] | None  # the due time and id behind which the next page begins; None: there is none
    pending: int  # about so many in all


async def listing(delayer: Delayer, env: Env, after: tuple[int, int], most: int, key: bytes | None) -> Listing:
    """What is pending behind a due time and id, up to so many; a page may have fewer, or none, though there is a next.

    key: only of this one. Raises KafkaError, among them COORDINATOR_LOAD_IN_PROGRESS; Damaged, OSError.
    """
    digest = None if key is None else key_digest(key)
    async with delayer.reading:
        schedule = delayer.schedule  # one that was damaged is gone, with its files, once the lock is had
        if schedule is None:
            raise KafkaError(
                ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, "What is pending is not known yet: the log is read."
            )
        page = await env.offload(partial(schedule.page, after, min(most, RECORDS_MAX), key=digest))
    found = await read_pending(delayer.log, page.entries, env.offload, BYTES_MAX)
    looked_for = page.entries[: found.looked_for]  # what is not there any more was delivered meanwhile, or moved
    records = [Listed(each, found.records[each.id]) for each in looked_for if each.id in found.records]
    following = page.next
    if len(looked_for) < len(page.entries):
        following = looked_for[-1].due_ms, looked_for[-1].id
    return Listing([each for each in records if key in (None, each.hidden.key)], following, len(schedule))
