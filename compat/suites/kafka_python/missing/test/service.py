"""Stands in for the `test/service.py` that kafka-python's sdist lacks: its fixtures import two names from it.

`ExternalService` is the broker that runs already; `SpawnedService` would start one, which is not asked of it here.
"""

from __future__ import annotations


class ExternalService:
    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port


class SpawnedService:
    def __init__(self, *arguments: object) -> None:
        raise NotImplementedError("the suite takes a broker that runs already: set KAFKA_URI")
