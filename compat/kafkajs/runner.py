"""kafkajs under the scenarios: `runner.py CACHE`; the adapter is `adapter.js`, over `remote.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from common import main
from remote import Remote

os.environ["NODE_PATH"] = str(Path(sys.argv[1]) / "node_modules")


class KafkaJs(Remote):
    name = "kafkajs 2.2.4"
    command = ["node", str(Path(__file__).resolve().parent / "adapter.js")]


if __name__ == "__main__":
    main(KafkaJs)
