"""`kbroker config`: what a config means, whether a file is good, what a broker starts with. Of brokers that run:
dynamic.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from kbroker.cli.broker.dynamic import HIDDEN, Setting, running
from kbroker.cli.broker.start import CONFIG_OPTIONS, config_flags, configured, start
from kbroker.cli.client.connecting import Connection, connection_options
from kbroker.cli.errors import Misconfigured
from kbroker.cli.files import read_text
from kbroker.cli.lazy import LazyGroup
from kbroker.cli.names import CONFIG
from kbroker.cli.numbers import WholeType
from kbroker.cli.tables import format_option, json_text, plural, table, visible

if TYPE_CHECKING:
    from kbroker.config import BrokerConfig
    from kbroker.config.keys import ConfigKey

config = LazyGroup(
    name="config",
    help="Explain, check, show and change the configuration of brokers.",
    commands_at={
        "docs": ("kbroker.cli.broker.settings:docs", "Explain a config; without a name, list them all."),
        "check": ("kbroker.cli.broker.settings:check", "Check a configuration file."),
        "show": ("kbroker.cli.broker.settings:show", "Show the values a broker has, and where they come from."),
        "list": ("kbroker.cli.broker.dynamic:list_configs", "List what was set while brokers run."),
        "set": ("kbroker.cli.broker.dynamic:set_configs", "Change configs of brokers that run."),
    },
    aliases={"ls": "list", "alter": "set"},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@click.command()
@click.argument("name", type=CONFIG, metavar="[NAME]", required=False)
@format_option
def docs(name: str | None, style: str) -> None:
    """Explain the config NAME, of topics, brokers or groups; without a name, list them all."""
    from kbroker.config.keys import Scope, default_text
    from kbroker.config.table import TABLE, did_you_mean

    if name is None:
        found = [(key, scope) for scope, keys in TABLE.items() for key in keys.values()]
    else:
        found = [(TABLE[scope][name], scope) for scope in Scope if name in TABLE[scope]]
    if name is not None and not found:
        close = did_you_mean(Scope.BROKER, name) or did_you_mean(Scope.TOPIC, name) or did_you_mean(Scope.GROUP, name)
        raise Misconfigured(f"unknown config {name}" + (f", did you mean {close}?" if close else ""))
    if style == "json":
        click.echo(json_text([_documented(key) for key, _ in found]))
    elif name is None:
        click.echo(table(("NAME", "OF", "DEFAULT"), [(k.name, of.name.lower(), default_text(k)) for k, of in found]))
    else:
        click.echo("\n\n".join(_explain(key) for key, _ in found))


def _documented(key: ConfigKey) -> dict[str, object]:
    from kbroker.config import format_value
    from kbroker.config.docs import documentation
    from kbroker.config.keys import Scope, Update, expected

    return {
        "name": key.name,
        "scope": key.scope.name,
        "type": key.type.name,
        "default": format_value(key.default),
        "accepts": expected(key),
        "synonyms": [synonym.name for synonym in key.synonyms],
        "dynamic": key.scope is not Scope.BROKER or key.update is not Update.READ_ONLY,
        "documentation": documentation(key),
    }


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@format_option
def check(file: Path, style: str) -> None:
    """Check a configuration FILE (TOML or Java properties), as `kbroker start -c FILE` would read it.

    All its mistakes are told, each with its line; exit status 2 when there is one.
    """
    from kbroker.config.review import review

    found = review(read_text(file), str(file))
    mistakes = [each for each in found.findings if each.is_mistake]
    if style == "json":
        click.echo(json_text([{"file": str(file), **each._asdict()} for each in found.findings]))
    for each in found.findings if style != "json" else ():
        place = f"{file}:{each.line}" if each.line else str(file)
        click.echo(visible(f"{place}: {'' if each.is_mistake else 'warning: '}{each.text}"))
    if mistakes:
        raise Misconfigured(f"{file}: {plural(found.settings, 'setting')}, {plural(len(mistakes), 'mistake')}")
    click.echo(f"{file}: {plural(found.settings, 'setting')}, no mistakes", err=style == "json")


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="All configs, not only those that were set.")
@click.option("--origin", "with_origin", is_flag=True, help="Where each value comes from.")
@click.option("--broker", "broker_id", type=WholeType(0), metavar="N", help="With -b: which broker.")
@format_option
@connection_options
def show(
    connection: Connection,
    everything: bool,
    with_origin: bool,
    broker_id: int | None,
    style: str,
    file: Path | None,
    overrides: Sequence[str],
    listens: Sequence[str],
    advertises: Sequence[str],
    **of_flags: Any,
) -> None:
    """Show the values a broker would start with, given the options of `kbroker start`, the file and the environment.

    With -b or --broker: the values of a broker that runs.

    \b
      kbroker config show --origin -c server.properties --override num.partitions=3
      kbroker config show --origin -b localhost:9092
    """
    if _was_given("servers") or broker_id is not None:
        if any(map(_was_given, CONFIG_OPTIONS)):
            raise click.UsageError("a broker that runs has its values: no -c, --override or the like")
        rows = running(connection, broker_id)
    else:
        config = configured(file, overrides, listens, advertises, config_flags(**of_flags))
        rows = _effective(config)
    rows = [row for row in rows if everything or row.is_set]
    if style == "json":
        click.echo(json_text([{key: value for key, value in row._asdict().items() if key != "is_set"} for row in rows]))
    elif rows:
        headings = ("NAME", "VALUE", "ORIGIN") if with_origin else ("NAME", "VALUE")
        click.echo(table(headings, [row[: len(headings)] for row in rows]))
    else:
        click.echo("all values are the defaults (-a shows them)", err=True)


show.params += [each for each in start.params if each.name in CONFIG_OPTIONS]


def _was_given(option: str) -> bool:
    """On the command line, not by the environment."""
    return click.get_current_context().get_parameter_source(option) is ParameterSource.COMMANDLINE


def _effective(config: BrokerConfig) -> list[Setting]:
    from kbroker.config import TABLE, Scope, format_value

    return [
        Setting(
            key.name,
            HIDDEN if key.sensitive and config.is_set(key.name) else format_value(config.get(key.name)),
            config.origin(key.name),
            config.is_set(key.name),
        )
        for key in TABLE[Scope.BROKER].values()
    ]


def _explain(key: ConfigKey) -> str:
    import textwrap

    from kbroker.config.docs import documentation
    from kbroker.config.keys import Update, default_text, expected
    from kbroker.config.units import unit_of

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
