"""Which store a configuration names, and that a lost one is not made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbroker.cluster.store import Unavailable
from kbroker.cluster.stores.opening import StoreMissing, open_store
from kbroker.config import BrokerConfig, ConfigError, load
from kbroker.env.real import real_env
from tests.cluster.stores.test_conformance import put


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
