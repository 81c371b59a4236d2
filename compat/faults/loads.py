"""Clients under load, as an application has them: default settings, acks=all, idempotent.

    Confluent, KafkaPython    a producer in a thread of this process
    Java                      Load.java in a process
    Reader                    a consumer that reads everything from the beginning on, and notes what it sees

Each producer has a topic of its own and sends at an even rate to all its partitions, until `finish`, which waits for
what is under way. Owns its thread or process.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apache_kafka
from ledger import Ledger, Sightings, value

HERE = Path(__file__).resolve().parent
TICK_SECONDS = 0.005
QUIET = logging.getLogger("librdkafka")  # its log of connections that end is no part of what is told here
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False
FINISH_SECONDS_MAX = 130.0  # delivery.timeout.ms and a little


class Producing(threading.Thread, ABC):
    """A thread that sends `rate` records a second."""

    name_of_client = ""

    def __init__(self, servers: str, ledger: Ledger, rate: int, size: int) -> None:
        super().__init__(daemon=True)
        self.servers, self.ledger, self.rate, self.size = servers, ledger, rate, size
        self.is_over = threading.Event()

    def run(self) -> None:
        count, began, sent = len(self.ledger.acks), time.monotonic(), 0
        try:
            self.open()
            while not self.is_over.wait(TICK_SECONDS):
                due = int((time.monotonic() - began) * self.rate)
                for number in range(sent, due):
                    self.send(number % count, number // count)
                sent = max(sent, due)
                self.poll()
            self.close()
        except Exception as reason:
            self.ledger.failed(f"the producer ended: {reason!r}")

    def abandon(self) -> None:
        """End, whatever is under way."""
        self.is_over.set()

    def finish(self) -> None:
        """Send nothing more, and wait until everything is answered."""
        self.is_over.set()
        self.join(FINISH_SECONDS_MAX)
        if self.is_alive():
            self.ledger.failed("the producer did not end")

    @abstractmethod
    def open(self) -> None: ...
    @abstractmethod
    def send(self, partition: int, number: int) -> None: ...
    @abstractmethod
    def poll(self) -> None: ...
    @abstractmethod
    def close(self) -> None: ...


class Confluent(Producing):
    """confluent-kafka, whose own default is a producer that is not idempotent."""

    name_of_client = "confluent-kafka"
    settings: Mapping[str, Any] = {}

    def open(self) -> None:
        from confluent_kafka import Producer

        self.producer = Producer({
            "bootstrap.servers": self.servers, "enable.idempotence": True, "acks": "all", "error_cb": self._told,
            "logger": QUIET, **self.settings,
        })  # fmt: skip

    def send(self, partition: int, number: int) -> None:
        sent_at = time.time()

        def answered(error: Any, message: Any) -> None:
            if error is not None:
                self.ledger.failed(f"record {number} of partition {partition}: {error}")
            else:
                self.ledger.acked(partition, number, message.offset(), time.time(), sent_at)

        while True:
            try:
                topic, content = self.ledger.topic, value(number, self.size)
                return self.producer.produce(topic, content, partition=partition, on_delivery=answered)
            except BufferError:  # its queue is full: an application waits
                self.producer.poll(0.1)

    def poll(self) -> None:
        self.producer.poll(0)

    def close(self) -> None:
        left = self.producer.flush(FINISH_SECONDS_MAX)
        if left:
            self.ledger.failed(f"{left} records were never answered")

    def _told(self, error: Any) -> None:
        """A connection that ends is news for people, says librdkafka's manual; what is fatal is not."""
        if error.fatal():
            self.ledger.failed(f"fatal: {error}")


class Impatient(Confluent):
    """confluent-kafka that asks elsewhere when a broker is silent for 3 s, where its default is 60."""

    name_of_client = "confluent-kafka with socket.timeout.ms=3000"
    settings: Mapping[str, Any] = {"socket.timeout.ms": 3000}


class KafkaPython(Producing):
    """kafka-python."""

    name_of_client = "kafka-python"
    settings: Mapping[str, Any] = {}

    def open(self) -> None:
        from kafka import KafkaProducer

        self.producer = KafkaProducer(bootstrap_servers=self.servers.split(","), **self.settings)

    def send(self, partition: int, number: int) -> None:
        sent_at = time.time()
        sending = self.producer.send(self.ledger.topic, value(number, self.size), partition=partition)
        sending.add_callback(
            lambda told: self.ledger.acked(partition, number, told.offset, time.time(), sent_at)
        ).add_errback(lambda error: self.ledger.failed(f"record {number} of partition {partition}: {error!r}"))

    def poll(self) -> None:
        """Its own thread does it."""

    def close(self) -> None:
        self.producer.flush(FINISH_SECONDS_MAX)
        self.producer.close(10)


class Prompt(KafkaPython):
    """kafka-python that tries a broker again every second, where by default it waits twice as long each time."""

    name_of_client = "kafka-python with reconnect_backoff_max_ms=1000"
    settings: Mapping[str, Any] = {"reconnect_backoff_max_ms": 1000}


class Java:
    """Kafka's own client."""

    name_of_client = "java"

    def __init__(self, servers: str, ledger: Ledger, rate: int, size: int) -> None:
        self.ledger = ledger
        command = [*java_command("Load"), servers, ledger.topic, str(len(ledger.acks)), str(rate), str(size)]
        self.command = command

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def abandon(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def finish(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            if code := self.process.wait(FINISH_SECONDS_MAX):
                self.ledger.failed(f"the producer ended with {code}")
        except subprocess.TimeoutExpired:
            self.ledger.failed("the producer did not end")
            self.process.kill()
        self.listener.join(10)

    def _listen(self) -> None:
        for line in self.process.stdout or ():
            word, _, rest = line.strip().partition(" ")
            if word == "ack":
                partition, number, offset, at, sent = map(int, rest.split())
                self.ledger.acked(partition, number, offset, at / 1000, sent / 1000)
            else:
                self.ledger.failed(line.strip())


def java_command(program: str) -> list[str]:
    """A program of this folder, compiled. Raises Unavailable."""
    jars = apache_kafka.find_or_fetch()
    if shutil.which("javac") is None:
        raise apache_kafka.Unavailable("no `javac` on this machine")
    classes = apache_kafka.CACHE / "faults"
    classes.mkdir(parents=True, exist_ok=True)
    source, built = HERE / f"{program}.java", classes / f"{program}.class"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["javac", "-cp", jars, "-d", str(classes), str(source)], check=True, timeout=120)
    return ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{jars}:{classes}", program]  # fmt: skip


PRODUCERS = {
    "confluent-kafka": Confluent, "kafka-python": KafkaPython, "java": Java, "impatient": Impatient, "prompt": Prompt,
}  # fmt: skip


class Reader(threading.Thread):
    """Reads a topic as records come, with confluent-kafka's default settings and no group."""

    def __init__(self, servers: str, topic: str, partitions: int) -> None:
        super().__init__(daemon=True)
        self.servers, self.topic, self.partitions = servers, topic, partitions
        self.sightings = Sightings()
        self.is_over = threading.Event()

    def run(self) -> None:
        from confluent_kafka import Consumer, KafkaError, TopicPartition

        consumer = Consumer({
            "bootstrap.servers": self.servers, "group.id": "unused", "enable.auto.commit": False,
            "auto.offset.reset": "error", "logger": QUIET,
        })  # fmt: skip
        consumer.assign([TopicPartition(self.topic, partition, 0) for partition in range(self.partitions)])
        while not self.is_over.is_set():
            for message in consumer.consume(1000, 0.1):
                error = message.error()
                if error is None:
                    self.sightings.see(message.partition(), message.offset(), message.value())
                elif error.code() not in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT):  # news, no more
                    self.sightings.errors.append(f"reading: {error}")
        consumer.close()

    def abandon(self) -> None:
        self.is_over.set()

    def finish(self) -> None:
        self.is_over.set()
        self.join(30)


def read_all(servers: str, topic: str, ends: dict[int, int], seconds: float = 60.0) -> dict[int, dict[int, bytes]]:
    """Everything that lies in a topic below these ends, by partition and offset; what did not come is not there."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers, "group.id": "unused", "enable.auto.commit": False,
                         "auto.offset.reset": "error", "check.crcs": True, "logger": QUIET})  # fmt: skip
    consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
    found: dict[int, dict[int, bytes]] = {partition: {} for partition in ends}
    deadline = time.monotonic() + seconds
    left = {partition for partition, end in ends.items() if end > 0}
    while left and time.monotonic() < deadline:
        for message in consumer.consume(5000, 0.2):
            if message.error() is None and message.offset() < ends[message.partition()]:
                found[message.partition()][message.offset()] = message.value()
                if message.offset() == ends[message.partition()] - 1:
                    left.discard(message.partition())
    consumer.close()
    return found
