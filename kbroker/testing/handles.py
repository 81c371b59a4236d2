"""KBroker: a broker as a test sees it, whatever is behind it. What the fixtures `kbroker` and `make_kbroker` give.

kbroker.bootstrap_servers           for any client
kbroker.kill(); kbroker.start()     the same port, the same data
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kbroker.testing.control.remote import Clock, Faults, Requests
from kbroker.testing.embedded.backends import Embedded
from kbroker.testing.embedded.portal import BrokerGone, Uncontrollable

REPORTED_REQUESTS = 100  # the latest, with a test that failed
REPORTED_LINES = 100


class KBroker:
    """A broker in a test's hands."""

    def __init__(self, embedded: Embedded) -> None:
        self.embedded = embedded
        self.faults = Faults(embedded)
        self.clock = Clock(embedded)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.embedded.address

    @property
    def bootstrap_servers(self) -> str:
        """What a client's setting of that name takes: "127.0.0.1:54321"."""
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def is_running(self) -> bool:
        """Whether there is a broker; a paused one counts."""
        return self.embedded.is_running

    @property
    def log_lines(self) -> list[str]:
        """What it logged since the test began, oldest first; the latest 2,000 lines."""
        return self.embedded.log_lines()

    @property
    def failure(self) -> str:
        """Why it ended by itself; "" where it did not."""
        return self.embedded.failure

    def requests(self, api: str | None = None, *, client_id: str | None = None, topic: str | None = None) -> Requests:
        """What clients have asked since the test began: of an API ("Produce"), of a client, about a topic."""
        return Requests(self.embedded, api, client_id=client_id, topic=topic)

    def start(self) -> None:
        """Start it again after `stop` or `kill`: the same port, the same data. Returns when it serves."""
        self.embedded.start()

    def stop(self) -> None:
        """Stop it cleanly, as SIGTERM does. Clients are refused until `start`."""
        self.embedded.stop()

    def kill(self) -> None:
        """End it as kill -9 does: connections break; what it had written, though not synced, is there at `start`."""
        self.embedded.kill()

    def pause(self) -> None:
        """Let it stand still, as SIGSTOP or a long garbage collection does, until `resume`. Connections stay open."""
        self.embedded.pause()

    def resume(self) -> None:
        """Let it go on."""
        self.embedded.resume()

    # -- for the plugin ------------------------------------------------------------------------------------------------

    def renew(self, config: Mapping[str, str] | None = None, topics: Mapping[str, int] | None = None) -> None:
        """Have another broker there, as new. config: beside what it was made with. topics: name -> partitions.

        Raises CannotStart.
        """
        self.embedded.renew(config, topics)

    def prepare(self, config: Mapping[str, str] | None = None) -> None:
        """The next `renew` will want this config, probably."""
        self.embedded.prepare(config)

    def problems(self) -> list[str]:
        """What a test that has passed did not see, a line each."""
        self.resume()
        if self.failure:
            return [f"the broker died during the test: {self.failure}"]
        return self._told("unfired")

    def sections(self) -> list[tuple[str, str]]:
        """What to show with a test that failed: titles and texts."""
        self.resume()
        texts = {
            "kbroker: the broker died during the test": self.failure.splitlines(),
            "kbroker: what the test did": self._told("history"),
            "kbroker: requests": self._told("journal_lines", REPORTED_REQUESTS),
            "kbroker: log": self.log_lines[-REPORTED_LINES:],
        }
        return [(f"{title} ({self.bootstrap_servers})", "\n".join(lines)) for title, lines in texts.items() if lines]

    def _told(self, method: str, *args: Any) -> list[str]:
        """Lines of the controls; none where there is nobody to tell."""
        try:
            lines: list[str] = self.embedded.call(method, *args)
            return lines
        except (BrokerGone, Uncontrollable, TimeoutError):
            return []

    def close(self) -> None:
        """End it for good."""
        self.embedded.close()
