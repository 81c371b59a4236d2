"""What Apache Kafka answers to UpdateFeatures, one request after the other, written down for the tests.

    python compat/kafka_features.py > tests/data/kafka-4.3-features.json

Starts a fresh Apache Kafka (Maven), whose features are at the levels of its release, and asks only of those features
that kbroker has, too, or that nobody has. Each row of the file is a request, its answer, and the levels after it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "protocol"))
sys.path.insert(0, str(Path(__file__).resolve().parent / "odd"))
import wire
from apache_kafka import ApacheKafka
from exchange import Connection

from kafka_wire.api import ApiKey
from kafka_wire.messages.admin import FeatureUpdateKey, UpdateFeaturesRequest
from kafka_wire.messages.metadata import ApiVersionsRequest

OURS = ("metadata.version", "transaction.version", "group.version", "eligible.leader.replicas.version")
METADATA, TXN, GROUP, ELIGIBLE = OURS
ABSENT = "no.such"
UP, DOWN, UNSAFE = 1, 2, 3
SEEN_S = 0.5  # a broker may take so long to hear of a change that was answered

# version, updates (feature, level, upgrade type; in version 0: whether a downgrade is allowed), validate_only
CASES: list[tuple[int, list[tuple[str, int, int]], bool]] = [
    (2, [], False),
    (0, [], False),
    (2, [(TXN, 2, UP)], False),
    (1, [(TXN, 2, UP)], False),
    (0, [(TXN, 2, 0)], False),
    (0, [(TXN, 1, 0)], False),
    (0, [(TXN, 1, 1)], False),
    (1, [(TXN, 1, DOWN)], True),
    (1, [(TXN, 1, DOWN)], False),
    (2, [(TXN, 1, DOWN)], False),
    (2, [(TXN, 2, DOWN)], False),
    (2, [(TXN, 2, UNSAFE)], False),
    (1, [(TXN, 0, UNSAFE)], False),
    (1, [(TXN, 2, UP)], True),
    (1, [(TXN, 2, UP)], False),
    (2, [(TXN, 3, UP)], False),
    (2, [(TXN, -1, UP)], False),
    (2, [(TXN, -1, DOWN)], False),
    *((2, [(TXN, level, kind)], False) for kind in (0, 4, -1, 127) for level in (1, 2)),
    *((2, [(ABSENT, level, kind)], False) for level in (-1, 0, 1, 32767) for kind in (UP, DOWN)),
    (2, [("", 0, UP)], False),
    (2, [("", 1, UP)], False),
    (2, [(METADATA, 30, UP)], False),
    *((2, [(METADATA, level, kind)], False) for level in (0, 6, 7, 29, 31, 32) for kind in (UP, DOWN, UNSAFE)),
    (2, [(GROUP, 0, UP)], False),
    (2, [(GROUP, 0, DOWN)], False),
    (2, [(GROUP, 2, UP)], False),
    (2, [(GROUP, 1, UP)], False),
    (1, [(GROUP, 0, DOWN), (ABSENT, 1, UP)], False),
    (1, [(ABSENT, 1, UP), (GROUP, 0, DOWN)], False),
    (1, [(ABSENT, 1, UP), (ABSENT, 0, UP)], False),
    (1, [(TXN, 1, DOWN), (TXN, 2, UP)], False),
    (1, [(TXN, 2, UP), (TXN, 1, DOWN)], False),
    (1, [(TXN, 2, UP), (GROUP, 1, UP)], False),
    *((2, [(ELIGIBLE, level, kind)], False) for level in (2, 0, 1) for kind in (UP, DOWN)),
    (2, [(ELIGIBLE, 0, UNSAFE)], False),
    (1, [(ELIGIBLE, 1, UP), (GROUP, 1, UP)], False),
]


def request_of(version: int, updates: list[tuple[str, int, int]], validate_only: bool) -> UpdateFeaturesRequest:
    """A row's request."""
    keys = []
    for name, level, kind in updates:
        how: dict[str, Any] = {"upgrade_type": kind} if version else {"allow_downgrade": bool(kind)}
        keys.append(FeatureUpdateKey(feature=name, max_version_level=level, **how))
    return UpdateFeaturesRequest(feature_updates=keys, validate_only=validate_only)


def answer_of(response: Any, version: int) -> dict[str, Any]:
    """A row's answer, as it is kept."""
    rows = response.results if version <= 1 else []
    results = [[row.feature, row.error_code, row.error_message] for row in rows]
    return {"error_code": response.error_code, "error_message": response.error_message, "results": results}


def levels_of(versions: Any) -> dict[str, int]:
    """The levels that ApiVersions tells, of the features that kbroker has."""
    found = {row.name: row.max_version_level for row in versions.finalized_features}
    return {name: found[name] for name in OURS if name in found}


def main() -> None:
    """Ask, and print the file."""
    rows = []
    with tempfile.TemporaryDirectory() as directory, ApacheKafka(Path(directory, "kafka"), wire.free_port()) as kafka:
        connection = Connection(kafka.bootstrap, 10)
        for version, updates, validate_only in CASES:
            request = request_of(version, updates, validate_only)
            response = connection.ask(request, ApiKey.UPDATE_FEATURES, version).message
            time.sleep(SEEN_S)
            told = connection.ask(
                ApiVersionsRequest(client_software_name="record", client_software_version="1"), ApiKey.API_VERSIONS, 4
            ).message
            row = {"version": version, "updates": updates, "validate_only": validate_only}
            rows.append({**row, "answer": answer_of(response, version), "levels": levels_of(told)})
        connection.close()
    print("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")


if __name__ == "__main__":
    main()
