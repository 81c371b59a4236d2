"""What filtered consumers must do, with one real client: `checks.py CLIENT BOOTSTRAP TOPIC`, in its environment.

The topic has three partitions of COUNT records each, made by `run.py`. In partitions 0 and 1 every EVERYth record has
the tag "eu", every third of these is a tombstone; in partition 2 none has it. Each check runs once for every form of
the client (`readers.py`), in a group of its own. Prints a line of JSON for each: {"form", "check", "result": "ok",
"FAIL" or "absent", "why"}.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from readers import FORMS, ConfluentReader, Place, Reader

EXPRESSION = 'tags has "eu"'
COUNT, EVERY, PARTITIONS = 3000, 50, 3
WAIT_SECONDS = 3.0  # for the next matching record
LONGEST_SECONDS = 60.0


def value_of(partition: int, offset: int) -> bytes | None:
    return None if offset % (3 * EVERY) == 0 else b"%d:%d" % (partition, offset)


EXPECTED = {Place(p, o, value_of(p, o)) for p in (0, 1) for o in range(0, COUNT, EVERY)}
ENDS = dict.fromkeys(range(PARTITIONS), COUNT)


class Wrong(AssertionError):
    """A check failed; the message says how."""


class Absent(Exception):
    """The client cannot do what is checked; the message says why."""


class Stage:
    """One form of one client, against one topic."""

    def __init__(self, client: str, form: str, bootstrap: str, topic: str) -> None:
        self.client, self.form, self.bootstrap, self.topic = client, form, bootstrap, topic

    @contextmanager
    def reader(self, group: str, *, auto_commit: bool = False, topic: str | None = None) -> Iterator[Reader]:
        """A reader, closed at the end."""
        make: Any = FORMS[self.client][self.form]
        reader: Reader = make(self.form, self.bootstrap, topic or self.topic, group, EXPRESSION, auto_commit)
        try:
            yield reader
        finally:
            reader.close()


def new_group() -> str:
    return f"filtering-{uuid.uuid4().hex[:8]}"


def read_all(*readers: Reader, done: Callable[[set[Place]], bool] | None = None) -> list[Place]:
    """By turns, until all of EXPECTED was seen, or what `done` says, and no reader has anything more."""
    found: list[Place] = []
    end = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < end:
        seen = set(found)
        enough = done(seen) if done else seen >= EXPECTED
        new = [each for reader in readers for each in reader.some(0.3 if enough else WAIT_SECONDS)]
        found += new
        if enough and not new:
            return found
    raise Wrong(f"after {LONGEST_SECONDS:.0f} s {len(EXPECTED - set(found))} of {len(EXPECTED)} records were not read")


def exactly(found: list[Place]) -> None:
    if wrong := set(found) - EXPECTED:
        raise Wrong(f"{len(wrong)} records that do not match, the first {min(wrong)}")
    if len(found) != len(set(found)):
        raise Wrong(f"{len(found) - len(set(found))} records came twice")
    if missing := EXPECTED - set(found):
        raise Wrong(f"{len(missing)} records did not come, the first {min(missing)}")


def until_ends(ask: Callable[[], dict[int, int]], what: str) -> None:
    """It may take a moment, for the last records to be passed that do not match."""
    end = time.monotonic() + 10
    while (found := ask()) != ENDS:
        if time.monotonic() > end:
            raise Wrong(f"{what}: {found}, not {ENDS}")
        time.sleep(0.05)


def check_what_matches_is_read_once_tombstones_too(stage: Stage) -> None:
    with stage.reader(new_group()) as reader:
        exactly(read_all(reader))
        until_ends(reader.positions, "positions")


def check_a_commit_covers_what_was_left_out(stage: Stage) -> None:
    """Also in partition 2, where nothing matches."""
    group = new_group()
    with stage.reader(group) as reader:
        read_all(reader)
        until_ends(reader.positions, "positions")
        reader.commit()
        until_ends(reader.committed, "committed")


def check_automatic_commits_cover_what_was_left_out(stage: Stage) -> None:
    group = new_group()
    with stage.reader(group, auto_commit=True) as reader:
        read_all(reader)
    with stage.reader(group) as reader:
        again = reader.some(WAIT_SECONDS)
        if again:
            raise Wrong(f"{len(again)} records came again, the first {again[0]}")
        until_ends(reader.committed, "committed")


def check_commits_of_records_lose_and_repeat_nothing(stage: Stage) -> None:
    """A reader that ends in the middle, and one that goes on where it committed."""
    group, found = new_group(), list[Place]()
    with stage.reader(group) as reader:
        while len(found) < len(EXPECTED) // 3:
            found += reader.some(WAIT_SECONDS)
        for partition, offset in {each.partition: each.offset for each in found}.items():
            reader.commit_offset(partition, offset + 1)
    with stage.reader(group) as reader:
        found += read_all(reader, done=lambda seen: seen | set(found) >= EXPECTED)
    exactly(found)


def check_a_rebalance_loses_nothing(stage: Stage) -> None:
    """Another reader comes after the first records, the first one goes later."""
    group, found = new_group(), list[Place]()
    with stage.reader(group, auto_commit=True) as second:
        with stage.reader(group, auto_commit=True) as first:
            end = time.monotonic() + LONGEST_SECONDS
            while len(found) < len(EXPECTED) // 3 and time.monotonic() < end:
                found += first.some(0.3) + second.some(0.3)
        found += read_all(second, done=lambda seen: seen | set(found) >= EXPECTED)
    if wrong := set(found) - EXPECTED:
        raise Wrong(f"{len(wrong)} records that do not match, the first {min(wrong)}")


def check_a_paused_partition_waits(stage: Stage) -> None:
    if stage.client == "kafka_python":
        raise Absent("3.0.12 does not go on with a partition that was paused in the middle of what it had at hand")
    with stage.reader(new_group()) as reader:
        found: list[Place] = []
        while not found:
            found += reader.some(WAIT_SECONDS)
        reader.pause(1)
        others = {each for each in EXPECTED if each.partition != 1}
        while not set(found) >= others:
            new = reader.some(WAIT_SECONDS)
            if not new:
                raise Wrong(f"{len(others - set(found))} records of partitions that are not paused did not come")
            found += new
        held_back = {each for each in EXPECTED if each.partition == 1} - set(found)
        if not held_back:
            raise Wrong("the paused partition was read to its end")
        reader.resume(1)
        found += read_all(reader, done=lambda seen: seen >= held_back)
    exactly(found)


def check_an_error_reaches_its_user(stage: Stage) -> None:
    """confluent-kafka's are messages."""
    if stage.client != "confluent_kafka":
        raise Absent("its errors are exceptions")
    with stage.reader(new_group(), topic="there-is-no-such-topic") as reader:
        assert isinstance(reader, ConfluentReader)
        end = time.monotonic() + LONGEST_SECONDS
        while time.monotonic() < end:
            for message in reader.messages(1.0):
                if message.error() is None:
                    raise Wrong("a message from a topic that does not exist")
                return
    raise Wrong("no error came")


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}


def main() -> int:
    """Carry all of it out; 1 if anything failed."""
    client, bootstrap, topic = sys.argv[1:4]
    failed = 0
    for form in FORMS[client]:
        for name, check in CHECKS.items():
            result, why = "ok", ""
            try:
                check(Stage(client, form, bootstrap, topic))
            except Absent as reason:
                result, why = "absent", str(reason)
            except Wrong as wrong:
                result, why = "FAIL", str(wrong)
            except Exception:
                result, why = "FAIL", traceback.format_exc()
            failed += result == "FAIL"
            line = {"form": form, "check": name.replace("_", " "), "result": result, "why": why}
            print(json.dumps(line), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
