"""What differs between two answers, which differences are allowed, and how they are told. Pure.

`allowed.toml` only shrinks: each entry says how many differences it covers, a run with more or fewer fails, and
`--settle` lowers numbers and drops entries that cover nothing; it never raises one.

The words of an error message are its broker's own. But it is there or not as Kafka's is; it gives a reason where Kafka
gives one, not the error code's general text; and it names what Kafka's names: values and fields of the request,
numbers, names with a dot, what stands in quotation marks.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from normal import without_repetition
from steps import Probe, names, short

from kafka_wire.errors import ErrorCode
from kafka_wire.schema import layout

NOTHING = "(nothing)"
TEXTS = ("error_message", "batch_index_error_message")
GENERAL = {code.text for code in ErrorCode} | {"", "NONE"}
QUOTED = re.compile(r"""(?:(?<=\s)|^|(?<=\())(['"`])(.+?)\1(?=\W|$)""")
OBJECT = re.compile(r"\b[A-Z]\w*[a-z]\w*\([^()]*\)")
WORD = re.compile(r"[\w@.<>…-]+")
TELLING = re.compile(r".*(\d|@|\w[._]\w).*")  # a number, a tag, a dotted name


class Difference(NamedTuple):
    """At one place of the answer to one step."""

    probe: str  # its title
    step: int
    path: str  # "topics.own-@.error_code"
    kafka: str
    kbroker: str

    def __str__(self) -> str:
        step = f" step {self.step}" if self.step else ""
        return f"{self.probe}{step}\n    {self.path or 'answer'}: kafka {self.kafka}, kbroker {self.kbroker}"


def compare(probe: Probe, kafka: list[Any], kbroker: list[Any]) -> list[Difference]:
    """Every difference between the answers to a probe's steps."""
    found = []
    for step, (there, here) in enumerate(zip(kafka, kbroker, strict=True)):
        request = probe.steps[step].request
        said = {without_repetition(name) for name in names(request)} | {*field_names(type(request))}
        found += [Difference(probe.title, step, *each) for each in _differing(there, here, "", said)]
    return found


def _differing(there: Any, here: Any, path: str, said: Set[str]) -> Iterator[tuple[str, str, str]]:
    if isinstance(there, dict) and isinstance(here, dict) and ("fate" in there) == ("fate" in here):
        for name in dict.fromkeys([*there, *here]):
            inner = f"{path}.{name}" if path else name
            yield from _differing(there.get(name, NOTHING), here.get(name, NOTHING), inner, said)
    elif path.rpartition(".")[2] in TEXTS:
        if wanting := text_wants(there, here, said):
            yield path, shown(there), f"{shown(here)} ({wanting})"
    elif there != here:
        yield path, shown(there), shown(here)


def text_wants(there: Any, here: Any, said: Set[str] = frozenset()) -> str:
    """What an error message lacks that Kafka's has, "" if nothing: `said` are the strings of the request."""
    if _kind_of_text(there) != _kind_of_text(here):
        return f"Kafka has {_kind_of_text(there)}"
    if there in GENERAL or there in (None, NOTHING):
        return ""
    if here in GENERAL:
        return "no reason of its own"
    missing = sorted(telling(there, said) - telling(here, said) - set(WORD.findall(here)))
    return f"does not name {', '.join(missing)}" if missing else ""


def telling(text: str, said: Set[str]) -> set[str]:
    """What a text names: see at the top. How Java shows an object in it is not looked at."""
    text = OBJECT.sub("", text)
    found = {quoted for _, quoted in QUOTED.findall(text)}
    found |= {name for name in said if name and re.search(rf"(?<![\w@.-]){re.escape(name)}(?![\w@-])", text)}
    return found | {word for each in WORD.findall(text) if TELLING.fullmatch(word := each.strip(".").rstrip("-"))}


def field_names(message: type[Any]) -> Iterator[str]:
    """The fields of a message as Kafka's schemas write them: "MemberId"."""
    for field in layout(message).fields:
        if "_" in field.name:
            yield "".join(map(str.capitalize, field.name.split("_")))
        if isinstance(field.item, type):
            yield from field_names(field.item)


def _kind_of_text(value: Any) -> str:
    return {None: NOTHING, NOTHING: NOTHING, "": "empty"}.get(value, "words")


def texts(kafka: Any, kbroker: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(kafka's words, kbroker's words) for each error message that both give in other words."""
    if isinstance(kafka, list) and isinstance(kbroker, list) and path not in TEXTS:
        for there, here in zip(kafka, kbroker, strict=False):
            yield from texts(there, here)
    elif isinstance(kafka, dict) and isinstance(kbroker, dict):
        for name, value in kafka.items():
            yield from texts(value, kbroker.get(name), name)
    elif path in TEXTS and isinstance(kafka, str) and isinstance(kbroker, str) and kafka != kbroker:
        yield kafka, kbroker


def shown(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


# -- the allowlist -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Allowed:
    """A pattern of differences: what is not stated matches anything. `*` stands for any characters."""

    reason: str
    differences: int
    probe: str = "*"
    field: str = "*"
    kafka: str = "*"
    kbroker: str = "*"
    unsteady: bool = False  # how many there are depends on who is faster: at most that many, and at least one

    def matches(self, difference: Difference) -> bool:
        pairs = (
            (difference.probe, self.probe),
            (difference.path, self.field),
            (difference.kafka, self.kafka),
            (difference.kbroker, self.kbroker),
        )
        return all(like(text, pattern) for text, pattern in pairs)

    def fits(self, count: int) -> bool:
        """Whether it covers as many as it says."""
        return 0 < count <= self.differences if self.unsteady else count == self.differences


def like(text: str, pattern: str) -> bool:
    """Whether a text is like a pattern, in which `*` stands for any characters and nothing else is special."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def read_allowed(text: str) -> list[Allowed]:
    """The entries of `allowed.toml`. Raises TypeError for one without a reason or with a word it does not know."""
    return [Allowed(**each) for each in tomllib.loads(text).get("allowed", [])]


class Verdict(NamedTuple):
    unexpected: list[Difference]
    covered: dict[Allowed, list[Difference]]

    @property
    def stale(self) -> list[tuple[Allowed, int]]:
        """Entries that say another number of differences than they cover."""
        return [(entry, len(found)) for entry, found in self.covered.items() if not entry.fits(len(found))]

    @property
    def holds(self) -> bool:
        return not self.unexpected and not self.stale


def judge(differences: Iterable[Difference], allowed: list[Allowed]) -> Verdict:
    """Each difference belongs to the first entry that matches it."""
    verdict = Verdict([], {entry: [] for entry in allowed})
    for difference in differences:
        entry = next((each for each in allowed if each.matches(difference)), None)
        (verdict.covered[entry] if entry else verdict.unexpected).append(difference)
    return verdict


def settled(covered: dict[Allowed, list[Difference]]) -> list[Allowed]:
    """The entries as they may stay: lower numbers, and none that covers nothing."""
    kept = (
        entry if entry.fits(len(found)) else replace(entry, differences=min(entry.differences, len(found)))
        for entry, found in covered.items()
    )
    return [entry for entry in kept if entry.differences]


def written(header: str, allowed: Iterable[Allowed]) -> str:
    """`allowed.toml`, with the comment it begins with."""
    parts = [header.rstrip("\n") + "\n"]
    for entry in allowed:
        stated = {name: getattr(entry, name) for name in ("probe", "field", "kafka", "kbroker")}
        lines = [f'{name} = "{_quoted(value)}"' for name, value in stated.items() if value != "*"]
        lines += ["unsteady = true"] if entry.unsteady else []
        lines += [f"differences = {entry.differences}", f'reason = "{_quoted(entry.reason)}"']
        parts.append("\n[[allowed]]\n" + "\n".join(lines) + "\n")
    return "".join(parts)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


# -- the report --------------------------------------------------------------------------------------------------------


def told(differences: list[Difference], probes: dict[str, Probe]) -> str:
    """Differences with the request that they came from."""
    lines = []
    for difference in differences:
        step = probes[difference.probe].steps[difference.step]
        lines.append(f"{difference}\n    asked: {step.api} v{step.version} {short(step.request)[:400]}")
    return "\n".join(lines)
