"""What the Python runners share: the client interface, the loop that runs scenarios, and the JSON lines it prints.

A runner is an adapter: a subclass of `Client` that carries out each call with one client library and nothing else.
`scenarios.py` asks everything through that interface, so each client is asked the same and `seen` means the same.

The driver (`run.py`) starts a runner with these environment variables:

    COMPAT_BOOTSTRAP   host:port of the broker
    COMPAT_PREFIX      what all topic names of this client begin with; unique to the run
    COMPAT_SCENARIOS   the ids to carry out, in this order, comma separated
    COMPAT_STATE       a JSON file: what was written before the restart, for the scenarios after it
    COMPAT_CONTROL     host:port that takes the line `kill9` and answers `ok`; unset without power over the broker
    COMPAT_SERVE       set in a second process of the client, which answers calls instead: see `remote.py`

and reads one line of JSON per scenario from its standard output:

    {"scenario": "tombstone", "result": "ok", "seconds": 0.12, "seen": {"null values": 1}}
    {"scenario": "topics-200", "result": "fail", "seconds": 1.5, "why": "…"}
    {"scenario": "alter-configs", "result": "absent", "why": "kcat has no admin calls"}
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wire

if TYPE_CHECKING:
    from members import Member, Place
    from remote import Remote

SCENARIO_SECONDS_MAX = 60.0

Headers = tuple[tuple[str, bytes | None], ...]
Seen = dict[str, Any]


class Absent(Exception):
    """The client has no such feature, or the driver has no power over the broker: neither passed nor failed."""


class Refused(Exception):
    """The broker, or the client in its name, said no. `name` is Kafka's name of the error."""

    def __init__(self, error: int | str, detail: object = "") -> None:
        self.name = ERRORS.get(error, str(error)) if isinstance(error, int) else error
        super().__init__(f"{self.name} {detail}".strip())


@dataclass(frozen=True)
class Message:
    """A record to be written; `partition` None leaves the choice to the client's partitioner."""

    value: bytes | None
    key: bytes | None = None
    partition: int | None = 0
    headers: Headers = ()
    timestamp: int | None = None


@dataclass(frozen=True, order=True)
class Record:
    """A record as it was read."""

    partition: int
    offset: int
    timestamp: int = field(compare=False)
    log_append_time: bool | None = field(compare=False)  # None: the client does not say
    key: bytes | None = field(compare=False)
    value: bytes | None = field(compare=False)
    headers: Headers = field(compare=False, default=())


class Consumer:
    """Reads partitions that were assigned by hand; no group, no commits."""

    def seek(self, starts: dict[int, int]) -> None:
        """Go on from these offsets."""
        raise NotImplementedError

    def take(self, count: int, wait: float) -> list[Record]:
        """The next records, as soon as there are `count` or after `wait` seconds; maybe a few more than `count`."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Transactor:
    """A producer with a transactional id, which stays.

    Options of `Client.transactor`: timeout_ms (of a transaction), and those of `Client.produce`.
    """

    def init(self) -> None:
        """InitProducerId, once: whatever was open under this id is aborted, whoever had the id is fenced."""
        raise NotImplementedError

    def begin(self) -> None:
        raise NotImplementedError

    def send(self, topic: str, messages: list[Message], wait: bool = True) -> list[int | None]:
        """Write in the transaction; without `wait` the commit waits for the acknowledgements, no offsets are known."""
        raise NotImplementedError

    def send_offsets(self, offsets: dict[Place, int], group: str, membership: Any = None) -> None:
        """Put a group's offsets into the transaction; `membership` of a `Source`, or None where it has none."""
        raise NotImplementedError

    def commit(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """After an error, or with a transaction that is open, too."""
        raise NotImplementedError


class Source:
    """A member of a group that reads only when it is asked, and whose offsets go into transactions.

    Options of `Client.source`: those of `Client.member` and isolation (read_committed).
    """

    def poll(self, count: int, wait: float) -> list[Record]:
        """The next records, as soon as there are any or after `wait` seconds; at most about `count`."""
        raise NotImplementedError

    def owned(self) -> set[Place]:
        """The partitions that it has by its last poll."""
        raise NotImplementedError

    def rewind(self) -> None:
        """Go back to the committed offsets."""
        raise NotImplementedError

    def membership(self) -> Any:
        """What the client sends along with offsets so that a member that is none any more is refused (KIP-447)."""
        raise NotImplementedError

    def leave(self) -> None:
        raise NotImplementedError


class Client:
    """What a scenario may ask of a client. A method that the client has no call for stays as it is here: absent."""

    name = "client"
    shows_markers = False  # to the application, as if they were records

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def cluster(self) -> dict[str, Any]:
        """`brokers` (node ids), `controller` (node id) and, where the client tells, `cluster_id`."""
        raise self.absent("cluster description")

    def topics(self) -> set[str]:
        raise self.absent("list of topics")

    def partitions(self, topic: str) -> int:
        """Number of partitions, from metadata; must not create the topic."""
        raise self.absent("topic description")

    def create_topics(
        self, topics: dict[str, int], configs: dict[str, str] | None = None, replication: int = 1
    ) -> None:
        """Create topics (name -> number of partitions) with one request."""
        raise self.absent("admin call to create topics")

    def delete_topics(self, topics: list[str]) -> None:
        raise self.absent("admin call to delete topics")

    def add_partitions(self, topic: str, total: int) -> None:
        raise self.absent("admin call to add partitions")

    def delete_records(self, topic: str, before: dict[int, int]) -> None:
        raise self.absent("admin call to delete records")

    def configs(self, topic: str) -> dict[str, str]:
        raise self.absent("admin call to describe configs")

    def broker_configs(self, node: int) -> dict[str, str]:
        raise self.absent("admin call to describe configs")

    def replace_configs(self, topic: str, configs: dict[str, str]) -> None:
        """AlterConfigs: these and no others."""
        raise self.absent("AlterConfigs")

    def change_configs(self, topic: str, put: dict[str, str], remove: tuple[str, ...] = ()) -> None:
        """IncrementalAlterConfigs."""
        raise self.absent("IncrementalAlterConfigs")

    def offset(self, topic: str, partition: int, when: str | int, **options: Any) -> int | None:
        """Offset at `earliest`, `latest` or a timestamp in ms; None where there is none. Options: isolation."""
        raise self.absent("offset lookup")

    def produce(self, topic: str, messages: Iterable[Message], **options: Any) -> list[int | None]:
        """Write all, wait for all acknowledgements; offsets where the client learns them.

        Options: acks ("all", "1", "0"), codec ("none" …), idempotent (bool), linger_ms, in_flight, batch_bytes,
        request_bytes_max, patience (seconds to go on trying).
        """
        raise NotImplementedError

    def consumer(self, topic: str, starts: dict[int, int], **options: Any) -> Consumer:
        """A consumer at these offsets.

        Options: isolation, reset ("none", "earliest", "latest"), max_wait_ms, partition_bytes.
        """
        raise NotImplementedError

    def read(self, topic: str, starts: dict[int, int], count: int, wait: float = 15.0, **options: Any) -> list[Record]:
        """`count` records from these offsets on, in order of partition and offset."""
        consumer = self.consumer(topic, starts, **options)
        try:
            return sorted(consumer.take(count, wait))
        finally:
            consumer.close()

    def member(self, topics: list[str] | str, **options: Any) -> Member:
        """A member of a group, subscribed to topics or to a pattern of names (a regular expression from ^ to $).

        Options: group, protocol ("classic", "consumer"), cooperative (bool), instance (static membership), commits
        (bool: after each poll), reset ("earliest", "latest", "none"), session_ms, heartbeat_ms.
        """
        raise self.absent("member of a group that takes orders")

    def elsewhere(self) -> Remote:
        """The same client in a process of its own, with `member` and `kill`."""
        from remote import Remote

        return Remote(self.bootstrap, [sys.executable, sys.argv[0]], self.name)

    def groups(self) -> set[str]:
        raise self.absent("list of groups")

    def describe_group(self, group: str) -> dict[str, Any]:
        """`state`, in capitals as in Kafka's listings, and `members`, their number."""
        raise self.absent("description of groups")

    def delete_group(self, group: str) -> None:
        raise self.absent("admin call to delete groups")

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The group's committed offsets in the topic, by partition."""
        raise self.absent("list of committed offsets")

    def alter_offsets(self, group: str, topic: str, offsets: dict[int, int]) -> None:
        raise self.absent("admin call to alter committed offsets")

    def delete_offsets(self, group: str, topic: str, partitions: list[int]) -> None:
        raise self.absent("admin call to delete committed offsets")

    def transactor(self, identifier: str, **options: Any) -> Transactor:
        raise self.absent("transactions")

    def source(self, topic: str, **options: Any) -> Source:
        raise self.absent("member of a group whose offsets go into transactions")

    def copy(self, identifier: str, group: str, inputs: str, outputs: str, each: int) -> None:
        """Copy a topic to another until the process is killed, about `each` records in a transaction.

        Only for a client that has a way of its own for this, beside what `Transactor` and `Source` ask of it.
        """
        raise self.absent("loop of its own for copies in transactions")

    def transactions(self) -> dict[str, str]:
        """The state of each transactional id, in Kafka's words, such as CompleteCommit."""
        raise self.absent("list of transactions")

    def describe_transaction(self, identifier: str) -> dict[str, Any]:
        """`state`, `timeout_ms` and `places`, the topics and partitions that are in the open transaction."""
        raise self.absent("description of transactions")

    def open_producers(self, topic: str, partition: int) -> list[int | None]:
        """For each producer that the partition knows, the first offset of its open transaction, if there is one."""
        raise self.absent("description of producers")

    def abort_hanging(self, topic: str, partition: int) -> None:
        """Abort the transaction that is open in the partition, by what `open_producers` told of it."""
        raise self.absent("admin call to abort a transaction")

    def fence(self, identifier: str) -> None:
        raise self.absent("admin call to fence producers")

    def broker_restarted(self) -> None:
        """Forget connections that do not heal by themselves."""

    def close(self) -> None:
        pass

    def absent(self, what: str) -> Absent:
        return Absent(f"{self.name} has no {what}")


class Run:
    """One client's run: the client, its topics, and what it left behind for the scenarios after the restart."""

    def __init__(self, client: Client, prefix: str, state_file: Path, control: str | None) -> None:
        self.client, self.prefix, self.control = client, prefix, control
        self.state_file = state_file
        self.state: dict[str, Any] = json.loads(state_file.read_text()) if state_file.exists() else {}

    def name(self, topic: str) -> str:
        return f"{self.prefix}{topic}"

    def topic(self, name: str, partitions: int = 1, **configs: str) -> str:
        """A topic of this run, made by the client itself where it can; returns once its leaders serve."""
        full = self.name(name)
        settings = {key.replace("_", "."): value for key, value in configs.items()}
        try:
            self.client.create_topics({full: partitions}, settings)
        except Absent:
            wire.create_topic(self.client.bootstrap, full, partitions, settings)
        self.settle(full, partitions)
        return full

    def settle(self, topic: str, partitions: int) -> None:
        for partition in range(partitions):
            wire.offset(self.client.bootstrap, topic, partition)

    def remember(self, what: str, key: str, value: Any) -> None:
        self.state.setdefault(what, {})[key] = value
        self.state_file.write_text(json.dumps(self.state))

    def remembered(self, what: str) -> dict[str, Any]:
        if not self.state.get(what):
            raise AssertionError(f"nothing was remembered about {what}: did the scenarios before the restart run?")
        return dict(self.state[what])

    def kill_and_restart_broker(self) -> None:
        """kill -9, start again on the same port and data; returns when the broker serves."""
        if self.control is None:
            raise Absent("no power over the broker")
        with socket.create_connection(wire.address(self.control), timeout=SCENARIO_SECONDS_MAX) as line:
            line.sendall(b"kill9\n")
            answer = line.makefile().readline().strip()
        if answer != "ok":
            raise AssertionError(f"the broker did not come back: {answer}")
        self.client.broker_restarted()


Scenario = Callable[[Run], Seen | None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(identifier: str) -> Callable[[Scenario], Scenario]:
    """Registers a function under its id in scenarios.md. It returns what was seen; an exception is a failure."""

    def register(function: Scenario) -> Scenario:
        SCENARIOS[identifier] = function
        return function

    return register


def register() -> None:
    """Fill SCENARIOS: each module of scenarios registers its own when it is imported."""
    import delay_scenarios  # noqa: F401
    import group_scenarios  # noqa: F401
    import scenarios  # noqa: F401
    import transaction_scenarios  # noqa: F401
    import view_scenarios  # noqa: F401


def main(client_class: type[Client]) -> None:
    """The runner: carry out the asked scenarios in order, one line of JSON each."""
    from remote import serve

    register()
    bootstrap = os.environ["COMPAT_BOOTSTRAP"]
    if os.environ.get("COMPAT_SERVE"):
        serve(client_class(bootstrap))
        os._exit(0)
    wanted = [name for name in os.environ.get("COMPAT_SCENARIOS", "").split(",") if name] or list(SCENARIOS)
    state = Path(os.environ.get("COMPAT_STATE", f"/tmp/compat-{os.getpid()}.json"))
    client = client_class(bootstrap)
    run = Run(client, os.environ.get("COMPAT_PREFIX", "compat-"), state, os.environ.get("COMPAT_CONTROL"))
    for identifier in wanted:
        if identifier in SCENARIOS:
            print(json.dumps(carry_out(identifier, run), ensure_ascii=False), flush=True)
    watch_dog = threading.Timer(5.0, os._exit, (0,))  # a client that cannot close must not hold up the run
    watch_dog.start()
    client.close()
    sys.stdout.flush()
    os._exit(0)


def carry_out(identifier: str, run: Run) -> dict[str, Any]:
    """One scenario in its own thread with a hard deadline; the line to print."""
    outcome: dict[str, Any] = {"scenario": identifier, "result": "fail", "why": "no end within the deadline"}

    def body() -> None:
        try:
            seen = SCENARIOS[identifier](run) or {}
            report = {"result": "ok", "seen": plain(seen, run.prefix)}
        except Absent as reason:
            report = {"result": "absent", "why": str(reason)}
        except BaseException as error:
            traceback.print_exc()
            report = {"result": "fail", "why": f"{type(error).__name__}: {error}"[:500]}
        outcome.pop("why", None)
        outcome.update(report)

    began = time.monotonic()
    print(f"--- {identifier}", file=sys.stderr, flush=True)
    thread = threading.Thread(target=body, name=identifier, daemon=True)
    thread.start()
    thread.join(SCENARIO_SECONDS_MAX)
    if thread.is_alive():  # where it hangs tells the client's fault from the broker's
        faulthandler.dump_traceback(all_threads=True)
    return dict(outcome, seconds=round(time.monotonic() - began, 2))


def plain(value: Any, prefix: str) -> Any:
    """The same facts for each run and each broker: without the run's prefix."""
    return json.loads(json.dumps(value).replace(prefix, ""))


def check(condition: object, message: object) -> None:
    if not condition:
        raise AssertionError(message)


def same(found: Any, wanted: Any, what: str) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: {short(found)}, not {short(wanted)}")


def short(value: Any, limit: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def refusal(call: Callable[[], Any]) -> str:
    """The name of the error with which `call` is refused; AssertionError if it is not."""
    try:
        result = call()
    except Refused as error:
        return error.name
    raise AssertionError(f"was not refused, but gave {short(result)}")


def digest(records: Iterable[Record]) -> str:
    """A fingerprint of everything in the records."""
    total = hashlib.sha256()
    for each in sorted(records):
        fields = (each.partition, each.offset, each.timestamp, each.key, each.value, each.headers)
        total.update(repr(fields).encode())
    return total.hexdigest()[:16]


def until(condition: Callable[[], Any], seconds: float = 10.0, pause: float = 0.05) -> Any:
    """Ask again until the answer is true; the last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(pause)
    return answer


# Error codes that the scenarios can meet, in Kafka's words.
ERRORS = {
    -1: "UNKNOWN_SERVER_ERROR",
    1: "OFFSET_OUT_OF_RANGE",
    2: "CORRUPT_MESSAGE",
    3: "UNKNOWN_TOPIC_OR_PARTITION",
    5: "LEADER_NOT_AVAILABLE",
    6: "NOT_LEADER_OR_FOLLOWER",
    7: "REQUEST_TIMED_OUT",
    10: "MESSAGE_TOO_LARGE",
    12: "OFFSET_METADATA_TOO_LARGE",
    14: "COORDINATOR_LOAD_IN_PROGRESS",
    15: "COORDINATOR_NOT_AVAILABLE",
    16: "NOT_COORDINATOR",
    17: "INVALID_TOPIC_EXCEPTION",
    18: "RECORD_LIST_TOO_LARGE",
    19: "NOT_ENOUGH_REPLICAS",
    22: "ILLEGAL_GENERATION",
    23: "INCONSISTENT_GROUP_PROTOCOL",
    24: "INVALID_GROUP_ID",
    25: "UNKNOWN_MEMBER_ID",
    26: "INVALID_SESSION_TIMEOUT",
    27: "REBALANCE_IN_PROGRESS",
    28: "INVALID_COMMIT_OFFSET_SIZE",
    32: "INVALID_TIMESTAMP",
    35: "UNSUPPORTED_VERSION",
    36: "TOPIC_ALREADY_EXISTS",
    37: "INVALID_PARTITIONS",
    38: "INVALID_REPLICATION_FACTOR",
    39: "INVALID_REPLICA_ASSIGNMENT",
    40: "INVALID_CONFIG",
    41: "NOT_CONTROLLER",
    42: "INVALID_REQUEST",
    44: "POLICY_VIOLATION",
    45: "OUT_OF_ORDER_SEQUENCE_NUMBER",
    47: "INVALID_PRODUCER_EPOCH",
    48: "INVALID_TXN_STATE",
    49: "INVALID_PRODUCER_ID_MAPPING",
    50: "INVALID_TRANSACTION_TIMEOUT",
    51: "CONCURRENT_TRANSACTIONS",
    52: "TRANSACTION_COORDINATOR_FENCED",
    59: "UNKNOWN_PRODUCER_ID",
    68: "NON_EMPTY_GROUP",
    69: "GROUP_ID_NOT_FOUND",
    76: "UNSUPPORTED_COMPRESSION_TYPE",
    79: "MEMBER_ID_REQUIRED",
    81: "GROUP_MAX_SIZE_REACHED",
    82: "FENCED_INSTANCE_ID",
    86: "GROUP_SUBSCRIBED_TO_TOPIC",
    87: "INVALID_RECORD",
    88: "UNSTABLE_OFFSET_COMMIT",
    90: "PRODUCER_FENCED",
    105: "TRANSACTIONAL_ID_NOT_FOUND",
    110: "FENCED_MEMBER_EPOCH",
    113: "STALE_MEMBER_EPOCH",
    120: "TRANSACTION_ABORTABLE",
}
