"""Faults amid transactions. Beside those of any broker, some that are aimed at a step of a transaction:

    aim          strikes when
    prepared     it is decided how a transaction ends, and no marker is written yet
    marking      one of its markers is about to be written, or was
    marked       every marker is written, and the end is not stored yet
    open         a transaction has begun, or got another partition
    offsets      offsets are about to become pending, or did
    settling     the marker that decides about them is about to be written, or was

The broker is killed right there, or loses power, in the midst of its own code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import trio

from kafka_wire.messages.admin import FeatureUpdateKey, UpdateFeaturesRequest
from kbroker.cluster.changes.features import TRANSACTION, UpgradeType
from kbroker.groups.shard import GroupShard
from kbroker.replication.partition import Partition
from kbroker.testing.scheduler import replaced
from kbroker.transactions.coordinator import TRANSACTIONS_TOPIC
from kbroker.transactions.shard import TransactionShard
from kbroker.transactions.transaction import Transaction
from tests.simulation.broker_node import Cluster
from tests.simulation.clients import HOST, Client, Doubt
from tests.simulation.nemesis import Nemesis
from tests.simulation.transactions.others import Replica
from tests.simulation.transactions.producers import NEW_RULES

AIM_SECONDS = 3.0
CLIENTS = ("tx-0", "tx-1a", "tx-1b", "copier-0", "copier-1", "copier-0-member", "reader-0", "idempotent-0")


class TransactionNemesis(Nemesis):
    """Kinds of faults a seed may choose from; some rules of its world exclude some."""

    def __init__(
        self,
        cluster: Cluster,
        allowed: Sequence[str] | None,
        level: int,
        *,
        may_lose_power: bool,
        replica: Replica | None,
    ) -> None:
        """level: transaction.version, which somebody may raise."""
        self.level = level
        self.may_lose_power = may_lose_power
        self.replica = replica
        super().__init__(cluster, allowed)
        self._aim: str | None = None
        self._misses = 0

    def choose(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """The kinds there are, by name: no loss of power where it may take what is acknowledged."""
        kinds = super().choose()
        if not self.may_lose_power:
            kinds = {name: kind for name, kind in kinds.items() if "power" not in name}
        if self.replica is not None:
            kinds |= {"fail_over": self.fail_over, "usurp": self.usurp}
        if self.level < NEW_RULES:
            kinds["raise_level"] = self.raise_level
        return kinds | {name: partial(self.aim, name) for name in AIMS}

    def select(self, names: list[str]) -> list[str]:
        """At random, with something aimed among it."""
        return [*super().select(names), self.random.choice(list(AIMS))]

    async def heal(self) -> None:
        self._aim = None
        await super().heal()

    async def fail_over(self) -> None:
        """Another broker takes over, with what the replica has."""
        self._replace()
        await trio.sleep(self.random.random() * 0.5)
        self.cluster.start()

    async def usurp(self) -> None:
        """Another broker takes over, which knows of no recent decision about transactions; and nobody repeats it."""
        assert self.replica is not None
        self.replica.stall(TRANSACTIONS_TOPIC, 1.0)
        await trio.sleep(0.3 + 0.6 * self.random.random())
        for client in CLIENTS:
            if client.startswith("tx"):
                self.world.network.cut(client, HOST)
        await self.fail_over()
        await trio.sleep(3 * self.random.random())
        self.world.network.heal()

    async def raise_level(self) -> None:
        """An operator raises transaction.version, while transactions are under way."""
        operator = Client(self.world, "operator", self.cluster.checker)
        update = FeatureUpdateKey(feature=TRANSACTION, max_version_level=NEW_RULES, upgrade_type=UpgradeType.UPGRADE)
        try:
            answer = await operator.call(UpdateFeaturesRequest(timeout_ms=1000, feature_updates=[update]), 1)
        except Doubt:
            return
        finally:
            await operator.hang_up()
        self.world.trace("raised", answer.error_code)
        if answer.error_code == 0:
            self.level = NEW_RULES

    def _replace(self) -> None:
        assert self.replica is not None
        if self.node.running:
            self.cluster.replace(self.replica.take_over)

    async def cut(self) -> None:
        client = self.random.choice(CLIENTS)
        away, back = self.random.choice([(HOST, "*"), ("*", HOST), (HOST, client), (client, HOST)])
        self.world.network.cut(away, back)
        await trio.sleep(self.random.random() * 4)
        self.world.network.heal()

    async def slow(self) -> None:
        client = self.random.choice(CLIENTS)
        there, back = self.random.choice([(HOST, client), (client, HOST)])
        self.world.network.slow(there, back, self.random.random() * 2)
        await trio.sleep(self.random.random() * 3)
        self.world.network.heal()

    async def aim(self, what: str) -> None:
        """Wait for that step, and strike."""
        self._aim, self._misses = what, self.random.randint(0, 4)
        with trio.move_on_after(AIM_SECONDS):
            while self._aim is not None:
                await trio.sleep(0.05)
        self._aim = None
        await trio.sleep(self.random.random() * 0.5)
        self.cluster.start()

    def passes(self, what: str) -> None:
        """The broker is at this step."""
        if self._aim != what or not self.node.running:
            return
        if self._misses:
            self._misses -= 1
            return
        self._aim = None
        self.world.trace("strikes", what)
        if self.replica is not None and self.random.random() < 0.5:
            self._replace()
        elif self.may_lose_power and self.random.random() < 0.3:
            self.cluster.power_loss()
        else:
            self.cluster.kill()


AIMS: dict[str, tuple[type, str]] = {
    "offsets": (GroupShard, "pend_offsets"),
    "settling": (GroupShard, "write_marker"),
    "prepared": (TransactionShard, "carry_out"),
    "marking": (Partition, "write_marker"),
    "marked": (Transaction, "complete"),
    "open": (Transaction, "add"),
}


@contextmanager
def aiming(nemesis: TransactionNemesis) -> Iterator[None]:
    """While the block runs, the nemesis hears of each step, before it is taken and after."""
    with ExitStack() as stack:
        for name, (owner, method) in AIMS.items():
            stack.enter_context(replaced(owner, method, _heard(nemesis, name, getattr(owner, method))))
        yield


def _heard(nemesis: TransactionNemesis, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
    def heard(*args: Any, **options: Any) -> Any:
        if name != "open":  # what has not begun yet is no step
            nemesis.passes(name)
        result = step(*args, **options)
        nemesis.passes(name)
        return result

    return heard
