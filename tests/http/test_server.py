"""The HTTP server: what it answers, what it refuses, and that nobody costs it more than his share."""

from __future__ import annotations

import random

import h11
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from kbroker.http.server import ANSWER_S, CONNECTIONS_MAX, HEAD_MAX, IDLE_S, LINES_MAX, READ_S
from tests.http.tools import GET, PIECE, PIECES, PORT, connected, echo, raw, receive, serving
from tests.server.loop_meter import LINES_MAX as LOOP_LINES_MAX
from tests.server.loop_meter import LoopMeter

VERSIONS = [b"HTTP/1.1", b"HTTP/1.0"]


# -- answers ----------------------------------------------------------------------------------------------------------


async def test_a_connection_is_kept_and_answers_request_after_request(autojump_clock: MockClock) -> None:
    async with serving(echo) as (net, _), connected(net, PORT) as client:
        first = await client.get("/a/b%2Fc?n=1&x=")
        assert (first.status, first.text) == (200, "('a', 'b/c') {'n': '1', 'x': ''}")
        assert first.headers["date"] == "Fri, 28 Nov 2025 14:26:40 GMT"
        assert (await client.get("/long")).body == PIECE * PIECES
        assert (await client.get("/")).text == "('',) {}"


async def test_head_has_the_headers_and_no_body(autojump_clock: MockClock) -> None:
    async with serving(echo) as (net, _), connected(net, PORT) as client:
        short = await client.get("/a", method="HEAD")
        assert (short.status, short.body, short.headers["content-length"]) == (200, b"", str(len("('a',) {}")))
        long = await client.get("/long", method="HEAD")
        assert (long.status, long.body) == (200, b"")
        assert (await client.get("/a")).status == 200


async def test_pipelined_requests_are_answered_in_order(autojump_clock: MockClock) -> None:
    async with serving(echo) as (net, _):
        answers = await raw(net, PORT, b"".join(GET % b"/%d" % n for n in range(50)) + _close(b"/end"))
    assert [int(part.split(b"'")[0]) for part in answers.split(b"\r\n\r\n('")[1:-1]] == list(range(50))
    assert answers.endswith(b"('end',) {}")


async def test_http_1_0_is_answered_and_closed(autojump_clock: MockClock) -> None:
    """Load balancers ask so, without a Host."""
    async with serving(echo) as (net, _):
        assert (await raw(net, PORT, b"GET /a HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\n('a',) {}")
        assert (await raw(net, PORT, b"GET /long HTTP/1.0\r\n\r\n")).endswith(PIECE * PIECES)


async def test_a_request_may_come_byte_by_byte(autojump_clock: MockClock) -> None:
    async with serving(echo) as (net, _), connected(net, PORT) as client:
        client.http.send(h11.Request(method="GET", target="/a", headers=[("Host", "localhost")]))
        client.http.send(h11.EndOfMessage())
        for byte in GET % b"/a":
            await client.send(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.reply()).text == "('a',) {}"


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 200_000, 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # without a Host
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
        (b"GET /%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET /?" + b"a=1&" * 17 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET /" + b"a" * 2 * HEAD_MAX + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a:b\r\n" * 2 * LINES_MAX + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a:b\n" * 2 * LINES_MAX, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),  # TLS
        (b"\x00\x00\x00\x0a\x00\x12\x00\x04\x00\x00\x00\x01\xff\xff\r\n\r\n", 400),  # Kafka
        (b"\r\n" * 2000, 400),
    ],
)
async def test_what_is_no_request_for_it_is_told_why_and_hung_up_on(
    data: bytes, status: int, autojump_clock: MockClock
) -> None:
    async with serving(echo) as (net, server):
        answer = await raw(net, PORT, data)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
        assert b"onnection: close" in answer
        assert (await raw(net, PORT, _close(b"/a"))).endswith(b"('a',) {}")  # others are served
        assert not server.connections


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "a@localhost"])
async def test_a_name_that_is_not_ours_is_refused(host: str, autojump_clock: MockClock) -> None:
    """DNS rebinding: a page's own name resolves to this machine."""
    async with serving(echo, "Broker.lan") as (net, _), connected(net, PORT) as client:
        refused = await client.get("/a", host=host)
        assert refused.status == 403 and "kbroker.http.allowed.hosts" in refused.text
        assert (await client.get("/a", host="broker.lan:9644")).status == 200


async def test_a_bug_costs_its_request_alone(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async with serving(echo) as (net, _):
        async with connected(net, PORT) as client:
            assert (await client.get("/broken")).status == 500
            assert (await client.get("/a")).status == 200
            with pytest.raises(h11.RemoteProtocolError):  # it ends before its time: nobody takes it for whole
                await client.get("/midway")
        assert (await raw(net, PORT, _close(b"/a"))).endswith(b"('a',) {}")
    assert caplog.text.count("AssertionError: a bug") == 2


# -- bounds -----------------------------------------------------------------------------------------------------------


async def test_who_sends_nothing_is_hung_up_on(autojump_clock: MockClock) -> None:
    async with serving(echo) as (net, _):
        began = trio.current_time()
        assert await raw(net, PORT, b"") == b""
        assert trio.current_time() - began == pytest.approx(IDLE_S)


async def test_who_sends_a_request_slowly_is_hung_up_on(autojump_clock: MockClock) -> None:
    async with serving(echo) as (net, _), connected(net, PORT) as client:
        client.http.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
        client.http.send(h11.EndOfMessage())
        began = trio.current_time()
        for byte in b"GET / HT":
            await client.send(bytes([byte]))
            await trio.sleep(1)
        assert (await client.reply()).status == 408
        assert trio.current_time() - began == pytest.approx(READ_S)


async def test_who_does_not_read_is_hung_up_on_and_holds_up_nobody(autojump_clock: MockClock) -> None:
    async with serving(echo) as (net, server):
        stream = await net.connect("localhost", PORT)
        await stream.send((GET % b"/long",))
        await trio.testing.wait_all_tasks_blocked()
        assert len(server.connections) == 1
        assert (await raw(net, PORT, _close(b"/a"))).endswith(b"('a',) {}")
        await trio.sleep(ANSWER_S + 1)
        assert not server.connections


async def test_a_thousand_connections_leave_room_for_who_asks(autojump_clock: MockClock) -> None:
    async with serving(echo) as (net, server):
        streams = [await net.connect("localhost", PORT) for _ in range(1000)]
        await trio.testing.wait_all_tasks_blocked()
        assert len(server.connections) == CONNECTIONS_MAX
        assert (await raw(net, PORT, _close(b"/a"))).endswith(b"('a',) {}")
        assert await receive(streams[0]) == b""  # those that were idle longest had to go
        await streams[-1].send((_close(b"/b"),))
        assert b"('b',) {}" in await receive_all(streams[-1])


async def test_where_nobody_is_idle_who_comes_is_hung_up_on(autojump_clock: MockClock) -> None:
    async with serving(echo) as (net, server):
        for _ in range(CONNECTIONS_MAX):
            stream = await net.connect("localhost", PORT)
            await stream.send((b"GET",))
        await trio.testing.wait_all_tasks_blocked()
        assert await raw(net, PORT, b"") == b""
        assert len(server.connections) == CONNECTIONS_MAX


@pytest.mark.parametrize("seed", range(8))
async def test_fuzzed_requests_are_answered_or_hung_up_on(
    seed: int, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """Good requests with bytes changed, cut, doubled: no task of the server fails, and none takes long."""
    rng = random.Random(seed)
    async with serving(echo, "a") as (net, server):
        meter = LoopMeter()
        with meter.running():
            for _ in range(100):
                await raw(net, PORT, _mutated(rng))
            assert (await raw(net, PORT, _close(b"/a"))).endswith(b"('a',) {}")
        assert meter.worst <= LOOP_LINES_MAX // 10, meter.report()
        assert not server.connections
    assert "Traceback" not in caplog.text


async def test_the_costliest_heads_hold_the_loop_for_no_long(autojump_clock: MockClock) -> None:
    """As many headers as are let through, the shortest and the longest."""
    heads = [b"a:b\r\n" * (LINES_MAX - 3), b"a:" + b"b" * (HEAD_MAX - 100) + b"\r\n", b"a: \t" + b" " * 16000 + b"\r\n"]
    async with serving(echo) as (net, _):
        meter = LoopMeter()
        with meter.running():
            for head in heads:
                data = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + head + b"\r\n"
                assert (await raw(net, PORT, data)).startswith(b"HTTP/1.1 200")
        assert meter.worst <= LOOP_LINES_MAX // 5, meter.report()


def _close(path: bytes) -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path


def _mutated(rng: random.Random) -> bytes:
    lines = [
        rng.choice([b"GET", b"HEAD", b"PUT"]) + rng.choice([b" / ", b" /a?b=c ", b" /long "]) + rng.choice(VERSIONS),
        b"Host: " + rng.choice([b"localhost", b"[::1]:80", b"a:1", b"", b"b"]),
        *rng.sample([b"Connection: close", b"Upgrade: websocket", b"Expect: 100-continue", b"TE: trailers",
                     b"Content-Length: 3", b"Transfer-Encoding: chunked", b" folded", b"a:" + b"b" * 9000], 2),
    ]  # fmt: skip
    data = bytearray(b"\r\n".join(lines) + b"\r\n\r\n")
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(data))
        change = rng.randrange(4)
        if change == 0:
            data[at] = rng.randrange(256)
        elif change == 1:
            del data[at : at + rng.randrange(20)]
        elif change == 2:
            data[at:at] = rng.randbytes(rng.randrange(20))
        else:
            data += data[at:]
    return bytes(data)


async def receive_all(stream: object) -> bytes:
    answer = b""
    while received := await receive(stream):  # type: ignore[arg-type]
        answer += received
    return answer
