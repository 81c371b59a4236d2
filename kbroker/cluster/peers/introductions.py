"""Introductions: two brokers prove to each other that they are who they say, by the secret that the cluster shares.

    who asks                                                    who is asked
    who I am, whom I take you for, a nonce              ──▶     is that me, as I am registered now?
    is that proof of the one I meant?                   ◀──     a nonce, proof that I have the secret
    proof that I have the secret, too                   ──▶     is that proof of the one it said it is?
    from now on these are two brokers                   ◀──     yes

A proof is the HMAC-SHA256 of everything that was said, with the secret. Both nonces are in it, so none can be used
again; and which of the two made it, so none can be sent back to where it came from; and whom each takes the other for,
in which registration, so none can be taken elsewhere. Who asks sends nothing else before it has seen the other's proof,
and nobody is taken for a broker without one, so there is nothing weaker to fall back to.

Who can change what is under way between two brokers may do so after they have met: that is for TLS, or a network of
their own, to prevent.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.internal import IntroduceRequest
from kafka_wire.primitives import Buffer

VERSION = 0  # of Introduce
NONCE_BYTES = 32
PURPOSE = b"kbroker introduction 0"
ASKING, ASKED = b"asking", b"asked"  # whose proof it is
_numbers = struct.Struct(">iqiq")

Ask = Callable[[Any, int], Coroutine[Any, Any, Any]]  # (request, version) to the response


class Meeting(NamedTuple):
    """What both of two brokers have said."""

    cluster_id: str
    broker_id: int  # of who asks
    broker_epoch: int
    asked_id: int
    asked_epoch: int
    nonce: bytes  # of who asks
    asked_nonce: bytes

    def proof(self, whose: bytes, secret: bytes) -> bytes:
        """What only who knows the secret can say. whose: ASKING or ASKED."""
        assert secret and len(self.nonce) == len(self.asked_nonce) == NONCE_BYTES
        numbers = _numbers.pack(self.broker_id, self.broker_epoch, self.asked_id, self.asked_epoch)
        said = (PURPOSE, whose, self.cluster_id.encode(), numbers, self.nonce, self.asked_nonce)
        return hmac.digest(secret, b"".join(struct.pack(">I", len(part)) + part for part in said), "sha256")

    def is_proven(self, whose: bytes, secret: bytes, proof: Buffer) -> bool:
        """Whether that is the proof; the time it takes does not tell how much of it is right."""
        return hmac.compare_digest(self.proof(whose, secret), proof)


async def introduce(ask: Ask, meeting: Meeting, secret: bytes) -> None:
    """Introduce this broker to another one. meeting: all but the other's nonce.

    Raises KafkaError: the code that the other refused with, or CLUSTER_AUTHORIZATION_FAILED when it is not who it
    should be.
    """
    claim = IntroduceRequest(
        broker_id=meeting.broker_id,
        broker_epoch=meeting.broker_epoch,
        asked_id=meeting.asked_id,
        asked_epoch=meeting.asked_epoch,
        nonce=meeting.nonce,
    )
    answer = await ask(claim, VERSION)
    _check(answer.error_code)
    if len(answer.nonce) != NONCE_BYTES:
        raise _stranger()
    meeting = meeting._replace(asked_nonce=bytes(answer.nonce))
    if not meeting.is_proven(ASKED, secret, answer.proof):
        raise _stranger()
    answer = await ask(IntroduceRequest(proof=meeting.proof(ASKING, secret)), VERSION)
    _check(answer.error_code)


def _check(code: int) -> None:
    if code != ErrorCode.NONE:
        raise KafkaError(ErrorCode(code), f"it does not want to know this broker: {ErrorCode(code).name}")


def _stranger() -> KafkaError:
    return KafkaError(ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "who answers there does not know the cluster's secret")
