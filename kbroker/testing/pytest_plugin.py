"""The pytest plugin: fixtures for a Kafka that starts in milliseconds, needs nothing else, and does what a test says.

    def test_orders(kbroker):
        kbroker.create_topic("orders", partitions=3)
        app.send(kbroker.bootstrap_servers)
        assert kbroker.topic("orders").wait_for(1)[0].value == b"..."

    kbroker           a broker of the test's own: the session has a port, and each test finds another broker behind it
    kbroker_cluster   several, of the test's own
    make_kbroker      makes brokers that stay until the session ends
    kbroker_config    what all of them are configured with; to be overridden in a conftest.py
    akbroker          a broker in the loop and on the clock of a test in trio (with pytest-trio: pytest_trio_plugin.py)

pytest loads this module at every start, also where nobody uses it: it imports nothing but what pytest has. The broker
is imported as Python does it, not as pytest does with plugins and all that they were installed with. What a test
did not see is told at its end: a fault that never came, a broker that died. The report of a failed test has its log.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from kbroker.testing.handles import KBroker, KBrokerCluster, MakeKBroker

BACKENDS = ("thread", "process")
MARKER = "kbroker(topics={NAME: PARTITIONS}, config={NAME: VALUE}, brokers=N): what the broker of this test is to have"
MARKER_WORDS = ("topics", "config", "brokers")
ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):(\d{1,5})")
BROKERS = 3  # of a cluster, if the marker says nothing
BROKERS_MAX = 16
SETTINGS = {
    "backend": ("thread", "where brokers run: in a thread of this process (in memory), or in a process of their own"),
    "external": (
        "",
        "HOST:PORT of a Kafka to test with; tests that need more than it can do are skipped",
    ),
    "host": ("127.0.0.1", "the address brokers listen on"),
    "port": ("0", "the port of the session's broker; 0: any that is free"),
}
_used = pytest.StashKey[list["KBroker | KBrokerCluster"]]()  # by a test, in the order in which it asked for them
_made = pytest.StashKey[list["KBroker"]]()  # by make_kbroker, in a session


# -- imports -----------------------------------------------------------------------------------------------------------


class PlainImports:
    """Finds the modules of the broker before pytest does, which would rewrite all their assertions: slower code, half
    as much time again to import it, and nearly a second where what it compiles is not kept (PYTHONDONTWRITEBYTECODE).
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """See MetaPathFinder. Plugins, and packages that pytest names, it has to find by itself: else it warns."""
        if name.startswith(("kbroker.", "kafka_wire.")) and ".pytest_" not in name:
            return PathFinder.find_spec(name, path, target)
        return None


_plain_imports = PlainImports()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Before any conftest.py imports the broker."""
    sys.meta_path.insert(0, _plain_imports)


def pytest_unconfigure() -> None:
    """Leave Python as it was."""
    if _plain_imports in sys.meta_path:
        sys.meta_path.remove(_plain_imports)


# -- options -----------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Each setting is an option, a variable of the environment and a line of the ini file; the first that is set."""
    group = parser.getgroup("kbroker", "Kafka brokers for tests")
    for name, (default, what) in SETTINGS.items():
        group.addoption(f"--kbroker-{name}", metavar=name.upper(), help=f"{what} [{default or 'none'}]")
        parser.addini(f"kbroker_{name}", f"{what} (also --kbroker-{name}, {_variable(name)})")
    parser.addini("kbroker_config", "NAME=VALUE lines: Kafka's configs for every broker", type="linelist")


def pytest_configure(config: pytest.Config) -> None:
    """Announce the marker, and the fixtures for trio where pytest-trio is there."""
    config.addinivalue_line("markers", MARKER)
    _check(config)
    if config.pluginmanager.hasplugin("trio"):
        config.pluginmanager.import_plugin("kbroker.testing.pytest_trio_plugin")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Which Kafka, where it is not ours."""
    external = setting(config, "external")
    return f"kbroker: tests run against the Kafka at {external}" if external else None


def setting(config: pytest.Config, name: str) -> str:
    """What was chosen."""
    return (
        config.getoption(f"kbroker_{name}")
        or os.environ.get(_variable(name))
        or config.getini(f"kbroker_{name}")
        or SETTINGS[name][0]
    )


def _check(config: pytest.Config) -> None:
    """Refuse what cannot be, before any test runs."""
    backend, port, external = (setting(config, name) for name in ("backend", "port", "external"))
    if backend not in BACKENDS:
        raise pytest.UsageError(f"kbroker_backend is {' or '.join(BACKENDS)}, not {backend!r}")
    if not port.isdecimal() or int(port) > 65535:
        raise pytest.UsageError(f"kbroker_port is 0 to 65535, not {port!r}")
    if external and not ADDRESS.fullmatch(external):
        raise pytest.UsageError(f"kbroker_external is HOST:PORT, not {external!r}")
    if external and (config.getoption("numprocesses", None) or 0) > 1:
        raise pytest.UsageError("one external Kafka is for one process: each would wipe the topics of the others; -n 0")


def _variable(name: str) -> str:
    return f"PYTEST_KBROKER_{name.upper()}"


class Wish(NamedTuple):
    """What a test's markers ask for."""

    topics: dict[str, int]
    config: dict[str, str]
    brokers: int


def wish_of(item: pytest.Item) -> Wish:
    """Of all markers of a test; what stands closer to it wins."""
    topics: dict[str, int] = {}
    config: dict[str, str] = {}
    brokers = BROKERS
    for marker in reversed(list(item.iter_markers("kbroker"))):
        unknown = [name for name in marker.kwargs if name not in MARKER_WORDS]
        if marker.args or unknown:
            what = repr(unknown[0] if unknown else marker.args[0])
            pytest.fail(f"@pytest.mark.kbroker knows {', '.join(MARKER_WORDS)}; not {what}", pytrace=False)
        topics.update(marker.kwargs.get("topics", {}))
        config.update(texts(marker.kwargs.get("config", {})))
        brokers = marker.kwargs.get("brokers", brokers)
    if not isinstance(brokers, int) or not 1 <= brokers <= BROKERS_MAX:
        pytest.fail(f"a cluster has 1 to {BROKERS_MAX} brokers, not {brokers!r}", pytrace=False)
    return Wish(topics, config, brokers)


def texts(config: Mapping[str, Any]) -> dict[str, str]:
    """Values as Kafka writes them."""
    from kbroker.config import format_value

    return {name: str(format_value(value)) for name, value in config.items()}


# -- fixtures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def kbroker_config() -> Mapping[str, Any]:
    """Kafka's configs for every broker: override it, in any scope, to return others."""
    return {}


@pytest.fixture(scope="session")
def make_kbroker(request: pytest.FixtureRequest) -> Iterator[MakeKBroker]:
    """Make a broker that stays as it is until the session ends: make_kbroker(config={...}, topics={...}, port=0)."""
    made = request.config.stash[_made] = []

    def make(
        *,
        config: Mapping[str, Any] | None = None,
        topics: Mapping[str, int] | None = None,
        port: int = 0,
        backend: str = "",
    ) -> KBroker:
        __tracebackhide__ = True
        _refuse_external(request.config, "it is not ours to make another one")
        if backend not in ("", *BACKENDS):
            raise ValueError(f"a backend is {' or '.join(BACKENDS)}, not {backend!r}")
        made.append(_make(request.config, backend, port, config or {}, topics or {}))
        return made[-1]

    yield make
    while made:
        made.pop().close()


@pytest.fixture(scope="session")
def _kbroker_of_session(request: pytest.FixtureRequest) -> Iterator[KBroker]:
    """The port of the session, with what is behind it."""
    broker = _make(request.config, "", int(setting(request.config, "port")), {}, {})
    yield broker
    broker.close()


@pytest.fixture
def kbroker(
    request: pytest.FixtureRequest, _kbroker_of_session: KBroker, kbroker_config: Mapping[str, Any]
) -> Iterator[KBroker]:
    """A broker of this test's own, as new."""
    wish, base = wish_of(request.node), texts(kbroker_config)
    if setting(request.config, "external"):
        base = {}  # it is configured by whoever has it
    broker = _kbroker_of_session
    with _told_plainly():
        broker.renew({**base, **wish.config}, wish.topics)
    request.node.stash.setdefault(_used, []).append(broker)
    yield broker
    broker.prepare(base)


@pytest.fixture
def kbroker_cluster(request: pytest.FixtureRequest, kbroker_config: Mapping[str, Any]) -> Iterator[KBrokerCluster]:
    """Several brokers of this test's own: three, or as many as its marker says."""
    wish = wish_of(request.node)
    config = {"default.replication.factor": str(min(3, wish.brokers)), **texts(kbroker_config), **wish.config}
    cluster = _make_cluster(request.config, wish.brokers, config, wish.topics)
    request.node.stash.setdefault(_used, []).append(cluster)
    yield cluster
    cluster.close()


@pytest.fixture
def akbroker() -> None:
    """A broker in trio: pytest_trio_plugin.py has it, where pytest-trio is installed."""
    pytest.fail("the fixture akbroker is for tests in trio: pip install pytest-trio", pytrace=False)


def _make_cluster(
    config: pytest.Config, brokers: int, wanted: Mapping[str, str], topics: Mapping[str, int]
) -> KBrokerCluster:
    from kbroker.testing.embedded.cluster import make_cluster
    from kbroker.testing.handles import KBrokerCluster

    _refuse_external(config, f"it is not ours to have {brokers} brokers")
    with _told_plainly():
        cluster = make_cluster(
            setting(config, "backend"), brokers, setting(config, "host"), {**_ini_config(config), **wanted}
        )
    try:
        return KBrokerCluster(cluster, topics)
    except BaseException:
        cluster.close()
        raise


def _refuse_external(config: pytest.Config, why: str) -> None:
    if external := setting(config, "external"):
        from kbroker.testing.embedded.portal import Uncontrollable

        raise Uncontrollable(f"the Kafka at {external} is external: {why}")


def _ini_config(config: pytest.Config) -> dict[str, str]:
    lines = [line.partition("=") for line in config.getini("kbroker_config")]
    return {name.strip(): value.strip() for name, _, value in lines}


def _make(
    settings: pytest.Config, backend: str, port: int, config: Mapping[str, Any], topics: Mapping[str, int]
) -> KBroker:
    from kbroker.testing.embedded.backends import make_embedded
    from kbroker.testing.handles import KBroker

    if external := setting(settings, "external"):
        backend = f"external {external}"
    wanted = {**_ini_config(settings), **texts(config)}
    host = setting(settings, "host")
    with _told_plainly():
        return KBroker(make_embedded(backend or setting(settings, "backend"), host, port, wanted, topics))


@contextmanager
def _told_plainly() -> Iterator[None]:
    """A broker that cannot start is told in one line; it is no fault of the code that pytest would show."""
    from kbroker.testing.embedded.portal import CannotStart

    try:
        yield
    except CannotStart as error:
        hint = "; leave kbroker_port at 0 where several run at once" if "in use" in str(error) else ""
        raise pytest.fail.Exception(f"the broker does not start: {error}{hint}", pytrace=False) from None


# -- what a test did not see -------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test that has passed though its fault never came, or its broker died."""
    yield
    for broker in _brokers_of(item):
        if problems := broker.problems():
            pytest.fail("\n".join(problems), pytrace=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that its kind of broker cannot serve is skipped. One that failed is shown with what its brokers tell."""
    error = call.excinfo.value if call.excinfo is not None else None
    if _is_uncontrollable(error):
        call.excinfo = pytest.ExceptionInfo.from_exception(_raised(pytest.skip.Exception(str(error))))
    report = yield
    if report.failed:
        for broker in _brokers_of(item):
            report.sections += broker.sections()
    return report


def _brokers_of(item: pytest.Item) -> list[KBroker | KBrokerCluster]:
    """Those that a test has used, or may have."""
    made = item.config.stash.get(_made, []) if "make_kbroker" in getattr(item, "fixturenames", ()) else []
    return [*made, *item.stash.get(_used, [])]


def _is_uncontrollable(error: BaseException | None) -> bool:
    """Whether it is ours of that name; where nobody has imported it, it is not."""
    portal = sys.modules.get("kbroker.testing.embedded.portal")
    return portal is not None and isinstance(error, portal.Uncontrollable)


def _raised(error: BaseException) -> BaseException:
    """With the traceback that pytest looks for in every exception."""
    try:
        raise error
    except BaseException as raised:
        return raised
