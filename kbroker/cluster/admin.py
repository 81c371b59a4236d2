"""Administration: topics, replicas, leaders, configurations, features, producer ids, as guarded transactions.

A change is planned on the image (`changes/`, pure), written, and answered when the image shows it.
When a guard fails, somebody was faster: wait until the image shows that, and plan again, a bounded number of times.

A topic with few partitions is one transaction. A large one is marked `pending` first, under this broker's session:

    pending + first partitions ──▶ more partitions (guarding pending), several at a time ──▶ topic, rest, pending gone

so that nobody sees half a topic, and what a dead broker left unfinished can be told from what is under way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.changes import config_changes, features, placement, views
from kbroker.cluster.changes.config_changes import MIN_ISR, ConfigChange
from kbroker.cluster.changes.features import BEFORE, FeatureUpdate
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.elections import Rules
from kbroker.cluster.image import NO_TOPIC_ID, ClusterImage, PartitionImage, TopicImage, unified
from kbroker.cluster.keys import Keys, decode, id_text
from kbroker.cluster.store import CoordinationStore, Delete, Entry, Guard, Op, StoreError, load
from kbroker.cluster.writer import TXN_PARTITIONS, PartitionWriter, Txn, Writer, for_each
from kbroker.config import BrokerConfig
from kbroker.config.keys import Scope
from kbroker.config.views import VIEW_FILTER, VIEW_SOURCE
from kbroker.env import Rng
from kbroker.turns import Effort, Work, each, finish

if TYPE_CHECKING:
    from kbroker.cluster.changes.reassignments import Change, Election, Wish

PRODUCER_ID_BLOCK = 1000
ATTEMPTS_MAX = 10
CHANGES_AT_ONCE = 64  # of all clients together: they share commits
DONE_ALREADY = (ErrorCode.ELECTION_NOT_NEEDED, ErrorCode.NO_REASSIGNMENT_IN_PROGRESS)  # when said of a second attempt
CLUSTER_METADATA = "__cluster_metadata"  # Kafka's own log of its controllers: no client's topic has its name

S = TypeVar("S")
T = TypeVar("T")


class Home(Protocol):
    """What the administration needs of the registration it belongs to."""

    image: ClusterImage
    lease: int  # the broker's session
    producer_ids: int  # all below it may have been given out, whatever the store says

    async def wait_applied(self, revision: int) -> None:
        """Until the change is visible wherever a client may ask. Raises KafkaError REQUEST_TIMED_OUT."""


class Admin:
    """The administrative operations of one broker. Refusals are KafkaErrors with Kafka's codes and texts."""

    def __init__(
        self,
        home: Home,
        store: CoordinationStore,
        writer: Writer,
        keys: Keys,
        rng: Rng,
        config: Callable[[], BrokerConfig],
    ) -> None:
        """config: this broker's configuration, as it is now."""
        self._home = home
        self._store = store
        self._writer = writer
        self._keys = keys
        self._rng = rng
        self._partitions = PartitionWriter(writer, keys)
        self._config = config
        self._being_created: dict[str, str] = {}  # unified name -> name
        self._limiter = trio.CapacityLimiter(CHANGES_AT_ONCE)
        self._creating_view = trio.Lock()  # those of one source would be in each other's way

    async def create_topics(
        self, wishes: Sequence[NewTopic], validate_only: bool = False
    ) -> list[TopicImage | KafkaError]:
        """Create topics; each is usable when this returns. In the order of the request; duplicate names all fail.

        With validate_only they are as they would be, with ids that are given to none, as in Kafka.
        """
        reserved: list[str] = []
        try:
            plans = await finish(self._plan_all(wishes, reserved))
            return plans if validate_only else await self._each(plans, self._create)
        finally:
            for name in reserved:
                del self._being_created[unified(name)]

    async def delete_topics(self, topics: Sequence[str | bytes]) -> list[TopicImage | KafkaError]:
        """Delete topics by name (str) or id (bytes); what they were, in the order of the request.

        Views first, as no topic is deleted under its views.
        """
        image = self._home.image
        known = [(image.topics.get(t) if isinstance(t, str) else image.topics_by_id.get(t)) for t in topics]
        is_view = [topic is not None and topic.view is not None for topic in known]
        outcomes: dict[int, TopicImage | KafkaError] = {}
        for kind in (True, False):
            numbers = [number for number, each in enumerate(is_view) if each is kind]
            results = await self._each(numbers, lambda number: self._delete(topics[number]))
            outcomes.update(zip(numbers, results, strict=True))
        return [outcomes[number] for number in range(len(topics))]

    async def create_partitions(
        self,
        name: str,
        total: int,
        assignments: Sequence[Sequence[int]] | None = None,
        validate_only: bool = False,
    ) -> TopicImage:
        """Grow a topic to total partitions, the new ones placed as assignments say. Raises KafkaError."""
        return await _theirs(self._grow(name, total, assignments, validate_only))

    async def alter_configs(
        self,
        changes: Sequence[ConfigChange],
        on_change: Callable[[ConfigChange, Mapping[str, str], Mapping[str, str]], None] = lambda *_: None,
        validate_only: bool = False,
    ) -> list[None | KafkaError]:
        """Change configs of topics, groups and brokers; None for each that succeeded.

        on_change: told of each that is written, with what was set before and what is.
        """

        async def one(change: ConfigChange) -> None:
            changed = await self._alter(change, validate_only)
            if changed is not None:
                on_change(change, *changed)

        return await self._each(changes, one)

    async def elect_leaders(self, asked: Sequence[Election], *, unclean: bool) -> list[None | KafkaError]:
        """Have partitions led by their preferred replicas, or, unclean, by any that lives if nobody leads."""
        from kbroker.cluster.changes.reassignments import elections

        return await self._change_partitions(asked, partial(elections, unclean=unclean))

    async def alter_reassignments(
        self, wishes: Sequence[Wish], *, allow_replication_factor_change: bool
    ) -> list[None | KafkaError]:
        """Give partitions other replicas, or call that off (None); it is under way when this returns."""
        from kbroker.cluster.changes.reassignments import reassignments

        change = partial(reassignments, allow_replication_factor_change=allow_replication_factor_change)
        return await self._change_partitions(wishes, change)

    async def unregister(self, broker_id: int) -> None:
        """Forget a broker that is not there. Raises KafkaError."""
        await _theirs(self._unregister(broker_id))

    async def update_features(self, updates: Sequence[FeatureUpdate], validate_only: bool = False) -> None:
        """Change levels of features, all or none. Raises KafkaError INVALID_UPDATE_VERSION, REQUEST_TIMED_OUT."""
        await _theirs(self._update_features(updates, validate_only))

    async def allocate_producer_ids(self, count: int = PRODUCER_ID_BLOCK) -> range:
        """Producer ids nobody else was or will be given (P4). Raises KafkaError REQUEST_TIMED_OUT."""
        return await _theirs(self._allocate(count))

    async def reap_strays(self) -> None:
        """Delete partitions of topics that were never finished, or are deleted, unless a change is under way.

        Exactly those the image shows, guarded: what somebody writes meanwhile stays. May raise StoreError.
        """
        image = self._home.image
        left = [
            Entry(self._keys.partition(topic_id, partition.index), b"", partition.mod_revision)
            for topic_id, strays in image.strays.items()
            if topic_id not in image.pending and topic_id not in image.unfinished
            for partition in strays.values()
        ]
        await self._delete_entries(left)

    async def _each(self, items: Sequence[S | KafkaError], work: Callable[[S], Awaitable[T]]) -> list[T | KafkaError]:
        """Do work for each item that is no error yet, several at a time; results in order."""
        outcomes: dict[int, T | KafkaError] = {n: item for n, item in enumerate(items) if isinstance(item, KafkaError)}
        todo = [(number, item) for number, item in enumerate(items) if not isinstance(item, KafkaError)]

        async def one(_: int, numbered: tuple[int, S]) -> None:
            number, item = numbered
            async with self._limiter:
                try:
                    outcomes[number] = await _theirs(work(item))
                except KafkaError as error:
                    outcomes[number] = error.with_traceback(None)  # which holds all these, in a circle

        await for_each(one, todo, min(len(todo), CHANGES_AT_ONCE))
        return [outcomes[number] for number in range(len(items))]

    async def _change_partitions(
        self, wishes: Sequence[S], decide: Callable[[Sequence[S], ClusterImage, Rules], Work[list[Change]]]
    ) -> list[None | KafkaError]:
        """Write what is decided about each wish, in the order of the wishes; of two for one partition the last counts.

        What could not be written is decided anew: if it was written all the same, there is nothing left to do.
        """
        outcomes: list[None | KafkaError] = [None] * len(wishes)
        left: Sequence[int] = range(len(wishes))
        for attempt in range(ATTEMPTS_MAX):
            image = self._home.image
            asked = wishes if not attempt else [wishes[number] for number in left]
            changes = await finish(decide(asked, image, Rules(image, self._config())))
            last = await finish(_sorted_out(left, changes, outcomes, is_first=not attempt))
            if not last:
                return outcomes
            left = [number for number, _ in last.values()]
            try:
                revision, is_done = await self._partitions.write([change for _, change in last.values()])
                await self._home.wait_applied(revision)
            except (StoreError, KafkaError) as error:
                return _refused(outcomes, left, _as_theirs(error))
            if is_done:
                return outcomes
        return _refused(outcomes, left, _contended())

    async def _unregister(self, broker_id: int) -> None:
        for _ in range(ATTEMPTS_MAX):
            image = self._home.image
            known = image.registrations.get(broker_id)
            if broker_id in image.brokers:
                text = f"Broker {broker_id} is live: it can be unregistered when it is stopped."
                raise KafkaError(ErrorCode.INVALID_REQUEST, text)
            if known is None:
                text = f"Broker ID {broker_id} is not currently registered"
                raise KafkaError(ErrorCode.BROKER_ID_NOT_REGISTERED, text)
            key = self._keys.registration(broker_id)
            guards = [Guard(key, known.mod_revision), Guard(self._keys.broker(broker_id), 0)]
            result = await self._writer.commit(guards, [Delete(key)])
            await self._home.wait_applied(result.revision)
            if result.succeeded or broker_id not in self._home.image.registrations:
                return
        raise _contended()

    def _plan_all(self, wishes: Sequence[NewTopic], reserved: list[str]) -> Work[list[TopicImage | KafkaError]]:
        """The topics as they will be; their names are taken from now on, and noted in reserved."""
        default = self._config().get_int("num.partitions")
        times = Counter((yield from each(lambda wish: wish.name, wishes)))
        asked = yield from each(lambda wish: placement.partitions_asked(wish, default), wishes)
        if sum(asked) > placement.PARTITIONS_PER_REQUEST_MAX:
            return [placement.too_many_partitions()] * len(wishes)
        plans: list[TopicImage | KafkaError] = []
        for wish in wishes:
            try:
                if times[wish.name] > 1:
                    raise KafkaError(ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
                plan = yield from self._plan(wish)
                plans.append(plan)
                self._being_created[unified(wish.name)] = wish.name
                reserved.append(wish.name)
            except KafkaError as error:
                plans.append(error.with_traceback(None))
            yield
        return plans

    def _plan(self, wish: NewTopic) -> Work[TopicImage]:
        """The topic as it will be."""
        image, name = self._home.image, wish.name
        placement.check_topic_name(name, image.names, self._being_created)
        if name == CLUSTER_METADATA:
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"Creation of internal topic {name} is prohibited.")
        if name in image.topics or unified(name) in self._being_created:
            raise _exists(name)
        yield from views.check_filter(wish.configs.get(VIEW_FILTER))
        configs = config_changes.check_configs(wish.configs)
        if configs.get(VIEW_SOURCE):
            return views.plan_view(wish, self._new_id(), configs, image)
        partitions = self._config().get_int("num.partitions")
        factor = self._config().get_int("default.replication.factor")
        start = self._rng.below(max(1, len(image.brokers)))
        assignments = placement.plan_topic(wish, image, partitions=partitions, replication_factor=factor, start=start)
        topic_id = self._new_id()
        new = yield from placement.new_partitions(topic_id, assignments, image)
        return TopicImage(name, topic_id, new, configs)

    def _new_id(self) -> bytes:
        topic_id = self._rng.token(16)
        while topic_id in (NO_TOPIC_ID, NO_TOPIC_ID[:15] + b"\1") or id_text(topic_id).startswith("-"):
            topic_id = self._rng.token(16)  # Kafka's reserved ids; a leading dash looks like an option to its tools
        return topic_id

    async def _create(self, topic: TopicImage) -> TopicImage:
        if topic.view is not None:
            async with self._creating_view:
                return await self._create_view(topic)
        keys = self._keys
        guards = [Guard(keys.topic(topic.name), 0)]
        ops: list[Op] = [self._topic_put(topic, len(topic.partitions))]
        if topic.configs:
            guards.insert(0, Guard(keys.topic_config(topic.name), 0))
            ops.insert(0, self._writer.put(keys.topic_config(topic.name), {"configs": dict(topic.configs)}))
        succeeded, revision = await self._write_partitions(topic.id, topic.partitions, guards, ops)
        await self._home.wait_applied(revision)
        seen = self._home.image.topics.get(topic.name)
        if succeeded or (seen is not None and seen.id == topic.id):
            return seen or topic
        raise _exists(topic.name) if seen is not None else _contended()

    async def _create_view(self, view: TopicImage) -> TopicImage:
        """Its source's key is written anew, as it is: whoever deletes that topic meanwhile has been too late."""
        keys = self._keys
        for _ in range(ATTEMPTS_MAX):
            source = views.source_of(view.name, view.configs, self._home.image)
            guards = [Guard(keys.topic(view.name), 0), Guard(keys.topic_config(view.name), 0)]
            guards.append(Guard(keys.topic(source.name), source.mod_revision))
            ops: list[Op] = [self._writer.put(keys.topic_config(view.name), {"configs": dict(view.configs)})]
            ops += [self._topic_put(view, 0), self._topic_put(source, len(source.partitions))]
            result = await self._writer.commit(guards, ops)
            await self._home.wait_applied(result.revision)
            seen = self._home.image.topics.get(view.name)
            if result.succeeded or (seen is not None and seen.id == view.id):
                return seen or view
            if seen is not None:
                raise _exists(view.name)
        raise _contended()

    def _topic_put(self, topic: TopicImage, partitions: int) -> Op:
        fields = {"id": id_text(topic.id), "partitions": partitions}
        return self._writer.put(self._keys.topic(topic.name), fields)

    async def _write_partitions(
        self, topic_id: bytes, partitions: Sequence[PartitionImage], guards: list[Guard], ops: list[Op]
    ) -> tuple[bool, int]:
        """Write new partitions and, last, the topic's keys. Whether the guards held, and the revision to wait for."""
        *chunks, last = [partitions[i : i + TXN_PARTITIONS] for i in range(0, len(partitions), TXN_PARTITIONS)]
        last_guards, last_ops = self._partitions.txn(last)
        if not chunks:
            return await self._writer.commit(last_guards + guards, last_ops + ops)
        first, *middle = chunks
        mark = self._keys.pending(topic_id)
        first_guards, first_ops = self._partitions.txn(first)
        marked = await self._writer.commit(
            [*first_guards, Guard(mark, 0)], [*first_ops, self._writer.put(mark, {}, self._home.lease)]
        )
        if not marked.succeeded:
            return False, marked.revision
        held = Guard(mark, marked.revision)
        results = await self._writer.commit_all(self._partitions.txn(chunk, held) for chunk in middle)
        succeeded, revision = False, max(result.revision for result in [marked, *results])
        if all(result.succeeded for result in results):
            succeeded, revision = await self._writer.commit(
                [*last_guards, *guards, held], [*last_ops, *ops, Delete(mark)]
            )
        if not succeeded and (await self._writer.commit([held], [Delete(mark)])).succeeded:
            # The mark was still there, so the topic was not completed: nobody sees these partitions.
            await self._delete_partitions(topic_id, first=partitions[0].index)
        return succeeded, revision

    async def _delete(self, name_or_id: str | bytes) -> TopicImage:
        tried: TopicImage | None = None
        for _ in range(ATTEMPTS_MAX):
            if tried is not None and tried.id not in self._home.image.topics_by_id:
                await self._delete_partitions(tried.id)
                return tried  # a lost reply: it was us, most likely
            tried = topic = self._find(name_or_id)
            views.check_no_views_of(topic, self._home.image)
            config = self._keys.topic_config(topic.name)
            entry = await self._store.get(config) if topic.name in self._home.image.topic_configs else None
            guards = [Guard(self._keys.topic(topic.name), topic.mod_revision)]
            guards.append(Guard(config, entry.mod_revision if entry else 0))
            ops: list[Op] = [Delete(self._keys.topic(topic.name)), Delete(config)]
            if small := len(topic.own_partitions) <= TXN_PARTITIONS:
                for partition in topic.own_partitions:
                    key = self._keys.partition(topic.id, partition.index)
                    guards.append(Guard(key, partition.mod_revision))
                    ops.append(Delete(key))
            result = await self._writer.commit(guards, ops)
            await self._home.wait_applied(result.revision)
            if result.succeeded:
                if not small:
                    await self._delete_partitions(topic.id)
                return topic
        raise _contended()

    def _find(self, name_or_id: str | bytes) -> TopicImage:
        image = self._home.image
        if isinstance(name_or_id, bytes):
            topic = image.topics_by_id.get(name_or_id)
        else:
            topic = image.topics.get(name_or_id)
        if topic is None:
            by_id = isinstance(name_or_id, bytes)
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_ID if by_id else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        return topic

    async def _delete_partitions(self, topic_id: bytes, first: int = 0) -> None:
        """Delete the stored partitions of a topic that nobody sees, from index first on."""
        prefix = self._keys.partition(topic_id, 0)[:-1]
        page = await load(self._store, prefix)
        await self._delete_entries([entry for entry in page.entries if int(entry.key[len(prefix) :]) >= first])

    async def _delete_entries(self, entries: Sequence[Entry]) -> None:
        def deletion(start: int) -> Txn:
            chunk = entries[start : start + TXN_PARTITIONS]
            return [Guard(entry.key, entry.mod_revision) for entry in chunk], [Delete(entry.key) for entry in chunk]

        await self._writer.commit_all(map(deletion, range(0, len(entries), TXN_PARTITIONS)))

    async def _grow(
        self, name: str, total: int, assignments: Sequence[Sequence[int]] | None, validate_only: bool
    ) -> TopicImage:
        for attempt in range(ATTEMPTS_MAX):
            topic, image = self._find(name), self._home.image
            views.check_no_view(topic)
            if attempt and len(topic.partitions) == total:
                return topic  # a lost reply, or someone with the same wish
            start = self._rng.below(max(1, len(image.brokers)))
            planned = placement.plan_growth(topic, total, assignments, image, start)
            gained = await finish(placement.new_partitions(topic.id, planned, image, first=len(topic.partitions)))
            grown = replace(topic, partitions=(*topic.partitions, *gained))
            if validate_only:
                return grown
            guards = [Guard(self._keys.topic(name), topic.mod_revision)]
            succeeded, revision = await self._write_partitions(
                topic.id, gained, guards, [self._topic_put(topic, total)]
            )
            await self._home.wait_applied(revision)
            if succeeded:
                return self._home.image.topics.get(name, grown)
        raise _contended()

    async def _alter(
        self, change: ConfigChange, validate_only: bool
    ) -> tuple[Mapping[str, str], Mapping[str, str]] | None:
        """What was set, and what is now; None where nothing is written."""
        if change.scope is Scope.TOPIC:
            for _, name, text in change.ops:
                if name == VIEW_FILTER:
                    await finish(views.check_filter(text))
        for _ in range(ATTEMPTS_MAX):
            guards: list[Guard] = []
            if change.scope is Scope.TOPIC:
                topic = self._home.image.topics.get(change.name)
                if topic is None:
                    config_changes.alter(change, {})  # what is wrong with the configs is said first, as in Kafka
                    text = f"The topic '{change.name}' does not exist."
                    raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, text)
                guards.append(Guard(self._keys.topic(change.name), topic.mod_revision))
                key = self._keys.topic_config(change.name)
            elif change.scope is Scope.GROUP:
                key = self._keys.group_config(change.name)
            else:
                self._check_broker_name(change.name)
                key = self._keys.broker_config(change.name)
            entry = await self._store.get(key)
            current = decode(entry.value)["configs"] if entry else {}
            has_elr = self._home.image.features.has_eligible_replicas
            altered = config_changes.alter(change, current, has_eligible_replicas=has_elr)
            if change.scope is Scope.TOPIC:
                views.check_source(current, altered)
            if validate_only or altered == current:
                return None
            guards.append(Guard(key, entry.mod_revision if entry else 0))
            op = self._writer.put(key, {"configs": altered}) if altered else Delete(key)
            result = await self._writer.commit(guards, [op])
            await self._home.wait_applied(result.revision)
            if result.succeeded:
                return current, altered
        raise _contended()

    def _check_broker_name(self, name: str) -> None:
        if name and not (name.isascii() and name.isdigit() and str(int(name)) == name):
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"Broker id '{name}' is not a number.")
        if name and int(name) not in self._home.image.registrations:
            raise KafkaError(ErrorCode.BROKER_ID_NOT_REGISTERED, f"No broker with id {name} found.")

    async def _update_features(self, updates: Sequence[FeatureUpdate], validate_only: bool) -> None:
        """A broker that registers meanwhile makes this try again: it may be able to do less."""
        keys = self._keys
        for _ in range(ATTEMPTS_MAX):
            epochs, entry = await self._store.get(keys.broker_epochs), await self._store.get(keys.features)
            await self._home.wait_applied(epochs.mod_revision if epochs else 0)
            image = self._home.image
            current = decode(entry.value)["levels"] if entry else BEFORE.levels
            ranges = {broker.id: broker.features for broker in {**image.registrations, **image.brokers}.values()}
            levels = features.updated(current, updates, ranges, image.controller_id)
            if validate_only or levels == {name: level for name, level in current.items() if level}:
                return
            guards = [
                Guard(keys.features, entry.mod_revision if entry else 0),
                Guard(keys.broker_epochs, epochs.mod_revision if epochs else 0),
            ]
            ops: list[Op] = [self._writer.put(keys.features, {"levels": levels})]
            if levels.get(features.ELIGIBLE) and not current.get(features.ELIGIBLE):
                await self._agree_on_min_isr(guards, ops)
            result = await self._writer.commit(guards, ops)
            await self._home.wait_applied(result.revision)
            if result.succeeded:
                return
        raise _contended()

    async def _agree_on_min_isr(self, guards: list[Guard], ops: list[Op]) -> None:
        """Have all brokers go by one min.insync.replicas, before replicas may be eligible.

        (Kafka: ConfigurationControlManager.maybeGenerateElrSafetyRecords.)
        """
        for name in ("", *(name for name in self._home.image.broker_configs if name)):
            key = self._keys.broker_config(name)
            entry = await self._store.get(key)
            configs = dict(decode(entry.value)["configs"]) if entry else {}
            if (MIN_ISR in configs) != (name != ""):
                continue
            if name:
                del configs[MIN_ISR]
            else:
                configs[MIN_ISR] = str(self._config().get_int(MIN_ISR))
            guards.append(Guard(key, entry.mod_revision if entry else 0))
            ops.append(self._writer.put(key, {"configs": configs}) if configs else Delete(key))

    async def _allocate(self, count: int) -> range:
        key = self._keys.producer_ids
        for _ in range(ATTEMPTS_MAX):
            entry = await self._store.get(key)
            first = max(decode(entry.value)["next"] if entry else 0, self._home.producer_ids)
            guards = [Guard(key, entry.mod_revision if entry else 0)]
            result = await self._writer.commit(guards, [self._writer.put(key, {"next": first + count})])
            if result.succeeded:
                return range(first, first + count)
        raise _contended()


async def _theirs(work: Awaitable[T]) -> T:
    """What the store could not do is answered as a timeout: a client may try again, and find out what happened."""
    try:
        return await work
    except StoreError as error:
        raise _as_theirs(error) from error


def _sorted_out(
    numbers: Sequence[int], changes: Sequence[Change], outcomes: list[None | KafkaError], *, is_first: bool
) -> Work[dict[tuple[bytes, int], tuple[int, PartitionImage]]]:
    """What is to be written, by partition, with the number of its wish. What is refused is noted in outcomes."""
    last: dict[tuple[bytes, int], tuple[int, PartitionImage]] = {}
    effort = Effort()
    for number, change in zip(numbers, changes, strict=True):
        if isinstance(change, PartitionImage):
            last[change.topic_id, change.index] = number, change
        elif change is not None and (is_first or change.code not in DONE_ALREADY):
            outcomes[number] = change
        if effort.spent(4):
            yield
    return last


def _refused(outcomes: list[None | KafkaError], numbers: Sequence[int], error: KafkaError) -> list[None | KafkaError]:
    for number in numbers:
        outcomes[number] = error
    return outcomes


def _as_theirs(error: StoreError | KafkaError) -> KafkaError:
    if isinstance(error, KafkaError):
        return error.with_traceback(None)
    return KafkaError(ErrorCode.REQUEST_TIMED_OUT, f"The coordination store failed: {error}")


def _exists(name: str) -> KafkaError:
    return KafkaError(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")


def _contended() -> KafkaError:
    return KafkaError(ErrorCode.REQUEST_TIMED_OUT, "Others kept changing the same thing; it was not changed.")
