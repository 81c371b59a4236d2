"""Connecting as an ordinary client, with kafka-python: options, clear errors, a fast answer when no broker is there."""

from __future__ import annotations

import functools
import logging
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from kbroker.cli.client.presence import Presence
from kbroker.cli.client.properties import client_properties
from kbroker.cli.client.quirks import keep_threads_quiet, lend_codecs, producer_class, with_nulls
from kbroker.cli.client.servers import USUAL, located, servers_option
from kbroker.cli.errors import Failed, Misconfigured, Unreachable

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_MS = 10_000
GONE_TIMEOUT_MS = 500  # to say goodbye to a broker that is not there
RETRIES = {"reconnect_backoff_ms": 50, "reconnect_backoff_max_ms": 1000}  # a broker that is back is soon noticed


class Connection(NamedTuple):
    """Where to connect, and kafka-python settings."""

    servers: tuple[str, ...]
    properties: Mapping[str, Any]


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """-b, -X and --command-config; the command gets a `connection`."""

    @servers_option
    @click.option(
        "-X",
        "settings",
        metavar="NAME=VALUE",
        multiple=True,
        help="A property of the client, such as request.timeout.ms=5000. Repeatable.",
    )
    @click.option(
        "--command-config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A file of client properties, NAME=VALUE a line.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, servers: str, settings: Sequence[str], command_config: Path | None, **rest: Any) -> Any:
        addresses = tuple(part.strip() for part in servers.split(",") if part.strip())
        connection = Connection(addresses, client_properties(settings, command_config))
        return command(*args, connection=connection, **rest)

    return wrapped


@contextmanager
def admin(connection: Connection) -> Iterator[Any]:
    """A KafkaAdminClient, closed at the end; its errors become Failed or Unreachable."""
    with _clear_errors(connection):
        from kafka import KafkaAdminClient

        client = _made(KafkaAdminClient, _settings(connection, request_timeout_ms=ANSWER_TIMEOUT_MS))
        try:
            yield client
        finally:
            client.close()


@contextmanager
def producer(connection: Connection, presence: Presence | None = None, **settings: Any) -> Iterator[Any]:
    """A KafkaProducer. What it was given and nobody waited for is given up at the end."""
    presence = presence or Presence()
    with _clear_errors(connection):
        from kafka.errors import KafkaTimeoutError

        own = {"max_block_ms": ANSWER_TIMEOUT_MS, "kafka_client": presence.client_factory, **RETRIES, **with_nulls()}
        client = _made(producer_class(), _settings(connection, **own, **settings))
        try:
            yield client
        finally:
            try:
                client.close(timeout=0 if presence.is_lost else CONNECT_TIMEOUT_S)
            except KafkaTimeoutError:
                pass


@contextmanager
def consumer(connection: Connection, presence: Presence | None = None, **settings: Any) -> Iterator[Any]:
    """A KafkaConsumer that commits nothing by itself; closed at the end, which also leaves its group."""
    presence = presence or Presence()
    with _clear_errors(connection):
        from kafka import KafkaConsumer

        own = {"enable_auto_commit": False, "allow_auto_create_topics": False, **RETRIES}
        settings = {**own, "kafka_client": presence.client_factory, **settings}
        client = _made(KafkaConsumer, _settings(connection, **settings))
        try:
            yield client
        finally:
            client.close(timeout_ms=GONE_TIMEOUT_MS if presence.is_lost else ANSWER_TIMEOUT_MS)


def error_text(code: int, message: str | None = None) -> str:
    """An error code for people: Kafka's name for it, and what the broker said."""
    from kafka_wire.errors import ErrorCode

    try:
        known = ErrorCode(code)
    except ValueError:
        return f"error {code}: {message or 'unknown to this version'}"
    return f"{known.name}: {message or known.text}"


def check_code(code: int, what: str, message: str | None = None) -> None:
    """Failed, when an answer carries an error."""
    if code:
        raise Failed(f"{what}: {error_text(code, message)}")


def topic_problem(name: str, code: int, message: str | None = None) -> str:
    """What is wrong with a topic; that there is none of that name, in the same words everywhere."""
    from kafka_wire.errors import ErrorCode

    missing = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if code == missing and message in (None, missing.text):
        return f"topic {name} does not exist"
    return f"{name or 'an empty name'}: {error_text(code, message)}"


def check_topic(code: int, name: str, message: str | None = None) -> None:
    """Failed, when what is told of a topic is an error."""
    if code:
        raise Failed(topic_problem(name, code, message))


def check_advertised(connection: Connection) -> None:
    """Unreachable, which names the address, when a server answers and sends clients where nobody can be reached.

    For when something has failed: kafka-python then says of the topic, or of the server, what is true of that address.
    """
    from kbroker.cli.broker.service.asking import ask
    from kbroker.cli.broker.service.reach import reach

    for server in connection.servers:
        try:
            answer = ask(located(server), time.monotonic() + CONNECT_TIMEOUT_S)
        except Unreachable:
            continue
        told = reach(answer, CONNECT_TIMEOUT_S)
        if told and all(each.problem for each in told):
            raise Unreachable(f"{server} answers, but {told[0]} (--advertise of kbroker start, advertised.listeners)")
        return


def _settings(connection: Connection, **settings: Any) -> dict[str, Any]:
    return {
        "bootstrap_servers": list(connection.servers),
        "client_id": "kbroker-cli",
        "bootstrap_timeout_ms": ANSWER_TIMEOUT_MS,
        **settings,
        **connection.properties,
    }


@contextmanager
def _clear_errors(connection: Connection) -> Iterator[None]:
    import kafka.errors as errors

    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters comes as an exception
    keep_threads_quiet()
    lend_codecs()
    if not any(name in connection.properties for name in ("proxy_url", "socks5_proxy")):
        _knock(connection.servers)
    try:
        yield
    except (errors.KafkaConnectionError, errors.NodeNotReadyError, errors.MetadataEmptyBrokerList) as error:
        check_advertised(connection)
        raise Unreachable(f"lost {', '.join(connection.servers)}: {error}") from None
    except errors.KafkaTimeoutError as error:
        raise Failed(f"no answer in time: {error}") from None
    except errors.BrokerResponseError as error:
        raise Failed(error_text(error.errno, ", ".join(map(str, error.args)))) from None
    except errors.KafkaConfigurationError as error:
        raise Misconfigured(f"{', '.join(map(str, error.args))} (see -X and --command-config)") from None
    except errors.KafkaError as error:
        raise Failed(str(error)) from None
    except struct.error:
        raise Failed("a number that was given is larger than Kafka's protocol has room for") from None
    except Exception as error:
        if not _is_raised_in_kafka_python(error):
            raise
        raise Failed(f"{error or type(error).__name__}") from None  # e.g. ValueError: a name that is none


def _is_raised_in_kafka_python(error: BaseException) -> bool:
    """It complains of what it is given in many ways. What is raised by our own code is a bug, and shown as one."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == "kafka"


def _made(client: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    from kafka.errors import KafkaTimeoutError

    try:
        return _interruptibly(functools.partial(client, **settings))
    except KafkaTimeoutError:  # something listens there
        where = ", ".join(settings["bootstrap_servers"])
        seconds = settings["bootstrap_timeout_ms"] / 1000
        raise Unreachable(f"{where}: no answer in Kafka's protocol within {seconds:g} s") from None
    except (AssertionError, ValueError, TypeError, RuntimeError, OSError) as error:  # a property it refuses
        raise Misconfigured(f"{error} (see -X and --command-config)") from None


def _interruptibly(make: Callable[[], Any]) -> Any:
    """Wait in a way that CTRL+C ends: kafka-python's loop swallows that where it runs in the thread that calls."""
    from concurrent.futures import Future
    from threading import Thread

    made = Future[Any]()

    def run() -> None:
        try:
            made.set_result(make())
        except BaseException as error:
            made.set_exception(error)

    Thread(target=run, daemon=True).start()
    return made.result()


def _knock(servers: Sequence[str]) -> None:
    """Find out at once whether anybody listens: kafka-python would go on trying for a long time."""
    problems = []
    for server in servers:
        try:
            socket.create_connection(located(server), timeout=CONNECT_TIMEOUT_S).close()
            return
        except OSError as error:
            problems.append(f"{server}: {error.strerror or error}")
    raise Unreachable(f"no broker at {'; '.join(problems)}. {_where_else(servers)}")


def _where_else(servers: Sequence[str]) -> str:
    if list(servers) != [USUAL]:
        return "Is one running there? Another place: -b HOST:PORT"
    from kbroker.cli.broker.banner import own_command

    return f"Start one with: {own_command()}, or say where it is: -b HOST:PORT"
