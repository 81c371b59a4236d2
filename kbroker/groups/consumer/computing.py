"""What of a consumer group takes long, as work in turns: resolving regular expressions, and computing a target.

Both work on a snapshot: the group goes on meanwhile, and decides what to make of the result when it is there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from kbroker.coordinators.effects import Pair
from kbroker.events import REGEX_TOO_COSTLY, tell
from kbroker.groups.consumer.assignors import ASSIGNORS, MemberSpec
from kbroker.groups.consumer.member import Target, assigned_of
from kbroker.groups.group import Topics
from kbroker.groups.storage.snapshots import TargetMemberSnapshot
from kbroker.groups.storage.stored import state_pair_in_turns
from kbroker.turns import Effort, Work, rest

log = logging.getLogger("kbroker.groups")

INTERNAL_PREFIX = "__"  # unlike Kafka: no pattern reaches the broker's own topics; by name they can be subscribed to
NOTHING: Target = {}
REGEX_SHOWN_MAX = 100  # characters

Resolved: TypeAlias = dict[str, frozenset[str]]  # regular expression -> the topics it matches


def resolve(regexes: Iterable[str], topics: Topics) -> Work[Resolved]:
    """What each of these regular expressions, which are valid, matches."""
    from kbroker.regex import Regex, TooCostly

    resolved: Resolved = {}
    for regex in regexes:
        try:
            names = (name for name in list(topics) if not name.startswith(INTERNAL_PREFIX))
            resolved[regex] = frozenset((yield from Regex(regex).matching(names)))
        except TooCostly as error:
            tell(log, REGEX_TOO_COSTLY, regex=regex[:REGEX_SHOWN_MAX], reason=str(error))
            resolved[regex] = frozenset()
    return resolved


class Asked(NamedTuple):
    """A member, as far as its target depends on it."""

    member_id: str
    instance_id: str | None
    topics: frozenset[str]
    regex: str | None


class Question(NamedTuple):
    """What a target depends on."""

    group_id: str
    assignor: str
    members: list[Asked]
    targets: Mapping[str, Target]  # the last ones
    regexes: Resolved
    topics: Topics


class Computed(NamedTuple):
    """The targets that are others than before, with their records; the names of all topics that are subscribed to."""

    targets: dict[str, tuple[dict[bytes, frozenset[int]], Pair]]
    names: dict[bytes, str]


def compute(question: Question) -> Work[Computed]:
    """What each member is to own."""
    specs, partitions, names = yield from _specs(question)
    made = yield from ASSIGNORS[question.assignor](specs, partitions)
    targets, effort = {}, Effort()
    for member_id, found in made.items():
        target = {topic_id: frozenset(numbers) for topic_id, numbers in found.items() if numbers}
        if member_id not in question.targets or target != question.targets[member_id]:
            yield from rest(4 * len(target))
            record = TargetMemberSnapshot(question.group_id, member_id, assigned_of(target))
            targets[member_id] = target, (yield from state_pair_in_turns(record))
        if effort.spent(8 + len(target)):
            yield
    return Computed(targets, names)


def _specs(question: Question) -> Work[tuple[dict[str, MemberSpec], dict[bytes, int], dict[bytes, str]]]:
    """What an assignor is to know: the members, partitions of each topic; and the topics' names."""
    # Members with equal subscriptions share one set; there are few kinds of members, as a rule.
    kinds: dict[tuple[frozenset[str], str | None], frozenset[bytes]] = {}
    equal: dict[frozenset[bytes], frozenset[bytes]] = {}
    partitions: dict[bytes, int] = {}
    names: dict[bytes, str] = {}
    specs: dict[str, MemberSpec] = {}
    effort = Effort()
    for member in question.members:
        kind = member.topics, member.regex
        if kind not in kinds:
            wanted = member.topics | question.regexes.get(member.regex or "", frozenset())
            found = {name: question.topics[name] for name in question.topics.keys() & wanted}
            partitions.update(found.values())
            names.update((topic_id, name) for name, (topic_id, _) in found.items())
            ids = frozenset(topic_id for topic_id, _ in found.values())
            kinds[kind] = equal.setdefault(ids, ids)
            yield from rest(4 * len(wanted))
        specs[member.member_id] = MemberSpec(
            kinds[kind], question.targets.get(member.member_id, NOTHING), member.instance_id
        )
        if effort.spent():
            yield
    return specs, partitions, names
