"""ClusterImage: the cluster as this broker knows it. Immutable; `applied` makes the next, `compared` tells two apart.

    key-value entries at a revision ──loaded──▶ ClusterImage ──applied(events)──▶ ClusterImage ──applied──▶ ...

A topic is seen when it is whole: its key is written after its partitions and deleted before them. Partitions whose
topic is not seen (being made, being deleted, left behind by a broker that died meanwhile) are `strays`.
A view (`kbroker.view.source`) has no partitions of its own: it is shown with those of its source, the very same, so
that leaders, replicas and epochs are the source's. What is kept, led and changed is `own_partitions`; a view has none.
Untouched parts are shared between images, and an image remembers which topics its last step touched, so that one
change among thousands of topics costs the copying of two dicts. What is long (a cluster to be loaded, a topic of ten
thousand partitions) is done in turns.
"""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from kbroker.cluster.changes.features import BEFORE, Finalized
from kbroker.cluster.keys import BROKER_DEFAULT, decode, id_bytes, text_name
from kbroker.cluster.store import Entry, Event
from kbroker.config.views import VIEW_SOURCE, ViewSpec, view_of
from kbroker.turns import Work

K = TypeVar("K")
V = TypeVar("V")

NO_LEADER = -1
NO_TOPIC_ID = bytes(16)
STRIDE = 8  # events, or topics, between two pauses
INTERNAL_TOPICS = frozenset({"__consumer_offsets", "__transaction_state", "__share_group_state"})


NOTHING: Mapping[Any, Any] = MappingProxyType({})


def nothing() -> Mapping[Any, Any]:
    """An empty mapping, always the same."""
    return NOTHING


@dataclass(frozen=True, slots=True)
class PartitionImage:
    """A partition as the cluster has agreed on it."""

    topic_id: bytes
    index: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    leader: int  # NO_LEADER: none
    leader_epoch: int  # grows with every change of leader, and when a leader's broker starts again (R8)
    partition_epoch: int  # grows with every change
    mod_revision: int = field(default=0, compare=False)  # guard of the next change; 0: not stored yet
    elr: tuple[int, ...] = ()  # eligible: out of the ISR, and with all that was committed (KIP-966)
    last_leader: int = NO_LEADER  # who led last, of a partition without a leader
    adding: tuple[int, ...] = ()  # of a reassignment: replicas that are to stay, once they are in the ISR
    removing: tuple[int, ...] = ()  # of a reassignment: replicas that go when it is done; `replicas` has them as well

    def fields(self) -> dict[str, Any]:
        """What is stored."""
        fields: dict[str, Any] = {
            "replicas": self.replicas,
            "isr": self.isr,
            "leader": self.leader,
            "leader_epoch": self.leader_epoch,
            "partition_epoch": self.partition_epoch,
        }
        if self.elr:
            fields["elr"] = self.elr
        if self.last_leader != NO_LEADER:
            fields["last_leader"] = self.last_leader
        if self.adding or self.removing:
            fields["adding"], fields["removing"] = self.adding, self.removing
        return fields


@dataclass(frozen=True, slots=True)
class BrokerImage:
    """A registered broker."""

    id: int
    epoch: int  # a later registration of any broker has a greater one
    rack: str | None
    endpoints: Mapping[str, tuple[str, int]]  # listener name -> (host, port)
    directory_id: str  # of its data: the same broker, started again, has the same
    incarnation: str  # of the process: no two starts have the same
    features: Mapping[str, tuple[int, int]] = field(default_factory=nothing)  # name -> levels it can do
    mod_revision: int = field(default=0, compare=False)
    leaving: bool = False  # about to stop: it is given no leadership, and joins no ISR

    def fields(self) -> dict[str, Any]:
        """What is stored."""
        fields: dict[str, Any] = {
            "epoch": self.epoch,
            "rack": self.rack,
            "endpoints": {name: list(address) for name, address in self.endpoints.items()},
            "directory": self.directory_id,
            "incarnation": self.incarnation,
            "features": {name: list(levels) for name, levels in self.features.items()},
        }
        return {**fields, "leaving": True} if self.leaving else fields


@dataclass(frozen=True, slots=True)
class TopicImage:
    """A topic with all its partitions; partitions[i].index == i."""

    name: str
    id: bytes
    partitions: tuple[PartitionImage, ...]
    configs: Mapping[str, str]
    mod_revision: int = field(default=0, compare=False)
    view: ViewSpec | None = None  # of a view: of what; its partitions are those of its source

    def having(self, partitions: tuple[PartitionImage, ...]) -> TopicImage:
        """The same topic with other partitions."""
        return TopicImage(self.name, self.id, partitions, self.configs, self.mod_revision, self.view)

    @property
    def own_partitions(self) -> tuple[PartitionImage, ...]:
        """What brokers keep, lead and change for it: nothing for a view."""
        return self.partitions if self.view is None else ()

    @property
    def kept_as(self) -> str:
        """The topic whose partitions these are: itself, or the source of a view."""
        return self.name if self.view is None else self.view.source

    @property
    def internal(self) -> bool:
        """Whether it is one of the broker's own."""
        return self.name in INTERNAL_TOPICS


@dataclass(frozen=True, slots=True)
class ClusterImage:
    """The cluster at a revision of the store."""

    cluster_id: str = ""
    controller_id: int = -1
    controller_epoch: int = -1
    controller_revision: int = 0  # guard of what the controller decides
    brokers: Mapping[int, BrokerImage] = field(default_factory=nothing)  # the live ones
    registrations: Mapping[int, BrokerImage] = field(default_factory=nothing)  # all, as they last registered
    topics: Mapping[str, TopicImage] = field(default_factory=nothing)
    topics_by_id: Mapping[bytes, TopicImage] = field(default_factory=nothing)
    names: Mapping[str, str] = field(default_factory=nothing)  # unified -> name, of topics whose name has . or _
    views: Mapping[str, tuple[str, ...]] = field(default_factory=nothing)  # source -> its views, in order of names
    broker_configs: Mapping[str, Mapping[str, str]] = field(default_factory=nothing)  # by id, "": for all
    group_configs: Mapping[str, Mapping[str, str]] = field(default_factory=nothing)  # by group id
    features: Finalized = BEFORE
    revision: int = 0
    secret: bytes = field(default=b"", repr=False)  # by which brokers know each other
    producer_ids: int = 0  # the first that was not given out
    # What is not a picture of the cluster but of its store.
    topic_configs: Mapping[str, Mapping[str, str]] = field(default_factory=nothing)  # also of topics not seen yet
    strays: Mapping[bytes, Mapping[int, PartitionImage]] = field(default_factory=nothing)
    # Topics whose key was seen while partitions are missing: (name, number of partitions, mod_revision of the key).
    unfinished: Mapping[bytes, tuple[str, int, int]] = field(default_factory=nothing)
    pending: frozenset[bytes] = frozenset()  # topic ids marked as being made or grown
    touched: Collection[str] = ()  # topics changed by the step from `base`, in order
    touched_groups: Collection[str] = ()  # groups whose configs were
    base: int = -1

    def applied(self, events: Iterable[Event], prefix: bytes, revision: int) -> Work[ClusterImage]:
        """The image after these events, at revision. What this image knows already is passed over."""
        edit = _Edit(self)
        for number, event in enumerate(events):
            if event.mod_revision > self.revision and event.key.startswith(prefix):
                edit.take(event.key[len(prefix) :].decode("ascii"), event.value, event.mod_revision)
            if not number % STRIDE:
                yield
        return (yield from edit.done(max(revision, self.revision)))


def loaded(entries: Iterable[Entry], prefix: bytes, revision: int) -> Work[ClusterImage]:
    """The image of everything that is stored under prefix, read at revision."""
    return ClusterImage().applied(
        (Event(entry.key, entry.value, entry.mod_revision) for entry in entries), prefix, revision
    )


def unified(name: str) -> str:
    """What the names of two topics must not have in common: Kafka's metric names cannot tell . from _."""
    return name.replace(".", "_")


class _Edit:
    """The parts that differ from the old image, copied when first touched."""

    def __init__(self, old: ClusterImage) -> None:
        self.old = old
        self.new: dict[str, Any] = {}
        self.moved: dict[bytes, dict[int, PartitionImage | None]] = {}  # partitions written (None: deleted), by topic
        self.touched: dict[str, None] = {}  # topics, in order
        self.touched_groups: dict[str, None] = {}

    def copy(self, name: str) -> dict[Any, Any]:
        """A dict of the new image, to be changed."""
        if name not in self.new:
            self.new[name] = dict(getattr(self.old, name))
        mapping: dict[Any, Any] = self.new[name]
        return mapping

    def get(self, name: str) -> Any:
        return self.new[name] if name in self.new else getattr(self.old, name)

    def take(self, path: str, value: bytes | None, mod_revision: int) -> None:
        """One event; keys nobody here knows are passed over."""
        kind, _, rest = path.partition("/")
        fields = None if value is None else decode(value)
        if kind == "p":
            topic, _, index = rest.partition("/")
            topic_id = id_bytes(topic)
            partition = None if fields is None else _partition(topic_id, int(index), fields, mod_revision)
            self.moved.setdefault(topic_id, {})[int(index)] = partition
        elif kind == "topics":
            self._topic(rest, fields, mod_revision)
        elif kind == "config":
            self._config(rest, fields)
        elif kind in ("brokers", "registrations"):
            _put(self.copy(kind), int(rest), None if fields is None else _broker(int(rest), fields, mod_revision))
        elif kind == "controller":
            self.new["controller_id"] = -1 if fields is None else fields["broker"]
            self.new["controller_revision"] = 0 if fields is None else mod_revision
            if fields is not None:
                self.new["controller_epoch"] = fields["epoch"]
        elif kind == "features":
            self.new["features"] = BEFORE if fields is None else _features(fields, mod_revision)
        elif kind == "cluster":
            self.new["cluster_id"] = "" if fields is None else fields["id"]
        elif kind == "secret":
            self.new["secret"] = b"" if fields is None else a2b_base64(fields["secret"])
        elif path == "ids/producer":
            self.new["producer_ids"] = 0 if fields is None else fields["next"]
        elif kind == "pending":
            topic_ids = {id_bytes(rest)}
            pending = self.get("pending")
            self.new["pending"] = pending - topic_ids if fields is None else pending | topic_ids

    def _config(self, path: str, fields: dict[str, Any] | None) -> None:
        scope, _, name = path.partition("/")
        configs = None if fields is None else MappingProxyType(dict(fields["configs"]))
        if scope == "brokers":
            _put(self.copy("broker_configs"), "" if name == BROKER_DEFAULT else name, configs)
        elif scope == "groups":
            _put(self.copy("group_configs"), text_name(name), configs)
            self.touched_groups[text_name(name)] = None
        elif scope == "topics":
            _put(self.copy("topic_configs"), name, configs)
            topic = self.get("topics").get(name)
            if topic is not None:
                self._show(replace(topic, configs=configs or NOTHING))

    def _topic(self, name: str, fields: dict[str, Any] | None, mod_revision: int) -> None:
        """A topic's key was written or deleted. Its partitions, told before it, must be in their places by then."""
        topic_id = None if fields is None else id_bytes(fields["id"])
        seen = self.get("topics").get(name)
        if seen is not None and seen.id != topic_id:
            self.settle()
            self._hide(seen)
        for other in [id for id, (other_name, _, _) in self.get("unfinished").items() if other_name == name]:
            del self.copy("unfinished")[other]
        if fields is not None:
            assert topic_id is not None
            head = (name, fields["partitions"], mod_revision)
            if seen is None and self._show_at_once(topic_id, *head):
                return
            self.settle()
            self.copy("unfinished")[topic_id] = head
            self._complete(topic_id)

    def _show_at_once(self, topic_id: bytes, name: str, count: int, mod_revision: int) -> bool:
        """Show a new topic whose partitions have all come just now: the usual case, done without detours."""
        moved: Mapping[int, PartitionImage | None] = self.moved.get(topic_id, NOTHING)
        if len(moved) != count or topic_id in self.get("strays"):
            return False
        partitions = tuple(part for index in range(count) if (part := moved.get(index)) is not None)
        if len(partitions) != count:
            return False
        self.moved.pop(topic_id, None)
        configs = self.get("topic_configs").get(name, NOTHING)
        self._show(TopicImage(name, topic_id, partitions, configs, mod_revision))
        return True

    def settle(self) -> None:
        """Put the partitions that were written where they belong: into their topics, or among the strays."""
        while self.moved:
            self._settle_one()

    def _settle_one(self) -> None:
        """Those of one topic."""
        topic_id = next(iter(self.moved))
        partitions = self.moved.pop(topic_id)
        topic = self.get("topics_by_id").get(topic_id)
        seen = topic.own_partitions if topic is not None else ()
        if topic is not None and topic.view is None:
            now = list(seen)
            for index, partition in partitions.items():
                if index < len(now) and partition is not None:
                    now[index] = partition
            self._show(topic.having(tuple(now)))
        outside = {index: partition for index, partition in partitions.items() if index >= len(seen)}
        if outside:
            self._stray(topic_id, outside)

    def _stray(self, topic_id: bytes, partitions: Mapping[int, PartitionImage | None]) -> None:
        strays = {**self.get("strays").get(topic_id, NOTHING), **partitions}
        if not all(partitions.values()):
            strays = {index: partition for index, partition in strays.items() if partition is not None}
        _put(self.copy("strays"), topic_id, strays or None)
        self._complete(topic_id)

    def _complete(self, topic_id: bytes) -> None:
        """Show a topic whose key has been seen, once no partition is missing."""
        if topic_id not in self.get("unfinished"):
            return
        name, count, mod_revision = self.get("unfinished")[topic_id]
        topic = self.get("topics_by_id").get(topic_id)
        seen = topic.own_partitions if topic is not None else ()
        strays = self.get("strays").get(topic_id, NOTHING)
        gained = list(map(strays.get, range(len(seen), count)))
        if not all(gained):
            return
        del self.copy("unfinished")[topic_id]
        rest = {partition.index: partition for partition in seen[count:]}
        if len(strays) > len(gained):
            rest.update((index, partition) for index, partition in strays.items() if index >= count)
        _put(self.copy("strays"), topic_id, rest or None)
        configs = self.get("topic_configs").get(name, NOTHING)
        self._show(TopicImage(name, topic_id, (*seen[:count], *gained), configs, mod_revision))

    def _show(self, topic: TopicImage) -> None:
        self.copy("topics")[topic.name] = topic
        self.copy("topics_by_id")[topic.id] = topic
        self.touched[topic.name] = None
        one = unified(topic.name)
        if "_" in one and one not in self.get("names"):
            self.copy("names")[one] = topic.name

    def _hide(self, topic: TopicImage) -> None:
        del self.copy("topics")[topic.name]
        del self.copy("topics_by_id")[topic.id]
        if self.get("names").get(one := unified(topic.name)) == topic.name:
            del self.copy("names")[one]
        if topic.view is None:
            self.copy("strays")[topic.id] = {partition.index: partition for partition in topic.partitions}
        self.touched[topic.name] = None

    def _show_views(self) -> Work[None]:
        """Show the views that were touched, and those of sources that were, as configs and sources are now."""
        stale: dict[str, None] = {}
        for number, name in enumerate(tuple(self.touched)):
            topic, before = self.get("topics").get(name), self.old.topics.get(name)
            if topic is not None and (VIEW_SOURCE in topic.configs or topic.view is not None):
                is_same = before is not None and before.configs is topic.configs
                self._show(
                    replace(topic, view=before.view if before is not None and is_same else view_of(topic.configs))
                )
                stale[name] = None
            self._note_view(name, before)
            stale.update(dict.fromkeys(self.get("views").get(name, ())))
            if not number % STRIDE:
                yield
        for number, name in enumerate(stale):
            view = self.get("topics")[name]
            if view.view is not None:
                source = self.get("topics").get(view.view.source)
                self._show(view.having(() if source is None else source.own_partitions))
            if not number % STRIDE:
                yield

    def _note_view(self, name: str, before: TopicImage | None) -> None:
        """Note of which topic this one is a view now, and of which it is none any more."""
        topic = self.get("topics").get(name)
        was, now = (each.view.source if each is not None and each.view is not None else "" for each in (before, topic))
        if was != now:
            for source, names in ((was, set[str]()), (now, {name})):
                names |= {*self.get("views").get(source, ())} - {name}
                if source:
                    _put(self.copy("views"), source, tuple(sorted(names)) or None)

    def done(self, revision: int) -> Work[ClusterImage]:
        """The new image."""
        while self.moved:
            self._settle_one()
            yield
        yield from self._show_views()
        return replace(
            self.old,
            **self.new,
            revision=revision,
            touched=self.touched.keys(),
            touched_groups=self.touched_groups.keys(),
            base=self.old.revision,
        )


def _put(mapping: dict[K, V], key: K, value: V | None) -> None:
    """Set, or remove when there is no value."""
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value


def _partition(topic_id: bytes, index: int, fields: dict[str, Any], mod_revision: int) -> PartitionImage:
    optional = fields.get
    return PartitionImage(
        topic_id, index, tuple(fields["replicas"]), tuple(fields["isr"]), fields["leader"], fields["leader_epoch"],
        fields["partition_epoch"], mod_revision, tuple(optional("elr", ())), optional("last_leader", NO_LEADER),
        tuple(optional("adding", ())), tuple(optional("removing", ())),
    )  # fmt: skip


def _broker(broker_id: int, fields: dict[str, Any], mod_revision: int) -> BrokerImage:
    endpoints = {name: (host, port) for name, (host, port) in fields["endpoints"].items()}
    return BrokerImage(
        broker_id,
        fields["epoch"],
        fields["rack"],
        MappingProxyType(endpoints),
        fields["directory"],
        fields["incarnation"],
        MappingProxyType({name: (low, high) for name, (low, high) in fields.get("features", {}).items()}),
        mod_revision,
        fields.get("leaving", False),
    )


def _features(fields: dict[str, Any], mod_revision: int) -> Finalized:
    return Finalized(MappingProxyType(dict(fields["levels"])), mod_revision)


class Changes(NamedTuple):
    """What distinguishes two images. A topic made anew under its old name is both deleted and created.

    Views are topics that have no partitions here.
    """

    topics_created: tuple[TopicImage, ...] = ()
    topics_deleted: tuple[TopicImage, ...] = ()  # as they were
    partitions_added: tuple[tuple[TopicImage, PartitionImage], ...] = ()  # also those of created topics
    partitions_removed: tuple[tuple[TopicImage, PartitionImage], ...] = ()  # also those of deleted topics
    partitions_changed: tuple[tuple[TopicImage, PartitionImage], ...] = ()  # as they are now
    topic_configs_changed: tuple[TopicImage, ...] = ()  # of topics in both images
    broker_configs_changed: tuple[str, ...] = ()  # "" = default of all brokers
    group_configs_changed: tuple[str, ...] = ()  # group ids
    brokers_added: tuple[BrokerImage, ...] = ()  # also a broker registered anew, in its new epoch
    brokers_removed: tuple[BrokerImage, ...] = ()  # also a broker registered anew, in its old epoch


def compared(old: ClusterImage, new: ClusterImage) -> Work[Changes]:
    """What distinguishes two images. When new is one step from old, only the topics of that step are looked at."""
    created: list[TopicImage] = []
    deleted: list[TopicImage] = []
    added: list[tuple[TopicImage, PartitionImage]] = []
    removed: list[tuple[TopicImage, PartitionImage]] = []
    changed: list[tuple[TopicImage, PartitionImage]] = []
    configured: list[TopicImage] = []
    for number, name in enumerate(_names_to_compare(old, new, "topics", "touched")):
        if not number % STRIDE:
            yield
        before, after = old.topics.get(name), new.topics.get(name)
        if before is after:
            continue
        same = before is not None and after is not None and before.id == after.id
        if before is not None and not same:
            deleted.append(before)
            removed += [(before, partition) for partition in before.own_partitions]
        if after is not None and not same:
            created.append(after)
            added += [(after, partition) for partition in after.own_partitions]
        if same:
            assert before is not None and after is not None
            were, are = before.own_partitions, after.own_partitions
            changed += [(after, now) for was, now in zip(were, are, strict=False) if was is not now and was != now]
            added += [(after, partition) for partition in are[len(were) :]]
            removed += [(before, partition) for partition in were[len(are) :]]
            if before.configs != after.configs:
                configured.append(after)
    groups: list[str] = []
    for number, group in enumerate(_names_to_compare(old, new, "group_configs", "touched_groups")):
        if not number % STRIDE:
            yield
        if old.group_configs.get(group) != new.group_configs.get(group):
            groups.append(group)
    names = sorted(old.broker_configs.keys() | new.broker_configs.keys())
    return Changes(
        tuple(created),
        tuple(deleted),
        tuple(added),
        tuple(removed),
        tuple(changed),
        tuple(configured),
        tuple(name for name in names if old.broker_configs.get(name) != new.broker_configs.get(name)),
        tuple(groups),
        tuple(broker for broker in new.brokers.values() if old.brokers.get(broker.id) != broker),
        tuple(broker for broker in old.brokers.values() if new.brokers.get(broker.id) != broker),
    )


def _names_to_compare(old: ClusterImage, new: ClusterImage, what: str, touched: str) -> Iterable[str]:
    """The names of a mapping, `what`, that may differ; `touched` are those of the last step."""
    before, after = getattr(old, what), getattr(new, what)
    if before is after:
        return ()
    if new.base == old.revision:
        return getattr(new, touched)  # type: ignore[no-any-return]
    return chain(before, (name for name in after if name not in before))
