"""`kbroker ping --advertised`: can the addresses that brokers tell clients be reached from here?

A client reaches the first broker by the address it is configured with, and everything after that by the addresses that
this broker has told it. So a wrong one does not show before the first record is sent or read: docs/how-to/listeners.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from kbroker.cli.broker.banner import address_of
from kbroker.cli.broker.service.asking import Answer, ask
from kbroker.cli.errors import Unreachable
from kbroker.cli.tables import visible

AT_ONCE = 16


class Told(NamedTuple):
    """An address that clients are told."""

    node: int
    address: str
    problem: str | None  # None: it was reached, and it is this broker's cluster

    def __str__(self) -> str:
        what = f"clients are told {self.address} for node {self.node}: {self.problem or 'reached'}"
        return visible(what)


def reach(answer: Answer, seconds: float, ask: Callable[[tuple[str, int], float], Answer] = ask) -> list[Told]:
    """Each of the brokers' addresses, tried for so long."""

    def attempt(node: int, address: str) -> Told:
        try:
            found = ask(address_of(address), time.monotonic() + seconds)
        except Unreachable as error:
            return Told(node, address, error.message)
        except (ValueError, UnicodeError, OverflowError):
            return Told(node, address, "that is no address")
        if found.cluster_id != answer.cluster_id:
            return Told(node, address, f"another cluster answers there, {found.cluster_id}")
        return Told(node, address, None)

    brokers = sorted(answer.brokers.items())
    with ThreadPoolExecutor(min(AT_ONCE, max(1, len(brokers)))) as executor:
        return list(executor.map(lambda each: attempt(*each), brokers))


def check(told: Sequence[Told]) -> None:
    """Raise Unreachable unless all were reached."""
    wrong = [each for each in told if each.problem]
    if wrong:
        raise Unreachable(
            f"{len(wrong)} of {len(told)} addresses that clients are told cannot be reached from here: "
            "see --advertise of kbroker start, or advertised.listeners"
        )
