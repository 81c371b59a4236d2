"""The logic of `compat/odd/`: probes can be sent and stay the same, answers compare, the allowlist only shrinks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "compat" / "odd"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "compat"))  # whose `run` is another
import differences as d
import oddities
from exchange import Answer
from normal import normal
from stage import CONTENT, PARTITIONS
from steps import Probe, Step, id_of, mapped, resolved, short

from kafka_wire.codegen import encode
from kafka_wire.errors import ErrorCode
from kafka_wire.messages import metadata as m
from kafka_wire.messages import topics as t

ENTRIES_MAX, DIFFERENCES_MAX = 60, 533  # ratchets: lower them when the list has shrunk
ODD = Path(__file__).resolve().parents[2] / "compat" / "odd"
SPEC = importlib.util.spec_from_file_location("odd_run", ODD / "run.py")
assert SPEC is not None and SPEC.loader is not None
driver = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(driver)


@pytest.fixture(scope="module")
def every() -> list[Probe]:
    found: list[Probe] = driver.all_probes()
    return found


# probes -------------------------------------------------------------------------------------------------------------


def test_every_probe_can_be_encoded_in_its_version(every: list[Probe]) -> None:
    for probe in every:
        for step in probe.steps:
            encode(mapped(step.request, oddities.stand_in), step.version)


def test_every_api_and_version_that_is_served_is_probed(every: list[Probe]) -> None:
    served = {(key, version) for key, (low, high) in driver.served().items() for version in range(low, high + 1)}
    assert {(probe.steps[0].key, probe.steps[0].version) for probe in every} >= served


def test_a_run_is_the_same_as_the_last_one(every: list[Probe]) -> None:
    again = driver.all_probes()
    assert [(p.title, p.fingerprint) for p in again] == [(p.title, p.fingerprint) for p in every]


def test_whoever_only_reads_has_its_turn_before_the_first_change(every: list[Probe]) -> None:
    turns = [probe.changes for probe in every]
    assert turns == sorted(turns)
    assert 0 < turns.index(True) < len(turns)


def test_every_probe_has_a_recorded_answer(every: list[Probe]) -> None:
    recorded = driver.Recording().answers(every)
    assert [probe.title for probe in every if probe.title not in recorded] == []
    assert all(len(recorded[probe.title]) == len(probe.steps) for probe in every)


def test_the_stage_has_what_it_fills() -> None:
    assert CONTENT.keys() <= PARTITIONS.keys()


def test_a_probes_tag_and_references_are_filled_in_when_it_is_sent() -> None:
    request = t.DeleteTopicsRequest(topics=[t.DeleteTopicState(name="own-@", topic_id=id_of("own-@"))], timeout_ms=1)
    sent = resolved(request, "abc", {"id of own-@": b"\x07" * 16})
    assert sent.topics == [t.DeleteTopicState(name="own-abc", topic_id=b"\x07" * 16)]
    assert request.topics[0].name == "own-@"
    assert short(request) == "DeleteTopicsRequest(topics=[(name='own-@', topic_id=<id of own-@>)], timeout_ms=1)"


def test_a_fingerprint_changes_with_what_is_sent() -> None:
    one, other = (Probe("title", (Step(m.MetadataRequest(topics=topics), 9),)) for topics in (None, []))
    assert one.fingerprint != other.fingerprint
    assert one.tag == other.tag


def test_oddities_come_from_the_declarations() -> None:
    titles = {probe.title for probe in oddities.probes({3: (9, 10)})}
    assert {
        "Metadata v9: defaults",
        "Metadata v10: topics null",
        "Metadata v10: topics twice the same",
        "Metadata v10: topics[0].topic_id another's",
        "Metadata v10: topics[0].name null",
        "Metadata v10: allow_auto_topic_creation true",
    } <= titles
    assert "Metadata v9: topics[0].name null" not in titles  # null only from v10 on


def test_lots_are_the_same_for_a_seed_and_others_for_another() -> None:
    served = {3: (0, 13), 20: (1, 6)}
    one, again, other = ([p.fingerprint for p in oddities.by_lot(served, seed, 30)] for seed in (1, 1, 2))
    assert one == again != other
    assert len(set(one)) > 20


# answers ------------------------------------------------------------------------------------------------------------


def metadata_answer(*names: str, **fields: Any) -> Answer:
    topics = [m.MetadataResponseTopic(name=name, topic_id=b"\x09" * 16, **fields) for name in names]
    broker = m.MetadataResponseBroker(node_id=1, host="h", port=9)
    return Answer("answered", m.MetadataResponse(throttle_time_ms=5, cluster_id="c", brokers=[broker], topics=topics))


def test_what_differs_between_any_two_brokers_becomes_a_word() -> None:
    found = normal(metadata_answer("own-abc"), 12, {b"\x09" * 16: "<id of own-@>"}, "abc")
    assert found == {
        "brokers": {"1": {"host": "<host>", "port": "<port>"}},
        "cluster_id": "<cluster>",
        "topics": {"own-@": {"topic_id": "<id of own-@>"}},
    }
    assert normal(metadata_answer("a"), 12, {}, "abc")["topics"] == {"a": {"topic_id": "<id>"}}


PROBE = Probe("p", (Step(t.DeleteTopicsRequest(topics=[t.DeleteTopicState(name="own-@")], timeout_ms=1), 6),))


def test_order_does_not_count_but_answering_twice_does() -> None:
    once, turned, twice = (
        normal(metadata_answer(*names), 12, {}, "x") for names in (("a", "b"), ("b", "a"), ("a", "b", "a"))
    )
    assert once == turned
    (difference,) = d.compare(PROBE, [once], [twice])
    assert difference.path == "topics.a again"


def test_an_error_code_has_its_name() -> None:
    found = normal(metadata_answer("a", error_code=ErrorCode.INVALID_REQUEST), 12, {}, "x")
    assert found["topics"]["a"]["error_code"] == "INVALID_REQUEST"


def test_what_became_of_the_connection_is_compared() -> None:
    (difference,) = d.compare(PROBE, [{"fate": "closed"}], [{"error_code": "INVALID_REQUEST"}])
    assert "closed" in difference.kafka
    assert d.compare(PROBE, [{"fate": "closed"}], [{"fate": "closed"}]) == []


def test_an_error_message_is_there_or_not_whatever_its_words() -> None:
    assert d.compare(PROBE, [{"error_message": "so"}], [{"error_message": "or so"}]) == []
    assert list(d.texts([{"error_message": "so"}], [{"error_message": "or so"}])) == [("so", "or so")]
    assert len(d.compare(PROBE, [{"error_message": "so"}], [{}])) == 1


@pytest.mark.parametrize(
    ("kafka", "kbroker", "wanting"),
    [
        ("Topic own-@ is bad.", "'own-@': it is bad", ""),
        ("Topic own-@ is bad.", "the topic is bad", "does not name own-@"),
        ("retention.ms must be at least 3", "at least 3: retention.ms", ""),
        ("retention.ms must be at least 3", "retention.ms is too small", "does not name 3"),
        ("TopicId is missing.", "no ID", "does not name TopicId"),
        ("there is no `why`", "there is no reason", "does not name why"),
        ("bad: Record(offset=7)", "bad", ""),
        ("-1 is bad", "1 is bad", "does not name -1"),
        ("for a reason", ErrorCode.INVALID_REQUEST.text, "no reason of its own"),
        (ErrorCode.INVALID_REQUEST.text, "for a reason", ""),
    ],
)
def test_an_error_message_gives_a_reason_and_names_what_kafkas_names(kafka: str, kbroker: str, wanting: str) -> None:
    found = d.compare(PROBE, [{"error_message": kafka}], [{"error_message": kbroker}])
    assert [each.kbroker for each in found] == ([f"{kbroker} ({wanting})"] if wanting else [])


def test_a_text_about_a_huge_value_or_the_time_compares() -> None:
    response = t.DeleteTopicsResponse(responses=[t.DeletableTopicResult(error_message=f"{'x' * 9000} 1795853144585")])
    found = normal(Answer("answered", response), 6, {}, "tag")
    assert next(iter(found["responses"].values()))["error_message"] == "x… <now>"


# the allowlist ------------------------------------------------------------------------------------------------------


def difference(probe: str = "Metadata v1: x", path: str = "topics[].a", kafka: str = "1") -> d.Difference:
    return d.Difference(probe, 0, path, kafka, "2")


def test_a_difference_belongs_to_the_first_entry_like_it() -> None:
    entries = [d.Allowed("r", 1, probe="Metadata v1: *"), d.Allowed("r", 1, field="topics[].*")]
    verdict = d.judge([difference(), difference("Metadata v2: x")], entries)
    assert verdict.holds
    assert [len(found) for found in verdict.covered.values()] == [1, 1]
    assert d.judge([difference(path="other")], entries[1:]).unexpected == [difference(path="other")]


@pytest.mark.parametrize("stated", [0, 2])
def test_an_entry_that_covers_another_number_than_it_says_fails_the_run(stated: int) -> None:
    assert not d.judge([difference()], [d.Allowed("r", stated)]).holds


@pytest.mark.parametrize(("stated", "holds"), [(1, True), (2, True), (0, False)])
def test_an_unsteady_entry_covers_at_most_what_it_says_and_something(stated: int, holds: bool) -> None:
    entry = d.Allowed("r", stated, unsteady=True)
    assert d.judge([difference()], [entry]).holds is holds
    assert not d.judge([], [entry]).holds


def test_settling_only_shrinks() -> None:
    gone, fewer, more = d.Allowed("g", 1), d.Allowed("f", 3), d.Allowed("m", 1)
    unsteady = d.Allowed("u", 3, unsteady=True)
    kept = d.settled({gone: [], fewer: [difference()], more: [difference()] * 2, unsteady: [difference()]})
    assert kept == [d.Allowed("f", 1), d.Allowed("m", 1), unsteady]


def test_the_allowlist_is_written_as_it_is_read() -> None:
    entries = [d.Allowed('why "so"', 2, probe="A v1: *", field="a[].b"), d.Allowed("r", 1, kafka="\\", unsteady=True)]
    assert d.read_allowed(d.written("# header\n", entries)) == entries
    with pytest.raises(TypeError):
        d.read_allowed("[[allowed]]\ndifferences = 1\n")


def test_every_entry_says_why_and_the_list_only_shrinks() -> None:
    entries = d.read_allowed((ODD / "allowed.toml").read_text())
    assert len(entries) <= ENTRIES_MAX
    assert sum(entry.differences for entry in entries) <= DIFFERENCES_MAX
    assert all(len(entry.reason) > 5 and entry.differences > 0 for entry in entries)
    assert all((entry.probe, entry.field) != ("*", "*") for entry in entries)
