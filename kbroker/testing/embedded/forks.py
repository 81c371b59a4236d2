"""Forks: what a forked child must let go of, so that a connection ends when this process ends it.

A child of `os.fork` (multiprocessing, a pre-forking server) inherits every socket and pipe, but no thread. Sockets it
keeps would stay open when the broker closes them; its copy of a listening one would take connections nobody serves.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from kbroker.testing.embedded.portal import BrokerGone

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises


class Inherited(Protocol):
    """Something with a descriptor."""

    def abandon(self) -> None:
        """In a forked child: close its copy, and touch nothing that is shared with the parent."""


_inherited: weakref.WeakSet[Inherited] = weakref.WeakSet()


def let_go_in_children(thing: Inherited) -> None:
    """Have thing abandoned in every child forked from now on, as long as anybody holds it."""
    _inherited.add(thing)


def check_owner(pid: int) -> None:
    """Raise BrokerGone in a process that was forked of the one that has the broker."""
    if pid != os.getpid():
        raise BrokerGone(f"the broker belongs to process {pid}, of which this one was forked")


def _let_go() -> None:
    for thing in tuple(_inherited):
        thing.abandon()
    _inherited.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
