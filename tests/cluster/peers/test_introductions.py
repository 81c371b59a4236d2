"""Introductions: what two brokers take for a proof, and what they do not."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

import pytest

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.internal import IntroduceRequest, IntroduceResponse
from kbroker.cluster.peers.introductions import ASKED, ASKING, NONCE_BYTES, Meeting, introduce

SECRET = bytes(range(32))
MEETING = Meeting("cluster", 1, 10, 2, 20, b"a" * NONCE_BYTES, b"b" * NONCE_BYTES)


def test_a_proof_is_an_hmac_of_all_that_was_said() -> None:
    said = b"".join(
        [
            b"\0\0\0\x16kbroker introduction 0",
            b"\0\0\0\x06asking",
            b"\0\0\0\x07cluster",
            b"\0\0\0\x18" + bytes([0, 0, 0, 1, *[0] * 7, 10, 0, 0, 0, 2, *[0] * 7, 20]),
            b"\0\0\0\x20" + b"a" * 32,
            b"\0\0\0\x20" + b"b" * 32,
        ]
    )
    assert MEETING.proof(ASKING, SECRET) == hmac.new(SECRET, said, "sha256").digest()


@pytest.mark.parametrize(
    "other",
    [
        MEETING._replace(cluster_id="another"),
        MEETING._replace(broker_id=3),
        MEETING._replace(broker_epoch=11),
        MEETING._replace(asked_id=3),
        MEETING._replace(asked_epoch=21),
        MEETING._replace(nonce=b"c" * NONCE_BYTES),  # a proof of an earlier meeting, again
        MEETING._replace(asked_nonce=b"c" * NONCE_BYTES),
        MEETING._replace(nonce=MEETING.asked_nonce, asked_nonce=MEETING.nonce),
        MEETING._replace(broker_id=2, broker_epoch=20, asked_id=1, asked_epoch=10),  # the other way round
    ],
)
def test_a_proof_is_of_this_meeting_alone(other: Meeting) -> None:
    for whose in (ASKING, ASKED):
        assert MEETING.is_proven(whose, SECRET, MEETING.proof(whose, SECRET))
        assert not other.is_proven(whose, SECRET, MEETING.proof(whose, SECRET))


def test_a_proof_cannot_be_sent_back_to_who_made_it() -> None:
    assert not MEETING.is_proven(ASKING, SECRET, MEETING.proof(ASKED, SECRET))
    assert not MEETING.is_proven(ASKED, SECRET, MEETING.proof(ASKING, SECRET))


@pytest.mark.parametrize("proof", [b"", b"x", MEETING.proof(ASKING, b"another secret")])
def test_anything_else_is_no_proof(proof: bytes) -> None:
    assert not MEETING.is_proven(ASKING, SECRET, memoryview(proof))


class Asked:
    """The other broker, as it answers honestly; a test may change what it says."""

    def __init__(self, forge: Callable[[IntroduceResponse], IntroduceResponse] = lambda told: told) -> None:
        self.forge = forge
        self.heard: list[IntroduceRequest] = []

    async def ask(self, request: Any, version: int) -> IntroduceResponse:
        self.heard.append(request)
        if request.proof:
            assert MEETING.is_proven(ASKING, SECRET, request.proof)
            return IntroduceResponse()
        return self.forge(IntroduceResponse(nonce=MEETING.asked_nonce, proof=MEETING.proof(ASKED, SECRET)))


async def test_two_brokers_are_introduced() -> None:
    asked = Asked()
    await introduce(asked.ask, MEETING._replace(asked_nonce=b""), SECRET)
    claim, proof = asked.heard
    assert (claim.broker_id, claim.broker_epoch, claim.asked_id, claim.asked_epoch) == (1, 10, 2, 20)
    assert (bytes(claim.nonce), bytes(claim.proof)) == (MEETING.nonce, b"")
    assert bytes(proof.proof) == MEETING.proof(ASKING, SECRET)


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (lambda told: IntroduceResponse(), ErrorCode.CLUSTER_AUTHORIZATION_FAILED),
        (lambda told: IntroduceResponse(nonce=told.nonce), ErrorCode.CLUSTER_AUTHORIZATION_FAILED),
        (lambda told: IntroduceResponse(nonce=b"", proof=told.proof), ErrorCode.CLUSTER_AUTHORIZATION_FAILED),
        # What we have said, sent back to us: our nonce, and what we would prove with it.
        (
            lambda told: IntroduceResponse(
                nonce=MEETING.nonce, proof=MEETING._replace(asked_nonce=MEETING.nonce).proof(ASKING, SECRET)
            ),
            ErrorCode.CLUSTER_AUTHORIZATION_FAILED,
        ),
        (lambda told: IntroduceResponse(error_code=ErrorCode.STALE_BROKER_EPOCH), ErrorCode.STALE_BROKER_EPOCH),
    ],
)
async def test_who_does_not_prove_itself_is_told_no_proof(
    forge: Callable[[IntroduceResponse], IntroduceResponse], code: ErrorCode
) -> None:
    asked = Asked(forge)
    with pytest.raises(KafkaError) as refused:
        await introduce(asked.ask, MEETING._replace(asked_nonce=b""), SECRET)
    assert refused.value.code is code
    assert [bytes(each.proof) for each in asked.heard] == [b""]
