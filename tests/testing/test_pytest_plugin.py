"""The pytest plugin, as a project has it: each test here is a small project, run by pytest in this process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent

import pytest

from kbroker.api import registry
from kbroker.testing.embedded.thread import ThreadBroker
from kbroker.testing.handles import KBroker
from tests.testing.embedded.test_backends import is_alive, wait_until

HEAD = """
import pytest
from tests.testing.embedded.tools import read, topics, write
"""
registry.load()  # imported here, as all else that is: in a project it would be imported again, for each
IS_INSTALLED = any(each.name == "kbroker" for each in entry_points(group="pytest11"))
PLUGIN = [] if IS_INSTALLED else ["-p", "kbroker.testing.pytest_plugin"]
ROOT = Path(__file__).parents[2]


def run(pytester: pytest.Pytester, source: str, *options: str, **outcomes: int) -> str:
    """Run a project of one file. What it printed; its outcomes have to be these."""
    pytester.makepyfile(HEAD + dedent(source))
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-rA", *PLUGIN, *options)
    result.assert_outcomes(**outcomes)
    return "\n".join([*result.outlines, *result.errlines])


# -- one test sees nothing of another ---------------------------------------------------------------------------------


def test_each_test_has_a_broker_that_is_as_new_on_a_port_that_stays(pytester: pytest.Pytester) -> None:
    source = """
        ports = set()
        ONE = pytest.mark.kbroker(topics={"t": 1})
        @pytest.mark.parametrize("number", range(3))
        @ONE
        def test_written(kbroker, number):
            ports.add(kbroker.bootstrap_servers)
            assert topics(kbroker.address) == {"t": 1}
            write(kbroker.address, b"%d" % number)
            assert read(kbroker.address) == [b"%d" % number]
            assert kbroker.requests("Produce").count == 1
            kbroker.clock.advance("1h")
        @ONE
        @pytest.mark.parametrize("harm", ["kill", "stop", "pause"])
        def test_harmed(kbroker, harm):
            assert kbroker.requests().count == 0
            getattr(kbroker, harm)()
        def test_last(kbroker):
            import time
            assert topics(kbroker.address) == {}
            assert abs(kbroker.clock.now().timestamp() - time.time()) < 60
            assert kbroker.is_running
            assert len(ports) == 1
    """
    run(pytester, source, passed=7)


def test_markers_and_configs_add_up_and_the_closest_wins(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nkbroker_config =\n  num.partitions = 2\n  message.max.bytes=3000\n")
    source = """
        pytestmark = pytest.mark.kbroker(config={"num.partitions": 3}, topics={"m": 1})
        @pytest.fixture
        def kbroker_config():
            return {"num.partitions": 4, "auto.create.topics.enable": False}
        @pytest.mark.kbroker(topics={"t": -1}, config={"num.partitions": 5})
        def test_closest(kbroker): assert topics(kbroker.address) == {"m": 1, "t": 5}
        @pytest.mark.kbroker(topics={"t": -1})
        def test_module(kbroker): assert topics(kbroker.address) == {"m": 1, "t": 3}
        def test_made(make_kbroker): assert topics(make_kbroker(topics={"t": -1}).address) == {"t": 2}
    """
    run(pytester, source, passed=3)


def test_make_kbroker_makes_brokers_that_stay(pytester: pytest.Pytester) -> None:
    source = """
        @pytest.fixture(scope="module")
        def mine(make_kbroker):
            return make_kbroker(topics={"t": 1}, config={"num.partitions": 2}, port=0)
        def test_a(mine): write(mine.address, b"a")
        def test_b(mine, kbroker):
            assert read(mine.address) == [b"a"]
            assert mine.bootstrap_servers != kbroker.bootstrap_servers
    """
    run(pytester, source, passed=2)


def test_a_fault_of_a_broker_that_stays_fails_its_own_test_and_no_other(pytester: pytest.Pytester) -> None:
    source = """
        @pytest.fixture(scope="module")
        def mine(make_kbroker):
            return make_kbroker(topics={"t": 1})
        def test_a(mine): mine.faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", topic="t")
        def test_b(mine): write(mine.address, b"b")
        def test_c(): pass
    """
    out = run(pytester, source, passed=2, failed=1)
    assert 'faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", topic="t") hit no request: no Produce request came' in out


def test_only_our_own_refusal_is_a_skip(pytester: pytest.Pytester) -> None:
    source = """
        class Uncontrollable(Exception): pass
        def test_theirs(kbroker): raise Uncontrollable("theirs")
    """
    run(pytester, source, failed=1)


def test_a_cluster_is_a_tests_own_and_its_leaders_can_be_killed(pytester: pytest.Pytester) -> None:
    source = """
        @pytest.mark.kbroker(topics={"t": 3}, config={"min.insync.replicas": 2})
        def test_failover(kbroker_cluster):
            leader = kbroker_cluster.leader("t", 1)
            leader.kill()
            other = kbroker_cluster.leader("t", 1)
            assert other is not leader
            assert other.is_running
            kbroker_cluster.clock.advance("30m")
            assert abs(other.clock.now() - leader.clock.now()).total_seconds() < 60
            leader.start()
            with pytest.raises(LookupError, match="partitions 0 to 2, not 3"):
                kbroker_cluster.leader("t", 3)
        @pytest.mark.kbroker(brokers=2)
        def test_next(kbroker_cluster):
            assert list(kbroker_cluster.brokers) == [1, 2]
            assert kbroker_cluster.kafka.topics() == []
            kbroker_cluster.brokers[2].faults.close("Fetch")
        @pytest.mark.kbroker(brokers=2)
        def test_alone(kbroker_cluster): kbroker_cluster.brokers[1].pause()
        @pytest.mark.kbroker(brokers="two")
        def test_refused(kbroker_cluster): pass
    """
    out = run(pytester, source, passed=1, failed=1, skipped=1, errors=1)
    assert "broker 2: faults.close" in out
    assert "one of several brokers in a thread cannot stand still alone: --kbroker-backend=process" in out
    assert "a cluster has 1 to 16 brokers, not 'two'" in out


@pytest.mark.slow
def test_a_cluster_of_processes(pytester: pytest.Pytester) -> None:
    source = """
        @pytest.mark.kbroker(topics={"t": 1}, brokers=2)
        def test_it(kbroker_cluster):
            assert len(kbroker_cluster.topic("t").wait_for(0)) == 0
            write(kbroker_cluster.leader("t").address, b"a")
            kbroker_cluster.brokers[1].pause()
            kbroker_cluster.brokers[1].resume()
            assert [record.value for record in kbroker_cluster.topic("t").wait_for(1)] == [b"a"]
    """
    run(pytester, source, "--kbroker-backend=process", passed=1)


# -- what a test did not see ------------------------------------------------------------------------------------------


def test_a_fault_that_never_came_fails_the_test_and_the_next_one_knows_nothing_of_it(pytester: pytest.Pytester) -> None:
    source = """
        def test_hopes(kbroker):
            kbroker.faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", times=2)
        def test_fails_otherwise(kbroker):
            kbroker.faults.close("Fetch")
            assert False
        def test_next(kbroker): pass
    """
    out = run(pytester, source, passed=1, failed=2)
    assert "hit no request: no Produce request came" in out
    assert "what the test did" in out


def test_a_broker_that_dies_fails_the_test_in_plain_words_and_the_next_one_has_another(
    pytester: pytest.Pytester,
) -> None:
    source = """
        import os, signal
        def die(kbroker):
            os.kill(kbroker.embedded.pid, signal.SIGKILL)
            with pytest.raises(Exception):
                while True: topics(kbroker.address)
        def test_unseen(kbroker): die(kbroker)
        def test_seen(kbroker):
            die(kbroker)
            topics(kbroker.address)
        def test_next(kbroker): assert topics(kbroker.address) == {}
    """
    out = run(pytester, source, "--kbroker-backend=process", passed=1, failed=2)
    assert "\nthe broker died during the test: its process ended by signal 9\n" in out
    assert out.count("kbroker: the broker died during the test (") == 2


def test_who_makes_a_mistake_is_shown_the_line_of_the_test_and_none_of_ours(pytester: pytest.Pytester) -> None:
    mistakes = {
        'kbroker.faults.error("Prod", "NOT_LEADER_OR_FOLLOWER")': "ValueError: there is no API 'Prod'",
        'kbroker.faults.error("Produce", "NOT_LEADER")': "ValueError: there is no error code 'NOT_LEADER'",
        'kbroker.faults.delay("Produce", ms=-1)': "ValueError: ms is between",
        'kbroker.requests("Prod")': "ValueError: there is no API 'Prod'",
        'kbroker.create_topic("t", partitions=0)': "ValueError: topic 't' cannot be created",
        'kbroker.create_topic("there")': "KafkaError: TOPIC_ALREADY_EXISTS",
        'kbroker.topic("there").wait_for(1, timeout=0)': "TimeoutError: topic there has not been read",
        'kbroker.topic("t").records()': "LookupError: there is no topic t",
        'kbroker.group("g").wait_stable(1, timeout=0)': "TimeoutError: no broker answered",
        'kbroker.group("g").wait_lag(timeout=0)': "TimeoutError: group g has not answered",
        'kbroker.clock.advance("soon")': "ValueError: 'soon' is no length of time",
        "kbroker.clock.advance_to(5)": "ValueError: the clock cannot go back",
        'kbroker.client_config("x")': "ValueError: there are no settings",
        "(kbroker.pause(), kbroker.clock.now())": "BrokerGone: the broker is paused",
        "(kbroker.kill(), kbroker.topics())": "NoBroker: no broker at",
        'make_kbroker(backend="x")': "ValueError: a backend is thread or process, not 'x'",
    }
    source = "".join(
        f"""
        @pytest.mark.kbroker(topics={{"there": 1}})
        def test_{number}(kbroker, make_kbroker): {mistake}
        """
        for number, mistake in enumerate(mistakes)
    )
    told = run(pytester, source, "--show-capture=no", failed=len(mistakes))
    assert [expected for expected in mistakes.values() if expected not in told] == []
    assert not [line for line in told.splitlines() if ".py:" in line and "test_who" not in line]


def test_a_failed_test_is_shown_with_log_requests_and_what_was_done(pytester: pytest.Pytester) -> None:
    source = """
        import socket
        @pytest.mark.kbroker(topics={"t": 1})
        def test_fails(kbroker):
            write(kbroker.address, b"a")
            kbroker.clock.advance("30m")
            with socket.create_connection(kbroker.address) as client:
                client.sendall(b"GET / HTTP/1.1")
                client.recv(1)
            assert False
        def test_passes(kbroker): topics(kbroker.address)
    """
    out = run(pytester, source, passed=1, failed=1)
    for line in (
        "kbroker: log",
        "closing the connection",
        "kbroker: requests",
        "Produce v9 t",
        "clock.advance(1800 s)",
    ):
        assert out.count(line) == 1, line


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mark, line",
    [
        ("topic={'t': 1}", "@pytest.mark.kbroker knows topics, config, brokers; not 'topic'"),
        ("{'t': 1}", "@pytest.mark.kbroker knows topics, config, brokers; not {'t': 1}"),
        ("config={'num.partition': 1}", "unknown broker config num.partition, did you mean num.partitions?"),
        ("config={'num.partitions': 'x'}", "num.partitions"),
        ("topics={'no good': 1}", "no good"),
    ],
)
def test_a_marker_that_is_none_is_refused_in_one_line(pytester: pytest.Pytester, mark: str, line: str) -> None:
    out = run(pytester, f"@pytest.mark.kbroker({mark})\ndef test_it(kbroker): pass", errors=1)
    assert line in out
    assert "Traceback" not in out
    assert "During handling" not in out


@pytest.mark.parametrize(
    "option, line",
    [
        ("--kbroker-backend=fork", "kbroker_backend is thread or process, not 'fork'"),
        ("--kbroker-port=http", "kbroker_port is 0 to 65535, not 'http'"),
        ("--kbroker-external=localhost", "kbroker_external is HOST:PORT, not 'localhost'"),
        ("--kbroker-wrong=1", "unrecognized arguments: --kbroker-wrong=1"),
    ],
)
def test_an_option_that_is_none_is_refused_before_any_test(pytester: pytest.Pytester, option: str, line: str) -> None:
    pytester.makepyfile("def test_it(kbroker): pass")
    result = pytester.runpytest_inprocess(*PLUGIN, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert line in "\n".join(result.errlines)


def test_two_sessions_on_one_port_are_told_so(pytester: pytest.Pytester) -> None:
    broker = ThreadBroker()
    try:
        out = run(pytester, "def test_it(kbroker): pass", f"--kbroker-port={broker.address[1]}", errors=1)
    finally:
        broker.close()
    assert f":{broker.address[1]} is in use" in out
    assert "leave kbroker_port at 0 where several run at once" in out


def test_the_environment_counts_less_than_an_option_and_more_than_the_ini_file(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]\nkbroker_backend = ini\n")
    monkeypatch.setenv("PYTEST_KBROKER_BACKEND", "environment")
    pytester.makepyfile("def test_it(): pass")
    assert "not 'environment'" in pytester.runpytest_inprocess(*PLUGIN).stderr.str()
    assert pytester.runpytest_inprocess(*PLUGIN, "--kbroker-backend=thread").ret == 0
    monkeypatch.delenv("PYTEST_KBROKER_BACKEND")
    assert "not 'ini'" in pytester.runpytest_inprocess(*PLUGIN).stderr.str()


# -- a Kafka that is there already ------------------------------------------------------------------------------------


def test_on_an_external_kafka_tests_that_steer_it_are_skipped_and_say_why(pytester: pytest.Pytester) -> None:
    source = """
        @pytest.mark.kbroker(topics={"t": 2})
        @pytest.mark.parametrize("number", range(2))
        def test_plain(kbroker, number):
            assert kbroker.kafka.topics() == ["t", "theirs"]
            write(kbroker.address, b"a")
            assert [record.value for record in kbroker.topic("t").records()] == [b"a"]
        def test_fault(kbroker): kbroker.faults.close("Fetch")
        def test_kill(kbroker): kbroker.kill()
        @pytest.mark.kbroker(config={"num.partitions": 2})
        def test_config(kbroker): pass
        @pytest.fixture(scope="session")
        def kbroker_config(): return {"num.partitions": 2}
        def test_another(make_kbroker): make_kbroker()
        def test_cluster(kbroker_cluster): pass
        @pytest.fixture
        def late(kbroker): kbroker.clock.advance("1h")
        def test_late(late): pass
    """
    external = KBroker(ThreadBroker(topics={"theirs": 1}))
    try:
        address = external.bootstrap_servers
        out = run(pytester, source, f"--kbroker-external={address}", passed=2, skipped=6)
        assert external.kafka.topics() == ["theirs"]
    finally:
        external.close()
    assert f"kbroker: tests run against the Kafka at {address}" in out
    for why in ("its faults, its clock and its requests are", "it is not ours to kill", "it is not ours to configure"):
        assert f"the Kafka at {address} is external: {why}" in out


# -- other plugins, other ends ----------------------------------------------------------------------------------------


def test_in_trio_the_broker_is_in_the_tests_loop_and_on_its_clock(pytester: pytest.Pytester) -> None:
    source = """
        import trio, pytest_trio
        from kafka_wire.messages.metadata import MetadataRequest
        @pytest.mark.trio
        @pytest.mark.kbroker(topics={"t": 1})
        async def test_it(akbroker, autojump_clock):
            async with akbroker.client() as client:
                before = akbroker.clock.data_ms()
                await trio.sleep(300)
                await akbroker.clock.advance_data(1_500_000)
                assert akbroker.clock.data_ms() - before == 1_800_000
                answer = await client.call(MetadataRequest(topics=None), 12)
                assert [topic.name for topic in answer.topics] == ["t"]
        def test_not_in_trio(akbroker): pass
    """
    run(pytester, source, passed=1, failed=0, errors=1)


@pytest.mark.slow
def test_each_worker_of_xdist_has_a_broker_of_its_own(pytester: pytest.Pytester) -> None:
    source = """
        @pytest.mark.parametrize("number", range(4))
        @pytest.mark.kbroker(topics={"t": 1})
        def test_it(kbroker, number):
            write(kbroker.address, b"%d" % number)
            assert read(kbroker.address) == [b"%d" % number]
    """
    run(pytester, source, "-n2", "-p", "no:trio", "-p", "no:hypothesispytest", passed=4)


def test_a_run_that_does_not_use_it_imports_almost_nothing_for_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        def test_it():
            ours = {name for name in sys.modules if name.split(".")[0] in ("kbroker", "kafka_wire", "trio", "click")}
            assert ours <= {"kbroker", "kbroker.testing", "kbroker.testing.pytest_plugin"}
        """
    )
    options = ["-p", "no:trio", *PLUGIN]
    result = pytester.run(sys.executable, "-m", "pytest", *options)
    result.assert_outcomes(passed=1)
    loaded = """if True:
        import sys, pytest
        before = set(sys.modules)
        import kbroker.testing.pytest_plugin
        print(*sorted(set(sys.modules) - before))
    """
    names = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert names == ["kbroker", "kbroker.testing", "kbroker.testing.pytest_plugin"]


def test_the_broker_is_imported_as_it_is_with_assertions_that_pytest_has_not_rewritten(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest("import kafka_wire.records, kbroker.turns, kbroker.testing.clock\n")
    pytester.makepyfile(
        """
        import sys
        def test_it(kbroker):
            ours = [module for name, module in sys.modules.items() if name.startswith(("kbroker.", "kafka_wire."))]
            rewritten = {each.__name__ for each in ours if type(each.__loader__).__module__.startswith("_pytest")}
            assert len(ours) > 200
            plugins = {"kbroker.testing.pytest_plugin", "kbroker.testing.pytest_trio_plugin"}
            assert rewritten <= {"kbroker.testing", *plugins}
        """
    )
    (pytester.path / "marks.py").write_text("import pytest\npytest.register_assert_rewrite('kbroker', 'kafka_wire')\n")
    result = pytester.run(sys.executable, "-m", "pytest", "-W", "error", "-p", "marks", *PLUGIN, "-p", "no:randomly")
    result.assert_outcomes(passed=1)


def test_a_run_that_is_killed_leaves_neither_process_nor_directory(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, sys
        def test_it(kbroker, capfd):
            with capfd.disabled():
                print(f"PID {kbroker.embedded.pid} {kbroker.embedded.directory}", flush=True)
            sys.stdin.read()
        """
    )
    command = [sys.executable, "-m", "pytest", "--kbroker-backend=process", "-s", *PLUGIN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "PID" in line)
        process.kill()
    pid, directory = line.partition("PID ")[2].split()
    assert wait_until(lambda: not is_alive(int(pid)) and not Path(directory).exists())


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_nothing_of_a_cluster(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        def test_it(kbroker_cluster, capfd):
            with capfd.disabled():
                print("HERE", flush=True)
            sys.stdin.read()
        """
    )
    place = pytester.mkdir("temporary")
    command = [sys.executable, "-m", "pytest", "--kbroker-backend=process", "-s", *PLUGIN]
    environment = {**os.environ, "TMPDIR": str(place)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert any("HERE" in line for line in process.stdout)
        assert list(place.glob("kbroker-cluster-*"))
        process.kill()
    assert wait_until(lambda: not list(place.glob("kbroker-*")))


@pytest.mark.slow
def test_the_example_project_is_green_and_jumps_half_an_hour(pytester: pytest.Pytester) -> None:
    project = pytester.path / "project"
    shutil.copytree(ROOT / "docs/examples/pytest-project", project)
    result = pytester.run(
        sys.executable, "-m", "pytest", "--rootdir", project, "-c", project / "pyproject.toml", *PLUGIN
    )
    result.assert_outcomes(passed=4)


def test_it_is_announced_to_pytest() -> None:
    assert 'kbroker = "kbroker.testing.pytest_plugin"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
