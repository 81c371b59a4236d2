"""Introduce and WaitApplied: what it takes to be taken for a broker, and what only brokers may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.internal import (
    IntroduceRequest,
    IntroduceResponse,
    WaitAppliedRequest,
    WaitAppliedResponse,
)
from kafka_wire.messages.metadata import ApiVersionsRequest
from kbroker.cluster.image import ClusterImage, loaded
from kbroker.cluster.peers.introductions import ASKED, ASKING, NONCE_BYTES, Meeting, introduce
from kbroker.cluster.store import load
from kbroker.testing.broker import Machine, MemoryCluster, memory_cluster
from kbroker.testing.client import BareClient
from kbroker.turns import at_once

PREFIX = b"/kb/kbroker/"
NONCE = b"n" * NONCE_BYTES


async def image_of(cluster: MemoryCluster | Machine) -> ClusterImage:
    """The picture of a cluster, as its store has it."""
    page = await load(cluster.store, PREFIX)
    return at_once(loaded(page.entries, PREFIX, page.revision))


def meeting(image: ClusterImage, broker_id: int = 2, asked: int = 1, **different: Any) -> Meeting:
    """What that broker would tell another one."""
    epoch = image.brokers[broker_id].epoch if broker_id in image.brokers else 1
    told = Meeting(image.cluster_id, broker_id, epoch, asked, image.brokers[asked].epoch, NONCE, b"")
    return told._replace(**different)


def claim(said: Meeting) -> IntroduceRequest:
    return IntroduceRequest(
        broker_id=said.broker_id,
        broker_epoch=said.broker_epoch,
        asked_id=said.asked_id,
        asked_epoch=said.asked_epoch,
        nonce=said.nonce,
    )


@asynccontextmanager
async def two() -> AsyncIterator[tuple[MemoryCluster, ClusterImage]]:
    async with memory_cluster(2) as cluster:
        yield cluster, await image_of(cluster)


async def is_hung_up_on(client: BareClient, request: Any) -> bool:
    try:
        await client.call(request, 0)
    except trio.EndOfChannel:
        return True
    return False


async def test_who_knows_the_secret_is_a_broker(autojump_clock: MockClock) -> None:
    async with two() as (cluster, image), cluster.client(1) as client:
        await introduce(client.call, meeting(image), image.secret)
        answer = await client.call(WaitAppliedRequest(revision=image.revision, timeout_ms=1000), 0)
        assert answer == WaitAppliedResponse()


async def test_what_is_not_carried_out_in_time_is_said_so(autojump_clock: MockClock) -> None:
    async with two() as (cluster, image), cluster.client(1) as client:
        await introduce(client.call, meeting(image), image.secret)
        answer = await client.call(WaitAppliedRequest(revision=image.revision + 1000, timeout_ms=1000), 0)
        assert answer.error_code == ErrorCode.REQUEST_TIMED_OUT


async def test_a_client_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with two() as (cluster, image), cluster.client(1) as client:
        assert await is_hung_up_on(client, WaitAppliedRequest(revision=1, timeout_ms=1))


async def test_clients_are_not_told_of_what_brokers_ask(autojump_clock: MockClock) -> None:
    async with two() as (cluster, _), cluster.client(1) as client:
        answer = await client.call(ApiVersionsRequest(client_software_name="a", client_software_version="1"), 4)
        assert max(each.api_key for each in answer.api_keys) < 1000


async def test_who_does_not_know_the_secret_is_hung_up_on(autojump_clock: MockClock) -> None:
    async with two() as (cluster, image):
        async with cluster.client(1) as client:
            said = meeting(image)
            answer = await client.call(claim(said), 0)
            forged = said._replace(asked_nonce=bytes(answer.nonce)).proof(ASKING, b"guess")
            assert await is_hung_up_on(client, IntroduceRequest(proof=forged))
        async with cluster.client(1) as client:
            assert not (await client.call(claim(meeting(image)), 0)).error_code  # others are none the worse for it


async def test_a_proof_is_of_use_once(autojump_clock: MockClock) -> None:
    async with two() as (cluster, image):
        said = meeting(image)
        async with cluster.client(1) as client:
            answer = await client.call(claim(said), 0)
            proof = said._replace(asked_nonce=bytes(answer.nonce)).proof(ASKING, image.secret)
            assert await client.call(IntroduceRequest(proof=proof), 0) == IntroduceResponse()
        async with cluster.client(1) as client:
            assert not (await client.call(claim(said), 0)).error_code
            assert await is_hung_up_on(client, IntroduceRequest(proof=proof))


async def test_what_it_has_said_itself_proves_nothing(autojump_clock: MockClock) -> None:
    async with two() as (cluster, image), cluster.client(1) as client:
        answer = await client.call(claim(meeting(image)), 0)
        assert await is_hung_up_on(client, IntroduceRequest(proof=answer.proof))


async def test_a_proof_without_a_claim_proves_nothing(autojump_clock: MockClock) -> None:
    async with two() as (cluster, _), cluster.client(1) as client:
        assert await is_hung_up_on(client, IntroduceRequest(proof=b"p" * 32))


@pytest.mark.parametrize("different", [{"broker_id": 1}, {"broker_id": -1}, {"nonce": b"short"}, {"nonce": b"n" * 33}])
async def test_a_claim_that_no_broker_makes_is_hung_up_on(different: dict[str, Any], autojump_clock: MockClock) -> None:
    async with two() as (cluster, image), cluster.client(1) as client:
        assert await is_hung_up_on(client, claim(meeting(image, **different)))


@pytest.mark.parametrize("different", [{"asked_id": 2}, {"asked_epoch": 99}, {"broker_epoch": 0}])
async def test_registrations_that_are_over_are_refused_and_may_be_claimed_anew(
    different: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with two() as (cluster, image), cluster.client(1) as client:
        answer = await client.call(claim(meeting(image)._replace(**different)), 0)
        assert answer == IntroduceResponse(error_code=ErrorCode.STALE_BROKER_EPOCH)
        await introduce(client.call, meeting(image), image.secret)


async def test_a_registration_that_is_not_seen_yet_is_taken_at_its_proof(autojump_clock: MockClock) -> None:
    async with two() as (cluster, image), cluster.client(1) as client:
        newer = meeting(image, broker_id=7, broker_epoch=99)
        await introduce(client.call, newer, image.secret)


async def test_a_broker_introduces_itself_once(autojump_clock: MockClock) -> None:
    async with two() as (cluster, image), cluster.client(1) as client:
        await introduce(client.call, meeting(image), image.secret)
        assert await is_hung_up_on(client, claim(meeting(image)))


async def test_brokers_come_in_on_their_own_listener_alone(autojump_clock: MockClock) -> None:
    config = {
        "listeners": "OUTSIDE://b1:9092,INSIDE://b1:9093",
        "listener.security.protocol.map": "OUTSIDE:PLAINTEXT,INSIDE:PLAINTEXT",
        "inter.broker.listener.name": "INSIDE",
    }
    async with memory_cluster(1, config=config) as cluster, cluster.client(1) as client:
        image = await image_of(cluster)
        assert await is_hung_up_on(client, claim(meeting(image)))


async def test_an_asked_broker_proves_itself_first(autojump_clock: MockClock) -> None:
    async with two() as (cluster, image), cluster.client(1) as client:
        said = meeting(image)
        answer = await client.call(claim(said), 0)
        said = said._replace(asked_nonce=bytes(answer.nonce))
        assert said.is_proven(ASKED, image.secret, answer.proof)
