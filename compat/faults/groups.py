"""F14: a group of ten, each member a process, while members and the coordinator are killed in turn.

    python groups.py SERVERS TOPIC GROUP NAME         a member: reads, commits, and says what it has, a line each time:
                                                      has 0,3,5      read PARTITION OFFSET

Judged: each partition is somebody's again within session + 5 s; a partition's committed offset never goes back; no
record is passed over. Owns the members' processes, and the topic and group of the fault.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trial import Trial

MEMBERS, SESSION_SECONDS = 10, 6
TOPIC, GROUP = "grouped", "ten"
COUNT_PER_SECOND = 200


class Member:
    """One process, and what it last said it has."""

    def __init__(self, servers: str, name: str, watch: Watch) -> None:
        self.servers, self.name, self.watch = servers, name, watch
        self.has: set[int] = set()
        command = [sys.executable, str(Path(__file__)), servers, TOPIC, GROUP, name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.listener.join(10)
        self.has = set()

    def _listen(self) -> None:
        for line in self.process.stdout or ():
            word, _, rest = line.strip().partition(" ")
            if word == "has":
                self.has = {int(part) for part in rest.split(",") if part}
            elif word == "read":
                self.watch.read(*map(int, rest.split()))
            else:
                self.watch.wrong.append(f"member {self.name}: {line.strip()}")


class Watch:
    """What all members together read."""

    def __init__(self) -> None:
        self.offsets_read: dict[int, set[int]] = {}
        self.wrong: list[str] = []

    def read(self, partition: int, offset: int) -> None:
        self.offsets_read.setdefault(partition, set()).add(offset)


def live_through_kills(trial: Trial) -> None:
    """The whole fault."""
    from ledger import Ledger
    from loads import Confluent
    from trial import Measure

    placement = [[1, 2, 3], [2, 3, 1], [3, 1, 2]] * 4
    trial.placement = placement
    trial.create(TOPIC)
    servers, watch = trial.cluster.servers, Watch()
    members = [Member(servers, f"m{n}", watch) for n in range(MEMBERS)]
    trial.stack.callback(lambda: [member.process.kill() for member in members])
    ledger = Ledger(TOPIC, len(placement))
    producer = Confluent(servers, ledger, COUNT_PER_SECOND, 100)
    producer.start()
    offsets = Offsets(servers, len(placement))
    offsets.start()

    def spread() -> bool:
        """Each partition is one member's, and all ten have some."""
        held = [partition for member in members for partition in member.has]
        return sorted(held) == list(range(len(placement))) and all(member.has for member in members)

    trial.wait(spread, "the partitions are spread over ten members")
    for turn in range(9 if trial.plan.full else 3):
        which = turn * 3 % MEMBERS
        members[which].kill()
        took = trial.wait(lambda: is_covered(members, len(placement)), "all partitions are somebody's")
        trial.measures.append(Measure("a member is killed: all are somebody's after", took, SESSION_SECONDS + 5.0))
        members[which] = Member(servers, f"m{which}", watch)
        trial.wait(spread, "the partitions are spread over ten members")
        broker = offsets.coordinator()
        began = time.time()
        trial.cluster[broker].kill()
        took = trial.wait(lambda: offsets.all_move_since(began + 0.5), "every partition's offset moves")  # noqa: B023
        trial.measures.append(Measure(f"coordinator {broker} is killed: commits go on after", took, 8.0 + 5.0))
        trial.cluster[broker].start()
        trial.wait(trial.is_whole, "all replicas are in sync")
    producer.finish()
    ends = {partition: acks.offsets[-1] + 1 for partition, acks in enumerate(ledger.acks)}
    trial.wait(lambda: offsets.found == ends, "the group is at the end")
    offsets.finish()
    for member in members:
        member.kill()
    for partition, end in ends.items():
        if passed_over := set(range(end)) - watch.offsets_read.get(partition, set()):
            watch.wrong.append(f"PASSED OVER: partition {partition}: {len(passed_over)}, first {min(passed_over)}")
    trial.wrong += ledger.errors + watch.wrong + offsets.wrong


def is_covered(members: list[Member], count: int) -> bool:
    return sorted(partition for member in members for partition in member.has) == list(range(count))


class Offsets(threading.Thread):
    """Asks for the group's committed offsets all the time, and notes when one goes back."""

    def __init__(self, servers: str, count: int) -> None:
        super().__init__(daemon=True)
        self.servers, self.count = servers, count
        self.found: dict[int, int] = {}
        self.moved: dict[int, float] = {}
        self.wrong: list[str] = []
        self.is_over = threading.Event()

    def run(self) -> None:
        from confluent_kafka import Consumer, KafkaException, TopicPartition
        from loads import QUIET

        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": GROUP, "logger": QUIET})
        places = [TopicPartition(TOPIC, partition) for partition in range(self.count)]
        while not self.is_over.wait(0.1):
            try:
                for place in consumer.committed(places, timeout=5):
                    self._note(place.partition, place.offset)
            except KafkaException:
                continue
        consumer.close()

    def _note(self, partition: int, offset: int) -> None:
        before = self.found.get(partition, -1)
        offset = max(offset, -1)  # the client's own number for "none" is another
        if offset < before:
            self.wrong.append(f"WENT BACK: partition {partition} was committed to {before}, and now is at {offset}")
        elif offset > before:
            self.found[partition], self.moved[partition] = offset, time.time()

    def all_move_since(self, moment: float) -> bool:
        return all(self.moved.get(partition, 0) > moment for partition in range(self.count))

    def coordinator(self) -> int:
        from confluent_kafka.admin import AdminClient
        from loads import QUIET

        admin = AdminClient({"bootstrap.servers": self.servers, "logger": QUIET})
        described = admin.describe_consumer_groups([GROUP])[GROUP].result(30)
        return int(described.coordinator.id)

    def finish(self) -> None:
        self.is_over.set()
        self.join(30)


def member(servers: str, topic: str, group: str, name: str) -> None:
    """A member's process: reads what it is given and commits it, until it is killed."""
    from confluent_kafka import Consumer, KafkaException

    consumer = Consumer({
        "bootstrap.servers": servers, "group.id": group, "client.id": name, "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "session.timeout.ms": 1000 * SESSION_SECONDS, "log_level": 0,
    })  # fmt: skip
    has: set[int] = set()

    def say_has(change: Any) -> None:
        change()
        print("has", ",".join(map(str, sorted(has))), flush=True)

    consumer.subscribe(
        [topic],
        on_assign=lambda _, places: say_has(lambda: has.update(place.partition for place in places)),
        on_revoke=lambda _, places: say_has(lambda: has.difference_update(place.partition for place in places)),
        on_lost=lambda _, places: say_has(lambda: has.difference_update(place.partition for place in places)),
    )
    while True:
        messages = [message for message in consumer.consume(100, 0.2) if message.error() is None]
        for message in messages:
            print("read", message.partition(), message.offset(), flush=True)
        if messages:
            try:
                consumer.commit(asynchronous=False)
            except KafkaException:  # a rebalance, or no coordinator for a moment: the next commit covers it
                continue


if __name__ == "__main__":
    member(*sys.argv[1:])
