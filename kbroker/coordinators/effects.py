"""What a pure core asks of its shell, in order.

    core.event(..., now) ──▶ [Store(records), Reply(ticket, response), ...]     its deadline ──▶ when to ring its alarm

The rules the shell keeps:
 - Effects of one core are performed in the order they were returned, across calls too: a Reply is sent when every
   Store of its core that was returned before it is committed (G2). So is an Order carried out (T2).
 - A Store that cannot be committed leaves the memory ahead of the log. The shell then drops what its shard holds
   (`Shard.resign` answers those who wait) and loads it again from the log; a core knows no undo.
 - What a Compute makes comes back as another event, some time later.
 - A deadline is in liveness seconds. It may be early, never late: the alarm finds out, and sets it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from kbroker.turns import Work

Ticket: TypeAlias = object  # a waiting request; made by the shell, opaque and hashable here, answered exactly once
Pair: TypeAlias = tuple[bytes, bytes | None]  # a record's key and value; the value None is a tombstone


class StateRecord:
    """Base of the values that cores want stored; their shard knows the record of each (`Shard.pair_of`)."""

    __slots__ = ()


class Store(NamedTuple):
    """Append these to the shard's partition, in one batch if that can be."""

    records: tuple[StateRecord | Pair, ...]


class Reply(NamedTuple):
    """Answer a waiting request with a response of kafka_wire.messages."""

    to: Ticket
    response: object


class Compute(NamedTuple):
    """Do this work, which takes long, in turns; then perform the effects of `then(what it returned, now, now_ms)`.

    The core goes on meanwhile, and has to know whether it still wants the result. A shard that closes drops it.
    """

    work: Work[Any]
    then: Callable[[Any, float, int], Iterable[Effect]]


class Order(NamedTuple):
    """Have something done outside of the shard, once every Store of its core before it is committed.

    The shard does it (`Shard.carry_out`); what comes of it is another event, at once or some time later.
    """

    what: object


Effect: TypeAlias = "Store | Reply | Compute | Order"
