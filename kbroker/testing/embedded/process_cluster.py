"""ProcessCluster: several embedded brokers, each in a process, which share a coordination store in a file of SQLite."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from kbroker.testing.embedded.backends import Embedded
from kbroker.testing.embedded.process import ProcessBroker

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises


class ProcessCluster:
    """A Cluster of processes, which share a file of SQLite."""

    def __init__(self, size: int, host: str, config: Mapping[str, str]) -> None:
        """Start them. Raises CannotStart."""
        self._stack = ExitStack()
        self.members: dict[int, Embedded] = {}
        try:
            directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="kbroker-cluster-"))
            store = f"sqlite:{Path(directory) / 'coord.db'}"
            own = [{**config, "node.id": str(id), "kbroker.coordination": store} for id in range(1, size + 1)]
            with ThreadPoolExecutor(size) as pool:  # each waits for the others
                make = partial(ProcessBroker, host=host, brokers_min=size, shared=directory)
                started = [pool.submit(make, config=each) for each in own]
            for id, broker in enumerate(started, 1):
                if broker.exception() is None:
                    self.members[id] = broker.result()
                    self._stack.callback(self.members[id].close)
            for broker in started:
                broker.result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End them."""
        self._stack.close()
