"""Following the changes of an etcd, from member to member.

    watch at a member, from the next revision ──▶ events ──▶ Batch ──▶ ...
        │  silent for 2 s: ask for a sign of life ──▶ answered: an empty Batch
        └─ no leader, broken, silent for 6 s ──▶ the same at the next member; when all have failed: Unavailable

What is behind, etcd sends in pieces of a thousand revisions. (It could fragment them, but 3.7 needs seconds for that:
it measures a fragment anew with each event.) One that is too large to be received is as good as compacted. The revision
of a sign of life is not believed: servers before 3.4.25 and 3.5.8 may name one whose events are yet to come.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import trio

from kbroker.cluster.store import Batch, Compacted, Event, prefix_end
from kbroker.cluster.stores.etcd.client import PERMISSION_DENIED, REFUSALS, UNAUTHENTICATED, UNAVAILABLE, Client
from kbroker.cluster.stores.etcd.messages import DELETE, WATCH, pb
from kbroker.env import CallFailed, RpcStream

PROGRESS_S = 2.0
SILENCE_S = 6.0
TOO_LARGE = "larger than max"  # as grpcio says
HAS_LEADER = (("hasleader", "true"),)  # a member without a leader then ends the watch instead of being silent


async def follow(client: Client, prefix: bytes, from_revision: int) -> AsyncGenerator[Batch, None]:
    """The batches of one watch; see CoordinationStore.watch."""
    cursor = from_revision
    failures = 0
    while True:
        try:
            stream = await client.open_stream(WATCH, HAS_LEADER)
            try:
                await _begin(client, stream, prefix, cursor)
                failures = 0
                while True:
                    events = await _next(client, stream)
                    cursor = events[-1].mod_revision + 1 if events else cursor
                    yield Batch(cursor - 1, events)
            finally:
                stream.close()
        except CallFailed as error:
            failures += 1
            if TOO_LARGE in error.text:
                raise Compacted(client.cluster.revision) from error
            if client.is_about_token(error):
                client.cluster.forget_token()
            elif error.code in REFUSALS:
                raise client.cluster.unavailable(error) from error
            if failures > len(client.cluster.addresses):
                raise client.cluster.unavailable(error) from error
            client.turn()


async def _begin(client: Client, stream: RpcStream, prefix: bytes, cursor: int) -> None:
    """Have the stream watch. Raises CallFailed, and Compacted, also for a revision of the future: etcd would wait."""
    create = pb.WatchCreateRequest(
        key=prefix or b"\0", range_end=prefix_end(prefix) or b"\0", start_revision=max(cursor, 1)
    )
    stream.send(pb.WatchRequest(create_request=create).SerializeToString())
    with trio.move_on_after(SILENCE_S) as scope:
        response = await _receive(client, stream)
    if scope.cancelled_caught:
        raise CallFailed(UNAVAILABLE, "the watch is not answered")
    if cursor > response.header.revision + 1:  # that of this member, which may be behind
        revision = await client.revision()
        if cursor > revision + 1:
            raise Compacted(revision)


async def _next(client: Client, stream: RpcStream) -> tuple[Event, ...]:
    """The events of some whole revisions; none as a sign of life. Raises CallFailed, Compacted."""
    for _ in range(round(SILENCE_S / PROGRESS_S)):
        with trio.move_on_after(PROGRESS_S):
            response = await _receive(client, stream)
            return tuple(
                Event(event.kv.key, None if event.type == DELETE else event.kv.value, event.kv.mod_revision)
                for event in response.events
            )
        stream.send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()).SerializeToString())
    raise CallFailed(UNAVAILABLE, "the watch is silent")


async def _receive(client: Client, stream: RpcStream) -> Any:
    """The next response that does not end the watch. Raises CallFailed, Compacted, Unavailable for another etcd."""
    response = WATCH.answer.FromString(await stream.receive())
    client.cluster.learn(WATCH, response, 0)
    if response.compact_revision:
        raise Compacted(response.compact_revision)
    if response.canceled:
        reason = response.cancel_reason
        code = PERMISSION_DENIED if "permission denied" in reason else UNAVAILABLE
        raise CallFailed(UNAUTHENTICATED if "auth token" in reason else code, reason)
    return response
