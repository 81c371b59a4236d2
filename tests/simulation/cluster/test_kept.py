"""What once went wrong in some seed, as scripts: a seed holds for one version of the code only."""

from __future__ import annotations

import pytest
import trio

from kbroker.testing.store_server import STORE
from tests.simulation.cluster.clients import Writer
from tests.simulation.cluster.history import ClusterChecker
from tests.simulation.cluster.macros import AimingNemesis
from tests.simulation.cluster.nodes import BrokerNode, Place
from tests.simulation.cluster.scenario import Script, cluster
from tests.simulation.runs import run


def play(script: Script, seeds: int = 3) -> None:
    """Under a script, with all that a seed still decides: who is chosen, how long things take."""
    for seed in range(seeds):
        run(cluster, seed, script=script, size=3, operated=False, min_isr=2)


async def led(nemesis: AimingNemesis) -> tuple[Place, BrokerNode, list[BrokerNode]]:
    """A partition that is written to, its leader, its followers."""
    await trio.sleep(1)
    while (target := nemesis.target()) is None:
        await trio.sleep(0.1)
    return target


@pytest.mark.slow
def test_a_follower_that_lost_its_session_follows_again_what_did_not_change_meanwhile() -> None:
    async def script(nemesis: AimingNemesis) -> None:
        _, leader, (follower, other) = await led(nemesis)
        for node in (follower, other):  # one after the other, so that somebody leads all the time
            nemesis.cut_both(node.name, STORE)
            await trio.sleep(4)
            nemesis.network.heal()
            await trio.sleep(2)

    play(script)


@pytest.mark.slow
def test_R14_a_leader_refuses_nobody_for_good_when_it_may_have_a_successor() -> None:
    """The controller gives leadership back to the preferred replica. Who led has a valid session, and hears nothing
    from its watch, until it is in sync no more. A producer has written to its successor, and comes back to it.
    """

    async def script(nemesis: AimingNemesis) -> None:
        place, first, _ = await led(nemesis)
        nemesis.crash(first, power=False)  # another leads for a while
        await nemesis.wait_until(place, lambda stored: stored.leader not in (-1, first.id))
        second = nemesis.cluster.leader_of(place)
        assert second is not None
        writer, name = a_writer(nemesis, place)
        while not await writer.write_to(second.name, name):  # it has yet to hear that it leads
            await trio.sleep(0.1)
        first.start()
        await nemesis.wait_until(place, lambda stored: first.id in stored.isr)
        nemesis.network.slow(STORE, second.name, 0.6)  # keepalives still get through
        await nemesis.wait_until(place, lambda stored: stored.leader == first.id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(break_watches, nemesis)
            while not await writer.write_to(first.name, name):
                await trio.sleep(0.1)
            await writer.write_to(first.name, name)
            await writer.write_to(second.name, name)
            nursery.cancel_scope.cancel()

    play(script)


async def break_watches(nemesis: AimingNemesis) -> None:
    """Again and again: who is slow to hear hears nothing."""
    while True:
        nemesis.cluster.store.break_watches()
        await trio.sleep(0.2)


class ScriptedWriter(Writer):
    """Writes when, and where, it is told to."""

    async def write_to(self, host: str, name: str) -> bool:
        """One batch for a partition; whether it is acknowledged."""
        self.misled = host
        return await self._turn(1, name)


def a_writer(nemesis: AimingNemesis, place: Place) -> tuple[ScriptedWriter, str]:
    """A writer, and the name of a partition for it."""
    assert isinstance(nemesis.checker, ClusterChecker)
    writer = ScriptedWriter(nemesis.world, "scripted", nemesis.checker, nemesis.cluster.names)
    writer.producer_id, writer.lives, writer.lanes = -1, 0, []
    return writer, nemesis.lasting[place]
