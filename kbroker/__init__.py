"""kbroker: a broker that speaks Kafka's protocol, in Python. `kbroker start` runs one; docs/ says the rest."""

from __future__ import annotations

__version__ = "0.1.0"
