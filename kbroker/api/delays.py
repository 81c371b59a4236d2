"""ListDelayed 0: what a partition is to deliver later. kbroker's own: ApiVersions does not tell of it.

Asked of the partition's leader, a page at a time. Who may read the topic may ask.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.delays import DelayedRecord, ListDelayedRequest, ListDelayedResponse
from kbroker.api.context import Context, Services
from kbroker.api.registry import handles
from kbroker.turns import each, finish

if TYPE_CHECKING:
    from kbroker.delay.listing import Listed

KEY_SHOWN = 1024  # bytes of a key that are told


@handles(ApiKey.LIST_DELAYED, 0, 0)
def list_delayed(request: ListDelayedRequest, context: Context) -> Coroutine[Any, Any, ListDelayedResponse]:
    """One page of what is pending, in the order in which it is due."""
    return _list_delayed(request, context.services)


async def _list_delayed(request: ListDelayedRequest, services: Services) -> ListDelayedResponse:
    from kbroker.delay.schedule import Damaged  # here, and below: most brokers start faster without it

    topic, index = request.topic_name, request.partition_index
    try:
        return await _listed(request, services)
    except KafkaError as error:
        services.tell_of_disk(topic, index, error)
        return ListDelayedResponse(error_code=error.code, error_message=error.message)
    except (Damaged, OSError) as error:
        if isinstance(error, OSError):
            services.tell_of_disk(topic, index, error)
        return ListDelayedResponse(error_code=ErrorCode.KAFKA_STORAGE_ERROR, error_message=str(error))


async def _listed(request: ListDelayedRequest, services: Services) -> ListDelayedResponse:
    """Raises KafkaError, Damaged, OSError."""
    from kbroker.delay.listing import listing

    if request.limit < 1:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"The limit is {request.limit}; it has to be 1 at least.")
    if not services.partition(request.topic_name, request.partition_index).leading:
        raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER)
    delayer = services.delays.of(request.topic_name, request.partition_index)
    if delayer is None:
        return ListDelayedResponse()
    after, key = (request.after_due_ms, request.after_id), request.key
    found = await listing(delayer, services.env, after, request.limit, None if key is None else bytes(key))
    due_ms, id = found.next or (-1, -1)
    rows = await finish(each(partial(_row), found.records))
    return ListDelayedResponse(pending=found.pending, records=rows, next_due_ms=due_ms, next_id=id)


def _row(listed: Listed) -> DelayedRecord:
    entry, hidden = listed
    key, value = hidden.key, hidden.value
    return DelayedRecord(
        id=entry.id,
        due_ms=hidden.due_ms,
        is_hurried=int(entry.due_ms == 0),
        key_size=-1 if key is None else len(key),
        key=None if key is None else key[:KEY_SHOWN],
        value_size=-1 if value is None else len(value),
    )
