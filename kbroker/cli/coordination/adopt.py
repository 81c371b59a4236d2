"""`kbroker coord adopt-logs`: going on with a store that was restored from an older copy than the logs are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbroker.cli.coordination.coord import EPILOG, StoreType, file_option, with_stores
from kbroker.cli.errors import Failed
from kbroker.cli.files import read_text
from kbroker.cli.numbers import WholeType
from kbroker.cli.tables import plural, table

if TYPE_CHECKING:
    from kbroker.cli.log_files.ends import Ends
    from kbroker.cluster.stores.adopting import Decided
    from kbroker.config import StoreAddress


@click.command(name="adopt-logs", epilog=EPILOG)
@click.argument("store", type=StoreType(), metavar="STORE")
@click.argument(
    "sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="LOGS..."
)  # fmt: skip
@click.option(
    "--lost", "lost", multiple=True, type=WholeType(0), metavar="ID", help="Go on without the logs of this broker."
)
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
@file_option
def adopt_logs(
    store: StoreAddress, sources: tuple[Path, ...], lost: tuple[int, ...], dry_run: bool, file: Path | None
) -> None:
    """Bring STORE, which was restored from an older copy, up to the LOGS of its brokers.

    Stop all brokers first. LOGS are their data directories, or files with what `kbroker log ends --format json DIR`
    tells on another machine; of all brokers. Each partition whose logs go further than the store knows, or in which a
    replica that the store takes for in sync lacks something, goes on with the log that has most, which has all that was
    acknowledged by the replicas in sync; the others copy from it. Nothing is changed in the logs.
    """
    found = [_read(source) for source in sources]
    decided = with_stores(file, [store], lambda stores: _adopt(stores[0], found, lost, dry_run))
    rows = [
        (
            f"{each.topic}-{each.before.index}", each.before.leader, each.after.leader, each.before.leader_epoch,
            each.after.leader_epoch, each.end,
        )
        for each in decided.adopted
    ]  # fmt: skip
    if rows:
        click.echo(table(("PARTITION", "LEADER", "BECOMES", "EPOCH", "BECOMES", "END"), rows))
    names = {end: name for ends in found for name, end in ends.logs}
    for end in decided.unknown:
        click.echo(f"broker {end.broker_id}: {names[end]} is not in the store, and stays as it is", err=True)
    verb = "would go" if dry_run else "goes" if len(rows) == 1 else "go"
    click.echo(f"{plural(len(rows), 'partition')} {verb} on with these logs")


def _read(source: Path) -> Ends:
    """What a directory holds, or a file tells."""
    from kbroker.cli.log_files.ends import ends_below, heard
    from kbroker.cli.log_files.log import held

    try:
        if not source.is_dir():
            return heard(json.loads(read_text(source)))
        with held(source) as holder:
            if holder:
                raise Failed(f"{holder} is writing to {source}: stop it first")
            return ends_below(source)
    except (OSError, ValueError, RecursionError) as error:
        raise Failed(f"{source} tells of no broker's logs: {error}") from None


async def _adopt(store: Any, found: list[Ends], lost: tuple[int, ...], dry_run: bool) -> Decided:
    """Decide, and write it."""
    from kbroker.cluster.keys import CLUSTER, Keys
    from kbroker.cluster.stores.adopting import NotAdopted, decide, read_image, write
    from kbroker.env.real import real_env

    keys = Keys(CLUSTER)
    try:
        image = await read_image(store, keys)
        for ends in found:
            if ends.cluster_id != image.cluster_id:
                raise Failed(f"broker {ends.broker_id}'s data is of cluster {ends.cluster_id}, not {image.cluster_id}")
        read = [ends.broker_id for ends in found]
        decided = decide(image, [end for ends in found for _, end in ends.logs], read, lost)
        if decided.missing:
            raise Failed(
                f"brokers {', '.join(map(str, decided.missing))} may have more than these logs have: name theirs, too; "
                "if they are gone for good, --lost ID goes on without them"
            )
        if not dry_run and decided.adopted:
            await write(store, real_env(os.getcwd()).clock, keys, decided.adopted)
    except NotAdopted as error:
        raise Failed(str(error)) from None
    return decided
