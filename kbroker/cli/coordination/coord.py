"""`kbroker coord`: what a coordination store holds, and moving it to another one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kbroker.cli.errors import Failed, Misconfigured
from kbroker.cli.files import config_option, read_config_file
from kbroker.cli.lazy import LazyGroup
from kbroker.cli.tables import format_option, json_text, plural, table

if TYPE_CHECKING:
    from kbroker.config import BrokerConfig, StoreAddress

T = TypeVar("T")

coord = LazyGroup(
    name="coord",
    help="Look at a coordination store, and move it to another one.",
    commands_at={
        "info": ("kbroker.cli.coordination.coord:info", "Tell what a store is, and what it holds."),
        "copy": ("kbroker.cli.coordination.coord:copy", "Move a cluster's metadata to another store."),
        "adopt-logs": (
            "kbroker.cli.coordination.adopt:adopt_logs",
            "Bring a store that was restored from an older copy up to the logs.",
        ),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

EPILOG = """\b
A STORE is what kbroker.coordination takes: sqlite:PATH, or etcd://HOST:PORT,HOST:PORT,HOST:PORT (etcds:// by TLS). A
broker's own is sqlite:DIR/coord.db, in its data directory DIR. How to get into an etcd (kbroker.etcd.*) is read from
the configuration given with -c, and from KBROKER_ETCD_* in the environment.
"""
file_option = config_option("A broker's configuration: its kbroker.etcd.* are used.")


class StoreType(click.ParamType["StoreAddress"]):
    """A store, as `kbroker.coordination` names it."""

    name = "store"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> StoreAddress:
        """The address; a usage error when it is none."""
        from kbroker.config.checks import parse_store

        try:
            address = parse_store(value)
        except ValueError:
            address = None
        if address is None or not address.text:
            self.fail(f"{value!r} is not sqlite:PATH or etcd://HOST:PORT,HOST:PORT (etcds:// with TLS)", param, ctx)
        return address


@click.command(epilog=EPILOG)
@click.argument("store", type=StoreType(), metavar="STORE")
@file_option
@format_option
def info(store: StoreAddress, file: Path | None, style: str) -> None:
    """Tell what STORE is, and what it holds."""
    told = with_stores(file, [store], lambda stores: _describe(stores[0]))
    if style == "json":
        click.echo(json_text(told))
        return
    kinds = told.pop("keys")
    for name, value in told.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(f"{name.replace('_', ' '):14}{'none' if text in (None, '') else text}")
    if kinds:
        click.echo("\n" + table(("KEYS", "COUNT"), sorted(kinds.items())))


@click.command(epilog=EPILOG)
@click.argument("source", type=StoreType(), metavar="FROM")
@click.argument("target", type=StoreType(), metavar="TO")
@file_option
def copy(source: StoreAddress, target: StoreAddress, file: Path | None) -> None:
    """Move a cluster's metadata from one store to another: topics, partitions, configs, epochs.

    Stop all brokers of the cluster first, and start them with --coordination TO afterwards. FROM is left as it is, but
    no broker can be started with it any more. A copy that was interrupted goes on when it is asked for again.
    """
    from kbroker.cluster.keys import CLUSTER, Keys
    from kbroker.cluster.stores.copying import NotCopied
    from kbroker.cluster.stores.copying import copy as copy_store

    if source.text == target.text:
        raise click.UsageError("FROM and TO are the same store")
    try:
        count = with_stores(
            file, [source, target], lambda both: copy_store(both[0], both[1], target.text, Keys(CLUSTER))
        )
    except NotCopied as error:
        raise Failed(str(error)) from None
    click.echo(f"{plural(count, 'key')} copied and compared. Start the brokers with --coordination {target.text}")


def with_stores(file: Path | None, addresses: list[StoreAddress], work: Callable[[Any], Awaitable[T]]) -> T:
    """What work does with these stores, open. Raises Misconfigured for those that cannot be opened, Failed."""
    import trio

    from kbroker.cluster.store import StoreError
    from kbroker.cluster.stores.opening import StoreMissing
    from kbroker.env.real import real_env

    config = _configured(file)

    async def run() -> T:
        from contextlib import AsyncExitStack

        from kbroker.cluster.stores.opening import open_store

        env = real_env(os.getcwd())
        async with AsyncExitStack() as stack:
            stores = []
            for number, address in enumerate(addresses):
                opening = open_store(address, config, env, is_expected=number == 0)
                try:
                    stores.append(await stack.enter_async_context(opening))
                except (StoreError, StoreMissing) as error:
                    raise Misconfigured(str(error)) from None
            return await work(stores)

    try:
        return trio.run(run)
    except StoreError as error:
        raise Failed(f"the store failed: {error}") from None


def _configured(file: Path | None) -> BrokerConfig:
    """The configuration as a broker would have it, for what it says of etcd."""
    from kbroker.config import ConfigError, load

    values = read_config_file(file) if file else {}
    etcd = {name: value for name, value in values.items() if name.startswith("kbroker.etcd.")}
    environment = {name: value for name, value in os.environ.items() if name.startswith("KBROKER_ETCD_")}
    try:
        return load(etcd, environment, {}, file_name=str(file))
    except ConfigError as error:
        raise Misconfigured(str(error)) from None


async def _describe(store: Any) -> dict[str, Any]:
    from kbroker.cluster.keys import CLUSTER, Keys, decode
    from kbroker.cluster.store import load as load_keys

    keys = Keys(CLUSTER)
    about = await store.info()
    entries = {entry.key: entry for entry in (await load_keys(store, keys.prefix)).entries}
    names = [key.removeprefix(keys.prefix).decode() for key in entries]
    told: dict[str, Any] = {"engine": f"{about.engine} {about.version}", "id": about.id, "revision": about.revision}
    told["cluster"] = decode(entries[keys.cluster].value)["id"] if keys.cluster in entries else None
    told["live_brokers"] = sorted(int(name.removeprefix("brokers/")) for name in names if name.startswith("brokers/"))
    if keys.moved in entries:
        told["moved_to"] = decode(entries[keys.moved].value)["to"]
    told["keys"] = dict(Counter(name.rpartition("/")[0].split("/")[0] or name for name in names))
    return told
