"""`kbroker feature`: what the cluster's brokers can do, what they have agreed on, and changing that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from kafka_wire.api import ApiKey
from kafka_wire.messages.admin import FeatureUpdateKey, UpdateFeaturesRequest
from kafka_wire.messages.metadata import ApiVersionsRequest
from kbroker import __version__
from kbroker.cli.client import bridge
from kbroker.cli.client.connecting import Connection, admin, check_code, connection_options
from kbroker.cli.errors import Failed
from kbroker.cli.lazy import LazyGroup
from kbroker.cli.tables import format_option, json_text, table

FEATURES_SINCE = 3  # versions of ApiVersions that tell of them
UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE = 1, 2, 3  # KIP-778
TIMEOUT_MS = 10_000

feature = LazyGroup(
    name="feature",
    help="Show and change the feature levels of a cluster.",
    commands_at={
        "list": ("kbroker.cli.features.feature:list_features", "List features: what is possible, what is agreed on."),
        "upgrade": ("kbroker.cli.features.feature:upgrade", "Raise levels, once every broker can do it."),
        "downgrade": ("kbroker.cli.features.feature:downgrade", "Lower levels; 0 is a feature that is not in use."),
    },
    aliases={"ls": "list", "describe": "list"},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class Level(NamedTuple):
    """A feature: its range in the broker that was asked, and its level in the cluster. low None: the broker does not
    tell, as the range begins with 0 (it is old)."""

    feature: str
    low: int | None
    high: int | None
    level: int


class FeatureType(click.ParamType[tuple[str, int]]):
    """NAME=LEVEL."""

    name = "feature"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """The pair; a usage error when it is none."""
        if isinstance(value, tuple):
            return value
        name, equals, level = str(value).partition("=")
        if not (equals and name and level.isdecimal() and int(level) < 32768):
            self.fail(f"{value!r} is not NAME=LEVEL, as in transaction.version=2", param, ctx)
        return name, int(level)


@click.command("list")
@format_option
@connection_options
def list_features(connection: Connection, style: str) -> None:
    """List features: the levels that are possible, and the one that the cluster is at."""
    with admin(connection) as client:
        levels, epoch = read(client)
    if style == "json":
        click.echo(json_text({"epoch": epoch, "features": [each._asdict() for each in levels]}))
    elif levels:
        click.echo(table(("FEATURE", "LOWEST", "HIGHEST", "LEVEL"), levels))
    else:
        click.echo("no features", err=True)


@click.command()
@click.option(
    "--feature",
    "wanted",
    type=FeatureType(),
    multiple=True,
    metavar="NAME=LEVEL",
    help="The feature, and the level it is to have. Repeatable.  [default: all, as far as this broker can]",
)
@click.option("--dry-run", is_flag=True, help="Only ask whether it would be done.")
@connection_options
def upgrade(connection: Connection, wanted: Sequence[tuple[str, int]], dry_run: bool) -> None:
    """Raise feature levels, all that are named or none. There may be no way back: see `kbroker feature downgrade`."""
    with admin(connection) as client:
        levels = {each.feature: each for each in read(client)[0]}
        goals = _pairs(wanted) or {each.feature: each.high for each in levels.values() if each.high is not None}
        goals = {name: level for name, level in goals.items() if not _is_at(levels, name, level)}
        _update(client, goals, UPGRADE, dry_run)
    _tell(goals, "raised", dry_run)


@click.command()
@click.option(
    "--feature", "wanted", type=FeatureType(), multiple=True, required=True, metavar="NAME=LEVEL",
    help="The feature, and the level it is to have. Repeatable.",
)  # fmt: skip
@click.option("--unsafe", is_flag=True, help="Even if something the cluster knows is lost by it.")
@click.option("--dry-run", is_flag=True, help="Only ask whether it would be done.")
@connection_options
def downgrade(connection: Connection, wanted: Sequence[tuple[str, int]], unsafe: bool, dry_run: bool) -> None:
    """Lower feature levels, all that are named or none."""
    goals = _pairs(wanted)
    with admin(connection) as client:
        levels = {each.feature: each for each in read(client)[0]}
        goals = {name: level for name, level in goals.items() if not _is_at(levels, name, level)}
        _update(client, goals, UNSAFE_DOWNGRADE if unsafe else SAFE_DOWNGRADE, dry_run)
    _tell(goals, "lowered", dry_run)


def read(client: Any) -> tuple[list[Level], int]:
    """The features by name, and the epoch of their levels. Raises Failed."""
    version = bridge.supported_version(client, ApiKey.API_VERSIONS)
    if version is None or version < FEATURES_SINCE:
        raise Failed("this broker does not tell of features (KIP-584)")
    request = ApiVersionsRequest(client_software_name="kbroker-cli", client_software_version=__version__)
    told = bridge.send(client, None, request, ApiKey.API_VERSIONS, version)
    check_code(told.error_code, "the features were not told")
    ranges = {each.name: (each.min_version, each.max_version) for each in told.supported_features}
    levels = {each.name: each.max_version_level for each in told.finalized_features}
    found = [Level(name, *ranges.get(name, (None, None)), levels.get(name, 0)) for name in sorted(ranges | levels)]
    return found, told.finalized_features_epoch


def _pairs(wanted: Sequence[tuple[str, int]]) -> dict[str, int]:
    pairs = dict(wanted)
    if len(pairs) < len(wanted):
        raise click.UsageError("a feature is named twice")
    return pairs


def _is_at(levels: Mapping[str, Level], name: str, level: int) -> bool:
    return name in levels and levels[name].level == level


def _update(client: Any, goals: Mapping[str, int], upgrade_type: int, dry_run: bool) -> None:
    if not goals:
        return
    version = bridge.supported_version(client, ApiKey.UPDATE_FEATURES)
    if version is None or version < 1:
        raise Failed("this broker cannot change feature levels (KIP-778)")
    keys = [
        FeatureUpdateKey(feature=name, max_version_level=level, upgrade_type=upgrade_type)
        for name, level in goals.items()
    ]
    request = UpdateFeaturesRequest(timeout_ms=TIMEOUT_MS, feature_updates=keys, validate_only=dry_run)
    answer = bridge.send(client, None, request, ApiKey.UPDATE_FEATURES, version)
    check_code(answer.error_code, "nothing was changed", answer.error_message)


def _tell(goals: Mapping[str, int], done: str, dry_run: bool) -> None:
    if not goals:
        click.echo("nothing to do", err=True)
    for name, level in goals.items():
        click.echo(f"{name} {'can be' if dry_run else 'was'} {done} to {level}")
