"""kcat (librdkafka's command line tool) under the scenarios: each call is one or more processes.

kcat writes lines: key and value are divided by 0x1F, records by a newline. Partition, headers and null values are set
per process, so messages that differ in these go to processes of their own, one after the other. It has no admin calls;
the topics are made for it (`Run.topic`).
"""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Iterable
from typing import IO, Any

from common import Client, Consumer, Message, Record, Refused, main

DIVIDER = "\x1f"
FRESH = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

# librdkafka's texts for the errors that the scenarios can meet.
WORDS = {
    "Offset out of range": "OFFSET_OUT_OF_RANGE",
    "Unknown topic or partition": "UNKNOWN_TOPIC_OR_PARTITION",
    "Message size too large": "MESSAGE_TOO_LARGE",
    "Invalid topic": "INVALID_TOPIC_EXCEPTION",
}


class Kcat(Client):
    name = "kcat"

    def cluster(self) -> dict[str, Any]:
        found = self.metadata()
        brokers = [broker["id"] for broker in found["brokers"]]
        return {"brokers": brokers, "controller": found["controllerid"], "cluster_id": None}

    def topics(self) -> set[str]:
        return {topic["topic"] for topic in self.metadata()["topics"]}

    def partitions(self, topic: str) -> int:
        found = self.metadata("-t", topic)["topics"][0]
        if "error" in found:
            raise refused(found["error"])
        return len(found["partitions"])

    def metadata(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.output("-L", "-J", *arguments))
        return found

    def offset(self, topic: str, partition: int, when: str | int) -> int | None:
        asked = {"earliest": -2, "latest": -1}.get(str(when), when)
        answer = int(self.output("-Q", "-t", f"{topic}:{partition}:{asked}").split()[-1])
        return None if answer < 0 else answer

    def produce(self, topic: str, messages: Iterable[Message], **options: Any) -> list[int | None]:
        settings = self.producer_settings(options)
        if isinstance(messages, list):  # the order within a partition is what counts
            messages = sorted(messages, key=lambda message: message.partition or 0)
        process, running, count = None, None, 0
        for message in messages:
            wanted = self.producer_arguments(message)
            if process is None or wanted != running:
                finish(process)
                command = self.command("-P", "-t", topic, *settings, *wanted)
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
                running = wanted
            write_line(process, message)
            count += 1
        finish(process)
        return [None] * count

    def producer_settings(self, options: dict[str, Any]) -> list[str]:
        wanted = {
            "acks": options.get("acks", "all"),
            "enable.idempotence": str(options.get("idempotent", False)).lower(),
            "linger.ms": options.get("linger_ms", 0),
            "batch.size": options.get("batch_bytes", 1_000_000),
            "max.in.flight": options.get("in_flight", 5),
            "message.max.bytes": options.get("request_bytes_max", 1_000_000),
            "message.timeout.ms": options.get("patience", 30) * 1000,
            "reconnect.backoff.max.ms": 500,
        }
        return ["-E", "-z", options.get("codec", "none"), *settings(wanted)]

    def producer_arguments(self, message: Message) -> list[str]:
        if message.timestamp is not None:
            raise self.absent("way to set a timestamp")
        arguments = ["-p", str(-1 if message.partition is None else message.partition)]
        for name, value in message.headers:
            arguments += ["-H", name if value is None else f"{name}={value.decode()}"]
        if message.key is not None:
            arguments += ["-K", DIVIDER]
        return arguments + (["-Z"] if message.value is None else [])

    def consumer(self, topic: str, starts: dict[int, int], **options: Any) -> Consumer:
        wanted = {
            "auto.offset.reset": {"none": "error"}.get(options.get("reset", "none"), options.get("reset")),
            "isolation.level": options.get("isolation", "read_uncommitted"),
            "fetch.wait.max.ms": options.get("max_wait_ms", 500),
            "fetch.message.max.bytes": options.get("partition_bytes", 1048576),
        }
        return Reading(self.command("-C", "-q", "-u", "-J", "-t", topic, *settings(wanted)), starts)

    def output(self, *arguments: str) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=20)
        if done.returncode != 0:
            raise refused(done.stderr)
        return done.stdout

    def command(self, *arguments: str) -> list[str]:
        return ["kcat", "-b", self.bootstrap, *arguments]


class Reading(Consumer):
    """Each `take` is a process that begins where the last ended; one per partition, unless all begin at one offset."""

    def __init__(self, command: list[str], starts: dict[int, int]) -> None:
        self.command, self.starts = command, dict(starts)

    def seek(self, starts: dict[int, int]) -> None:
        self.starts.update(starts)

    def take(self, count: int, wait: float) -> list[Record]:
        deadline = time.monotonic() + wait
        if len(self.starts) == 1:
            [(partition, start)] = self.starts.items()
            found = self.process(["-p", str(partition), "-o", str(start), "-c", str(count)], count, deadline)
        elif len(set(self.starts.values())) == 1:
            start = next(iter(self.starts.values()))
            found = self.process(["-o", str(start), "-c", str(count)], count, deadline)
        else:
            found = []
            for partition, start in self.starts.items():
                found += self.process(["-p", str(partition), "-o", str(start), "-e"], count, deadline)
        for record in found:
            self.starts[record.partition] = max(self.starts[record.partition], record.offset + 1)
        return found

    def process(self, arguments: list[str], count: int, deadline: float) -> list[Record]:
        process = subprocess.Popen([*self.command, *arguments], **FRESH)  # type: ignore[call-overload]
        try:
            lines = read_lines(process.stdout, count, deadline)
            if len(lines) < count and time.monotonic() < deadline and process.wait(5) != 0:
                raise refused(process.stderr.read().decode())
            return [record(json.loads(line)) for line in lines]
        finally:
            process.kill()
            process.wait()

    def close(self) -> None:
        pass


def write_line(process: subprocess.Popen[bytes], message: Message) -> None:
    key = b"" if message.key is None else message.key + DIVIDER.encode()
    try:
        process.stdin.write(key + (message.value or b"") + b"\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    except BrokenPipeError:
        finish(process)


def finish(process: subprocess.Popen[bytes] | None) -> None:
    """End of input: kcat delivers what it holds and tells by its exit status."""
    if process is None:
        return
    _, said = process.communicate(timeout=55)
    if process.returncode != 0:
        raise refused(said.decode())


def read_lines(stream: IO[bytes], count: int, deadline: float) -> list[bytes]:
    """Up to `count` lines, until the deadline or the end of the stream."""
    lines: list[bytes] = []
    rest = b""
    while len(lines) < count and (left := deadline - time.monotonic()) > 0:
        if not select.select([stream], [], [], left)[0]:
            break
        data = stream.read1(1 << 20)  # type: ignore[attr-defined]
        if not data:
            break
        *whole, rest = (rest + data).split(b"\n")
        lines += whole
    return lines


def record(found: dict[str, Any]) -> Record:
    flat = found.get("headers", [])
    return Record(
        found["partition"],
        found["offset"],
        found["ts"],
        found["tstype"] == "logappend",
        encoded(found["key"]),
        encoded(found["payload"]),
        tuple((name, encoded(value)) for name, value in zip(flat[::2], flat[1::2], strict=True)),
    )


def encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def settings(wanted: dict[str, Any]) -> list[str]:
    return [part for name, value in wanted.items() for part in ("-X", f"{name}={value}")]


def refused(said: str) -> Refused:
    for words, name in WORDS.items():
        if f"Broker: {words}" in said:
            return Refused(name, said.strip())
    return Refused(said.strip() or "kcat ended without a word")


if __name__ == "__main__":
    main(Kcat)
