"""Java's kafka-clients under the scenarios: `runner.py VERSION CACHE`; the adapter is `Adapter.java`."""

from __future__ import annotations

import sys
from pathlib import Path

from common import main
from java.build import classpath
from remote import Remote

VERSION = sys.argv[1]
FLAGS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")


class KafkaClients(Remote):
    name = f"kafka-clients {VERSION}"
    command = ["java", *FLAGS, "-cp", classpath(VERSION, Path(sys.argv[2])), "Adapter"]


if __name__ == "__main__":
    main(KafkaClients)
