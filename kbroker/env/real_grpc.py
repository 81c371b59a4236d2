"""Calls to a gRPC server from trio, by grpcio. Imported when the first channel is asked for (extra: kbroker[etcd]).

grpcio works in threads of its own and reports by callbacks. A callback comes into the event loop by the run's token:

    call      future ── done ──▶ run_sync_soon ──▶ event ──▶ who awaits the answer
    stream    a thread that takes message after message ──▶ run_sync_soon ──▶ memory channel ──▶ receive
              send ──▶ queue ──▶ grpcio's own thread

Messages are bytes here; what they mean is the caller's affair.
"""

from __future__ import annotations

import math
import os
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from kbroker.env import CallFailed, Metadata, Tls

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it writes to stderr what its callers are told as well

import grpc

MESSAGE_BYTES_MAX = 32 << 20
UNREAD_MAX = 16  # messages of a stream that wait to be received: then the server waits
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, wherever others lead
    ("grpc.enable_retries", 0),  # who calls decides what may be repeated
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),  # how long a connection attempt may take
    ("grpc.max_reconnect_backoff_ms", 1000),
]
UNSENT = "failed to connect"  # how grpcio begins what it says of a call for which there was no connection


class GrpcChannel:
    """A channel of grpcio, used from one trio run."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        """Connects when first called. Raises OSError for files of tls that cannot be read."""
        self._token = trio.lowlevel.current_trio_token()
        self._calls: dict[str, Any] = {}
        if tls is None:
            self._channel = grpc.insecure_channel(address, OPTIONS)
        else:
            pem = [Path(path).read_bytes() if path else None for path in (tls.ca, tls.key, tls.certificate)]
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*pem), OPTIONS)

    async def call(self, method: str, message: bytes, timeout_s: float, metadata: Metadata = ()) -> bytes:
        """See RpcChannel."""
        if method not in self._calls:
            self._calls[method] = self._channel.unary_unary(method)
        done = trio.Event()
        future = self._calls[method].future(message, timeout=timeout_s, metadata=metadata)
        future.add_done_callback(lambda _: tell(self._token, done.set))
        try:
            await done.wait()
        except trio.Cancelled:
            future.cancel()
            raise
        try:
            answer: bytes = future.result()
        except grpc.RpcError as error:
            raise failure(error) from None
        except grpc.FutureCancelledError:
            raise CallFailed(1, "the channel was closed") from None
        return answer

    def stream(self, method: str, metadata: Metadata = ()) -> GrpcStream:
        """See RpcChannel."""
        return GrpcStream(self._token, self._channel.stream_stream(method), metadata)

    def close(self) -> None:
        """See RpcChannel."""
        self._channel.close()


class GrpcStream:
    """A call in which both sides send."""

    def __init__(self, token: trio.lowlevel.TrioToken, begin: Callable[..., Any], metadata: Metadata) -> None:
        self._token = token
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._arrive, self._arrived = trio.open_memory_channel[bytes | CallFailed](math.inf)  # bounded by _room
        self._room = threading.Semaphore(UNREAD_MAX)
        self._is_closed = False
        self._call = begin(iter(self._requests.get, None), metadata=metadata)
        threading.Thread(target=self._take, daemon=True, name="kbroker-grpc").start()

    def send(self, message: bytes) -> None:
        """See RpcStream."""
        self._requests.put(message)

    async def receive(self) -> bytes:
        """See RpcStream."""
        item = await self._arrived.receive()
        if isinstance(item, CallFailed):
            self._arrive.send_nowait(item)  # for who asks again
            raise item
        self._room.release()
        return item

    def close(self) -> None:
        """See RpcStream."""
        self._is_closed = True
        self._requests.put(None)
        self._call.cancel()
        self._room.release()

    def _take(self) -> None:
        """In a thread: what comes, until it ends."""
        end = CallFailed(0, "the server has ended the stream")
        try:
            for message in self._call:
                self._room.acquire()
                if self._is_closed:
                    break
                tell(self._token, partial(self._arrive.send_nowait, message))
        except grpc.RpcError as error:
            end = failure(error)
        tell(self._token, partial(self._arrive.send_nowait, end))


def tell(token: trio.lowlevel.TrioToken, work: Callable[[], object]) -> None:
    """In any thread: have the event loop do something, if it is still there."""
    try:
        token.run_sync_soon(work)
    except trio.RunFinishedError:
        pass


def failure(error: Any) -> CallFailed:
    """An error of grpcio as ours."""
    code: Sequence[Any] = error.code().value
    text = error.details() or ""
    return CallFailed(code[0], text, is_unsent=text.startswith(UNSENT))
