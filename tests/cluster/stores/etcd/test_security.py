"""Who is let into an etcd, and how those are told who are not."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from kbroker.cluster.keys import CLUSTER, Keys
from kbroker.cluster.store import Unavailable, prefix_end
from kbroker.cluster.stores.etcd.messages import classes
from kbroker.env import RpcChannel, Tls
from kbroker.env.features import Features
from kbroker.env.real import RealClock
from kbroker.env.real_net import RealNet
from tests.cluster.stores.etcd import servers
from tests.cluster.stores.etcd.servers import Member
from tests.cluster.stores.test_conformance import put
from tests.cluster.tools import PATIENCE_S

PREFIX = Keys(CLUSTER).prefix
PROTO = """
message AuthUserAddRequest { string name = 1; string password = 2; }
message AuthRoleAddRequest { string name = 1; }
message Permission { int32 permType = 1; bytes key = 2; bytes range_end = 3; }
message AuthRoleGrantPermissionRequest { string name = 1; Permission perm = 2; }
message AuthUserGrantRoleRequest { string user = 1; string role = 2; }
message AuthAuthEnableRequest { }
"""
READWRITE = 2

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("program", servers.programs())]


@pytest.fixture
async def single(program: Path, tmp_path: Path) -> AsyncIterator[list[Member]]:
    async with servers.etcd(program, tmp_path) as members:
        yield members


async def protect(channel: RpcChannel) -> None:
    """Users root and kbroker, each with its name as password; kbroker may read and write our keys."""
    pb = classes(PROTO)

    async def call(name: str, /, **fields: Any) -> None:
        await channel.call(f"/etcdserverpb.Auth/{name}", pb[f"Auth{name}Request"](**fields).SerializeToString(), 5.0)

    await call("RoleAdd", name="broker")
    allowed = pb["Permission"](permType=READWRITE, key=PREFIX, range_end=prefix_end(PREFIX))
    await call("RoleGrantPermission", name="broker", perm=allowed)
    await call("RoleAdd", name="root")
    for user, role in (("root", "root"), ("kbroker", "broker")):
        await call("UserAdd", name=user, password=user)
        await call("UserGrantRole", user=user, role=role)
    await call("AuthEnable")


@pytest.fixture
async def protected(single: list[Member]) -> list[Member]:
    channel = RealNet(Features.detect()).rpc_channel(single[0].address, None)
    await protect(channel)
    channel.close()
    return single


async def test_a_user_with_a_password_gets_in_again_after_a_restart(protected: list[Member]) -> None:
    """Which makes an etcd forget its tokens. Sessions and watches as well."""
    (member,) = protected
    async with servers.opened(protected, RealClock(), user="kbroker", password="kbroker") as store:
        start = (await store.info()).revision + 1
        async with store.session(6.0) as session, store.watch(PREFIX, start) as batches:
            first = await put(store, PREFIX + b"a", b"1", lease=session.id)
            assert (await anext(batches)).revision == first
            member.kill()
            member.start(protected)
            await member.wait_healthy()
            assert await store.refresh(session.id)
            second = await put(store, PREFIX + b"b", b"2")
            with trio.fail_after(PATIENCE_S):
                while (await anext(batches)).revision < second:
                    pass
        assert await store.get(PREFIX + b"a") is None


@pytest.mark.parametrize(
    ("user", "password", "told"),
    [
        ("", "", "it asks who we are: set kbroker.etcd.user"),
        ("kbroker", "guessed", "it does not accept kbroker.etcd.user with this password"),
        ("nobody", "nobody", "it does not accept kbroker.etcd.user with this password"),
    ],
)
async def test_who_is_not_known_is_told(protected: list[Member], user: str, password: str, told: str) -> None:
    with pytest.raises(Unavailable, match=told):
        async with servers.opened(protected, RealClock(), user=user, password=password):
            pass


async def test_a_user_without_a_role_for_our_keys_is_told_which(protected: list[Member]) -> None:
    async with servers.opened(protected, RealClock(), user="kbroker", password="kbroker") as store:
        with pytest.raises(Unavailable, match="lacks a role that may read and write what begins with /kb/kb"):
            await put(store, b"/elsewhere", b"")
        with pytest.raises(Unavailable, match="the user lacks a role"):
            async with store.watch(b"/elsewhere", 1) as batches:
                await anext(batches)


async def test_a_user_where_there_are_none_is_told(single: list[Member]) -> None:
    with pytest.raises(Unavailable, match="it knows no users: leave kbroker.etcd.user empty"):
        async with servers.opened(single, RealClock(), user="kbroker", password="kbroker"):
            pass


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """ca, server and client (CN kbroker), as NAME.pem and NAME.key."""
    run = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]
    for name, subject, *more in (
        ("ca", "/CN=authority"),
        ("stranger", "/CN=authority"),
        ("server", "/CN=etcd", "-addext", "subjectAltName=IP:127.0.0.1"),
        ("client", "/CN=kbroker"),
    ):
        ca = ["-CA", str(tmp_path / "ca.pem"), "-CAkey", str(tmp_path / "ca.key")]
        by = ca if name in ("server", "client") else []
        files = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")]
        try:
            subprocess.run([*run, subject, *files, *by, *more], check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("needs openssl")
    return tmp_path


async def test_certificates_of_both_sides_are_looked_at(program: Path, tmp_path: Path, certificates: Path) -> None:
    member = Member(program, tmp_path, "m1", scheme="https")
    ca, server, key = (str(certificates / name) for name in ("ca.pem", "server.pem", "server.key"))
    member.start([member], "--cert-file", server, "--key-file", key, "--client-cert-auth", "--trusted-ca-file", ca)
    ours = Tls(ca, str(certificates / "client.pem"), str(certificates / "client.key"))
    try:
        await _wait_open(member, ours)
        channel = RealNet(Features.detect()).rpc_channel(member.address, ours)
        await protect(channel)
        channel.close()
        async with servers.opened([member], RealClock(), tls=ours) as store:  # the certificate says who we are
            assert await put(store, PREFIX + b"a", b"1") > 0
            with pytest.raises(Unavailable, match="the user lacks a role"):
                await put(store, b"/elsewhere", b"")
        for tls, told in (
            (ours._replace(ca=str(certificates / "stranger.pem")), "CERTIFICATE_VERIFY_FAILED"),
            (Tls(ca), "."),  # it hangs up
            (None, "."),
        ):
            with pytest.raises(Unavailable, match=told):
                async with servers.opened([member], RealClock(), tls=tls):
                    pass
        with pytest.raises(FileNotFoundError, match="nothing.pem"):
            async with servers.opened([member], RealClock(), tls=Tls("nothing.pem")):
                pass
    finally:
        member.kill()


async def _wait_open(member: Member, tls: Tls) -> None:
    with trio.fail_after(servers.HEALTH_S):
        while True:
            try:
                async with servers.opened([member], RealClock(), tls=tls):
                    return
            except Unavailable:
                await trio.sleep(0.1)
