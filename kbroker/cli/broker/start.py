"""`kbroker start`: flags, file and environment into a BrokerConfig, then `serve`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from kbroker.cli.broker.logs import LEVELS
from kbroker.cli.errors import Misconfigured

_EPILOG = """\b
Precedence: flag > KBROKER_* > KAFKA_* > file > default. Names are Kafka's: NUM_PARTITIONS in the environment is
num.partitions. `kbroker config docs` lists them. CTRL+C or SIGTERM stops the broker cleanly, with exit status 0; a
second one at once, with 130. Status 2: bad configuration, port or data directory in use.
"""


@click.command(epilog=_EPILOG)
@click.option(
    "-c",
    "--config",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="KBROKER_CONFIG",
    help="Configuration: TOML (*.toml) or Java properties (Kafka's server.properties works).",
)
@click.option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 picks one.  [default: 127.0.0.1:9092]")
@click.option("--advertise", metavar="HOST:PORT", help="The address clients are told, where it differs.")
@click.option("--data-dir", metavar="DIR", help="Where data is kept, made if absent.  [default: ./kbroker-data]")
@click.option(
    "--coordination",
    metavar="STORE",
    help="Where brokers agree: sqlite:PATH, a file that the brokers of one machine share.  [default: coord.db in DIR]",
)
@click.option("--memory", is_flag=True, help="Keep data in memory: everything is lost on exit.")
@click.option("--override", "overrides", metavar="NAME=VALUE", multiple=True, help="Set a config. Repeatable.")
@click.option(
    "--topic", "topics", metavar="NAME[:PARTITIONS]", multiple=True, help="A topic to have from the start. Repeatable."
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    envvar="KBROKER_LOG_LEVEL",
    help="What is worth a line on stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json"]),
    default="auto",
    envvar="KBROKER_LOG_FORMAT",
    show_default=True,
    help="auto: for people on a terminal, dated lines into a file.",
)
def start(
    file: Path | None,
    listen: str | None,
    advertise: str | None,
    data_dir: str | None,
    coordination: str | None,
    memory: bool,
    overrides: Sequence[str],
    topics: Sequence[str],
    log_level: str,
    log_format: str,
) -> int:
    """Start a broker. No setup step: it is ready when it says so."""
    from kbroker.cli.broker.logs import set_up
    from kbroker.cli.broker.serve import serve
    from kbroker.config import ConfigError, load

    if memory and data_dir:
        raise click.UsageError("--memory and --data-dir exclude each other")
    flags = _flags(listen, advertise, overrides)
    if data_dir is not None:
        flags["kbroker.data.dir"] = data_dir
    if coordination is not None:
        flags["kbroker.coordination"] = coordination
    wanted = [_topic(text) for text in topics]
    try:
        config = load(read_config_file(file) if file else {}, os.environ, flags, file_name=str(file))
    except ConfigError as error:
        raise Misconfigured(str(error)) from None
    set_up(log_level, log_format)
    return serve(config, topics=wanted, memory=memory, plain=log_format == "json")


def host_and_port(text: str) -> tuple[str, int]:
    """ "localhost:9092", ":9092", "9092" (both: every interface, or 127.0.0.1 for a bare port), "[::1]:9092"."""
    host, _, port = text.rpartition(":")
    if not text.count(":"):
        host = "127.0.0.1"
    if not port.isdecimal() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise click.UsageError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _flags(listen: str | None, advertise: str | None, overrides: Sequence[str]) -> dict[str, str]:
    flags: dict[str, str] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--override {text!r} is not NAME=VALUE")
        flags[name.strip()] = value
    if listen is not None:
        flags["listeners"] = _listener(listen)
    if advertise is not None:
        flags["advertised.listeners"] = _listener(advertise)
    return flags


def _listener(text: str) -> str:
    host, port = host_and_port(text)
    return f"PLAINTEXT://[{host}]:{port}" if ":" in host else f"PLAINTEXT://{host}:{port}"


def _topic(text: str) -> tuple[str, int]:
    name, colon, partitions = text.partition(":")
    if not name or (colon and (not partitions.isdecimal() or int(partitions) < 1)):
        raise click.UsageError(f"--topic {text!r} is not NAME[:PARTITIONS]")
    return name, int(partitions) if colon else -1


def read_config_file(file: Path) -> dict[str, str]:
    """The names and values in a configuration file. Raises Misconfigured, or ConfigError for TOML that is none."""
    from kbroker.config import read_file

    try:
        return read_file(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise Misconfigured(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{file} is not text in UTF-8") from None
