"""`kbroker start --brokers N`: a cluster on one machine. A small process that starts N brokers and looks after them.

                      ┌─▶ broker-1   127.0.0.1:9092   ─┐
    supervisor ───────┼─▶ broker-2   127.0.0.1:9093   ─┼──  coord.db, the store they share
                      └─▶ broker-3   127.0.0.1:9094   ─┘

Each broker is a process of its own, so each has a core of its own. Ids and ports count up from the configured ones.
One that dies is started again, later each time it dies soon; one that cannot start at all ends the whole, with its
reason. All stop when the supervisor is told to, or when it dies: each sees its stdin end (`supervised.py`).

A broker is   starting ──ready──▶ serving ──process ends──▶ waiting ──delay over──▶ starting ...
              and in any of them, once the whole stops: stopping ──process ends──▶ gone

Owns the processes. Few imports: it lives as long as they do, and its memory counts as theirs does.
"""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeAlias

import click

from kbroker import __version__, events
from kbroker.cli.broker.again import program
from kbroker.cli.broker.banner import address_of, banner, near, seconds_since_start
from kbroker.cli.broker.layout import LOCK, STORE_FILE, directory_of, in_use, named, refuse_others, unusable
from kbroker.cli.broker.listeners import MAP
from kbroker.cli.broker.logs import is_terminal
from kbroker.cli.broker.service.life import READY, STARTING, Life, RunningFile
from kbroker.cli.broker.service.options import Ties
from kbroker.cli.broker.signals import Signals, signal_name
from kbroker.cli.broker.supervised import told
from kbroker.cli.errors import EXIT_USAGE, Failed, Misconfigured
from kbroker.config import BrokerConfig
from kbroker.env import address_text
from kbroker.events import tell

PORT_MAX = 65535
DELAY_S, DELAY_S_MAX = 0.5, 30.0  # before a broker that died is started again: doubled each time
STEADY_S = 60.0  # who has served for so long has not died soon
ATTEMPTS_MAX = 3  # to start, of a broker that never served
STOP_S = 60.0  # that brokers may take to stop
NOT_FOR_EACH = ("KBROKER_SEED", "KBROKER_READY_FILE")  # in the environment: for the first, and for all together

log = logging.getLogger("kbroker")

Listeners: TypeAlias = Mapping[str, tuple[str, int]]


class Orders(NamedTuple):
    """What was asked for on the command line."""

    brokers: int
    options: Sequence[str]  # those of `kbroker start` that every broker is given as they are
    first: Sequence[str]  # those for the first, which sees to them when all are there: --topic, --seed
    data_dir: str  # where all brokers' data is
    place: str  # the same in words
    plain: bool  # no banner, even on a terminal
    ties: Ties


def supervise(config: BrokerConfig, orders: Orders) -> int:
    """Run the brokers until a signal; returns the exit status. Raises Misconfigured when one of them cannot start."""
    for warning in config.warnings:
        log.warning("%s", warning)
    plans = plan(config, orders.brokers)
    refuse_others(orders.data_dir, [each.id for each in plans])
    with _locked(orders.data_dir):
        who = named([each.id for each in plans])
        life = orders.ties.begin(RunningFile(orders.data_dir), who=who, data_dir=os.path.abspath(orders.data_dir))
        life.learn()
        try:
            return _Supervisor(orders, plans, config, life).run()
        finally:
            life.end()


class Plan(NamedTuple):
    """One broker's part."""

    id: int
    listeners: Listeners
    advertised: Listeners  # as far as it is configured
    overrides: Mapping[str, str]


def plan(config: BrokerConfig, count: int) -> list[Plan]:
    """Ids and ports, counted up from those of config. Raises Misconfigured where the ports do not suffice."""
    configured = {each.name: (each.host, each.port) for each in config.listeners}
    http_port = config.get_int("kbroker.http.port")
    _check_ports([*(port for _, port in configured.values()), max(http_port, 0)], count)
    given: dict[str, str] = {}
    if not config.is_set("default.replication.factor"):
        given["default.replication.factor"] = str(min(3, count))
    plans = []
    for n in range(count):
        own_id = config.node_id + n
        overrides = {**given, "node.id": str(own_id)}
        if config.is_set(MAP):
            overrides[MAP] = config.get_str(MAP)  # some of it may be of flags
        if http_port >= 0:
            overrides["kbroker.http.port"] = str(http_port and http_port + n)
            overrides["kbroker.http.host"] = config.get_str("kbroker.http.host")
        if config.is_set("broker.id"):
            overrides["broker.id"] = str(own_id)
        plans.append(Plan(own_id, _moved(configured, n), _moved(config.advertised_listeners, n), overrides))
    return plans


def _moved(listeners: Listeners, by: int) -> Listeners:
    """Further ports; 0 stays, as each picks its own."""
    return {name: (host, port and port + by) for name, (host, port) in listeners.items()}


def _check_ports(ports: Sequence[int], count: int) -> None:
    taken: dict[int, int] = {}
    for first in filter(None, ports):
        if first + count - 1 > PORT_MAX:
            raise Misconfigured(f"--brokers {count} needs the ports {first} to {first + count - 1}; the last is 65535")
        for port in range(first, first + count):
            if port in taken:
                raise Misconfigured(
                    f"listeners: --brokers {count} needs {count} ports in a row for each listener and for HTTP, "
                    f"and those from {taken[port]} and from {first} overlap"
                )
            taken[port] = first


@contextmanager
def _locked(data_dir: str) -> Iterator[None]:
    """Hold the directory that the brokers' directories are in. Raises Misconfigured."""
    from kbroker.env import DirectoryLocked
    from kbroker.env.features import Features
    from kbroker.env.real_lock import take_lock

    try:
        os.makedirs(data_dir, exist_ok=True)
        lock = take_lock(os.path.join(data_dir, LOCK), Features.detect())
    except DirectoryLocked as error:
        raise Misconfigured(in_use(error.holder)) from None
    except OSError as error:
        raise Misconfigured(unusable(error, data_dir)) from None
    try:
        yield
    finally:
        lock.release()


# -- what happens, told by other threads and by signals ---------------------------------------------------------------


class Asked(NamedTuple):
    """The end is asked for."""

    reason: str


class Told(NamedTuple):
    """A broker tells of itself."""

    broker: _Broker
    message: Mapping[str, Any]


class Ended(NamedTuple):
    """A broker's process has ended. status: as Popen.returncode."""

    broker: _Broker
    status: int


Event: TypeAlias = "Asked | Told | Ended"


class _Broker:
    """One of the brokers, as its supervisor sees it."""

    def __init__(self, part: Plan) -> None:
        self.plan = part
        self.id = part.id
        self.process: subprocess.Popen[str] | None = None
        self.listeners: Listeners = {}  # where it serves; {}: it does not
        self.has_served = False
        self.attempts = 0  # to start it, since it last served
        self.started_at = 0.0
        self.delay_s = DELAY_S  # until the next start, should it die
        self.start_at: float | None = None  # when it is to be started
        self.reason = ""  # why it cannot start, in its own words

    def record(self) -> dict[str, Any]:
        """As running.json has it."""
        state = READY if self.listeners else STARTING if self.process else "waiting to be started again"
        listeners = {name: address_text(*address) for name, address in self.listeners.items()}
        pid = self.process.pid if self.process else None
        return {"node": self.id, "state": state, "pid": pid, "listeners": listeners}


class _Supervisor:
    """The brokers' processes, from the first start to the last end."""

    def __init__(self, orders: Orders, plans: Sequence[Plan], config: BrokerConfig, life: Life) -> None:
        self._orders = orders
        self._life = life
        self._brokers = [_Broker(part) for part in plans]
        shared = f"sqlite:{os.path.join(os.path.abspath(orders.data_dir), STORE_FILE)}"
        self._store = config.get_str("kbroker.coordination") or shared
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._announced = False  # all have served, and it was said
        self._beat_at = 0.0  # when the service manager is to get a sign of life
        self._kill_at: float | None = None  # set: the whole stops, and until then nobody is killed
        self._failure: Failed | None = None  # why the whole stops

    def run(self) -> int:
        """Until a signal, or a broker that cannot start: then raises Failed."""
        Signals(lambda number: self._events.put(Asked(signal_name(number))), self._kill).watch()
        parent = self._orders.ties.parent
        if parent is not None:
            parent.watch(lambda reason: self._events.put(Asked(reason)))
        try:
            for broker in self._brokers:
                self._start(broker)
            while self._kill_at is None or any(broker.process for broker in self._brokers):
                self._take(self._next())
                self._see_to_time()
        finally:
            self._kill()
        if self._failure is not None:
            raise self._failure
        tell(log, events.BROKERS_STOPPED)
        return 0

    def _next(self) -> Event | None:
        """What happens next; None when it is time for something."""
        times = [broker.start_at for broker in self._brokers if broker.start_at is not None]
        times += [self._kill_at] if self._kill_at is not None else []
        times += [self._beat_at] if self._orders.ties.systemd is not None else []
        wait_s = max(0.0, min(times) - time.monotonic()) if times else None
        if sys.platform == "win32":
            wait_s = min(0.5, wait_s or 0.5)  # there, no signal interrupts the wait
        try:
            return self._events.get(timeout=wait_s)
        except queue.Empty:
            return None

    def _take(self, event: Event | None) -> None:
        match event:
            case Asked(reason):
                tell(log, events.STOPPING, reason=reason)
                self._life.stop(reason)
                self._stop()
            case Told(broker, {"ready": {"listeners": listeners}}):
                self._note_ready(broker, {name: address_of(text) for name, text in listeners.items()})
            case Told(broker, {"doing": doing}):
                self._life.say(f"broker {broker.id}: {doing}")
            case Told(broker, {"failed": reason}):
                broker.reason = str(reason)
            case Ended(broker, status):
                self._note_end(broker, status)

    def _see_to_time(self) -> None:
        now = time.monotonic()
        for broker in self._brokers:
            if broker.start_at is not None and broker.start_at <= now:
                self._start(broker)
        if self._kill_at is not None and self._kill_at <= now:
            tell(log, events.BROKERS_KILLED, seconds=int(STOP_S))
            self._kill()
            self._kill_at = now + STOP_S
        systemd = self._orders.ties.systemd
        if systemd is not None and self._beat_at <= now:
            self._beat_at = now + systemd.beat_s
            with suppress(OSError):  # the first word has said so
                systemd.beat(self._life)

    # ---- a broker's life

    def _start(self, broker: _Broker) -> None:
        broker.start_at, broker.reason = None, ""
        broker.started_at = time.monotonic()
        broker.attempts += 1
        broker.process = subprocess.Popen(
            self._command(broker),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name not in NOT_FOR_EACH},
            process_group=0,  # the terminal signals this process alone, and this process the brokers
        )
        threading.Thread(target=self._listen, args=(broker, broker.process), daemon=True).start()

    def _command(self, broker: _Broker) -> list[str]:
        orders, part = self._orders, broker.plan
        settings = {**part.overrides, "listeners": _text(part.listeners), "kbroker.coordination": self._store}
        if part.advertised:
            settings["advertised.listeners"] = _text(part.advertised)
        settings["kbroker.data.dir"] = directory_of(orders.data_dir, broker.id)
        command = [*program(), "start", *orders.options]
        command += [f"--override={name}={value}" for name, value in settings.items()]
        brokers_min = 1 if self._announced else orders.brokers  # at first they wait for each other
        command += ["--supervised", str(brokers_min)]
        if broker is self._brokers[0] and not self._announced:
            command += orders.first
        return command

    def _listen(self, broker: _Broker, process: subprocess.Popen[str]) -> None:
        """In a thread: pass on what the broker tells, and its end."""
        assert process.stdout is not None
        for message in told(process.stdout):
            self._events.put(Told(broker, message))
        self._events.put(Ended(broker, process.wait()))

    def _note_ready(self, broker: _Broker, listeners: Listeners) -> None:
        came_back, broker.has_served, broker.attempts = broker.has_served, True, 0
        broker.listeners = listeners
        broker.plan = broker.plan._replace(listeners=listeners)  # what was picked is kept: clients know it
        if self._announced and self._kill_at is None:
            how = "serves again" if came_back else "serves"
            tell(log, events.BROKER_SERVES, node=broker.id, how=how, listeners=_addresses(broker))
            self._life.learn(brokers=[each.record() for each in self._brokers])
        elif all(each.listeners for each in self._brokers):
            self._announced = True
            self._say_ready()

    def _note_end(self, broker: _Broker, status: int) -> None:
        assert broker.process is not None
        for pipe in (broker.process.stdin, broker.process.stdout):
            if pipe is not None:
                pipe.close()
        broker.process, broker.listeners = None, {}
        if self._kill_at is not None:
            return
        how = broker.reason or _how(status)
        if not broker.has_served and (status == EXIT_USAGE or broker.attempts >= ATTEMPTS_MAX):
            kind = Misconfigured if status == EXIT_USAGE else Failed
            self._failure = kind(f"broker {broker.id} cannot start: {how}")
            self._life.stop(self._failure.message)
            self._stop()
            return
        if time.monotonic() - broker.started_at >= STEADY_S:
            broker.delay_s = DELAY_S
        tell(log, events.BROKER_DOWN, node=broker.id, reason=how, delay_s=broker.delay_s)
        self._life.learn(brokers=[each.record() for each in self._brokers])
        broker.start_at = time.monotonic() + broker.delay_s
        broker.delay_s = min(DELAY_S_MAX, 2 * broker.delay_s)

    # ---- all of them

    def _stop(self) -> None:
        """Have everybody stop."""
        self._kill_at = time.monotonic() + STOP_S
        for broker in self._brokers:
            broker.start_at = None
            if broker.process is not None and broker.process.stdin is not None:
                broker.process.stdin.close()

    def _kill(self) -> None:
        for broker in self._brokers:
            if broker.process is not None:
                broker.process.kill()

    def _say_ready(self) -> None:
        who = named([broker.id for broker in self._brokers])
        addresses = [_addresses(broker)[0] for broker in self._brokers]
        self._life.become_ready(
            listeners={f"broker {each.id}": _addresses(each)[0] for each in self._brokers},
            bootstrap_servers=[near(address) for address in addresses],
            brokers=[each.record() for each in self._brokers],
        )
        orders, seconds = self._orders, seconds_since_start()
        if is_terminal(sys.stderr) and not orders.plain:
            took = f"ready in {seconds:.2f} s"
            click.echo(banner(who, orders.place, addresses, took, ["cluster info"]), err=True)
            return
        pids = {each.id: each.process.pid for each in self._brokers if each.process}
        data_dir = os.path.abspath(orders.data_dir)
        about = {"version": __version__, "who": who, "place": orders.place, "data_dir": data_dir, "pid": os.getpid()}
        tell(log, events.BROKERS_LISTENING, listeners=addresses, **about)
        processes = [f"{node} is process {pid}" for node, pid in pids.items()]
        tell(log, events.BROKERS_PROCESSES, processes=processes, pids=pids)
        tell(log, events.BROKERS_READY, seconds=seconds, listeners=addresses, pid=os.getpid())


def _text(listeners: Listeners) -> str:
    return ",".join(f"{name}://{address_text(*address)}" for name, address in listeners.items())


def _addresses(broker: _Broker) -> list[str]:
    return [address_text(*address) for address in broker.listeners.values()]


def _how(status: int) -> str:
    return f"killed by {signal_name(-status)}" if status < 0 else f"it ended with status {status}"
