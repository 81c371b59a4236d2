"""What was sent, for now or for later, and what became of it. Clients tell it, the watch asks it, the end is judged.

early        a delivery is appended before it is due by the clock of who appends it, and nobody hurried it (D1)
lost         something acknowledged (and committed) is neither there, nor cancelled (D2)
double       a value is there twice (D3)
false        something of a transaction that was aborted is there; or something that nobody sent
an order     to cancel or to hurry, acknowledged, is not in the log
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import NamedTuple

from kbroker.log.content.delayed import AFTER, AT, CANCEL, NOW
from tests.simulation.checker import Checker, Violation
from tests.simulation.delays.story import Story
from tests.simulation.transactions.ledger import Ledger, StableHistory, State

LATER, BRIEF = TOPICS = "later", "brief"  # the second keeps little
KEYS = 5
FARTHEST_MS = 9000


class Note(NamedTuple):
    """A record as it was sent."""

    value: bytes
    place: str
    key: bytes
    header: bytes | None  # what it asks for; None: nothing
    text: bytes
    due_ms: int  # by whoever is asked; -1: it says for how long
    about: frozenset[int]  # ids that it cancels or hurries

    @property
    def is_order(self) -> bool:
        return self.header in (CANCEL, NOW)

    @property
    def is_delayed(self) -> bool:
        return self.header in (AT, AFTER)


class DelayLedger(Ledger):
    """Of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[bytes, Note] = {}
        self.done: set[bytes] = set()  # values that were acknowledged
        self.delivered: Counter[bytes] = Counter()  # values that a leader has appended to deliver them
        self.due_ms: dict[bytes, int] = {}  # of those that said for how long: as a leader has hidden them

    def partition(self, topic: str, index: int, *, durable: bool = True) -> StableHistory:
        """The history of a new partition: it hears what is acknowledged."""
        history = DelayHistory(self, topic, index, durable=durable)
        self.histories.append(history)
        return history

    def plan(self, value: bytes, place: str, author: str, random: Random, now_ms: int) -> Note:
        """What a record is to ask for."""
        key = b"%s/%d" % (author.encode(), random.randrange(KEYS))
        chance = random.random()
        header, text, due_ms, about = None, b"", 0, frozenset[int]()
        if chance < 0.45:
            header, due_ms = AT, now_ms + random.choice([300, 2000, FARTHEST_MS]) * random.randint(1, 10) // 10
            text = b"%d" % due_ms
        elif chance < 0.6:
            header, text, due_ms = AFTER, b"%d" % random.randint(0, 4000), -1
        elif chance < 0.72:
            header = CANCEL if chance < 0.66 else NOW
            if random.random() < 0.3:
                about = frozenset(random.sample(range(200), 3))
                text = b",".join(b"%d" % each for each in sorted(about))
        self.notes[value] = note = Note(value, place, key, header, text, due_ms, about)
        return note

    # -- what a leader does

    def hides(self, value: bytes, due_ms: int) -> None:
        """A leader hides a record, to deliver it then."""
        self.due_ms[value] = min(due_ms, self.due_ms.get(value, due_ms))

    def passes(self, value: bytes, now_ms: int, who: str) -> None:
        """A leader appends a record as it came."""
        note = self.notes.get(value)
        if note is not None and note.is_delayed:
            if now_ms < note.due_ms or note.due_ms < 0 and int(note.text) > 0:
                raise Violation(f"early: {who} lets pass {value!r} at {now_ms}, it is due at {note.due_ms} (D1)")
            self.delivered[value] += 1

    def delivers(self, value: bytes, id: int, now_ms: int, who: str) -> None:
        """A leader appends a delivery."""
        note = self.notes.get(value)
        if note is None or not note.is_delayed:
            raise Violation(f"{who} delivers {value!r}, which nobody wanted later")
        due_ms = note.due_ms if note.due_ms >= 0 else self.due_ms[value]
        if now_ms < due_ms and not self._is_hurried(note, id):
            raise Violation(f"early: {who} delivers {value!r} at {now_ms}, it is due at {due_ms} (D1)")
        self.delivered[value] += 1

    def _is_hurried(self, note: Note, id: int) -> bool:
        return any(
            other.header == NOW
            and other.place == note.place
            and (id in other.about if other.about else other.key == note.key)
            for other in self.notes.values()
        )

    # -- the end

    def judge_delays(self, stories: dict[str, Story]) -> None:
        """What is in the logs, when nothing waits any more."""
        seen: Counter[tuple[str, bytes]] = Counter()
        for place, story in stories.items():
            seen.update((place, value) for _, value in story.visible)
        for (place, value), count in seen.items():
            note = self.notes.get(value)
            if note is None or note.place != place or note.is_order:
                raise Violation(f"{place}: {value!r} is there, and was not to be")
            if count > 1:
                raise Violation(f"{place}: double: {value!r} is there {count} times (D3)")
        for note in self.notes.values():
            self._judge(note, stories[note.place], seen[note.place, note.value])
        for transaction in self.transactions.values():
            self._judge_whole(transaction.writes, transaction.state, stories, seen)

    def _judge(self, note: Note, story: Story, count: int) -> None:
        what = f"{note.place}: {note.value!r}"
        is_there = self._is_there(note, story, count)
        fate = self._fate(note.value)
        if fate is False and is_there:
            raise Violation(f"{what} of a transaction that was aborted is there")
        if fate is True and not is_there and story.start == 0:
            raise Violation(f"lost: {what} (D2)")
        was_delivered = self.delivered[note.value] or self._may_be_cancelled(note)
        if fate is True and note.is_delayed and not is_there and not was_delivered:
            raise Violation(f"lost: {what} was never delivered (D2)")

    def _is_there(self, note: Note, story: Story, count: int) -> bool:
        if note.is_order:
            return note.value in story.orders
        return count > 0 or note.value in story.cancelled

    def _may_be_cancelled(self, note: Note) -> bool:
        return any(
            other.header == CANCEL and other.place == note.place and (other.about or other.key == note.key)
            for other in self.notes.values()
        )

    def _fate(self, value: bytes) -> bool | None:
        """Whether it has to be there; None: it may be."""
        transaction = self.writer.get(value)
        if transaction is None:
            return True if value in self.done else None
        return {State.COMMITTED: True, State.ASKED: None}.get(transaction.state, False)

    def _judge_whole(
        self, values: Iterable[bytes], state: State, stories: dict[str, Story], seen: Counter[tuple[str, bytes]]
    ) -> None:
        """One that was to be committed is there as a whole, or not at all."""
        notes = [self.notes[value] for value in values if stories[self.notes[value].place].start == 0]
        there = [self._is_there(note, stories[note.place], seen[note.place, note.value]) for note in notes]
        if state is State.ASKED and any(there) and not all(there):
            torn = [note.value for note, is_there in zip(notes, there, strict=True) if not is_there]
            raise Violation(f"a transaction is torn: not there: {torn}")


class DelayHistory(StableHistory):
    """A partition. What is acknowledged has an offset only where not all of it was for later."""

    def acknowledged(self, base_offset: int, values: list[bytes], losses: int) -> None:
        """An acknowledgement came."""
        assert isinstance(self.ledger, DelayLedger)
        self.ledger.done.update(values)


def all_of(checker: Checker) -> list[str]:
    """The partitions, by name."""
    return [str(history) for history in checker.histories]
