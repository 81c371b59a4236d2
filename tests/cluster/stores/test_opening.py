"""Which store a configuration names, and that a lost one is not made anew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from kbroker.cluster.store import CoordinationStore, Unavailable, Unreachable
from kbroker.cluster.stores import opening
from kbroker.cluster.stores.memory import MemoryStore
from kbroker.cluster.stores.opening import StoreMissing, open_store, open_when_reachable
from kbroker.config import BrokerConfig, ConfigError, load
from kbroker.config.checks import parse_store
from kbroker.env.real import real_env
from tests.cluster.stores.test_conformance import put
from tests.cluster.tools import RunClock


def configured(text: str) -> BrokerConfig:
    return load({"kbroker.coordination": text})


async def test_without_a_word_the_store_is_a_file_in_the_data_directory(tmp_path: Path) -> None:
    async with open_store(load({}).store, load({}), real_env(str(tmp_path))) as store:
        assert (await store.info()).engine == "sqlite"
    assert (tmp_path / "coord.db").stat().st_size > 0


async def test_two_data_directories_share_a_file(tmp_path: Path) -> None:
    address = configured(f"sqlite:{tmp_path}/shared/agreed.db").store
    async with open_store(address, load({}), real_env(str(tmp_path / "1"))) as one:
        async with open_store(address, load({}), real_env(str(tmp_path / "2"))) as two:
            revision = await put(one, b"a", b"1")
            entry = await two.get(b"a")
            assert entry is not None and entry.mod_revision == revision
    assert not list((tmp_path / "1").iterdir()) and not list((tmp_path / "2").iterdir())


@pytest.mark.parametrize("place", ["", "sqlite:{}/shared.db"])
@pytest.mark.parametrize("content", [None, b""])
async def test_a_store_that_should_be_there_is_not_made_anew(tmp_path: Path, place: str, content: bytes | None) -> None:
    file = tmp_path / ("shared.db" if place else "coord.db")
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StoreMissing, match=f"{file} is lost or empty"):
        async with open_store(
            configured(place.format(tmp_path)).store, load({}), real_env(str(tmp_path)), is_expected=True
        ):
            pass
    assert file.exists() == (content is not None) and len(list(tmp_path.iterdir())) == int(file.exists())


async def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no database at all" * 100)
    for path, why in (("notes", "file is not a database"), ("notes/coord.db", "File exists|Not a directory")):
        address = configured(f"sqlite:{tmp_path}/{path}").store
        with pytest.raises(Unavailable, match=f"^{tmp_path}/{path} cannot be used: ({why})"):
            async with open_store(address, load({}), real_env(str(tmp_path / "data"))):
                pass


@pytest.mark.parametrize("text", ["sqlite:", "sqlite", "sqlite:dir/", "coord.db", "zookeeper://a:2181", "SQLITE:a"])
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match="kbroker.coordination: .* is not allowed: expected .*sqlite:PATH"):
        configured(text)


@pytest.mark.parametrize("patience_s", [3.0, 10.0])
async def test_a_store_that_does_not_answer_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, patience_s: float
) -> None:
    tries = 0

    @asynccontextmanager
    async def fake(*args: object, **options: object) -> AsyncIterator[CoordinationStore]:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise Unreachable("etcd://a:2379 cannot be used: nobody answers")
        yield MemoryStore(RunClock())

    monkeypatch.setattr(opening, "open_store", fake)
    env = replace(real_env(str(tmp_path)), clock=RunClock())
    waiting = open_when_reachable(load({}).store, load({}), env, is_expected=False, patience_s=patience_s)
    if patience_s == 10.0:
        async with waiting as store:
            assert (await store.info()).engine == "memory" and tries == 4
    else:
        with pytest.raises(Unreachable, match="nobody answers"):
            async with waiting:
                pass
        assert trio.current_time() == pytest.approx(4.0, abs=0.1)


async def test_an_etcd_that_cannot_be_dialled_is_named(tmp_path: Path) -> None:
    config = load({"kbroker.coordination": "etcds://127.0.0.1:1", "kbroker.etcd.tls.ca": "/nowhere/ca.pem"})
    with pytest.raises(Unavailable, match="^etcds://127.0.0.1:1 cannot be used: /nowhere/ca.pem: No such file"):
        async with open_store(config.store, config, real_env(str(tmp_path))):
            pass
    config = configured("etcd://127.0.0.1:1,127.0.0.1:2")
    with pytest.raises(Unreachable, match=r"^etcd://127.0.0.1:1,127.0.0.1:2 cannot be used: .*refused.*; .*refused"):
        async with open_store(config.store, config, real_env(str(tmp_path))):
            pass


@pytest.mark.parametrize(
    ("text", "members", "is_tls"),
    [
        ("etcd://a", ("a:2379",), False),
        ("etcds://a:1, b-2.example.org:65535", ("a:1", "b-2.example.org:65535"), True),
        ("etcd://[::1]:2379,[fe80::1%eth0]", ("[::1]:2379", "[fe80::1%eth0]:2379"), False),
    ],
)
def test_members_of_an_etcd(text: str, members: tuple[str, ...], is_tls: bool) -> None:
    address = configured(text).store
    assert (address.engine, address.members, address.is_tls) == ("etcd", members, is_tls)
    assert parse_store(address.text) == address


@pytest.mark.parametrize(
    "text",
    ["etcd://", "etcd:a", "etcd://a,", "etcd://a:0", "etcd://a:65536", "etcd://u:p@a", "etcd://a/b", "etcd://a,a"],
)
def test_what_is_no_etcd_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected .*etcd://HOST:PORT,HOST:PORT"):
        configured(text)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"user": "a"}, "kbroker.etcd.user and kbroker.etcd.password belong together"),
        ({"password": "a"}, "kbroker.etcd.user and kbroker.etcd.password belong together"),
        ({"tls.key": "a"}, "kbroker.etcd.tls.certificate and kbroker.etcd.tls.key belong together"),
        ({"tls.ca": "a"}, "kbroker.etcd.tls.ca is set, and etcd://a:2379 is without TLS: write etcds://"),
    ],
)
def test_what_does_not_go_together_is_told(values: dict[str, str], told: str) -> None:
    named = {f"kbroker.etcd.{name}": value for name, value in values.items()}
    with pytest.raises(ConfigError, match=told):
        load({"kbroker.coordination": "etcd://a", **named})
