"""The journal: every request that a client sent to a broker, and what became of it. Bounded: the oldest go first."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

ROWS_MAX = 100_000  # some 20 MB


class Row:
    """One request."""

    __slots__ = ("api", "version", "client_id", "at_ms", "topics", "fate")

    def __init__(
        self, api: str, version: int, client_id: str | None, at_ms: int, topics: tuple[str, ...], fate: str = "answered"
    ) -> None:
        self.api = api  # Kafka's name
        self.version = version
        self.client_id = client_id
        self.at_ms = at_ms  # when it came, on the data clock
        self.topics = topics  # that it is about
        self.fate = fate

    def plain(self) -> list[Any]:
        """As plain values, in the order of the constructor's."""
        return [self.api, self.version, self.client_id, self.at_ms, list(self.topics), self.fate]


class Journal:
    """The requests to a broker, the latest last."""

    def __init__(self, rows_max: int = ROWS_MAX) -> None:
        self._rows: deque[Row] = deque(maxlen=rows_max)
        self.dropped = 0  # that came first, and are not known any more

    def __len__(self) -> int:
        return len(self._rows)

    def note(self, row: Row) -> Row:
        """A request has come."""
        self.dropped += len(self._rows) == self._rows.maxlen
        self._rows.append(row)
        return row

    def rows(self, api: str | None = None, client_id: str | None = None, topic: str | None = None) -> Iterator[Row]:
        """Those of an API, of a client, that are about a topic; None: of any."""
        for row in self._rows:
            if (
                (api is None or row.api == api)
                and (client_id is None or row.client_id == client_id)
                and (topic is None or topic in row.topics)
            ):
                yield row

    def clear(self) -> None:
        """Forget all."""
        self._rows.clear()
        self.dropped = 0
