"""KBroker: a broker as a test sees it, whatever is behind it. What the fixtures `kbroker` and `make_kbroker` give.

    kbroker.bootstrap_servers                       for any client
    kbroker.create_topic("orders", partitions=3)
    kbroker.topic("orders").wait_for(1)[0].value    what is there, asked by the protocol
    kbroker.faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", times=2)
    kbroker.clock.advance("30m")
    kbroker.kill(); kbroker.start()                 the same port, the same data

Each call blocks until it is done, and any thread may make it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.env import address_text
from kbroker.testing.control.kafka import Group, Kafka, Topic
from kbroker.testing.control.links import Links, NoBroker, check, persist
from kbroker.testing.control.reading import Record
from kbroker.testing.control.remote import Clock, Faults, Request, Requests
from kbroker.testing.embedded.backends import Embedded
from kbroker.testing.embedded.portal import BrokerGone, Uncontrollable

if TYPE_CHECKING:
    from kbroker.testing.embedded.cluster import Cluster  # has all of a broker, which one in a process has there

# What tests name: types to annotate with, exceptions to catch.
__all__ = [
    "BrokerGone", "Clock", "ClusterClock", "Faults", "Group", "KBroker", "KBrokerCluster", "KafkaError", "MakeKBroker",
    "NoBroker", "Record", "Request", "Requests", "Topic", "Uncontrollable",
]  # fmt: skip

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

REPORTED_REQUESTS = 100  # the latest, with a test that failed
REPORTED_LINES = 100
WAIT_S = 15.0  # for a leader: as long as the session of a broker that died, and some more


class Asked(ABC):
    """What any Kafka can be asked for by its protocol."""

    def __init__(self) -> None:
        self.kafka = Kafka(lambda: self.bootstrap_servers)

    @property
    @abstractmethod
    def bootstrap_servers(self) -> str:
        """What a client's setting of that name takes: "127.0.0.1:54321"."""

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        *,
        config: Mapping[str, Any] | None = None,
        replication_factor: int = -1,
    ) -> Topic:
        """Create a topic, which can be written to when this returns. See Kafka.create_topic for what it raises."""
        return self.kafka.create_topic(name, partitions, config=config, replication_factor=replication_factor)

    def topics(self) -> list[str]:
        """The names of all topics but Kafka's internal ones."""
        return self.kafka.topics()

    def topic(self, name: str) -> Topic:
        """A topic, to read or wait for what is in it."""
        return self.kafka.topic(name)

    def group(self, group_id: str) -> Group:
        """A consumer group, to look at or wait for."""
        return self.kafka.group(group_id)

    def client_config(self, client: str, role: str | None = None, *, fast: bool = True) -> dict[str, Any]:
        """Settings for a client library ("kafka-python", "confluent", "aiokafka", "java"), for a role of it
        ("producer", "consumer", "admin"): where the broker is and, if fast, times that suit tests."""
        return self.kafka.client_config(client, role, fast=fast)


class KBroker(Asked):
    """A broker in a test's hands."""

    def __init__(self, embedded: Embedded) -> None:
        super().__init__()
        self.embedded = embedded
        self.faults = Faults(embedded)
        self.clock = Clock(embedded)
        self._theirs: tuple[set[str], set[str]] | None = None  # topics and groups of an external Kafka

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.embedded.address

    @property
    def bootstrap_servers(self) -> str:
        """What a client's setting of that name takes: "127.0.0.1:54321"."""
        return address_text(*self.address)

    @property
    def is_running(self) -> bool:
        """Whether there is a broker; a paused one counts."""
        return self.embedded.is_running

    @property
    def log_lines(self) -> list[str]:
        """What it logged since the test began, oldest first; the latest 2,000 lines."""
        return self.embedded.log_lines()

    @property
    def failure(self) -> str:
        """Why it ended by itself; "" where it did not."""
        return self.embedded.failure

    def requests(self, api: str | None = None, *, client_id: str | None = None, topic: str | None = None) -> Requests:
        """What clients have asked since the test began: of an API ("Produce"), of a client, about a topic."""
        return Requests(self.embedded, api, client_id=client_id, topic=topic)

    def start(self) -> None:
        """Start it again after `stop` or `kill`: the same port, the same data. Returns when it serves."""
        self.embedded.start()

    def stop(self) -> None:
        """Stop it cleanly, as SIGTERM does. Clients are refused until `start`."""
        self.embedded.stop()

    def kill(self) -> None:
        """End it as kill -9 does: connections break; what it had written, though not synced, is there at `start`."""
        self.embedded.kill()

    def pause(self) -> None:
        """Let it stand still, as SIGSTOP or a long garbage collection does, until `resume`. Connections stay open."""
        self.embedded.pause()

    def resume(self) -> None:
        """Let it go on."""
        self.embedded.resume()

    # -- for the plugin ------------------------------------------------------------------------------------------------

    def renew(self, config: Mapping[str, str] | None = None, topics: Mapping[str, int] | None = None) -> None:
        """Have another broker there, as new. config: beside what it was made with. topics: name -> partitions.

        Raises CannotStart.
        """
        self.embedded.renew(config, topics)
        if not self.embedded.is_ours:
            self._wipe()
            for name, partitions in (topics or {}).items():
                self.create_topic(name, partitions)

    def prepare(self, config: Mapping[str, str] | None = None) -> None:
        """The next `renew` will want this config, probably."""
        self.embedded.prepare(config)
        if not self.embedded.is_ours:
            self._wipe()

    def _wipe(self) -> None:
        """Delete from an external Kafka the topics and groups that were not there when it was first looked at."""
        topics, groups = set(self.kafka.topics()), set(self.kafka.groups())
        if self._theirs is None:
            self._theirs = topics, groups
        self.kafka.delete_topics(topics - self._theirs[0])
        for group in groups - self._theirs[1]:
            with suppress(KafkaError):  # a client that was left over is still a member
                self.kafka.delete_groups([group])

    def problems(self) -> list[str]:
        """What a test that has passed did not see, a line each. Faults are told once, and gone then."""
        self.resume()
        if self.failure:
            return [f"the broker died during the test: {self.failure}"]
        unfired = self._told("unfired")
        if unfired:
            self._told("clear_faults")
        return unfired

    def sections(self) -> list[tuple[str, str]]:
        """What to show with a test that failed: titles and texts."""
        self.resume()
        texts = {
            "kbroker: the broker died during the test": self.failure.splitlines(),
            "kbroker: what the test did": self._told("history"),
            "kbroker: requests": self._told("journal_lines", REPORTED_REQUESTS),
            "kbroker: log": self.log_lines[-REPORTED_LINES:],
        }
        return [(f"{title} ({self.bootstrap_servers})", "\n".join(lines)) for title, lines in texts.items() if lines]

    def _told(self, method: str, *args: Any) -> list[str]:
        """Lines of the controls; none where there is nobody to tell."""
        try:
            lines: list[str] = self.embedded.call(method, *args)
            return lines
        except (BrokerGone, Uncontrollable, TimeoutError):
            return []

    def close(self) -> None:
        """End it for good."""
        self.kafka.close()
        self.embedded.close()


class MakeKBroker(Protocol):
    """What the fixture `make_kbroker` gives."""

    def __call__(
        self,
        *,
        config: Mapping[str, Any] | None = None,
        topics: Mapping[str, int] | None = None,
        port: int = 0,
        backend: str = "",
    ) -> KBroker:
        """Make a broker that stays as it is until the session ends.

        config: Kafka's configs. topics: name -> partitions. port 0: any. backend: "thread" or "process"; "" for that of
        the session. Raises ValueError for another one; a broker that cannot start fails the test.
        """


class KBrokerCluster(Asked):
    """Several brokers in a test's hands. What is done to one of them is done to `leader(...)`, or to `brokers[id]`."""

    def __init__(self, cluster: Cluster, topics: Mapping[str, int] | None = None) -> None:
        """topics: name -> partitions, to be created."""
        super().__init__()
        self.cluster = cluster
        self.brokers = {id: KBroker(member) for id, member in cluster.members.items()}
        self.clock = ClusterClock([broker.clock for broker in self.brokers.values()])
        for name, partitions in (topics or {}).items():
            self.create_topic(name, partitions)

    @property
    def bootstrap_servers(self) -> str:
        """The addresses of all, separated by commas."""
        return ",".join(broker.bootstrap_servers for broker in self.brokers.values())

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each."""
        return [broker.address for broker in self.brokers.values()]

    def leader(self, topic: str, partition: int = 0) -> KBroker:
        """The broker that leads a partition, once there is one that runs. Raises LookupError for no such partition."""
        running = {id for id, broker in self.brokers.items() if broker.is_running}

        async def find(links: Links) -> int:
            told = (await links.metadata(topic)).topics[0]
            check(told.error_code, f"there is no topic {topic}")
            leaders: dict[int, int] = {each.partition_index: each.leader_id for each in told.partitions}
            if partition not in leaders:
                raise LookupError(f"{topic} has partitions 0 to {len(leaders) - 1}, not {partition}")
            if leaders[partition] not in running:
                raise KafkaError(ErrorCode.LEADER_NOT_AVAILABLE, f"nobody leads {topic}-{partition}")
            return leaders[partition]

        return self.brokers[self.kafka.run(lambda links: persist(lambda: find(links), trio.current_time() + WAIT_S))]

    def problems(self) -> list[str]:
        """What a test that has passed did not see, a line each."""
        return [f"broker {id}: {line}" for id, broker in self.brokers.items() for line in broker.problems()]

    def sections(self) -> list[tuple[str, str]]:
        """What to show with a test that failed: titles and texts. Brokers in one thread share a log."""
        found = [section for broker in self.brokers.values() for section in broker.sections()]
        return list({text: (title, text) for title, text in reversed(found)}.values())[::-1]

    def close(self) -> None:
        """End them for good."""
        self.kafka.close()
        for broker in self.brokers.values():
            broker.kafka.close()
        self.cluster.close()


class ClusterClock:
    """The data time of several brokers, moved together. See Clock."""

    def __init__(self, clocks: Sequence[Clock]) -> None:
        self._clocks = clocks

    def now(self) -> datetime:
        """The first broker's; the others' are some milliseconds from it."""
        return self._clocks[0].now()

    def advance(self, span: str | float | timedelta, *, liveness: bool = False) -> datetime:
        """Move it forward."""
        return [clock.advance(span, liveness=liveness) for clock in self._clocks][0]

    def advance_to(self, moment: datetime | int, *, liveness: bool = False) -> datetime:
        """Move it to a moment."""
        return [clock.advance_to(moment, liveness=liveness) for clock in self._clocks][0]
