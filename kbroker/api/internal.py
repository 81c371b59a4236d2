"""Introduce and WaitApplied: what brokers of one cluster ask each other, in messages of kbroker's own.

ApiVersions does not tell of them. Whoever gets a proof wrong, or asks what only brokers may, is hung up on.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import trio

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.internal import (
    IntroduceRequest,
    IntroduceResponse,
    WaitAppliedRequest,
    WaitAppliedResponse,
)
from kbroker.api.context import NO_BROKER, Context
from kbroker.api.registry import CloseConnection, handles
from kbroker.cluster.peers.introductions import ASKED, ASKING, NONCE_BYTES, Meeting

APPLY_WAIT_MS_MAX = 60_000


@handles(ApiKey.INTRODUCE, 0, 0)
def introduce(request: IntroduceRequest, context: Context) -> IntroduceResponse:
    """Have a broker prove who it is, and prove who this one is (between brokers)."""
    services, peer = context.services, context.peer
    if peer.broker_id != NO_BROKER:
        raise CloseConnection("a broker introduces itself once")
    if peer.listener != services.inter_broker_listener:
        raise CloseConnection(f"brokers come in on listener {services.inter_broker_listener}, not on {peer.listener}")
    meeting = peer.take_meeting()
    if meeting is None:
        return _meet(request, context)
    if not meeting.is_proven(ASKING, services.image.secret, request.proof):
        raise CloseConnection(f"it said it was broker {meeting.broker_id}, and has not proven it")
    peer.introduce(meeting.broker_id, meeting.broker_epoch)
    return IntroduceResponse()


def _meet(request: IntroduceRequest, context: Context) -> IntroduceResponse:
    """The first of the two requests. One that is about registrations that are over is refused with a code."""
    services = context.services
    image, own_epoch = services.image, services.registration.broker_epoch
    if len(request.nonce) != NONCE_BYTES or request.broker_id < 0 or request.broker_id == services.node_id:
        raise CloseConnection("Introduce of no broker")
    seen = image.brokers.get(request.broker_id)
    is_over = seen is not None and seen.epoch > request.broker_epoch
    if is_over or own_epoch < 0 or (request.asked_id, request.asked_epoch) != (services.node_id, own_epoch):
        return IntroduceResponse(error_code=ErrorCode.STALE_BROKER_EPOCH)
    meeting = Meeting(
        image.cluster_id,
        request.broker_id,
        request.broker_epoch,
        request.asked_id,
        request.asked_epoch,
        bytes(request.nonce),
        services.env.rng.token(NONCE_BYTES),
    )
    context.peer.meet(meeting)
    return IntroduceResponse(nonce=meeting.asked_nonce, proof=meeting.proof(ASKED, image.secret))


@handles(ApiKey.WAIT_APPLIED, 0, 0)
def wait_applied(request: WaitAppliedRequest, context: Context) -> Coroutine[Any, Any, WaitAppliedResponse]:
    """Wait until this broker has carried out a revision of the cluster's store (between brokers)."""
    if context.peer.broker_id == NO_BROKER:
        raise CloseConnection("WaitApplied, which is for brokers only")
    return _wait_applied(request, context)


async def _wait_applied(request: WaitAppliedRequest, context: Context) -> WaitAppliedResponse:
    services = context.services
    with suppress(KafkaError), trio.move_on_after(min(max(request.timeout_ms, 0), APPLY_WAIT_MS_MAX) / 1000):
        await services.registration.wait_applied(request.revision)
        await services.replicas.wait_applied()
        return WaitAppliedResponse()
    return WaitAppliedResponse(error_code=ErrorCode.REQUEST_TIMED_OUT)
