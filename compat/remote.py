"""A client in another process: the `Client` interface as lines of JSON over the process's standard input and output.

    > {"id": 7, "call": "create_topics", "arguments": [{"orders": 3}, {}, 1]}
    < {"id": 7, "result": null}       or "refused": name or code, "detail": text; or "absent": why; or "error": text

This is how clients of other languages take part (`java/Adapter.java`, `kafkajs/adapter.js`), and how a Python client
gets a second process that can be killed (`serve`). Calls may overlap; each is answered when it is done. Bytes are
base64, a message is `[value, key, partition, [[name, value]…], timestamp]`, a record `[partition, offset, timestamp,
log append time, key, value, headers]`, a journal entry as in `members.py`. What lives on in the process (a producer, a
consumer, a member) is named by the number that its `_open` call answered with.

Owns: the process, ended with `close` or `kill`.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from common import Absent, Client, Consumer, Message, Record, Refused, Source, Transactor
from members import Entry, Member, Place

CALL_SECONDS_MAX = 58.0
CHUNK = 1000


class Process:
    """The adapter's process and the calls that are under way."""

    def __init__(self, command: list[str], bootstrap: str) -> None:
        environment = {**os.environ, "COMPAT_SERVE": "1", "COMPAT_BOOTSTRAP": bootstrap}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.numbers = itertools.count(1)
        self.waiting: dict[int, Future[Any]] = {}
        self.ended = False
        self.speaking = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def call(self, name: str, *arguments: Any) -> Any:
        number, answer = next(self.numbers), Future[Any]()
        self.waiting[number] = answer
        if self.ended:  # nobody is left to fail what waits
            raise ConnectionError("the adapter's process ended")
        with self.speaking:
            self.process.stdin.write(json.dumps({"id": number, "call": name, "arguments": arguments}).encode() + b"\n")
            self.process.stdin.flush()
        return answer.result(CALL_SECONDS_MAX)

    def _listen(self) -> None:
        for line in self.process.stdout:
            said = json.loads(line)
            answer = self.waiting.pop(said["id"])
            if "refused" in said:
                answer.set_exception(Refused(said["refused"], said.get("detail", "")))
            elif "absent" in said:
                answer.set_exception(Absent(said["absent"]))
            elif "error" in said:
                answer.set_exception(RuntimeError(said["error"]))
            else:
                answer.set_result(said["result"])
        self.ended = True
        for answer in list(self.waiting.values()):
            answer.set_exception(ConnectionError("the adapter's process ended"))

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """kill -9: it leaves no group and closes nothing."""
        self.process.kill()
        self.process.wait(10)


class Remote(Client):
    """A client whose adapter is another program."""

    command: list[str] = []

    def __init__(self, bootstrap: str, command: list[str] | None = None, name: str | None = None) -> None:
        super().__init__(bootstrap)
        self.command, self.name = command or self.command, name or self.name
        self._process, self.killed = Process(self.command, bootstrap), False

    @property
    def process(self) -> Process:
        """A new one if the adapter broke down, but not after `kill`."""
        if not self._process.alive() and not self.killed:
            self._process = Process(self.command, self.bootstrap)
        return self._process

    def elsewhere(self) -> Remote:
        return type(self)(self.bootstrap, self.command, self.name)

    def kill(self) -> None:
        self.killed = True
        self._process.kill()

    close = kill

    def cluster(self) -> dict[str, Any]:
        return dict(self.process.call("cluster"))

    def topics(self) -> set[str]:
        return set(self.process.call("topics"))

    def partitions(self, topic: str) -> int:
        return int(self.process.call("partitions", topic))

    def create_topics(
        self, topics: dict[str, int], configs: dict[str, str] | None = None, replication: int = 1
    ) -> None:
        self.process.call("create_topics", topics, configs or {}, replication)

    def delete_topics(self, topics: list[str]) -> None:
        self.process.call("delete_topics", topics)

    def add_partitions(self, topic: str, total: int) -> None:
        self.process.call("add_partitions", topic, total)

    def delete_records(self, topic: str, before: dict[int, int]) -> None:
        self.process.call("delete_records", topic, before)

    def configs(self, topic: str) -> dict[str, str]:
        return dict(self.process.call("configs", topic))

    def broker_configs(self, node: int) -> dict[str, str]:
        return dict(self.process.call("broker_configs", node))

    def replace_configs(self, topic: str, configs: dict[str, str]) -> None:
        self.process.call("replace_configs", topic, configs)

    def change_configs(self, topic: str, put: dict[str, str], remove: tuple[str, ...] = ()) -> None:
        self.process.call("change_configs", topic, put, remove)

    def offset(self, topic: str, partition: int, when: str | int, **options: Any) -> int | None:
        found: int | None = self.process.call("offset", topic, partition, when, options)
        return found

    def produce(self, topic: str, messages: Iterable[Message], **options: Any) -> list[int | None]:
        producer = self.process.call("produce_open", topic, options)
        try:
            source, size = iter(messages), CHUNK if isinstance(messages, list) else 1
            while chunk := list(itertools.islice(source, size)):
                self.process.call("produce_send", producer, [plain(message) for message in chunk])
        finally:
            offsets = self.process.call("produce_close", producer)
        return list(offsets)

    def consumer(self, topic: str, starts: dict[int, int], **options: Any) -> Consumer:
        return RemoteConsumer(self.process, self.process.call("consumer_open", topic, starts, options))

    def member(self, topics: list[str] | str, **options: Any) -> Member:
        return RemoteMember(self.process, self.process.call("member_open", topics, options))

    def groups(self) -> set[str]:
        return set(self.process.call("groups"))

    def describe_group(self, group: str) -> dict[str, Any]:
        return dict(self.process.call("describe_group", group))

    def delete_group(self, group: str) -> None:
        self.process.call("delete_group", group)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        return {int(partition): offset for partition, offset in self.process.call("committed", group, topic).items()}

    def alter_offsets(self, group: str, topic: str, offsets: dict[int, int]) -> None:
        self.process.call("alter_offsets", group, topic, offsets)

    def delete_offsets(self, group: str, topic: str, partitions: list[int]) -> None:
        self.process.call("delete_offsets", group, topic, partitions)

    def transactor(self, identifier: str, **options: Any) -> Transactor:
        return RemoteTransactor(self.process, self.process.call("transactor_open", identifier, options))

    def source(self, topic: str, **options: Any) -> Source:
        return RemoteSource(self.process, self.process.call("source_open", topic, options))

    def transactions(self) -> dict[str, str]:
        return dict(self.process.call("transactions"))

    def describe_transaction(self, identifier: str) -> dict[str, Any]:
        return dict(self.process.call("describe_transaction", identifier))

    def open_producers(self, topic: str, partition: int) -> list[int | None]:
        return list(self.process.call("open_producers", topic, partition))

    def abort_hanging(self, topic: str, partition: int) -> None:
        self.process.call("abort_hanging", topic, partition)

    def fence(self, identifier: str) -> None:
        self.process.call("fence", identifier)


class RemoteConsumer(Consumer):
    def __init__(self, process: Process, number: int) -> None:
        self.process, self.number = process, number

    def seek(self, starts: dict[int, int]) -> None:
        self.process.call("consumer_seek", self.number, starts)

    def take(self, count: int, wait: float) -> list[Record]:
        return [record(fields) for fields in self.process.call("consumer_take", self.number, count, wait)]

    def close(self) -> None:
        self.process.call("consumer_close", self.number)


class RemoteMember(Member):
    def __init__(self, process: Process, number: int) -> None:
        self.process, self.number = process, number
        self.entries: list[Entry] = []

    def journal(self) -> list[Entry]:
        """What its process told so far stays known when the process is killed."""
        if self.process.alive():
            new = self.process.call("member_journal", self.number, len(self.entries))
            self.entries += [Entry(*fields) for fields in new]
        return list(self.entries)

    def owned(self) -> set[Place]:
        return {(topic, partition) for topic, partition in self.process.call("member_owned", self.number)}

    def commit(self, offsets: dict[Place, int], wait: bool = True) -> None:
        self.process.call("member_commit", self.number, [[*place, offset] for place, offset in offsets.items()], wait)

    def committed(self, place: Place) -> int | None:
        found: int | None = self.process.call("member_committed", self.number, *place)
        return found

    def seek(self, place: Place, offset: int) -> None:
        self.process.call("member_seek", self.number, *place, offset)

    def leave(self) -> None:
        self.process.call("member_leave", self.number)


class RemoteTransactor(Transactor):
    def __init__(self, process: Process, number: int) -> None:
        self.process, self.number = process, number

    def init(self) -> None:
        self.process.call("transactor_init", self.number)

    def begin(self) -> None:
        self.process.call("transactor_begin", self.number)

    def send(self, topic: str, messages: list[Message], wait: bool = True) -> list[int | None]:
        offsets: list[int | None] = []
        for start in range(0, len(messages), CHUNK):
            wanted = [plain(message) for message in messages[start : start + CHUNK]]
            offsets += self.process.call("transactor_send", self.number, topic, wanted, wait)
        return offsets

    def send_offsets(self, offsets: dict[Place, int], group: str, membership: Any = None) -> None:
        wanted = [[*place, offset] for place, offset in offsets.items()]
        self.process.call("transactor_offsets", self.number, wanted, group, membership)

    def commit(self) -> None:
        self.process.call("transactor_commit", self.number)

    def abort(self) -> None:
        self.process.call("transactor_abort", self.number)

    def close(self) -> None:
        self.process.call("transactor_close", self.number)


class RemoteSource(Source):
    def __init__(self, process: Process, number: int) -> None:
        self.process, self.number = process, number

    def poll(self, count: int, wait: float) -> list[Record]:
        return [record(fields) for fields in self.process.call("source_poll", self.number, count, wait)]

    def owned(self) -> set[Place]:
        return {(topic, partition) for topic, partition in self.process.call("source_owned", self.number)}

    def rewind(self) -> None:
        self.process.call("source_rewind", self.number)

    def membership(self) -> Any:
        return self.process.call("source_membership", self.number)

    def leave(self) -> None:
        self.process.call("source_leave", self.number)


def plain(message: Message) -> list[Any]:
    headers = [[name, encoded(value)] for name, value in message.headers]
    return [encoded(message.value), encoded(message.key), message.partition, headers, message.timestamp]


def record(fields: list[Any]) -> Record:
    *start, key, value, headers = fields
    return Record(*start, decoded(key), decoded(value), tuple((name, decoded(text)) for name, text in headers))


def fields_of(record: Record) -> list[Any]:
    headers = [[name, encoded(value)] for name, value in record.headers]
    start = [record.partition, record.offset, record.timestamp, record.log_append_time]
    return [*start, encoded(record.key), encoded(record.value), headers]


def message_of(fields: list[Any]) -> Message:
    value, key, partition, headers, timestamp = fields
    pairs = tuple((name, decoded(text)) for name, text in headers)
    return Message(decoded(value), decoded(key), partition, pairs, timestamp)


def encoded(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


# ---- The other end, for Python clients -------------------------------------------------------------------------------


def serve(client: Client) -> None:
    """Answer the calls about what a second process is wanted for, one after the other, until the input ends."""
    calls = calls_about_members(client) | calls_about_transactions(client)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = {"id": asked["id"], **outcome(calls[asked["call"]], asked["arguments"])}
        print(json.dumps(answer), flush=True)


def calls_about_members(client: Client) -> dict[str, Callable[..., Any]]:
    members: list[Member] = []
    return {
        "member_open": lambda topics, options: kept(members, client.member(topics, **options)),
        "member_journal": lambda number, since: members[number].journal()[since:],
        "member_owned": lambda number: sorted(members[number].owned()),
        "member_commit": lambda number, offsets, wait: members[number].commit({(t, p): o for t, p, o in offsets}, wait),
        "member_committed": lambda number, *place: members[number].committed(place),
        "member_seek": lambda number, topic, partition, offset: members[number].seek((topic, partition), offset),
        "member_leave": lambda number: members[number].leave(),
    }


def calls_about_transactions(client: Client) -> dict[str, Callable[..., Any]]:
    transactors: list[Transactor] = []
    sources: list[Source] = []
    memberships: list[Any] = []  # they cannot leave this process: their numbers do

    def send_offsets(number: int, offsets: list[Any], group: str, membership: int | None) -> None:
        told = None if membership is None else memberships[membership]
        transactors[number].send_offsets({(topic, p): offset for topic, p, offset in offsets}, group, told)

    return {
        "transactor_open": lambda name, options: kept(transactors, client.transactor(name, **options)),
        "transactor_init": lambda number: transactors[number].init(),
        "transactor_begin": lambda number: transactors[number].begin(),
        "transactor_send": lambda number, topic, messages, wait: transactors[number].send(
            topic, [message_of(fields) for fields in messages], wait
        ),
        "transactor_offsets": send_offsets,
        "transactor_commit": lambda number: transactors[number].commit(),
        "transactor_abort": lambda number: transactors[number].abort(),
        "transactor_close": lambda number: transactors[number].close(),
        "source_open": lambda topic, options: kept(sources, client.source(topic, **options)),
        "source_poll": lambda number, count, wait: [fields_of(each) for each in sources[number].poll(count, wait)],
        "source_owned": lambda number: sorted(sources[number].owned()),
        "source_rewind": lambda number: sources[number].rewind(),
        "source_membership": lambda number: kept(memberships, sources[number].membership()),
        "source_leave": lambda number: sources[number].leave(),
    }


def kept(things: list[Any], thing: Any) -> int:
    things.append(thing)
    return len(things) - 1


def outcome(call: Any, arguments: list[Any]) -> dict[str, Any]:
    try:
        return {"result": call(*arguments)}
    except Refused as error:
        return {"refused": error.name, "detail": str(error)}
    except Absent as reason:
        return {"absent": str(reason)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
