"""Controls: what a test may do with one broker, in the broker's own loop. Owns its faults and its journal.

    controls = Controls(clock)                        clock: the SteeredClock of the broker's Env
    await run_broker(env, config, apis=controls.apis())

It outlives a broker's process: the next life of the same broker is given the same one. Its public methods take and
return plain values, so that a test in another thread or process may call them by name (kbroker.testing.embedded); what
is wrong with such a call is a ValueError, with a text for the test's author.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any

from kafka_wire.api import APIS, OWN_KEY_MIN, ApiKey
from kafka_wire.errors import ErrorCode
from kbroker.api.context import NO_BROKER, Context
from kbroker.api.registry import Api, CloseConnection, load
from kbroker.testing.clock import SteeredClock
from kbroker.testing.control import CONTROL_CLIENT_ID
from kbroker.testing.control.answers import codes_in
from kbroker.testing.control.asked import topic_names
from kbroker.testing.control.faults import FaultBook, api_key
from kbroker.testing.control.journal import Journal, Row
from kbroker.testing.control.spans import MOMENT_MS_MAX, as_moment
from kbroker.testing.control.striking import strike

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

HISTORY_MAX = 1000  # of what a test did, for the report of one that failed


class Controls:
    """The controls of one broker."""

    def __init__(self, clock: SteeredClock) -> None:
        self.clock = clock
        self.faults = FaultBook()
        self.journal = Journal()
        self._history: list[str] = []

    def apis(self) -> dict[int, Api]:
        """What clients are answered by: the broker's handlers, behind the journal and the faults."""
        return {key: api._replace(handle=partial(self._handle, api)) for key, api in load().items()}

    def _handle(self, api: Api, request: Any, context: Context) -> Any:
        is_private = context.peer.broker_id != NO_BROKER or context.client_id == CONTROL_CLIENT_ID
        if is_private or api.key >= OWN_KEY_MIN:
            return api.handle(request, context)
        name, topics = APIS[api.key].name, topic_names(request, api.key, context)
        row = Row(name, context.version, context.client_id, self.clock.data_ms(), topics)
        self.journal.note(row)
        fault = self.faults.match(api.key, request, context)
        if fault is not None:
            return strike(fault, api, request, context, row, self.faults.over)
        try:
            answer = api.handle(request, context)
        except CloseConnection as reason:
            row.fate = f"hung up: {reason}"
            raise
        if codes := codes_in(answer, ApiKey(api.key), context.version):
            row.fate = "answered " + ", ".join(ErrorCode(code).name for code in codes)
        return answer

    # -- faults -------------------------------------------------------------------------------------------------------

    def add_fault(self, kind: str, api: str, values: Mapping[str, Any]) -> None:
        """Set a fault (faults.py). values: what else is said of it."""
        self.faults.add(kind, api, **values)
        self._tell(str(self.faults.faults[-1]))

    def clear_faults(self) -> None:
        """Forget all faults."""
        self.faults.clear()
        self._tell("faults.clear()")

    def unfired(self) -> list[str]:
        """A line of each fault that has not hit as many requests as it was to."""
        return self.faults.unfired()

    # -- the journal --------------------------------------------------------------------------------------------------

    def requests(
        self, api: str | None = None, client_id: str | None = None, topic: str | None = None
    ) -> dict[str, Any]:
        """The requests that came: `rows` as of `Row.plain`, and how many were `dropped` before the first of them."""
        if api is not None:
            api_key(api)
        rows = [row.plain() for row in self.journal.rows(api, client_id, topic)]
        return {"rows": rows, "dropped": self.journal.dropped}

    def journal_lines(self, most: int) -> list[str]:
        """The latest requests as lines for people; before them a line that counts those left out."""
        left_out = max(self.journal.dropped + len(self.journal) - most, 0)
        latest = islice(self.journal.rows(), max(len(self.journal) - most, 0), None)
        lines = [f"... {left_out} earlier requests"] if left_out else []
        for row in latest:
            about = f" {','.join(row.topics)}" if row.topics else ""
            at = as_moment(row.at_ms).strftime("%H:%M:%S.%f")[:-3]
            lines.append(f"{at} {row.client_id or '(no client id)'}: {row.api} v{row.version}{about}: {row.fate}")
        return lines

    # -- the clock ----------------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Data time, in milliseconds since the epoch."""
        return self.clock.data_ms()

    async def advance(self, ms: int, liveness: bool = False) -> int:
        """Move data time forward, and liveness with it if asked to; the data time that it is then.

        Raises ValueError where that is no forward, or further than a clock goes.
        """
        if ms < 0:
            raise ValueError(f"the clock cannot be advanced by {ms} ms: data time never goes back")
        if self.clock.data_ms() + ms > MOMENT_MS_MAX:
            raise ValueError(f"the clock cannot be advanced by {ms} ms: that is beyond the year 9999")
        self._tell(f"clock.advance({ms / 1000:g} s{', liveness=True' if liveness else ''})")
        await self.clock.advance_data(ms)
        if liveness:
            self.clock.jump_liveness(ms / 1000)
        return self.clock.data_ms()

    async def advance_to(self, ms: int, liveness: bool = False) -> int:
        """The same, to a moment. Raises ValueError where that is past."""
        now_ms = self.clock.data_ms()
        if ms < now_ms:
            raise ValueError(
                f"the clock cannot go back to {as_moment(ms):%Y-%m-%d %H:%M:%S} UTC: "
                f"it is {as_moment(now_ms):%Y-%m-%d %H:%M:%S} already"
            )
        return await self.advance(ms - now_ms, liveness)

    # -- all of it ----------------------------------------------------------------------------------------------------

    def history(self) -> list[str]:
        """What the test did here, in order: a line each."""
        return list(self._history)

    def reset(self) -> None:
        """Begin anew: no faults, an empty journal, data time as the machine's."""
        self.faults.clear()
        self.journal.clear()
        self._history.clear()
        self.clock.jump_data(-self.clock.data_ahead_ms)

    def save(self) -> dict[str, Any]:
        """All of it as plain values, for the next process of the same broker to `restore`."""
        return {
            "faults": self.faults.plain(),
            "rows": [row.plain() for row in self.journal.rows()],
            "dropped": self.journal.dropped,
            "ahead_ms": self.clock.data_ahead_ms,
            "history": self._history,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over from an earlier process."""
        self.reset()
        self.faults.restore(saved["faults"])
        for api, version, client_id, at_ms, topics, fate in saved["rows"]:
            self.journal.note(Row(api, version, client_id, at_ms, tuple(topics), fate))
        self.journal.dropped = saved["dropped"]
        self._history = list(saved["history"])
        self.clock.jump_data(saved["ahead_ms"])

    def _tell(self, line: str) -> None:
        if len(self._history) < HISTORY_MAX:
            self._history.append(f"{as_moment(self.clock.data_ms()):%H:%M:%S} {line}")
