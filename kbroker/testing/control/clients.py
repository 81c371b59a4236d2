"""Settings with which client libraries do well in tests. None of the libraries is imported here.

Clients are patient by default: a lost answer is noticed after 30 seconds, a broker that was away is looked for after
one. `fast` bounds that to a few seconds, and makes them try again within some hundredths.
"""

from __future__ import annotations

from typing import Any

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

ALIASES = {
    "kafka-python": "kafka-python", "kafka_python": "kafka-python", "kafka": "kafka-python",
    "confluent": "confluent", "confluent-kafka": "confluent", "confluent_kafka": "confluent", "librdkafka": "confluent",
    "aiokafka": "aiokafka", "java": "java",
}  # fmt: skip
ROLES = ("producer", "consumer", "admin")
SERVERS = {"kafka-python": "bootstrap_servers", "aiokafka": "bootstrap_servers"}  # others: bootstrap.servers
EVERY = None


def quick_kafka_python(**settings: Any) -> Any:
    """What kafka-python's producers, consumers and admin clients talk through (their setting `kafka_client`), as they
    make it themselves, but with `retry_backoff_ms` told to all of it.

    kafka-python 3.0 does not tell its cluster metadata, which then lets 100 ms pass between two requests: each new
    client has asked who the brokers are, and waits before it asks for its topic, whatever Kafka it talks to.
    """
    from kafka import KafkaProducer  # it is there: it calls this

    client = KafkaProducer.DEFAULT_CONFIG["kafka_client"](**settings)
    client.cluster.config["retry_backoff_ms"] = settings["retry_backoff_ms"]
    return client


# What is fast, by library and role; EVERY: what each of them takes. A consumer's session is as short as brokers allow.
FAST: dict[str, dict[str | None, dict[str, Any]]] = {
    "kafka-python": {
        EVERY: {
            "reconnect_backoff_ms": 20, "reconnect_backoff_max_ms": 200, "retry_backoff_ms": 5,
            "kafka_client": quick_kafka_python,
        },
        "producer": {"request_timeout_ms": 2000, "delivery_timeout_ms": 20_000, "max_block_ms": 10_000},
        "consumer": {
            "request_timeout_ms": 7000, "session_timeout_ms": 6000, "heartbeat_interval_ms": 300,
            "fetch_max_wait_ms": 100,
        },
        "admin": {"request_timeout_ms": 5000},
    },
    "aiokafka": {
        EVERY: {"retry_backoff_ms": 20},
        "producer": {"request_timeout_ms": 2000},
        "consumer": {
            "request_timeout_ms": 7000, "session_timeout_ms": 6000, "heartbeat_interval_ms": 300,
            "fetch_max_wait_ms": 100,
        },
        "admin": {"request_timeout_ms": 5000},
    },
    "confluent": {
        EVERY: {
            "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "socket.timeout.ms": 3000,
            "topic.metadata.refresh.fast.interval.ms": 50,
        },
        "producer": {
            "retry.backoff.ms": 20, "request.timeout.ms": 2000, "socket.timeout.ms": 2000, "message.timeout.ms": 20_000,
        },
        "consumer": {"session.timeout.ms": 6000, "heartbeat.interval.ms": 300, "fetch.wait.max.ms": 100},
        "admin": {},
    },
    "java": {
        EVERY: {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 20},
        "producer": {
            "request.timeout.ms": 2000, "delivery.timeout.ms": 20_000, "max.block.ms": 10_000, "linger.ms": 0,
        },
        "consumer": {
            "request.timeout.ms": 7000, "session.timeout.ms": 6000, "heartbeat.interval.ms": 300,
            "fetch.max.wait.ms": 100, "default.api.timeout.ms": 10_000,
        },
        "admin": {"request.timeout.ms": 5000, "default.api.timeout.ms": 10_000},
    },
}  # fmt: skip


def client_config(client: str, bootstrap: str, role: str | None = None, *, fast: bool = True) -> dict[str, Any]:
    """Settings for a client library, by its own names, to be completed: `KafkaProducer(**client_config(...))`.

    client: "kafka-python", "confluent", "aiokafka" or "java". role: "producer", "consumer" or "admin"; None for what
    all of them take. Raises ValueError for others.
    """
    known = ALIASES.get(client)
    if known is None:
        from difflib import get_close_matches

        close = get_close_matches(str(client).lower(), FAST, n=1)
        hint = f", did you mean {close[0]!r}?" if close else f": there are {', '.join(FAST)}"
        raise ValueError(f"there are no settings for the client {client!r}{hint}")
    if role is not None and role not in ROLES:
        raise ValueError(f"a client is a {', '.join(ROLES[:-1])} or {ROLES[-1]}, not {role!r}")
    config: dict[str, Any] = {SERVERS.get(known, "bootstrap.servers"): bootstrap}
    if fast:
        config |= FAST[known][EVERY]
        config |= FAST[known][role] if role is not None else {}
    return config
