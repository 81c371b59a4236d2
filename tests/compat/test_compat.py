"""The logic of `compat/`: ids and their functions agree, verdicts, the table, and a runner that dies."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "compat"))
import common
import group_scenarios
import run as driver
import scenarios as carried_out
import transaction_scenarios
import view_scenarios
import wire
from members import Entry, Member, Pumped
from remote import Remote, calls_about_transactions, fields_of, record
from toolchains import Client, Missing, at_hand, read_clients
from verdicts import POWERLESS, counted, details, differing, judge, read_scenarios, table

COMPAT = Path(__file__).resolve().parents[2] / "compat"
PAGE = (COMPAT / "scenarios.md").read_text()
# It leaves markers out when it was killed, as the page tells: there a client may never have seen it pass.
LOST_BY_APACHE_KAFKA = {"transaction-broker-kill", "transaction-loop-kill"}


def test_every_id_of_the_page_has_its_function_and_no_other_exists() -> None:
    common.register()
    ids = read_scenarios(PAGE).all
    assert len(set(ids)) == len(ids)
    assert set(ids) == set(common.SCENARIOS)
    assert carried_out.CODEC_IDS["zstd"] == 4 and max(view_scenarios.MATCHES) < view_scenarios.COUNT
    assert transaction_scenarios.LOOP_KILLS[-1][0] < transaction_scenarios.LOOP_RECORDS


def test_two_sections_are_phases_of_their_own() -> None:
    page = "## Restart under load\n### `a`\n## Topics\n### `b`\n## After a restart\n### `c`\n## Later\n### `d`\n"
    found = read_scenarios(page)
    assert (found.under_load, found.main, found.after_restart) == (["a"], ["b", "d"], ["c"])
    assert found.only(["c", "b"]).all == ["b", "c"]


def test_what_kbroker_alone_has_is_not_asked_of_apache_kafka() -> None:
    found = read_scenarios("## Topics\n### `a`\n## Of kbroker alone\n### `b`\n")
    assert (found.of("kbroker").all, found.of("kafka").all) == (["a", "b"], ["a"])


@pytest.mark.parametrize("client", read_clients(COMPAT, []), ids=lambda client: client.name)
def test_every_client_has_written_down_what_it_saw_on_apache_kafka(client: Client) -> None:
    recorded = client.recorded()
    assert set(recorded) == set(read_scenarios(PAGE).of("kafka").all)
    failed = {identifier for identifier, line in recorded.items() if line["result"] not in ("ok", "absent")}
    assert failed <= LOST_BY_APACHE_KAFKA


def ok(**seen: object) -> dict[str, object]:
    return {"scenario": "s", "result": "ok", "seen": seen}


def absent(why: str) -> dict[str, object]:
    return {"scenario": "s", "result": "absent", "why": why}


def test_what_is_seen_must_be_the_same_as_on_apache_kafka() -> None:
    assert judge(ok(error="A"), ok(error="A"))["result"] == "ok"
    assert judge(ok(error="A"), None)["result"] == "ok"
    found = judge(ok(error="A"), ok(error="B"))
    assert found["result"] == "fail"
    assert 'error: "A", there "B"' in found["why"]


def test_a_feature_that_only_this_broker_lacks_fails() -> None:
    assert judge(absent("no codec"), ok())["result"] == "fail"
    assert judge(absent("no admin"), absent("no admin"))["result"] == "absent"
    assert judge(absent(POWERLESS), ok())["result"] == "absent"


def test_differences_are_told_by_their_place() -> None:
    here, there = {"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"x": 1, "y": 4}}
    assert differing(here, there) == 'a / y: 2, there 4; b: 3, there "nothing"'


def test_the_table_shows_a_scenario_that_nobody_reported_as_failed() -> None:
    columns = {"kcat": {"one": ok()}, "aiokafka": {"one": absent("why"), "two": {"result": "fail", "why": "boom"}}}
    assert table(["one", "two"], columns).splitlines() == [
        "scenario  kcat  aiokafka",
        "one       ok    absent",
        "two       FAIL  FAIL",
    ]
    assert details(columns) == "absent, aiokafka: why (one)\nFAIL aiokafka: two: boom"
    assert counted(columns["aiokafka"].values()) == (0, 1, 1)


def test_a_client_without_its_program_is_skipped_by_name(tmp_path: Path) -> None:
    client = Client("c", tmp_path, "C", needs=["no-such-program"])
    assert at_hand([client]) == ([], [(client, "no `no-such-program` on this machine")])
    with pytest.raises(Missing):
        client.prepare()


RUNNER = """
import json, os
for name in os.environ["COMPAT_SCENARIOS"].split(","):
    if name == "deadly": os._exit(3)
    if name != "left-out": print(json.dumps({"scenario": name, "result": "ok"}), flush=True)
"""


def test_a_runner_that_dies_loses_one_scenario_and_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "serves", lambda bootstrap: True)
    monkeypatch.setattr(driver, "CACHE", tmp_path)
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER)
    client = Client("c", tmp_path, "C", run=[sys.executable, str(runner)])
    work = driver.Work(client, "nowhere:1", "c-", tmp_path, None)
    found = driver.carry_out(work, ["first", "deadly", "left-out", "last"], None)
    assert {name: line["result"] for name, line in found.items()} == {
        "first": "ok",
        "deadly": "fail",
        "last": "ok",
        "left-out": "fail",
    }
    assert "status 3" in found["deadly"]["why"]
    assert "missing" in found["left-out"]["why"]


def test_a_broker_that_does_not_answer_fails_the_rest_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "serves", lambda bootstrap: False)
    work = driver.Work(Client("c", tmp_path, "C"), "nowhere:1", "c-", tmp_path, None)
    assert driver.carry_out(work, ["one"], None)["one"]["why"] == "the broker does not answer"


def test_batch_headers_are_read_and_a_torn_tail_is_left_out() -> None:
    header = struct.pack(">qiibIhiqqqhii", 7, 49, 0, 2, 0, 4 | 8, 1, 0, 0, 99, 0, 0, 2)
    assert list(wire.split(header + header[:30])) == [wire.Batch(7, 1, 4, True, 99, 2)]


class Told(Member):
    """A member with a journal that was written before."""

    def __init__(self, *entries: Entry) -> None:
        self.entries = list(entries)

    def journal(self) -> list[Entry]:
        return self.entries


def test_a_record_that_comes_again_counts_only_after_an_offset_behind_it_was_committed() -> None:
    team = group_scenarios.Team(common.Run(common.Client("nowhere:1"), "c-", Path("/none"), None), "team")
    first = Told(Entry(1, "took", "t", 0, 0), Entry(2, "took", "t", 0, 1), Entry(3, "committed", "t", 0, 1))
    team.members = [first, Told(Entry(5, "took", "t", 0, 1), Entry(6, "took", "t", 1, 0))]
    assert team.again_after_commit() == 0
    team.members.append(Told(Entry(7, "took", "t", 0, 0)))
    assert team.again_after_commit() == 1


class Scripted(Pumped):
    """Reads two records; its first commit is refused."""

    def __init__(self) -> None:
        self.polls = iter([[("t", 0, 0)], [("t", 0, 1)]])
        self.answers = iter([common.Refused("REBALANCE_IN_PROGRESS"), None])
        super().__init__(commits=True)

    def do_open(self) -> None: ...

    def do_close(self) -> None: ...

    def do_poll(self, seconds: float) -> list[tuple[str, int, int]]:
        return next(self.polls, [])

    def do_owned(self) -> set[tuple[str, int]]:
        return {("t", 0)}

    def do_commit(self, offsets: dict[tuple[str, int], int], wait: bool) -> None:
        if refused := next(self.answers):
            raise refused

    def do_committed(self, place: tuple[str, int]) -> int | None:
        return 2


def test_a_member_writes_what_happens_into_its_journal_and_takes_orders_meanwhile() -> None:
    member = Scripted()
    common.until(lambda: len(member.journal()) == 4)
    assert [(entry.kind, entry.offset) for entry in member.journal()] == [
        ("took", 0),
        ("refused", -1),
        ("took", 1),
        ("committed", 2),
    ]
    assert (member.owned(), member.committed(("t", 0))) == ({("t", 0)}, 2)
    member.leave()
    assert (member.owned(), member.thread.is_alive()) == (set(), False)


ADAPTER = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    answers = {
        "topics": {"result": ["a", "b"]},
        "partitions": {"refused": 3},
        "groups": {"absent": "no groups"},
        "produce_open": {"result": 0},
        "produce_send": {"result": None},
        "produce_close": {"result": [len(sys.argv)]},
    }
    print(json.dumps({"id": asked["id"], **answers.get(asked["call"], {"error": "boom"})}), flush=True)
"""


def test_a_client_in_another_process_answers_refuses_and_lacks(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.py"
    adapter.write_text(ADAPTER)
    client = Remote("nowhere:1", [sys.executable, str(adapter)], "far")
    try:
        assert client.topics() == {"a", "b"}
        assert client.produce("t", [common.Message(b"x")]) == [1]
        with pytest.raises(common.Refused, match="UNKNOWN_TOPIC_OR_PARTITION"):
            client.partitions("t")
        with pytest.raises(common.Absent, match="no groups"):
            client.groups()
        with pytest.raises(RuntimeError, match="boom"):
            client.configs("t")
        client.process.kill()
        assert client.topics() == {"a", "b"}, "it is started again after it broke down"
        client.kill()
        with pytest.raises(ConnectionError):
            client.topics()
    finally:
        client.close()


def test_a_membership_stays_in_the_process_of_its_member_and_goes_by_a_number() -> None:
    sent: list[object] = []
    membership = object()

    class Writer(common.Transactor):
        def send_offsets(self, offsets: object, group: str, told: object = None) -> None:
            sent.append((offsets, group, told))

    class Reader(common.Source):
        def membership(self) -> object:
            return membership

    class Far(common.Client):
        def transactor(self, identifier: str, **options: object) -> Writer:
            return Writer()

        def source(self, topic: str, **options: object) -> Reader:
            return Reader()

    calls = calls_about_transactions(Far("nowhere:1"))
    writer, reader = calls["transactor_open"]("id", {}), calls["source_open"]("in", {})
    number = calls["source_membership"](reader)
    calls["transactor_offsets"](writer, [["in", 0, 7]], "group", number)
    calls["transactor_offsets"](writer, [["in", 1, 8]], "group", None)
    assert isinstance(number, int)
    assert sent == [({("in", 0): 7}, "group", membership), ({("in", 1): 8}, "group", None)]


def test_a_record_comes_back_from_another_process_as_it_was() -> None:
    there = common.Record(1, 2, 3, None, None, b"v", (("name", None), ("name", b"")))
    assert record(fields_of(there)) == there
    assert record(fields_of(there)).headers == there.headers


def test_what_differs_at_another_feature_level_is_written_down_apart(tmp_path: Path) -> None:
    client = Client("c", tmp_path, "C")
    one, other = {"result": "ok", "seen": {"error": "A"}}, {"result": "ok", "seen": {"error": "B"}}
    client.record({"same": one, "differs": one})
    client.record({"same": one, "differs": other, "broken": {"result": "fail", "why": "-"}}, "some.version=1")
    assert client.recorded() == {"same": one, "differs": one}
    assert client.recorded("some.version=1") == {"same": one, "differs": other}
    client.record({"same": {"result": "fail", "why": "-"}})
    assert client.recorded()["same"] == one, "a failure on Apache Kafka says nothing about Apache Kafka"
