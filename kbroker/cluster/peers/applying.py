"""Applying: a change of the cluster has been carried out by every broker before the client that asked for it is told.

So a topic is there on whichever broker the client turns to next. All others are asked at once (WaitApplied). Nobody is
waited for who cannot be asked, or whose session ends meanwhile, and nobody longer than OTHERS_WAIT_S: the change is
written, and that broker will see it before it does anything else that is new.
"""

from __future__ import annotations

import logging

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.internal import WaitAppliedRequest
from kbroker.cluster.image import BrokerImage
from kbroker.cluster.peers.brokers import Brokers
from kbroker.cluster.registration import Registration

VERSION = 0  # of WaitApplied
OTHERS_WAIT_S = 5.0
ATTEMPTS = 2  # a connection may have broken just when it was needed

log = logging.getLogger("kbroker.cluster")


async def wait_for_others(registration: Registration, brokers: Brokers) -> None:
    """Wait until every other live broker has carried out the image as it is now."""
    image = registration.image
    waiting = {each.id: each for each in image.brokers.values() if each.id != registration.broker.id}
    if not waiting:
        return

    async def wait_for(other: BrokerImage) -> None:
        if not await _has_applied(other, image.revision, registration, brokers):
            log.debug("broker %d could not be asked whether it has carried out %d", other.id, image.revision)
        del waiting[other.id]

    with trio.move_on_after(OTHERS_WAIT_S):
        async with trio.open_nursery() as nursery:
            for other in list(waiting.values()):
                nursery.start_soon(wait_for, other)
    if waiting:
        log.info("a change is told of that brokers %s have not carried out yet", ", ".join(map(str, waiting)))


async def _has_applied(other: BrokerImage, revision: int, registration: Registration, brokers: Brokers) -> bool:
    request = WaitAppliedRequest(revision=revision, timeout_ms=round(OTHERS_WAIT_S * 900))  # it says so itself, then
    for _ in range(ATTEMPTS):
        now = registration.image.brokers.get(other.id)
        if now is None or now.epoch != other.epoch:  # gone, or begun anew with an image as new as this one
            return True
        try:
            answer = await brokers.ask(other.id, request, VERSION, OTHERS_WAIT_S)
            return bool(answer.error_code == ErrorCode.NONE)
        except KafkaError as error:
            if error.code is not ErrorCode.NETWORK_EXCEPTION:
                return False
    return False
