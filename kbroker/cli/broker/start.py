"""`kbroker start`: flags, file and environment into a BrokerConfig, then `serve`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kbroker.cli.broker.layout import BROKERS_MAX, refuse_several
from kbroker.cli.broker.logs import LEVELS
from kbroker.cli.broker.service.options import Flags, service_options
from kbroker.cli.errors import EXIT_FAILED, Failed, Misconfigured
from kbroker.cli.files import config_option, read_config_file, read_text
from kbroker.cli.numbers import WholeType

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from kbroker.cli.broker.seed.wishes import Wish
    from kbroker.cli.broker.supervised import Starter
    from kbroker.config import BrokerConfig, Derive

_EPILOG = """
Precedence: flag > KBROKER_* > KAFKA_* > file > default. Names are Kafka's: NUM_PARTITIONS in the environment is
num.partitions. `kbroker config docs` lists them. CTRL+C or SIGTERM stops the broker cleanly, with exit status 0; a
second one at once, with 130; `kbroker stop` does the same from elsewhere. Status 2: bad configuration, port or data
directory in use.
"""


class _Start(click.Command):
    """Where to listen is one option, --listen; servers of other kinds have two, and click would mean those of HTTP."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, with a hint for who asks for --port or --host."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name in ("--port", "--host", "--bind"):
                ctx.fail(f"no option {error.option_name!r}: where to listen is --listen HOST:PORT")
            raise


@click.command(cls=_Start, epilog=_EPILOG)
@config_option("Configuration: TOML (*.toml) or Java properties (Kafka's server.properties works).")
@click.option(
    "--listen",
    "listens",
    metavar="[NAME=]HOST:PORT",
    multiple=True,
    help="Where to listen; port 0 picks one. Repeatable, with names.  [default: 127.0.0.1:9092]",
)
@click.option(
    "--advertise",
    "advertises",
    metavar="[NAME=]HOST:PORT",
    multiple=True,
    help="The address clients are told, where it differs; NAME is a listener's. Repeatable.",
)
@click.option("--data-dir", metavar="DIR", help="Where data is kept, made if absent.  [default: ./kbroker-data]")
@click.option(
    "--coordination",
    metavar="STORE",
    help="Where brokers agree: sqlite:PATH (for one machine) or etcd://HOST:PORT,...  [default: coord.db in DIR]",
)
@click.option("--memory", is_flag=True, help="Keep data in memory: everything is lost on exit.")
@click.option(
    "--brokers",
    type=WholeType(1, BROKERS_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="A cluster of N brokers on this machine, ports and node ids counting up.",
)
@click.option(
    "--http-port",
    type=WholeType(0, 65535),
    metavar="PORT",
    help="Serve metrics, health and a JSON API over HTTP; port 0 picks one.  [default: off]",
)
@click.option("--http-host", metavar="HOST", help="The address --http-port is served at.  [default: 127.0.0.1]")
@click.option(
    "--override",
    "overrides",
    shell_complete=lambda *so_far: _completed(*so_far),
    metavar="NAME=VALUE",
    multiple=True,
    help="Set a config: log.retention.ms=7d. Repeatable.",
)
@click.option(
    "--topic",
    "topics",
    metavar="NAME[:PARTITIONS[:REPLICAS]][,CONFIG=VALUE...]",
    multiple=True,
    help="A topic to have from the start. Repeatable.",
)
@click.option(
    "--seed",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="KBROKER_SEED",
    metavar="FILE",
    help="Topics with configs and records to have from the start: TOML (*.toml) or JSON lines.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    envvar="KBROKER_LOG_LEVEL",
    help="Write lines of this level and above to stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json"]),
    default="auto",
    envvar="KBROKER_LOG_FORMAT",
    show_default=True,
    help="auto: for people on a terminal, dated lines into a file.",
)
@service_options
@click.option("--supervised", type=int, hidden=True)  # said by `--brokers` to each broker: how many to wait for
def start(
    file: Path | None,
    listens: Sequence[str],
    advertises: Sequence[str],
    data_dir: str | None,
    coordination: str | None,
    memory: bool,
    brokers: int,
    http_port: int | None,
    http_host: str | None,
    overrides: Sequence[str],
    topics: Sequence[str],
    seed: Path | None,
    log_level: str,
    log_format: str,
    supervised: int | None,
    service: Flags,
) -> int:
    """Start a broker, or several. No setup step: it is ready when it says so."""
    from kbroker.cli.broker.logs import set_up

    if memory and data_dir:
        raise click.UsageError("--memory and --data-dir exclude each other")
    given = config_flags(data_dir, coordination, http_port, http_host)
    set_up(log_level, log_format)
    plain = log_format == "json"
    starter = service.starter(supervised)

    def run() -> int:
        wishes = _wishes(topics, seed)
        config = configured(file, overrides, listens, advertises, given)
        if service.detach:
            return service.run_detached("" if memory else config.data_dir)
        ties = service.ties(starter)
        if supervised:
            set_up(log_level, log_format, node_id=config.node_id)
        elif _is_container():
            from kbroker.cli.broker.container import Testcontainers, check

            check(config, os.environ)
            ties = ties._replace(others=(Testcontainers(),))
        if brokers > 1:
            from kbroker.cli.broker.supervisor import Orders, supervise

            options = ["--log-level", log_level, "--log-format", log_format, *(["--config", str(file)] if file else [])]
            options += [f"--override={text}" for text in overrides]
            first = [f"--topic={text}" for text in topics] + ([f"--seed={seed}"] if seed else [])
            with _directory(config, memory) as (path, place):
                return supervise(config, Orders(brokers, options, first, path, place, plain, ties))
        from kbroker.cli.broker.serve import serve

        if not memory and not supervised:
            refuse_several(config.data_dir)
        with _directory(config, memory) as (path, place):
            return serve(config, path, place, wishes=wishes, plain=plain, ties=ties, supervised=supervised)

    return _told(run, starter, is_json=plain and not service.detach, in_words=not supervised)


def _directory(config: BrokerConfig, memory: bool) -> AbstractContextManager[tuple[str, str]]:
    """Where data is, as a path and in words."""
    if not memory:
        return nullcontext((config.data_dir, config.data_dir))
    from kbroker.cli.broker.memory_directory import memory_directory

    return memory_directory()


def _completed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    from kbroker.cli.names import BROKER_SETTING

    return BROKER_SETTING.shell_complete(ctx, param, incomplete)


def _told(run: Callable[[], int], starter: Starter | None, *, is_json: bool, in_words: bool) -> int:
    """Run it; a start that fails is told to who has started this process, and on stderr: as an event where the log is
    JSON, else in words; but for one of several brokers, as its supervisor tells of it."""
    log = logging.getLogger("kbroker")
    try:
        return run()
    except Failed as error:
        if starter is not None:
            starter.tell_failed(error.message)
        if in_words and not is_json:
            raise
        if in_words:
            from kbroker.events import START_FAILED, tell

            tell(log, START_FAILED, reason=error.message, status=error.exit_code)
        return error.exit_code
    except Exception:
        if starter is None:
            raise
        log.critical("the broker failed", exc_info=True)
        return EXIT_FAILED


def config_flags(
    data_dir: str | None, coordination: str | None, http_port: int | None, http_host: str | None
) -> dict[str, str | int | None]:
    """The configs that these flags of `start` say."""
    return {
        "kbroker.data.dir": data_dir,
        "kbroker.coordination": coordination,
        "kbroker.http.port": http_port,
        "kbroker.http.host": http_host,
    }


def configured(
    file: Path | None,
    overrides: Sequence[str] = (),
    listens: Sequence[str] = (),
    advertises: Sequence[str] = (),
    of_flags: Mapping[str, str | int | None] | None = None,
) -> BrokerConfig:
    """What a command line, its file and the environment come to. of_flags: as in `_flags`. Raises Misconfigured."""
    from kbroker.config import ConfigError, load

    flags = _flags(overrides, listens, advertises, of_flags or {})
    try:
        values = read_config_file(file) if file else {}
        return load(values, os.environ, flags, file_name=str(file), derived=_derived(listens))
    except ConfigError as error:
        raise Misconfigured(str(error)) from None


# The options of `start` that say configs, and the configs that have flags of their own.
CONFIG_OPTIONS = ("file", "overrides", "listens", "advertises", "data_dir", "coordination", "http_port", "http_host")
FLAGS = {
    "listeners": "--listen",
    "advertised.listeners": "--advertise",
    "kbroker.data.dir": "--data-dir",
    "kbroker.coordination": "--coordination",
    "kbroker.http.port": "--http-port",
    "kbroker.http.host": "--http-host",
}


def _flags(
    overrides: Sequence[str],
    listens: Sequence[str],
    advertises: Sequence[str],
    of_flags: Mapping[str, str | int | None],
) -> dict[str, str]:
    """Configs and values: of --override the last counts; who says one by --override and its own flag is refused.

    of_flags: the configs that have flags of their own, and what these say.
    """
    given: dict[str, str] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--override {text!r} is not NAME=VALUE")
        given[name.strip()] = value
    flags: dict[str, str] = {}
    if listens or advertises:
        from kbroker.cli.broker.listeners import listener_configs

        flags |= listener_configs(listens, advertises)
    flags |= {name: str(value) for name, value in of_flags.items() if value is not None}
    twice = next((name for name in flags if name in given), None)
    if twice is not None:
        raise click.UsageError(f"{FLAGS[twice]} and --override {twice} exclude each other")
    return given | flags


def _is_container() -> bool:
    """Whether this is an image's program: container.py."""
    return os.environ.get("KBROKER_CONTAINER", "0") != "0"


def _derived(listens: Sequence[str]) -> dict[str, Derive]:
    """Who derives configs from those that are given, by what that is called."""
    derived: dict[str, Derive] = {}
    if listens:
        from kbroker.cli.broker.listeners import plain_protocols

        derived["--listen"] = plain_protocols(listens)
    if _is_container():
        from kbroker.cli.broker.container import defaults

        derived["KBROKER_CONTAINER"] = defaults
    return derived


def _wishes(topics: Sequence[str], seed: Path | None) -> list[Wish]:
    """The topics to have from the start. Raises Misconfigured for a seed with mistakes, and a usage error."""
    if not topics and not seed:
        return []
    from kbroker.cli.broker.seed.wishes import merged, wish

    try:
        named = [wish(text) for text in topics]
    except ValueError as error:
        raise click.UsageError(f"--topic {error}") from None
    return merged(named, _seeded(seed) if seed else [])


def _seeded(file: Path) -> list[Wish]:
    from kbroker.cli.broker.seed.reading import SeedError, read_seed

    try:
        return read_seed(read_text(file), str(file))
    except SeedError as error:
        raise Misconfigured("\n".join(f"{file}:{each.line}: {each.text}" for each in error.mistakes)) from None
