"""What a broker's log tells: the events, each with its name, its sentence for people and its fields for programs.

    tell(log, TOPIC_CREATED, topic="orders", partitions=3, ...)
    for people      topic orders created, partitions 3, replication factor 1, by client app at 127.0.0.1:50302
    --log-format json    {..., "event": "topic_created", "topic": "orders", "partitions": 3, ...}

One table makes both, and docs/reference/events.md, so that none of them says anything else than the others. A sentence
names its fields in braces; what is told besides is for programs only. Lines of the log that are no event have no name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from string import Formatter
from typing import Any, NamedTuple, TypeVar

TOLD_MAX = 20  # of what one request changed, each by itself; the rest is counted

T = TypeVar("T")


class Event(NamedTuple):
    """One kind of event."""

    name: str
    text: str  # the sentence; {field} stands for a field
    about: str  # when it is told
    level: int = logging.INFO
    more: tuple[str, ...] = ()  # fields that the sentence does not show

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of all fields: those of the sentence first."""
        shown = [name for _, name, _, _ in Formatter().parse(self.text) if name]
        return (*dict.fromkeys(shown), *self.more)


def tell(log: logging.Logger, event: Event, failure: BaseException | None = None, /, **fields: Any) -> None:
    """One line. fields: all that the event has. failure: told with its traceback."""
    assert fields.keys() == set(event.fields), f"{event.name} is told with {sorted(fields)}"
    if log.isEnabledFor(event.level):
        shown = {name: _shown(value) for name, value in fields.items()}
        extra = {"event": event.name, "fields": fields}
        log.log(event.level, "%s", event.text.format_map(shown), extra=extra, exc_info=failure)


def _shown(value: Any) -> Any:
    if value is None:
        return "not set"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def first_ones(items: Sequence[T]) -> tuple[Sequence[T], int]:
    """Those that are each told of, and how many are not: one request may make ten thousand topics."""
    return items[:TOLD_MAX], max(0, len(items) - TOLD_MAX)


# -- the process ------------------------------------------------------------------------------------------------------

STARTING = Event(
    "starting",
    "kbroker {version} starts as process {pid}, node {node}, data {place}",
    "A broker's process begins. Told where the log is JSON. `place`: where data is, in words.",
    more=("data_dir",),
)
LISTENING = Event(
    "listening",
    "kbroker {version}, node {node}, data {place}, listening on {listeners}",
    "With `ready`: who this is, and where it listens.",
    more=("pid", "data_dir"),
)
ADVERTISED = Event(
    "advertised",
    "clients are told {addresses}",
    "With `listening`, where clients are told other addresses than those: of several listeners each with its name.",
)
READY = Event(
    "ready",
    "ready in {seconds:.2f} s",
    "Clients are served. `listeners` is a list of HOST:PORT; `seconds` since the process began.",
    more=("listeners", "pid", "node", "data_dir", "version", "cluster_id"),
)
HTTP_LISTENING = Event(
    "http_listening", "metrics and health on {url}", "With `ready`, where HTTP is served (`--http-port`)."
)
SEEDED = Event(
    "seeded",
    "seed: {records} records written, of {topics} topics that have some",
    "With `ready`, where `start --seed` was given. `records` is 0 where all had been written before.",
)
STOPPING = Event("stopping", "{reason}: stopping", "A signal, or the end of its parent, asks the broker to stop.")
STOPPED = Event("stopped", "stopped", "The broker has stopped in order: everything is on the disk.", more=("seconds",))
START_FAILED = Event(
    "start_failed",
    "{reason}",
    "The broker cannot start; the process ends with this exit status. Told where the log is JSON.",
    logging.ERROR,
    more=("status",),
)

# -- several brokers: told by their supervisor ------------------------------------------------------------------------

BROKERS_LISTENING = Event(
    "brokers_listening",
    "kbroker {version}, {who}, data {place}, listening on {listeners}",
    "With `brokers_ready`: of `start --brokers`.",
    more=("pid", "data_dir"),
)
BROKERS_PROCESSES = Event("brokers_processes", "broker {processes}", "Which broker is which process.", more=("pids",))
BROKERS_READY = Event("brokers_ready", "ready in {seconds:.2f} s", "All brokers serve.", more=("listeners", "pid"))
BROKER_SERVES = Event("broker_serves", "broker {node} {how} on {listeners}", "One broker serves, or serves again.")
BROKER_DOWN = Event(
    "broker_down",
    "broker {node} is down: {reason}; it is started again in {delay_s:g} s",
    "One broker's process has ended.",
    logging.WARNING,
)
BROKERS_KILLED = Event(
    "brokers_killed",
    "brokers that have not stopped within {seconds} s are killed",
    "A stop takes too long.",
    logging.ERROR,
)
BROKERS_STOPPED = Event("brokers_stopped", "all brokers have stopped", "The end of `start --brokers`.")

# -- what clients do --------------------------------------------------------------------------------------------------

TOPIC_CREATED = Event(
    "topic_created",
    "topic {topic} created, partitions {partitions}, replication factor {replication_factor}, {why}",
    "A topic is there. `how`: `asked` (CreateTopics), `auto` (a client asked about it in Metadata), `internal`.",
    more=("how", "client_id", "client", "configs"),
)
TOPIC_DELETED = Event(
    "topic_deleted", "topic {topic} deleted, {why}", "A topic and its records are gone.", more=("client_id", "client")
)
PARTITIONS_ADDED = Event(
    "partitions_added",
    "topic {topic} has {partitions} partitions now, {why}",
    "A topic has more partitions.",
    more=("client_id", "client"),
)
CONFIG_CHANGED = Event(
    "config_changed",
    "{resource}: {name} was {old}, is {new}, {why}",
    "A config of a topic, broker or group was set or taken back. `old`, `new`: null where it is not set.",
    more=("client_id", "client"),
)
MORE_CHANGED = Event(
    "more_changed",
    "and {count} more of the same request ({what})",
    "One request changed more than is told one by one.",
)
MEMBER_EXPELLED = Event(
    "member_expelled",
    "group {group}: member {member} is out: {reason}",
    "A group goes on without a member that was too late. `reason` names the timeout.",
    more=("client_id", "client"),
)
REGEX_TOO_COSTLY = Event(
    "regex_too_costly",
    "the regular expression {regex} matches no topic: {reason}",
    "A member's subscription by regular expression takes too long to be looked at; the group goes on without.",
    logging.WARNING,
)
TRANSACTION_TIMED_OUT = Event(
    "transaction_timed_out",
    "{partition}: transaction {transactional_id} has timed out",
    "Its producer was silent for `transaction.timeout.ms`: the transaction is aborted.",
)
STATE_NOT_STORED = Event(
    "state_not_stored",
    "{partition}: {name} was not stored: {reason}",
    "A change of a group or transaction could not be written to its partition, which is loaded again.",
    logging.ERROR,
)
TOPIC_NOT_CREATED = Event(
    "topic_not_created",
    "{topic} cannot be created: {reason}",
    "A topic of the broker's own, which groups or transactions need, could not be made.",
    logging.ERROR,
)
UNSUPPORTED_API = Event(
    "unsupported_api",
    "{client} asks for {api} version {version}, which is not supported: {advice}",
    "Told once for each client software and API.",
    logging.WARNING,
    more=("api_key",),
)
CONNECTION_CLOSED = Event(
    "connection_closed",
    "closing the connection from {client}: {reason}",
    "A client broke the protocol, or was quiet for too long.",
    logging.INFO,
)
CONNECTION_REFUSED = Event(
    "connection_refused",
    "refusing a connection from {client}: {reason}",
    "A limit on connections is reached.",
)
CONNECTIONS_MORE = Event(
    "connections_more",
    "closed or refused {count} more connections for such reasons",
    "More than ten within ten seconds.",
)
CONNECTION_FAILED = Event(
    "connection_failed",
    "closing the connection from {client}: {reason}",
    "Not the client's fault: a bug, or the disk.",
    logging.ERROR,
)
LINES_LEFT_OUT = Event(
    "lines_left_out",
    "more lines like the last one ({of}) come than are shown; {count} are left out so far",
    "No client can fill the disk with lines: of one kind, so many are shown, then a few a second.",
    logging.WARNING,
)

EVENTS = {each.name: each for each in list(globals().values()) if isinstance(each, Event)}
