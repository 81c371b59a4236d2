"""One broker: what it is made of, in which order that comes up, and how it goes down.

    up:   listeners bound (clients queue) ─▶ data directory locked ─▶ store open ─▶ registered, leaderships taken in a
          new epoch ─▶ topics asked for at start created ─▶ logs opened, or a moment over ─▶ accepting, while the other
          logs are opened ─▶ shown by the others, so that whom a client asks makes no difference ─▶ ready
    down: what others can lead is handed over, while clients are served on ─▶ the nursery is cancelled (connections,
          then duties) ─▶ logs closed clean ─▶ session given back

Everything that runs, runs in the nursery of `run_broker`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import NamedTuple

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.api import registry
from kbroker.api.brokers import ClusterBrokers
from kbroker.api.context import Services
from kbroker.api.fetch_sessions import FetchSessions
from kbroker.api.registry import Api
from kbroker.api.tallies import Tallies
from kbroker.cluster.changes.features import FeatureTooNew
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.image import ClusterImage
from kbroker.cluster.joining import BrokerIdentity, BrokerIdInUse, Moved, OtherCluster
from kbroker.cluster.peers.applying import wait_for_others
from kbroker.cluster.peers.links import Links
from kbroker.cluster.producer_ids import ProducerIds
from kbroker.cluster.registration import Registration
from kbroker.cluster.store import CoordinationStore, StoreError, Unavailable, Unreachable
from kbroker.cluster.stores.opening import StoreMissing, open_when_reachable
from kbroker.config import BrokerConfig
from kbroker.config.values import WILDCARDS
from kbroker.delay.delays import Delays
from kbroker.env import AddressInUse, Env, Listener, address_text
from kbroker.groups.coordinator import OFFSETS_TOPIC, GroupCoordinator
from kbroker.log.directory import LogDirectory
from kbroker.replication.manager import Coordinator, ReplicaManager
from kbroker.server.identity import (
    Home,
    StartFailed,
    StoreUnreachable,
    identify,
    incarnations,
    note_cluster,
    note_incarnation,
    note_producer_ids,
    producer_ids,
    refuse_foreign,
    wrong_store,
)
from kbroker.server.listener import Server
from kbroker.server.memory import AnswerMemory, RequestMemory
from kbroker.server.porter import Porter
from kbroker.transactions.coordinator import TRANSACTIONS_TOPIC, TransactionCoordinator
from kbroker.views.views import Views

BROKERS_WAIT_S = 60.0
LOOK_AGAIN_S = 0.02
OPEN_WAIT_S = 1.0  # clients queue for so long, then what is open is served; kafka-python 2.0.2 does for two seconds
SHOWN_WAIT_S = 1.0  # for others to show this broker; a SQLite store looks twice a second for who shares it
LEAVE_S = 10.0  # a stop does not wait longer for others to take over
LINGER_S = 0.3  # how long clients are told where to go instead
ANSWER_BYTES_MAX = 128 << 20  # of answers that are made and not read by their clients, all connections together

Beside = Callable[[Services], Awaitable[None]]

log = logging.getLogger("kbroker")


class Ready(NamedTuple):
    """What a broker tells once it serves."""

    cluster_id: str
    node_id: int
    listeners: Mapping[str, tuple[str, int]]  # name -> address bound
    advertised: Mapping[str, tuple[str, int]]


class Broker:
    """A broker's parts, put together in `serve`. `run_broker` is the way to have one."""

    def __init__(self, env: Env, config: BrokerConfig) -> None:
        self.env = env
        self.config = config
        self.listeners: dict[str, Listener] = {}

    async def bind(self) -> None:
        """Bind every listener. AddressInUse or StartFailed; those bound already are closed again."""
        try:
            for name, host, port in self.config.listeners:
                self.listeners[name] = await self.env.net.listen(host, port)
        except OSError as error:
            await self.unbind()
            if isinstance(error, AddressInUse):
                raise
            raise StartFailed(f"cannot listen on {address_text(host, port)}: {error.strerror or error}") from error
        told = {name: address for name, address in self.advertised().items() if address[0]}
        if len(told) == len(self.listeners):  # else it depends on the connection
            listed = ",".join(f"{name}://{address_text(*address)}" for name, address in told.items())
            self.config = self.config.with_values({"advertised.listeners": listed}, origin="listeners")

    async def unbind(self) -> None:
        """Close the listeners."""
        with trio.CancelScope(shield=True):
            for listener in self.listeners.values():
                await listener.aclose()

    def advertised(self) -> dict[str, tuple[str, int]]:
        """What clients are told, by listener. Host "" stands for "the address you came in on" (api/metadata.py)."""
        configured = self.config.advertised_listeners
        hosts = {name: host for name, host, _ in self.config.listeners}
        return {
            name: configured.get(name) or ("" if hosts[name] in WILDCARDS else hosts[name], listener.address[1])
            for name, listener in self.listeners.items()
        }

    async def live(
        self, services: Services, hands_over: Callable[[], bool], serve: Callable[[], Awaitable[None]]
    ) -> None:
        """Serve until cancelled, and on until others have what they can take."""
        life = trio.CancelScope(shield=True)  # it ends when this function says so
        has_failed = False

        async def run() -> None:
            nonlocal has_failed
            try:
                with life:
                    await serve()
            except BaseException:
                has_failed = True
                raise

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            try:
                await trio.sleep_forever()
            finally:
                try:
                    if not has_failed:
                        with trio.CancelScope(shield=True):
                            await (_leave if hands_over() else _end_with_all)(services)
                finally:
                    life.cancel()

    async def serve(
        self,
        services: Services,
        home: Home,
        topics: Sequence[NewTopic],
        brokers_min: int,
        on_ready: Callable[[Ready], None],
        apis: Mapping[int, Api],
        beside: Beside | None,
    ) -> None:
        """Come up and serve until cancelled."""
        async with trio.open_nursery() as nursery:
            if beside is not None:
                nursery.start_soon(beside, services)
            await nursery.start(services.brokers.run)
            registration = services.registration
            note_incarnation(self.env, registration.broker.incarnations, registration.incarnation)
            try:
                await nursery.start(registration.run)
            except (BrokerIdInUse, FeatureTooNew, Moved) as error:
                raise StartFailed(str(error)) from error
            except OtherCluster as error:
                raise wrong_store(self.env, error.home, error.found) from error
            except StoreError as error:
                kind = StoreUnreachable if isinstance(error, Unreachable) else StartFailed
                raise kind(f"the coordination store cannot be written: {error}") from error
            note_cluster(self.env, home, services.image.cluster_id)
            services.logs.note_left()
            nursery.start_soon(services.producer_ids.run)
            await nursery.start(services.groups.run)
            await nursery.start(services.transactions.run)
            await nursery.start(services.delays.run)
            await nursery.start(services.replicas.run)
            await nursery.start(services.logs.run)
            await nursery.start(services.views.run)
            if topics:
                await _wait_brokers(brokers_min, services)
                await _create(topics, services)
            # Whoever is refused tries again, but librdkafka sends first what it had ready to follow: the order is lost.
            with trio.move_on_after(OPEN_WAIT_S):
                await services.replicas.wait_open()
            requests, answers = RequestMemory(_request_bytes_max(self.config)), AnswerMemory(ANSWER_BYTES_MAX)
            porter = Porter()
            nursery.start_soon(porter.run)
            for name, listener in self.listeners.items():
                nursery.start_soon(Server(name, listener, services, apis, requests, answers, porter).run)
            await services.replicas.wait_open()
            await _wait_brokers(brokers_min, services)
            with trio.move_on_after(SHOWN_WAIT_S):  # one that stands still holds nobody up for longer
                await wait_for_others(services.registration, services.brokers)
            bound = {name: listener.address for name, listener in self.listeners.items()}
            on_ready(Ready(services.image.cluster_id, self.config.node_id, bound, self.advertised()))

    def assemble(self, logs: LogDirectory, home: Home, store: CoordinationStore) -> Services:
        """The parts; who is told of what. Nothing runs yet, so what is made later is there when it is called."""
        config, env = self.config, self.env

        def on_image(old: ClusterImage, new: ClusterImage) -> None:
            links.on_image(old, new)
            replicas.on_image(old, new)
            views.on_image(old, new)
            ids.on_image(new)

        registration = Registration(
            store,
            env.clock,
            self._identity(home, logs),
            on_image,
            on_lost=lambda: replicas.on_lost(),
            rng=env.rng,
            config=lambda: replicas.config,
        )
        links = Links(env, registration, lambda: replicas.config)
        brokers = ClusterBrokers(lambda: services, links)
        groups = GroupCoordinator(env, registration, logs, lambda: replicas.config)
        ids = ProducerIds(
            registration.admin,
            lambda end: env.offload(partial(note_producer_ids, env, end)),
            registration.broker.producer_ids,
        )
        transactions = TransactionCoordinator(env, registration, logs, lambda: replicas.config, ids, brokers)
        coordinators: dict[str, Coordinator] = {OFFSETS_TOPIC: groups, TRANSACTIONS_TOPIC: transactions}
        delays = Delays(env)
        replicas = ReplicaManager(config.node_id, logs, config, coordinators, registration, brokers, delays)
        views = Views(env, lambda: registration.image, replicas.partitions)
        slots = config.get_int("max.incremental.fetch.session.cache.slots")
        services = Services(
            env=env,
            registration=registration,
            logs=logs,
            replicas=replicas,
            groups=groups,
            transactions=transactions,
            delays=delays,
            fetch_sessions=FetchSessions(slots, first_id=1 + env.rng.below(2**30)),
            views=views,
            producer_ids=ids,
            brokers=brokers,
            tallies=Tallies(),
        )
        return services

    def _identity(self, home: Home, logs: LogDirectory) -> BrokerIdentity:
        return BrokerIdentity(
            home.node_id,
            home.directory_id,
            self.advertised(),
            self.config.get_str("broker.rack") or None,
            cluster_id=home.cluster_id,
            has_logs=logs.has_logs(),
            is_lossy=logs.is_lossy,
            incarnations=incarnations(self.env),
            producer_ids=producer_ids(self.env),
        )


def _request_bytes_max(config: BrokerConfig) -> int:
    """`queued.max.request.bytes`, or where that sets no bound, four requests of the largest size."""
    configured = config.get_int("queued.max.request.bytes")
    return configured if configured > 0 else 4 * config.get_int("socket.request.max.bytes")


async def _leave(services: Services) -> None:
    """Controlled shutdown: others lead what they can, and have begun to, before this broker hangs up on its clients.

    For a moment it tells these where to go instead. (Kafka: BrokerServer.shutdown, BrokerLifecycleManager.)
    """
    if not services.config.get_bool("controlled.shutdown.enable") or len(services.image.brokers) < 2:
        return
    with trio.move_on_after(LEAVE_S):
        await services.registration.hand_over()
        try:
            await services.wait_applied()
        except KafkaError as error:
            log.warning("what was handed over may not be led yet: %s", error.message)
        await services.env.clock.sleep(LINGER_S)


async def _end_with_all(services: Services) -> None:
    """All brokers stop. Nobody is to leave an ISR for having been a few milliseconds faster: it may be in sync alone
    then, and be the one that does not come back.
    """
    services.registration.stand_down()
    if len(services.image.brokers) > 1:
        await services.env.clock.sleep(LINGER_S)  # until the others have stood down, too


async def _wait_brokers(number: int, services: Services) -> None:
    """Until so many brokers live."""
    with trio.move_on_after(BROKERS_WAIT_S) as scope:
        while len(services.image.brokers) < number:
            await services.env.clock.sleep(LOOK_AGAIN_S)
    if scope.cancelled_caught:
        there = ", ".join(map(str, services.image.brokers))
        raise StartFailed(f"of {number} brokers only {there} came up within {BROKERS_WAIT_S:g} s")


async def _create(wishes: Sequence[NewTopic], services: Services) -> None:
    """Create the topics asked for at start; those that are there stay as they are."""
    for wish, result in zip(wishes, await services.admin.create_topics(wishes), strict=True):
        if isinstance(result, KafkaError) and result.code != ErrorCode.TOPIC_ALREADY_EXISTS:
            raise StartFailed(f"topic {wish.name} cannot be created: {result.message}")
    try:
        await services.wait_applied_here()  # others may be starting, too, and ask us
    except KafkaError as error:
        raise StartFailed(error.message) from error


async def run_broker(
    env: Env,
    config: BrokerConfig,
    *,
    store: CoordinationStore | None = None,
    topics: Sequence[NewTopic] = (),
    brokers_min: int = 1,
    on_ready: Callable[[Ready], None] = lambda ready: None,
    hands_over: Callable[[], bool] = lambda: True,
    beside: Beside | None = None,
    apis: Mapping[int, Api] | None = None,
) -> None:
    """Run a broker until cancelled; it then stops cleanly, having handed over what others can lead.

    Args:
        env: the world; its disk is the data directory.
        config: checked already.
        store: the coordination store; None for the one that the config names (kbroker.coordination).
        topics: to be there from the start; present ones are left as they are.
        brokers_min: so many are to live before topics are created, and before this one is ready.
        on_ready: called once, when clients are served.
        hands_over: asked at the end, whether there is anybody to take over.
        beside: a task that lives as long as the broker's own do, begun before it is registered. What it raises ends
            the broker.
        apis: what clients are answered by, of the same APIs and versions as the registry's; None for the registry's.

    Raises StartFailed, AddressInUse, DirectoryLocked or OSError when it cannot start.
    """
    broker = Broker(env, config)
    await broker.bind()
    try:
        refuse_foreign(env)
        logs = LogDirectory(env, config)
        logs.open()
        env.net.when_short(logs.release_least_used)
        try:
            home = identify(env, config.node_id, is_used=logs.has_logs())
            async with _store(env, config, store, home, is_used=logs.has_logs()) as opened:
                services = broker.assemble(logs, home, opened)
                served = apis or registry.load()
                serve = partial(broker.serve, services, home, topics, brokers_min, on_ready, served, beside)
                await broker.live(services, hands_over, serve)
        finally:
            with trio.CancelScope(shield=True):
                await logs.close()
    finally:
        await broker.unbind()


@asynccontextmanager
async def _store(
    env: Env, config: BrokerConfig, store: CoordinationStore | None, home: Home, *, is_used: bool
) -> AsyncIterator[CoordinationStore]:
    """The store that is given, or the one that config names, open. Raises StartFailed."""
    if store is not None:
        yield store
        return
    async with AsyncExitStack() as stack:
        is_expected = bool(home.cluster_id) or is_used
        patience_s = config.get_int("initial.broker.registration.timeout.ms") / 1000
        opening = open_when_reachable(config.store, config, env, is_expected=is_expected, patience_s=patience_s)
        try:
            opened = await stack.enter_async_context(opening)
        except StoreMissing as error:
            raise wrong_store(env, home.cluster_id, "", error.place) from error
        except Unreachable as error:
            raise StoreUnreachable(str(error)) from error
        except Unavailable as error:
            raise StartFailed(str(error)) from error
        yield opened
