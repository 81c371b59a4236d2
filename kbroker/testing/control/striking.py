"""What happens to a request that a fault hits: it is answered as a handler answers, only not truly.

What is never answered is as if the network lost it: the connection stays, silent, until the client gives up on it.
Metadata and Fetch are answered truly but for the code of each topic, or partition: who is told of no broker, or is
refused as a whole, does not look there.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from copy import copy
from functools import partial
from typing import Any

import trio

from kafka_wire.api import APIS, ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kbroker.api.context import Context
from kbroker.api.registry import Api, CloseConnection
from kbroker.awaited import LATER, Awaited
from kbroker.testing.control.answers import error_answer, merge, topic_errors
from kbroker.testing.control.asked import whole
from kbroker.testing.control.faults import Fault
from kbroker.testing.control.journal import Row
from kbroker.testing.control.topics import names_topics, split
from kbroker.turns import Later, then

SILENCE_S = 600.0  # then it hangs up; no client waits so long

# Codes of a whole Fetch. All others are a partition's, also where no topic was named: there clients look for them.
FETCH_CODES = {
    ErrorCode.FETCH_SESSION_ID_NOT_FOUND, ErrorCode.INVALID_FETCH_SESSION_EPOCH, ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR,
    ErrorCode.INCONSISTENT_CLUSTER_ID, ErrorCode.UNSUPPORTED_VERSION, ErrorCode.INVALID_REQUEST,
}  # fmt: skip
METADATA_CODES = {ErrorCode.REBOOTSTRAP_REQUIRED}  # of a whole Metadata (KIP-1102); else it would name no brokers


def strike(fault: Fault, api: Api, request: Any, context: Context, row: Row, over: trio.Event) -> Any:
    """Answer a request that a fault hits, as a handler does. over: rings when silent connections are to be closed."""
    match fault.kind:
        case "error":
            row.fate = f"answered {fault.code.name} by a fault"
            return _accuse(fault, api, request, context, row)
        case "delay":
            row.fate = f"answered {fault.ms} ms late by a fault"
            return after(api.handle(request, context), partial(_late, fault.ms))
        case "lose_request":
            row.fate = "lost by a fault"
            return None if _wants_no_answer(request) else _silence(api, over)
        case "lose_response":
            row.fate = "carried out, and the answer lost by a fault"
            return after(api.handle(request, context), lambda answer: _silence(api, over))
        case "close_after":
            row.fate = "carried out, then hung up by a fault"
            handled = api.handle(request, context)
            return _hang_up(api) if handled is None else after(handled, lambda answer: _hang_up(api))
    row.fate = "hung up by a fault"
    return _hang_up(api)


def _accuse(fault: Fault, api: Api, request: Any, context: Context, row: Row) -> Any:
    key, version = fault.key, context.version
    if _wants_no_answer(request):
        raise CloseConnection("a test's fault: the request failed, and nobody waits for its answer")
    if key is ApiKey.FETCH and (fault.topic is not None or fault.code not in FETCH_CODES):
        return _accuse_fetch(fault, api, request, context, row)
    if key is ApiKey.METADATA and (fault.topic is not None or fault.code not in METADATA_CODES):
        return _accuse_metadata(fault, api, request, context, row)
    if fault.topic is None:
        return error_answer(request, key, version, fault.code)
    rest, picked = split(request, version, partial(fault.wants, context))
    errors = topic_errors(picked, key, version, fault.code, at_partitions=fault.partition is not None)
    if not names_topics(rest, version):
        return errors
    return after(api.handle(rest, context), lambda answer: _merged(answer, errors, key, version))


def _accuse_fetch(fault: Fault, api: Api, request: Any, context: Context, row: Row) -> Any:
    """Read truly, so that the session goes on, but at once; then put the error in the place of what was read."""
    key, version = fault.key, context.version
    _, picked = split(whole(request, key, context), version, partial(fault.wants, context))
    quick = copy(request)
    quick.max_wait_ms = quick.min_bytes = 0

    def accuse(answer: Any) -> Any:
        if answer.error_code or picked is None:  # there is no such session, or it is empty
            return _spare(fault, row, answer)
        errors = topic_errors(picked, key, version, fault.code, at_partitions=True)
        return _merged(answer, errors, key, version)

    return after(api.handle(quick, context), accuse)


def _accuse_metadata(fault: Fault, api: Api, request: Any, context: Context, row: Row) -> Any:
    """Describe brokers and other topics truly."""
    key, version = fault.key, context.version
    rest, picked = split(request, version, partial(fault.wants, context))

    def accuse(answer: Any) -> Any:
        accused = picked
        if accused is None:
            told = [each for each in answer.topics if fault.wants(context, each.name or each.topic_id, None)]
            named = [MetadataRequestTopic(name=each.name, topic_id=each.topic_id) for each in told]
            accused = MetadataRequest(topics=named)
            if not named:
                return _spare(fault, row, answer)
        return _merged(answer, topic_errors(accused, key, version, fault.code, at_partitions=False), key, version)

    handled = request if picked is None or (version == 0 and not rest.topics) else rest
    return after(api.handle(handled, context), accuse)


def _spare(fault: Fault, row: Row, answer: Any) -> Any:
    """The answer has no place for the error."""
    fault.spare()
    row.fate = "answered"
    return answer


def _merged(answer: Any, errors: Any, key: ApiKey, version: int) -> Any:
    merge(answer, errors, key, version)
    return answer


def _wants_no_answer(request: Any) -> bool:
    return getattr(request, "acks", None) == 0


def _late(ms: int, answer: Any) -> Coroutine[Any, Any, Any]:
    async def late() -> Any:
        await trio.sleep(ms / 1000)
        return answer

    return late()


async def _silence(api: Api, over: trio.Event) -> None:
    """No answer, and none behind it."""
    with trio.move_on_after(SILENCE_S):
        await over.wait()
    _hang_up(api)


def _hang_up(api: Api) -> Any:
    raise CloseConnection(f"a test's fault: no answer to {APIS[api.key].name}")


def after(answer: Any, step: Callable[[Any], Any]) -> Any:
    """`step(answer)` once what a handler returned is there; it may be no answer (None), which stays none."""
    if isinstance(answer, LATER):
        return then(_arrive(Later(answer.wait() if isinstance(answer, Awaited) else answer)), partial(_step, step))
    return _step(step, answer)


def _step(step: Callable[[Any], Any], answer: Any) -> Any:
    return None if answer is None else step(answer)


async def _arrive(later: Later) -> Any:
    answer = await later
    while isinstance(answer, LATER):
        answer = await (answer.wait() if isinstance(answer, Awaited) else answer)
    return answer
