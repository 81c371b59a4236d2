"""Sees every partition of every broker, and every commit of the store, at the moment things happen.

It hangs a bell on each high watermark, and is told of each role that a broker takes. What it notices in the midst of a
broker's code it reports, and the scenario raises it. It reads files as they are, and changes nothing.

    a leader's high watermark moves   what any leader ever showed there (R2); every in-sync replica has it (R5)
    a follower's moves                nothing that no leader has shown
    an election, at the commit        the leader has everything that was shown (R3); epochs only grow
    a new member of the ISR           the same (R7)
    a log is truncated                nothing that was shown goes (R4)
    a broker leads                    no other process has led that epoch (R8)
    something is said for good        no other broker had led when it was found (R14)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any

from kafka_wire.records import read_header, read_records
from kbroker.log.log import PartitionLog
from kbroker.replication.doubt import InDoubt
from kbroker.replication.partition import Partition
from kbroker.testing.scheduler import replaced
from kbroker.testing.world import Process, current_process
from kbroker.watermark import Watermark
from tests.simulation.checker import Records, Violation
from tests.simulation.cluster.ghost import Ghost, Identity
from tests.simulation.cluster.history import ClusterChecker, ReplicatedHistory
from tests.simulation.cluster.log_files import batches, content, identities, sound_identities
from tests.simulation.cluster.nodes import BrokerNode, Cluster, Place, Stored

ROLES = ("lead", "follow")  # methods of Partition that give it a role
TRUNCATIONS = ("truncate_to",)  # methods of PartitionLog that cut it at an offset, their first argument


class Held:
    """A partition as one process holds it, in one role: what it has shown of it."""

    def __init__(self, watch: Watch, node: BrokerNode, process: Process, partition: Partition) -> None:
        self.watch = watch
        self.node = node
        self.process = process
        self.partition = partition
        self.high_watermark: Watermark = partition.high_watermark
        self.shown = partition.log.start_offset
        self.high_watermark.attach(self)

    def set(self) -> None:
        """The bell on the high watermark: it has moved, or this role has ended."""
        if self.high_watermark.error is None:
            self.watch.guarded(self.watch.on_high_watermark, self)


class Watch:
    """On all nodes of a cluster."""

    def __init__(self, cluster: Cluster, checker: ClusterChecker) -> None:
        self.cluster = cluster
        self.checker = checker
        self.ghosts: dict[Place, Ghost] = {}
        self.histories: dict[Place, ReplicatedHistory] = {}
        self.held: dict[tuple[int, Place], Held] = {}  # the last of each broker
        self.led: dict[tuple[Place, int], Process] = {}  # by whom, in each leader epoch
        self.newest_led: dict[Place, int] = {}  # the last leader epoch in which anybody leads, or led
        self.false_doubts: dict[InDoubt, Partition] = {}  # of what was found when another led already
        cluster.on_partition = self.on_commit

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Watch while the block runs."""
        with ExitStack() as stack:
            for name in filter(partial(hasattr, Partition), ROLES):
                stack.enter_context(replaced(Partition, name, self._told_after(getattr(Partition, name))))
            stack.enter_context(replaced(Partition, "doubt", self._told_of_doubts(Partition.doubt)))
            is_true = InDoubt.is_true.fget
            assert is_true is not None
            stack.enter_context(replaced(InDoubt, "is_true", property(self._told_of_truths(is_true))))
            for name in TRUNCATIONS:
                stack.enter_context(replaced(PartitionLog, name, self._told_before(getattr(PartitionLog, name))))
            yield

    def guarded(self, look: Callable[..., None], *args: Any) -> None:
        """Look; report what is wrong, with us too, as the broker would take it for its own error."""
        try:
            look(*args)
        except Exception as error:
            self.checker.report(error)

    def ghost(self, place: Place, name: str = "") -> Ghost:
        """The ghost of a partition."""
        if place not in self.ghosts:
            self.ghosts[place] = Ghost(name)
        ghost = self.ghosts[place]
        ghost.name = ghost.name or name
        return ghost

    # -- in the midst of a broker

    def on_role(self, partition: Partition) -> None:
        """A partition was given a role, maybe the one it had."""
        process = current_process.get()
        assert process is not None
        node, place = self.cluster.by_name[process.node.name], (partition.topic_id, partition.index)
        held = self.held.get((node.id, place))
        if held is None or held.high_watermark is not partition.high_watermark:
            self.held[node.id, place] = held = Held(self, node, process, partition)
            role = "leads" if partition.leading else "follows"
            self.cluster.world.trace(role, node.name, partition.log.directory, partition.leader_epoch)
            if partition.leading:
                leader = self.led.setdefault((place, partition.leader_epoch), process)
                if leader is not process:
                    what = f"{node} leads in epoch {partition.leader_epoch}, as another process did before it (R8)"
                    raise self.ghost(place, partition.log.directory).broken(what)
                self.newest_led[place] = max(partition.leader_epoch, self.newest_led.get(place, -1))
            self.on_high_watermark(held)

    def on_doubt(self, partition: Partition, doubt: InDoubt | None) -> None:
        """Something was found that is to be said for good: at once, or when the followers have confirmed it."""
        place = partition.topic_id, partition.index
        if self.newest_led.get(place, -1) <= partition.leader_epoch:
            return
        if doubt is None:
            raise self._false(partition)
        self.false_doubts[doubt] = partition

    def on_confirmed(self, doubt: InDoubt) -> None:
        """It is said for good."""
        if doubt in self.false_doubts:
            raise self._false(self.false_doubts[doubt])

    def _false(self, partition: Partition) -> Violation:
        place = partition.topic_id, partition.index
        what = f"{partition.node_id} says something for good in epoch {partition.leader_epoch}"
        return self.ghost(place, partition.log.directory).broken(f"{what}, and {self.newest_led[place]} is led (R14)")

    def on_high_watermark(self, held: Held) -> None:
        """Everything below it is shown from now on."""
        partition, node = held.partition, held.node
        place = partition.topic_id, partition.index
        to, ghost = held.high_watermark.value, self.ghost(place, partition.log.directory)
        if to < held.shown:
            raise ghost.broken(f"{node}: the high watermark {to} after {held.shown} (R1)")
        volume, who = node.node.volume, f"{node} in epoch {partition.leader_epoch}"
        first = max(held.shown, partition.log.start_offset)  # what lies below the start is shown to nobody
        found = dict(batches(volume, partition.log.directory, first, to)) if to > first else {}
        held.shown = to
        if not partition.leading:
            ghost.check_shown(who, found, to)
            return
        new = ghost.expose(who, found, to)
        if new:
            self.cluster.world.trace("shown", node.name, ghost.name, to)
            history = self.histories.get(place)
            if history is not None:
                history.expose(_records(found, new), ghost.end)
        self._check_members(held, place, ghost)

    def _check_members(self, held: Held, place: Place, ghost: Ghost) -> None:
        """Whoever may be elected has what is shown (R5); but for those who forgot it, and have not come back yet."""
        stored, to = self.cluster.partitions.get(place), held.high_watermark.value
        if stored is None or (stored.leader, stored.leader_epoch) != (held.node.id, held.partition.leader_epoch):
            return
        for member in stored.isr:
            other = self.held.get((member, place))
            if other is None or not other.node.is_current or other.process is not other.node.node.process:
                continue
            log = other.partition.log
            if log.offline is None and log.end.value < to:
                end = f"{other.node} is in sync and ends at {log.end.value}"
                raise ghost.broken(f"{held.node} shows up to {to}; {end} (R5)")

    def on_truncation(self, log: PartitionLog, to: int) -> None:
        """A log is about to be cut."""
        process = current_process.get()
        assert process is not None
        node = self.cluster.by_name[process.node.name]
        for (broker, place), held in self.held.items():
            if broker == node.id and held.partition.log is log:
                self.cluster.world.trace("truncates", node.name, log.directory, to)
                going = identities(node.node.volume, log.directory, to)
                self.ghost(place, log.directory).check_truncation(str(node), going, to)

    # -- in the end

    def oddity(self) -> str:
        """Why not all replicas of all partitions are in sync, and the same to the last byte; "" if they are."""
        for place, stored in self.cluster.partitions.items():
            if set(stored.isr) != set(stored.replicas) or stored.leader < 0:
                return f"{self.ghost(place).name or place} is {stored}"
            odd = self._difference(place, stored)
            if odd:
                return odd
        return ""

    def _difference(self, place: Place, stored: Stored) -> str:
        end, logs = self.ghost(place).end, []
        for member in stored.replicas:
            held = self.held.get((member, place))
            if held is None or not held.node.is_current or held.process is not held.node.node.process:
                return f"{self.ghost(place).name or place} is not open on {member}"
            log = held.partition.log
            if log.end.value != end:
                return f"{log.directory} ends at {log.end.value} on {member}, and {end} is shown"
            logs.append((held.node.node.volume, log.directory, log.segments[0].base_offset))
        start = max(start for *_, start in logs)  # retention is everybody's own
        contents = {content(volume, directory, start) for volume, directory, _ in logs}
        return f"{self.ghost(place).name} is not the same everywhere" if len(contents) > 1 else ""

    # -- at a commit of the store

    def on_commit(self, place: Place, old: Stored | None, new: Stored) -> None:
        """A partition was written. Raises Violation."""
        if old is None:
            return
        ghost = self.ghost(place)
        if new.leader_epoch < old.leader_epoch or new.partition_epoch != old.partition_epoch + 1:
            raise ghost.broken(f"{new} after {old}: epochs")
        if new.leader != old.leader and new.leader_epoch != old.leader_epoch + 1:
            raise ghost.broken(f"{new} after {old}: another leader is another epoch")
        if not set(new.isr) <= set(new.replicas) or (new.leader >= 0 and new.leader not in new.isr):
            raise ghost.broken(f"{new}: the leader is in sync, and who is in sync is a replica")
        if new.leader != old.leader and new.leader >= 0:
            self._check_complete(place, new.leader, f"elected in epoch {new.leader_epoch} (R3)")
        for member in new.isr:
            if member not in old.isr:
                self._check_complete(place, member, f"joins the ISR {new.isr} (R7)")

    def _check_complete(self, place: Place, broker_id: int, why: str) -> None:
        node, held = self.cluster.nodes[broker_id], self.held.get((broker_id, place))
        ghost = self.ghost(place)
        if not node.is_current or not ghost.batches:
            return
        if held is not None and held.process is node.node.process:
            log = held.partition.log
            if log.offline is None:
                found = identities(node.node.volume, log.directory, log.start_offset, log.end.value)
                ghost.check_complete(f"{node} {why}", found, log.start_offset)
        else:  # its log is not open yet: what a process before has left of it, if one had it
            found = sound_identities(node.node.volume, ghost.name) if held is not None else []
            start = held.partition.log.start_offset if held is not None else 0  # as that one had given up what is below
            ghost.check_complete(f"{node} {why}", found, start)

    # -- hooks

    def _told_after(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def told(partition: Partition, *args: Any, **options: Any) -> Any:
            result = method(partition, *args, **options)
            self.guarded(self.on_role, partition)
            return result

        return told

    def _told_of_doubts(self, method: Callable[..., InDoubt | None]) -> Callable[..., InDoubt | None]:
        @wraps(method)
        def told(partition: Partition, *args: Any) -> InDoubt | None:
            doubt = method(partition, *args)
            self.guarded(self.on_doubt, partition, doubt)
            return doubt

        return told

    def _told_of_truths(self, is_true: Callable[[InDoubt], bool]) -> Callable[[InDoubt], bool]:
        def told(doubt: InDoubt) -> bool:
            result = is_true(doubt)
            if result:
                self.guarded(self.on_confirmed, doubt)
            return result

        return told

    def _told_before(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def told(log: PartitionLog, offset: int, *args: Any, **options: Any) -> Any:
            self.guarded(self.on_truncation, log, offset)
            return method(log, offset, *args, **options)

        return told


def _records(found: dict[Identity, bytes], wanted: list[Identity]) -> Records:
    """(offset, value) of what clients wrote in these batches."""
    records: Records = []
    for batch in wanted:
        data = found[batch]
        header = read_header(data)
        if header.is_control:
            continue
        for record in read_records(data, 0, max_bytes=1 << 20):
            if record.value is None:
                raise Violation(f"a record without a value at {record.offset}")
            records.append((record.offset, record.value))
    return records
