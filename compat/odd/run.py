"""The prober: sends every probe to kbroker, holds the answers against Apache Kafka's, and lists what differs.

    python compat/odd/run.py                    kbroker alone, held against the answers in kafka.json
    python compat/odd/run.py --kafka            Apache Kafka beside it (Java, Maven); its answers are written down anew
    python compat/odd/run.py --only 'Metadata*' --verbose      some probes, every answer
    python compat/odd/run.py --kafka --lot 7    a thousand other probes, odd in two places: what has nobody thought of?
    python compat/odd/run.py --settle           drop and lower what allowed.toml no longer needs

Exit status 1 for a difference that is not allowed, an entry of the allowlist that no longer fits, or a probe without a
recorded answer. Owns: the brokers it starts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import differences as d
import oddities
import seeds_combined
import seeds_groups
import seeds_records
import seeds_topics
import seeds_transactions
import wire
from apache_kafka import ApacheKafka, Unavailable
from exchange import Connection
from kbroker_process import Kbroker
from normal import normal
from stage import Stage
from steps import Probe, resolved

from kafka_wire.api import ApiKey

HERE = Path(__file__).resolve().parent
RECORDED = HERE / "kafka.json"
ALLOWED = HERE / "allowed.toml"
PATIENCE_S = 2.0
LOTS = 1000
KAFKA_SETTLES_S = 0.1  # from the controller's answer to what the broker says of it, and from an end to its markers
ENDS = (ApiKey.END_TXN, ApiKey.INIT_PRODUCER_ID)
PROPERTIES = {
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "3",
    "group.initial.rebalance.delay.ms": "0",
    "group.consumer.session.timeout.ms": "60000",
    "node.id": "1",
}

Answers = dict[str, list[Any]]  # by title: the normalised answer to each step


def main() -> int:
    options = arguments()
    every = all_probes() if options.lot is None else lots(options.lot)
    chosen = [probe for probe in every if d.like(probe.title, options.only)]
    if options.missing:
        recorded = Recording().answers(chosen)
        chosen = [probe for probe in chosen if probe.title not in recorded]
    kbroker = on_broker(Kbroker, chosen, 0.0)
    if options.kafka:
        kafka = on_broker(ApacheKafka, chosen, KAFKA_SETTLES_S)
    if options.kafka and options.lot is None:
        Recording().write(chosen, kafka, every)
    if not options.kafka:
        kafka = Recording().answers(chosen)
    return report(options, chosen, kafka, kbroker)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", action="store_true", help="start Apache Kafka too and record its answers")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="probes whose title matches")
    parser.add_argument("--missing", action="store_true", help="probes without a recorded answer")
    parser.add_argument("--lot", type=int, metavar="SEED", help="other probes, by lot; with --kafka, not recorded")
    parser.add_argument("--settle", action="store_true", help="shrink allowed.toml to what is needed")
    parser.add_argument("--verbose", action="store_true", help="also what is allowed, and messages in other words")
    return parser.parse_args()


# -- probes ------------------------------------------------------------------------------------------------------------


def all_probes() -> list[Probe]:
    """Every probe in the order of a run: first those that only read; within that, by lot, the same in every run."""
    by_hand = (seeds_topics, seeds_records, seeds_groups, seeds_combined, seeds_transactions)
    found = [*oddities.probes(served()), *(probe for seeds in by_hand for probe in seeds.probes())]
    assert len({probe.title for probe in found}) == len(found), "two probes have the same title"
    return in_order(found)


def lots(seed: int) -> list[Probe]:
    """Probes that no other seed has."""
    return in_order([*oddities.by_lot(served(), seed, LOTS)])


def in_order(probes: list[Probe]) -> list[Probe]:
    return sorted(probes, key=lambda probe: (probe.changes, probe.tag))


def served() -> dict[int, tuple[int, int]]:
    """The lowest and highest version of each API that kbroker tells clients of."""
    from kafka_wire.api import OWN_KEY_MIN
    from kbroker.api import registry

    apis = {int(key): api for key, api in registry.load().items()}
    return {key: (api.version_min, api.version_max) for key, api in apis.items() if key < OWN_KEY_MIN}


def on_broker(kind: Any, probes: list[Probe], settles_s: float) -> Answers:
    """Start a broker, set the stage, ask everything."""
    with ExitStack() as cleanup:
        directory = tempfile.mkdtemp(prefix="odd-")
        cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
        broker = kind(Path(directory) / "broker", wire.free_port(), PROPERTIES)
        broker.start()
        cleanup.callback(broker.stop)
        stage = Stage(broker.bootstrap)
        cleanup.callback(stage.close)
        stage.prepare_base()
        began = time.monotonic()
        answers = {probe.title: ask(broker.bootstrap, stage, probe, settles_s) for probe in probes}
        print(f"{kind.__name__}: {len(probes)} probes in {time.monotonic() - began:.0f} s", file=sys.stderr)
        return answers


def ask(bootstrap: str, stage: Stage, probe: Probe, settles_s: float) -> list[Any]:
    """The normalised answers to a probe's steps."""
    known = stage.prepare(probe)
    answers = []
    connection = Connection(bootstrap, PATIENCE_S)
    for n, step in enumerate(probe.steps):
        if probe.changes and (n == 1 or (n and probe.steps[n - 1].key in ENDS)):
            time.sleep(settles_s)
        if not connection.usable:
            connection.close()
            connection = Connection(bootstrap, PATIENCE_S)
        answer = connection.ask(resolved(step.request, probe.tag, known), step.key, step.version)
        for name, field in step.keep.items():
            known[name] = getattr(answer.message, field, None)
        words = {value: f"<{name}>" for name, value in known.items() if isinstance(value, str | bytes)}
        answers.append(normal(answer, step.version, words, probe.tag))
    connection.close()
    return answers


# -- recorded answers --------------------------------------------------------------------------------------------------


class Recording:
    """`kafka.json`: each different answer once, under its digest; per probe what was asked and the answers' digests."""

    def __init__(self) -> None:
        found = json.loads(RECORDED.read_text()) if RECORDED.exists() else {"answers": {}, "probes": {}}
        self._answers: dict[str, Any] = found["answers"]
        self._probes: dict[str, list[str]] = found["probes"]

    def answers(self, probes: list[Probe]) -> Answers:
        """What is written down for exactly these probes."""
        told = ((probe, self._probes.get(probe.title, [""])) for probe in probes)
        return {
            probe.title: [self._answers[digest] for digest in digests]
            for probe, (asked, *digests) in told
            if asked == probe.fingerprint
        }

    def write(self, probes: list[Probe], answers: Answers, every: list[Probe]) -> None:
        """Take down the answers to `probes`; forget what is not in `every` any more."""
        for probe in probes:
            digests = []
            for answer in answers[probe.title]:
                digests.append(hashlib.sha256(json.dumps(answer, sort_keys=True).encode()).hexdigest()[:10])
                self._answers[digests[-1]] = answer
            self._probes[probe.title] = [probe.fingerprint, *digests]
        kept = {title: self._probes[title] for title in sorted({p.title for p in every} & self._probes.keys())}
        used = sorted({digest for _, *digests in kept.values() for digest in digests})
        parts = (("answers", {digest: self._answers[digest] for digest in used}), ("probes", kept))
        RECORDED.write_text("{" + ",\n".join(f'"{name}": {_lines(part)}' for name, part in parts) + "}\n")


def _lines(part: dict[str, Any]) -> str:
    """An object with one entry a line, so that a difference between two recordings can be read."""
    entries = (f"{json.dumps(k)}:{json.dumps(v, ensure_ascii=False, separators=(',', ':'))}" for k, v in part.items())
    return "{\n" + ",\n".join(entries) + "\n}"


# -- the end -----------------------------------------------------------------------------------------------------------


def report(options: argparse.Namespace, probes: list[Probe], kafka: Answers, kbroker: Answers) -> int:
    """Tell what differs; 0 if all of it is allowed."""
    by_title = {probe.title: probe for probe in probes}
    unrecorded = [title for title in by_title if title not in kafka]
    found = [
        each
        for title in by_title
        if title in kafka
        for each in d.compare(by_title[title], kafka[title], kbroker[title])
    ]
    text = ALLOWED.read_text()
    verdict = d.judge(found, d.read_allowed(text))
    if options.settle:
        kept = d.settled(verdict.covered)
        ALLOWED.write_text(d.written(text.partition("\n[[allowed]]")[0], kept))
        verdict = d.judge(found, kept)
    if options.verbose:
        for entry, covered in verdict.covered.items():
            print(f"allowed, {entry.reason}:", d.told(covered, by_title), sep="\n")
        for there, here in sorted({pair for title in kafka for pair in d.texts(kafka[title], kbroker[title])}):
            print(f"in other words: kafka {there!r}\n              kbroker {here!r}")
    if verdict.unexpected:
        print(d.told(verdict.unexpected, by_title))
    whole = options.only == "*" and options.lot is None and not options.missing
    for entry, count in verdict.stale if whole else ():
        print(f"allowed.toml: {entry.probe} {entry.field} covers {count} differences, says {entry.differences}")
    for title in unrecorded:
        print(f"no recorded answer (run with --kafka): {title}")
    print(
        f"odd: {len(probes)} probes, {len(found)} differences, {len(verdict.unexpected)} not allowed, "
        f"{len(verdict.stale) if whole else 0} entries do not fit, {len(unrecorded)} without a recorded answer"
    )
    return 0 if (verdict.holds or (not whole and not verdict.unexpected)) and not unrecorded else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unavailable as reason:
        sys.exit(f"Apache Kafka is not available: {reason}")
