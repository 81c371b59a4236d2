"""`kbroker config`: what a config means, and whether a file is good."""

from __future__ import annotations

from pathlib import Path

import click

from kbroker.cli.errors import Misconfigured
from kbroker.cli.lazy import LazyGroup
from kbroker.cli.names import CONFIG
from kbroker.cli.tables import plural, table

config = LazyGroup(
    name="config",
    help="Explain and check configuration.",
    commands_at={
        "docs": ("kbroker.cli.broker.settings:docs", "Explain a config; without a name, list them all."),
        "check": ("kbroker.cli.broker.settings:check", "Check a configuration file."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@click.command()
@click.argument("name", type=CONFIG, metavar="[NAME]", required=False)
def docs(name: str | None) -> None:
    """Explain the config NAME, of topics, brokers or groups; without a name, list them all."""
    from kbroker.config.keys import Scope, default_text
    from kbroker.config.table import TABLE, did_you_mean

    if name is None:
        rows = [
            (key.name, scope.name.lower(), default_text(key)) for scope, keys in TABLE.items() for key in keys.values()
        ]
        click.echo(table(("NAME", "OF", "DEFAULT"), rows))
        return
    found = [TABLE[scope][name] for scope in Scope if name in TABLE[scope]]
    if not found:
        close = did_you_mean(Scope.BROKER, name) or did_you_mean(Scope.TOPIC, name) or did_you_mean(Scope.GROUP, name)
        raise Misconfigured(f"unknown config {name}" + (f", did you mean {close}?" if close else ""))
    click.echo("\n\n".join(_explain(key) for key in found))


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(file: Path) -> None:
    """Check a configuration FILE (TOML or Java properties), as `kbroker start -c FILE` would read it."""
    from kbroker.cli.broker.start import read_config_file
    from kbroker.config import ConfigError, load

    try:
        values = read_config_file(file)
        loaded = load(values, file_name=str(file))
    except ConfigError as error:
        raise Misconfigured(str(error)) from None
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{file}: {plural(len(values), 'setting')}, no mistakes")


def _explain(key: object) -> str:
    import textwrap

    from kbroker.config.docs import documentation
    from kbroker.config.keys import ConfigKey, Update, default_text, expected
    from kbroker.config.units import unit_of

    assert isinstance(key, ConfigKey)
    lines = [f"{key.name} ({key.scope.name.lower()}, {key.type.name})", ""]
    lines += textwrap.wrap(documentation(key), 90, initial_indent="  ", subsequent_indent="  ")
    lines += ["", f"  default   {default_text(key)}", f"  accepts   {expected(key)}"]
    unit = unit_of(key)
    if unit is not None:
        lines.append(f"  units     {unit.examples}, in flags, TOML and the environment; else {unit.word}")
    if key.synonyms:
        lines.append(f"  else      {', then '.join(synonym.name for synonym in key.synonyms)} of the broker")
    if key.update is not Update.READ_ONLY:
        lines.append("  changes   while the broker runs")
    return "\n".join(lines)
