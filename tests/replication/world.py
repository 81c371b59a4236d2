"""A small world of three brokers with one partition: what may happen to them, one step at a time, and what must hold.

No network and no tasks: a step is a fetch that arrives late or not at all, an image that one broker learns and another
does not, an election, a kill, a power failure, a change of the ISR whose outcome stays unknown. The cluster's store
takes changes by compare and swap. `shown` is what anybody was ever shown, offset by offset: the ghost of the log.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import build_batch, headers, read_records
from kbroker.cluster.elections import led_by, with_isr
from kbroker.cluster.image import NO_LEADER, PartitionImage
from kbroker.cluster.isr_changes import IsrChange, IsrOutcome
from kbroker.log.recovery import Crash
from kbroker.replication.doubt import InDoubt
from kbroker.replication.partition import ACKS_ALL, JOIN_S, Partition
from kbroker.watermark import Watermark
from tests.log.tools import NOW, Worker, open_log
from tests.replication.pairs import Replica, Replicas

NODES = (1, 2, 3)
LAG_S = 10.0
CONFIG = {"segment_bytes": 1500, "index_interval_bytes": 200}


class Violation(AssertionError):
    """What must never happen has."""


@dataclass
class Sent:
    """A batch that the producer waits for."""

    partition: Partition
    high_watermark: Watermark
    last_offset: int


def is_acknowledged(sent: Sent) -> bool:
    """Whether its producer may be told so; raises KafkaError where it is told something else (see api/produce.py)."""
    if sent.high_watermark.value <= sent.last_offset:
        sent.high_watermark.check()
        return False
    sent.high_watermark.check()
    if not sent.partition.has_min_isr:
        raise KafkaError(ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND)
    return True


def taken_up(image: PartitionImage, broker_id: int, live: set[int]) -> PartitionImage:
    """The partition when a broker has started again: it resumes no epoch (R8; see elections.take_up)."""
    if image.leader != broker_id and not (image.leader == NO_LEADER and broker_id in image.isr):
        return image
    others = [id for id in image.replicas if id in image.isr and id != broker_id and id in live]
    return led_by(image, others[0] if others else broker_id)


class World:
    """The steps are its methods. A seed decides what is left to chance."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(f"replication/{seed}")
        self.min_isr = self.chance.choice((1, 2))
        self.replicas = Replicas(*NODES, min_insync_replicas=self.min_isr, **CONFIG)
        self.live = set(NODES)
        self.cut_off: set[int] = set()  # who reaches neither the store nor the others
        self.shown: dict[int, tuple[int, bytes | None]] = {}
        self.acknowledged: list[bytes] = []
        self.sent: Sent | None = None
        self.producer_id = 0
        self.sequence = 0
        self.number = 0  # of the batch: its value
        self.noise = 0
        self.flights: dict[int, tuple[int, tuple[Any, ...]]] = {}  # answers on their way, by follower
        self.open_changes: list[IsrChange] = []  # that the store may still carry out
        self.durable = dict.fromkeys(NODES, 0)
        self.kept = dict.fromkeys(NODES, 0)  # high watermarks, as in the checkpoint
        self.replicas.change(leader=1)

    def run(self, steps: int) -> None:
        """So many steps by chance, and then all must come together. Each world likes some kinds of steps more."""
        weights = [weight * self.chance.choice((0.2, 1, 1, 4)) for weight in STEPS.values()]
        for name in self.chance.choices(list(STEPS), weights, k=steps):
            getattr(self, name)()
            self.look()
        self.heal()

    # -- who is there ---------------------------------------------------------------------------------------------

    def any_live(self) -> Replica:
        return self.replicas[self.chance.choice(sorted(self.live))] if self.live else self.replicas[1]

    def leaders(self) -> list[Replica]:
        """All who take themselves for one."""
        return [self.replicas[id] for id in sorted(self.live) if self.replicas[id].partition.leading]

    def agree(self, image: PartitionImage) -> None:
        """The store has a new image of the partition."""
        fields = {name: getattr(image, name) for name in PartitionImage.__slots__}
        self.replicas.image = PartitionImage(**fields | {"mod_revision": self.replicas.image.mod_revision + 1})

    def tell(self) -> None:
        """One broker learns of the newest image."""
        if self.live - self.cut_off:
            self.tell_one(self.replicas[self.chance.choice(sorted(self.live - self.cut_off))])

    def tell_one(self, replica: Replica) -> None:
        before = replica.partition.leader_epoch
        self.replicas.tell(replica)
        replica.settle()
        self.note_durable(replica)
        if replica.partition.leading and replica.partition.leader_epoch > before:
            self.check_complete(replica)
        for leader in self.leaders():
            leader.session_proven = self.replicas.image.leader == leader.node_id

    # -- data ---------------------------------------------------------------------------------------------------------

    def produce(self) -> None:
        """The producer sends its batch to whoever it takes for the leader, again if it must."""
        leaders = self.leaders()
        if self.sent is not None or not leaders:
            return
        leader = self.chance.choice(leaders)
        partition = leader.partition
        value = b"%d" % self.number
        try:
            ids = {"producer_id": self.producer_id, "producer_epoch": 0, "base_sequence": self.sequence}
            made = build_batch([(NOW, b"key", value)], **ids)
            appended = partition.append(made, ACKS_ALL, NOW)
        except InDoubt:
            return
        except KafkaError as error:
            if error.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER:
                raise Violation(f"R14, P2: {leader.node_id} says of {value!r}: {error}") from error
            return
        self.sent = Sent(partition, partition.high_watermark, appended.last_offset)

    def answer_producer(self) -> None:
        """It is told what became of its batch, or hears nothing for so long that it sends it again."""
        if self.sent is None:
            return
        try:
            if is_acknowledged(self.sent):
                self.acknowledged.append(b"%d" % self.number)
                self.sequence += 1
                self.number += 1
                self.sent = None
            elif self.chance.random() < 0.2:
                self.sent = None
        except KafkaError:
            self.sent = None

    def write_noise(self) -> None:
        """Somebody writes with acks=1: it may be lost."""
        for leader in self.leaders():
            if self.chance.random() < 0.7:
                values = [b"noise %d" % (self.noise + n) for n in range(self.chance.randint(1, 3))]
                self.noise += len(values)
                try:
                    leader.append(*values, acks=1)
                except KafkaError:
                    pass

    def fetch(self) -> None:
        """One follower asks whom it takes for its leader. Requests and answers are lost, or late."""
        self.fetch_by(self.any_live())

    def fetch_by(self, follower: Replica, fate: float | None = None) -> None:
        partition = follower.partition
        if not partition.following or not {follower.node_id, partition.leader_id} <= self.live - self.cut_off:
            return
        leader = self.replicas[partition.leader_id]
        try:
            offset, epoch = partition.fetch_position()
            most = self.chance.choice((100, 300, 1 << 20))
            answer = self.replicas.answer(follower, leader, offset, epoch, partition.leader_epoch, most)
        except KafkaError:
            return
        flight = partition.leader_epoch, answer
        fate = self.chance.random() if fate is None else fate
        if fate < 0.75:
            self.deliver(follower, *flight)
        elif fate < 0.9:
            self.flights[follower.node_id] = flight

    def fetch_much(self) -> None:
        for _ in range(6):
            self.fetch()

    def arrive(self) -> None:
        """An answer that was late."""
        if self.flights:
            id = self.chance.choice(sorted(self.flights))
            flight = self.flights.pop(id)
            if id in self.live:
                self.deliver(self.replicas[id], *flight)

    def deliver(self, follower: Replica, leader_epoch: int, answer: tuple[Any, ...]) -> None:
        try:
            self.replicas.take(follower, leader_epoch, answer)
        except KafkaError as error:  # a late one does not continue the log any more
            if error.code not in (ErrorCode.CORRUPT_MESSAGE, ErrorCode.NOT_LEADER_OR_FOLLOWER):
                raise
        self.note_durable(follower)

    def note_durable(self, replica: Replica) -> None:
        """It may have been cut: the checkpoint was lowered."""
        self.durable[replica.node_id] = min(self.durable[replica.node_id], replica.partition.log.recovery_point)

    # -- the cluster --------------------------------------------------------------------------------------------------

    def pass_time(self) -> None:
        self.replicas.now_s += self.chance.choice((0.1, 0.5, 2, 7))

    def ask_for_isr(self) -> None:
        """A leader asks for another ISR. The store takes it, or not; the answer comes, or not; or later it is taken."""
        for leader in self.leaders():
            partition = leader.partition
            partition.end_waits(self.replicas.now_s)
            change = partition.wanted_isr(self.replicas.now_s, LAG_S)
            if change is None:
                continue
            partition.propose(change)
            fate = self.chance.random()
            if fate < 0.15 or leader.node_id in self.cut_off:
                self.open_changes.append(change)
                partition.settle(change, IsrOutcome.UNKNOWN, self.replicas.image)
                continue
            outcome = self.carry_out(change)
            partition.settle(change, outcome if fate < 0.85 else IsrOutcome.UNKNOWN, self.replicas.image)

    def carry_out(self, change: IsrChange) -> IsrOutcome:
        """Compare and swap (isr_changes.py): the partition, and the registration of each that joins."""
        is_current = self.replicas.image.mod_revision == change.partition.mod_revision
        joins = [id in self.live and self.replicas[id].broker_epoch == epoch for id, epoch in change.joining.items()]
        if not is_current or not all(joins):
            return IsrOutcome.REFUSED
        self.agree(with_isr(change.partition, change.isr, change.min_isr))
        return IsrOutcome.WRITTEN

    def carry_out_late(self) -> None:
        """The store does what was asked of it long ago, if it still can."""
        if self.open_changes:
            self.carry_out(self.open_changes.pop())

    def elect(self) -> None:
        """Another leader, by choice or by need: of the ISR, else eligible (KIP-966); and who is dead leaves the ISR."""
        image = self.replicas.image
        dead = set(NODES) - self.live
        if self.chance.random() < 0.5:
            dead |= self.cut_off
        live = set(NODES) - dead
        if dead & set(image.isr) and (rest := [id for id in image.isr if id not in dead]):
            image = with_isr(image, rest, self.min_isr)
        candidates = [id for id in image.isr if id in live] or [id for id in image.elr if id in live]
        if image.leader in live and (self.chance.random() < 0.5 or len(candidates) < 2):
            leader = image.leader
        else:
            leader = self.chance.choice(candidates) if candidates else NO_LEADER
        if leader != NO_LEADER and leader not in image.isr:
            image = with_isr(image, (leader,), self.min_isr)
        if leader != image.leader:
            image = led_by(image, leader)
        if image != self.replicas.image:
            self.agree(image)

    # -- misfortunes --------------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """Checkpoints are written, and flushes done."""
        for id in sorted(self.live):
            replica = self.replicas[id]
            self.kept[id] = replica.high_watermark
            if self.chance.random() < 0.5:
                trio.run(replica.partition.log.flush, Worker())
            self.durable[id] = replica.partition.log.recovery_point

    def kill(self) -> None:
        """A process dies; what it had written stays in the page cache."""
        if len(self.live) > 1:
            replica = self.any_live()
            replica.disk.kill()
            self.go(replica.node_id)

    def fail_power(self) -> None:
        """What was not synced is gone. Of one that is not the last to have what is committed nothing is missed."""
        replica, image = self.any_live(), self.replicas.image
        id = replica.node_id
        others = [other for other in (*image.isr, *image.elr) if other != id]
        if len(self.live) < len(NODES) or self.cut_off:
            return
        if image.isr == (id,) == (image.leader,) and not image.elr:
            self.fail_the_last(replica)
        if len(others) < max(self.min_isr, 2) - 1:
            return
        replica.disk.power_loss()
        self.go(id)
        members = [other for other in image.isr if other != id]
        if image.leader == id:
            image = led_by(image, members[0] if members else others[0])
        self.agree(with_isr(image, members or (others[0],), self.min_isr, lossy=(id,)))  # R10: before it appears again
        self.restart(id, Crash.POWER)

    def fail_the_last(self, replica: Replica) -> None:
        """What only it had is lost, and may be another's by and by. All have to come to have the same (R8)."""
        replica.disk.power_loss()
        self.go(replica.node_id)
        self.flights.clear()
        self.restart(replica.node_id, Crash.POWER)
        end = replica.end
        self.shown = {offset: entry for offset, entry in self.shown.items() if offset < end}
        values = {value for _, _, value in replica.records()}
        self.acknowledged = [value for value in self.acknowledged if value in values]
        self.producer_id, self.sequence, self.number, self.sent = self.producer_id + 1, 0, self.number + 1, None
        for id in NODES:
            self.tell_one(self.replicas[id])
        self.write_noise()
        for _ in range(3):
            for id in NODES:
                self.fetch_by(self.replicas[id], fate=0)

    def isolate(self) -> None:
        """One reaches nobody; the one that leads, most often."""
        image = self.replicas.image
        self.cut_off = {
            image.leader if image.leader in NODES and self.chance.random() < 0.7 else self.any_live().node_id
        }

    def reconnect(self) -> None:
        self.cut_off = set()

    def go(self, id: int) -> None:
        self.live.discard(id)
        self.flights.pop(id, None)
        if self.sent is not None and self.sent.partition is self.replicas[id].partition:
            self.sent = None

    def start(self) -> None:
        """One that is down starts again."""
        down = sorted(set(NODES) - self.live)
        if down:
            self.restart(self.chance.choice(down), Crash.PROCESS)

    def restart(self, id: int, crash: Crash) -> None:
        replica = self.replicas[id]
        log = open_log(
            replica.disk, crash, recovery_point=self.durable[id], leader_epoch_max=self.replicas.image.leader_epoch,
            **replica.config,
        )  # fmt: skip
        replica.sessions.clear()
        for other in self.replicas.all.values():
            if other.sessions.pop(id, None) is not None:
                other.partition.note_gone(id)
        replica.broker_epoch += 10
        if crash is Crash.POWER:
            self.kept[id] = 0
        replica.begin(log, self.kept[id])
        self.live.add(id)
        image = taken_up(self.replicas.image, id, self.live)
        if image is not self.replicas.image:
            self.agree(image)

    # -- aimed --------------------------------------------------------------------------------------------------------

    def outrun(self) -> None:
        """A leader is cut off with a batch that nobody else has, waits until it has no followers left, and another is
        elected meanwhile: what counts is the ISR that the store has."""
        self.calm()
        self.produce()
        self.cut_off = {self.replicas.image.leader}
        self.replicas.now_s += LAG_S + 1
        if self.chance.random() < 0.5:
            self.elect_one(self.chance.choice(NODES))
            self.ask_for_isr()
        else:
            self.ask_for_isr()
            self.elect_one(self.chance.choice(NODES))
        self.answer_producer()

    def join_late(self) -> None:
        """One is out of the ISR; the answer to the leader's wish to have it back is lost, then that one is elected."""
        self.calm()
        image = self.replicas.image
        out = self.chance.choice([id for id in NODES if id != image.leader])
        self.agree(with_isr(image, [id for id in image.isr if id != out], self.min_isr))
        for id in NODES:
            self.tell_one(self.replicas[id])
        for id in NODES:
            self.fetch_by(self.replicas[id], fate=0)
        again = self.chance.random() < 0.5
        for leader in self.leaders():
            self.wish(leader, hears=False)
            self.replicas.now_s += JOIN_S + 0.1
            if again:
                self.wish(leader, hears=True)
            leader.partition.end_waits(self.replicas.now_s)
        self.produce()
        for id in NODES:
            if id != out:
                self.fetch_by(self.replicas[id], fate=0)
                self.fetch_by(self.replicas[id], fate=0)
        self.answer_producer()
        self.look()
        self.elect_one(out)

    def wish(self, leader: Replica, *, hears: bool) -> None:
        """A leader asks for another ISR, and hears what became of it or not."""
        leader.partition.end_waits(self.replicas.now_s)
        change = leader.partition.wanted_isr(self.replicas.now_s, LAG_S)
        if change is not None:
            leader.partition.propose(change)
            outcome = self.carry_out(change)
            leader.partition.settle(change, outcome if hears else IsrOutcome.UNKNOWN, self.replicas.image)

    def join_early(self) -> None:
        """What was committed is not known as such to the next leader; one that lacks it wishes to join (KAFKA-7128)."""
        self.calm()
        image = self.replicas.image
        old = image.leader
        if old == NO_LEADER:
            return
        out, new = self.chance.sample([id for id in NODES if id != old], 2)
        self.agree(with_isr(image, [id for id in image.isr if id != out], self.min_isr))
        for id in NODES:
            self.tell_one(self.replicas[id])
        self.produce()
        self.fetch_by(self.replicas[new], fate=0)
        self.fetch_by(self.replicas[new], fate=0.95)  # the answer, which tells the high watermark, is lost
        self.look()
        self.elect_one(new)
        self.fetch_by(self.replicas[out], fate=0.95)
        self.ask_for_isr()
        self.elect_one(out)

    def turn_back(self) -> None:
        """Who led and has more than the new leader asks it, which has grown as long, and is to lead again."""
        self.calm()
        old = self.replicas.image.leader
        self.write_noise()
        new = self.chance.choice([id for id in NODES if id != old])
        self.elect_one(new)
        for _ in range(3):
            self.write_noise()
            for id in NODES:
                self.fetch_by(self.replicas[id], fate=0.95 if id == old else 0)
        self.look()
        self.elect_one(old)

    def stand_alone(self) -> None:
        """Only the leader is in sync, others have some of what it has; and its power fails, or it is killed."""
        self.calm()
        leader = self.replicas.image.leader
        if leader == NO_LEADER:
            return
        self.agree(with_isr(self.replicas.image, (leader,), self.min_isr))
        for id in NODES:
            self.tell_one(self.replicas[id])
        for _ in range(3):
            self.write_noise()
            for id in NODES:
                self.fetch_by(self.replicas[id], fate=self.chance.choice((0, 0, 0.95)))
        if self.chance.random() < 0.3:
            self.keep()
        self.look()
        if self.min_isr == 1:
            self.fail_power()
        else:  # what it has alone is not committed: another may lead, who is eligible
            self.replicas[leader].disk.kill()
            self.go(leader)
            self.elect()
            self.tell_one(self.replicas[self.replicas.image.leader])

    def calm(self) -> None:
        """All are there, and have learnt and taken most of what there is."""
        self.cut_off = set()
        while len(self.live) < len(NODES):
            self.start()
        self.elect()
        for _ in range(4):
            for id in NODES:
                self.tell_one(self.replicas[id])
            for id in NODES:
                self.fetch_by(self.replicas[id], fate=0)
            self.ask_for_isr()

    def elect_one(self, id: int) -> None:
        """Have this one lead, if it may, and let all know who are not cut off."""
        image = self.replicas.image
        if id in image.isr and id in self.live - self.cut_off and id != image.leader:
            self.agree(led_by(image, id))
            for other in sorted(self.live - self.cut_off):
                self.tell_one(self.replicas[other])

    # -- what must hold -----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Everybody reads all that is shown to them (R2)."""
        for id in sorted(self.live):
            partition = self.replicas[id].partition
            if partition.leading or partition.following:
                self.read(id, partition)

    def read(self, id: int, partition: Partition) -> None:
        offset = partition.log.start_offset
        while True:
            try:
                found = partition.read(offset, 1 << 20, only_leader=False)
            except KafkaError as error:
                if error.code in (ErrorCode.OFFSET_OUT_OF_RANGE, ErrorCode.OFFSET_NOT_AVAILABLE):
                    raise Violation(f"R3: {id} has nothing at {offset}") from error
                return
            data = b"".join(piece.read() for piece in found.slices)
            if not data:
                return
            for position, header in headers(data):
                for record in read_records(data, position, max_bytes=1 << 20):
                    self.show(id, record.offset, header.leader_epoch, record.value)
                offset = header.next_offset

    def show(self, id: int, offset: int, epoch: int, value: bytes | None) -> None:
        before = self.shown.setdefault(offset, (epoch, value))
        if before != (epoch, value):
            raise Violation(f"R2: {id} shows {epoch, value} at {offset}, where {before} was shown")

    def check_complete(self, leader: Replica) -> None:
        """R3: who begins to lead has all that was shown."""
        found = {offset: (epoch, value) for offset, epoch, value in leader.records()}
        for offset, entry in self.shown.items():
            if found.get(offset) != entry:
                raise Violation(f"R3: {leader.node_id} leads without {entry} at {offset}: it has {found.get(offset)}")

    def heal(self) -> None:
        """All is well again: everybody comes to have the same, and nothing that was acknowledged is missing."""
        while len(self.live) < len(NODES):
            self.start()
        self.open_changes.clear()
        self.cut_off.clear()
        for _ in range(60):
            self.elect()
            for id in NODES:
                self.tell_one(self.replicas[id])
            self.sent = None
            for id in NODES:
                partition = self.replicas[id].partition
                try:
                    if partition.following:
                        self.replicas.fetch(self.replicas[id], self.replicas[partition.leader_id])
                except KafkaError as error:
                    raise Violation(f"{id} cannot follow {partition.leader_id}: {error}") from error
            for leader in self.leaders():
                self.wish(leader, hears=True)
            self.replicas.now_s += 1.1
        self.look()
        self.check_the_end()

    def check_the_end(self) -> None:
        logs = [self.replicas[id].records() for id in NODES]
        marks = {self.replicas[id].high_watermark for id in NODES}
        if set(self.replicas.image.isr) != set(NODES) or logs[0] != logs[1] or logs[1] != logs[2] or len(marks) != 1:
            raise Violation(f"they do not come together: {self.replicas.image}, {marks}")
        values = [value for _, _, value in logs[0]]
        if len(values) != len(set(values)):
            raise Violation("P2: a batch is there twice")
        ours = [value for value in values if value is not None and not value.startswith(b"noise")]
        found = iter(ours)
        if not all(value in found for value in self.acknowledged):
            raise Violation(f"lost or out of order: {self.acknowledged} were acknowledged, {ours} are there")


STEPS = {
    "produce": 12, "answer_producer": 12, "write_noise": 6, "fetch": 30, "fetch_much": 10, "arrive": 4, "tell": 10,
    "pass_time": 5, "ask_for_isr": 8, "carry_out_late": 3, "elect": 5, "keep": 3, "kill": 2, "fail_power": 1,
    "start": 4, "isolate": 2, "reconnect": 3, "outrun": 0.5, "join_late": 0.5, "join_early": 0.5, "turn_back": 0.5,
    "stand_alone": 1,
}  # fmt: skip


def run(seed: int, steps: int = 250) -> None:
    """One life of the world."""
    World(seed).run(steps)


def caught(seeds: range) -> int | None:
    """The first of these seeds that brings a violation to light; None: none does."""
    for seed in seeds:
        try:
            run(seed)
        except (Violation, AssertionError):
            return seed
    return None
