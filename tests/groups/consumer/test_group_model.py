"""ConsumerGroup against a model: consumers join, leave, vanish, change their minds, answer late; topics come and go."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kafka_wire.errors import ErrorCode
from kbroker.groups.consumer.core import EPOCH_INITIAL
from tests.groups.consumer.world import Consumer, World, settle

TOPICS = ("a", "b", "c")
ROUNDS_MAX = 5  # of heartbeats, until a group in which nothing else happens is stable


class GroupMachine(RuleBasedStateMachine):
    """Events in any order; what must always hold is below, and in World.perform."""

    @initialize(counts=st.lists(st.integers(1, 6), min_size=2, max_size=2))
    def begin(self, counts: list[int]) -> None:
        self.world = World(a=counts[0], b=counts[1])
        self.world.core.epoch = self.world.core.target_epoch = EPOCH_INITIAL  # who wants nothing joins at that epoch
        self.consumers: list[Consumer] = []
        self.made = 0
        self.group_epoch = 0

    def pick(self, data: st.DataObject) -> Consumer:
        return data.draw(st.sampled_from(self.consumers))

    @precondition(lambda self: len(self.consumers) < 6)
    @rule(topics=st.sets(st.sampled_from(TOPICS)), regex=st.sampled_from([None, "[ab]", ".*"]), static=st.booleans())
    def join(self, topics: set[str], regex: str | None, static: bool) -> None:
        self.made += 1
        name = f"m{self.made}"
        consumer = Consumer(self.world, name, sorted(topics), regex, f"i-{name}" if static else None)
        assert not consumer.beat().error_code
        self.consumers.append(consumer)

    @precondition(lambda self: self.consumers)
    @rule(data=st.data(), revoke=st.booleans(), lose=st.sampled_from([False, False, True]))
    def beat(self, data: st.DataObject, revoke: bool, lose: bool) -> None:
        self.pick(data).beat(revoke=revoke, lose=lose)

    @precondition(lambda self: self.consumers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        consumer = self.pick(data)
        assert consumer.leave().error_code in (ErrorCode.NONE, ErrorCode.UNKNOWN_MEMBER_ID)
        self.consumers.remove(consumer)

    @precondition(lambda self: self.consumers)
    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        self.consumers.remove(self.pick(data))

    @precondition(lambda self: any(c.instance_id and c.epoch > 0 for c in self.consumers))
    @rule(data=st.data(), same_id=st.booleans())
    def restart_static(self, data: st.DataObject, same_id: bool) -> None:
        consumer = data.draw(st.sampled_from([c for c in self.consumers if c.instance_id and c.epoch > 0]))
        if consumer.leave(-2).error_code:
            return
        if not same_id:
            self.made += 1
            consumer.name = f"m{self.made}"
        consumer.beat()

    @precondition(lambda self: self.consumers)
    @rule(data=st.data(), topics=st.sets(st.sampled_from(TOPICS)), regex=st.sampled_from([None, None, "a|c"]))
    def resubscribe(self, data: st.DataObject, topics: set[str], regex: str | None) -> None:
        self.pick(data).subscribe(*sorted(topics), regex=regex or "")

    @rule(topic=st.sampled_from(TOPICS), more=st.integers(0, 3))
    def change_topic(self, topic: str, more: int) -> None:
        count = self.world.topics.get(topic, (b"", 0))[1]
        if more or count:
            self.world.set_topics(**{topic: count + more if more else 0})

    @rule(seconds=st.sampled_from([1, 10]))
    def pass_time(self, seconds: int) -> None:
        """Short of a session, which ends for those who vanished; the others keep theirs."""
        self.world.advance(seconds)
        for consumer in self.consumers:
            consumer.beat(revoke=False)

    @rule()
    def restart_coordinator(self) -> None:
        self.world.restart()

    @rule()
    def calm_down(self) -> None:
        """Nothing happens any more: everything is owned soon, by those who want it."""
        for _ in range(5):
            self.world.advance(10)
            for consumer in self.consumers:
                consumer.beat()
        settle(self.world, self.consumers, ROUNDS_MAX)
        topics = self.world.topics
        wanted = {
            (topics[name][0], p)
            for member in self.world.core.members.values()
            for name in self.world.core.subscribed(member)
            if name in topics
            for p in range(topics[name][1])
        }
        assert {each for consumer in self.consumers for each in consumer.owned} == wanted
        assert len(self.world.core.members) == len(self.consumers)

    @invariant()
    def one_owner(self) -> None:
        """No partition is ever used by two consumers."""
        owned = [each for consumer in getattr(self, "consumers", ()) for each in consumer.owned]
        assert len(owned) == len(set(owned))

    @invariant()
    def epochs_grow(self) -> None:
        if hasattr(self, "world"):
            core = self.world.core
            assert core.epoch >= self.group_epoch and core.target_epoch <= core.epoch
            self.group_epoch = core.epoch
            assert all(member.epoch <= core.target_epoch for member in core.members.values())

    @invariant()
    def owners_are_what_members_own(self) -> None:
        if hasattr(self, "world"):
            core = self.world.core
            for member in core.members.values():
                owned = {(t, p) for t, numbers in member.owned().items() for p in numbers}
                assert all(core.owners.of(*each) == member.member_id for each in owned)


GroupMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_model = GroupMachine.TestCase
