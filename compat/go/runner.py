"""A client of Go under the scenarios: `runner.py NAME CACHE`; its adapter is built there, over `remote.py`."""

from __future__ import annotations

import sys
from pathlib import Path

from common import main
from remote import Remote


class GoClient(Remote):
    name = sys.argv[1]
    command = [str(Path(sys.argv[2]) / "adapter")]

    def copy(self, identifier: str, group: str, inputs: str, outputs: str, each: int) -> None:
        self.process.call("copy", identifier, group, inputs, outputs, each)


if __name__ == "__main__":
    main(GoClient)
