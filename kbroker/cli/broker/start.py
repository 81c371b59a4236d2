"""`kbroker start`: flags, file and environment into a BrokerConfig, then `serve`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from kbroker.cli.broker.layout import BROKERS_MAX, refuse_several
from kbroker.cli.broker.logs import LEVELS
from kbroker.cli.errors import EXIT_FAILED, Misconfigured

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
    help="Where brokers agree: sqlite:PATH (for one machine) or etcd://HOST:PORT,...  [default: coord.db in DIR]",
)
@click.option("--memory", is_flag=True, help="Keep data in memory: everything is lost on exit.")
@click.option(
    "--brokers",
    type=click.IntRange(1, BROKERS_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="A cluster of N brokers on this machine, ports and node ids counting up.",
)
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
@click.option("--supervised", type=int, hidden=True)  # said by `--brokers` to each broker: how many to wait for
def start(
    file: Path | None,
    listen: str | None,
    advertise: str | None,
    data_dir: str | None,
    coordination: str | None,
    memory: bool,
    brokers: int,
    overrides: Sequence[str],
    topics: Sequence[str],
    log_level: str,
    log_format: str,
    supervised: int | None,
) -> int:
    """Start a broker, or several. No setup step: it is ready when it says so."""
    from kbroker.cli.broker.logs import set_up
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
    set_up(log_level, log_format, node_id=config.node_id if supervised else None)
    plain = log_format == "json"
    if brokers > 1:
        from kbroker.cli.broker.supervisor import Orders, supervise

        options = ["--log-level", log_level, "--log-format", log_format, *(["--config", str(file)] if file else [])]
        options += [f"--override={text}" for text in overrides]
        return supervise(config, Orders(brokers, options, topics, memory, plain))
    from kbroker.cli.broker.serve import serve

    if supervised:
        return _serve_supervised(partial(serve, config, topics=wanted, memory=False, plain=plain), supervised)
    if not memory:
        refuse_several(config.data_dir)
    return serve(config, topics=wanted, memory=memory, plain=plain)


def _serve_supervised(serve: Callable[..., int], brokers_min: int) -> int:
    """As one of several brokers: what goes wrong is told to the supervisor, and it tells."""
    from kbroker.cli.broker.supervised import Supervised

    supervised = Supervised(brokers_min)
    try:
        return serve(supervised=supervised)
    except Misconfigured as error:
        supervised.tell_failed(error.message)
        return error.exit_code
    except Exception:
        logging.getLogger("kbroker").critical("the broker failed", exc_info=True)
        return EXIT_FAILED


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
