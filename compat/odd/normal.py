"""An answer in comparable form: plain dicts, without what differs between any two brokers.

    {"topics": {"own-@": {"error_code": "UNKNOWN_TOPIC_OR_PARTITION", "partitions": {"0": {...}}}}}

Fields at their defaults are left out, fields that a version lacks as well, and so are tagged fields and configs of
kbroker's own.
A list of structs becomes a dict by what identifies its elements, so that order does not count but a second answer to
the same thing does ("own-@ again"). Error codes have their names. IDs, hosts, ports, times of the broker's clock, ids
of producers, members and sessions become words; record batches become what can be seen of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from exchange import Answer

from kafka_wire import records as r
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.admin import ReplicaElectionResult
from kafka_wire.messages.transactions import ListedTransaction
from kafka_wire.schema import OWN_TAG_MIN, Field, layout

Plain = dict[str, Any]

DROPPED = {
    "throttle_time_ms",
    "supported_features", "finalized_features", "finalized_features_epoch",  # each broker has its own
    "documentation",  # prose
}  # fmt: skip
WORDS = {
    "host": "<host>",
    "port": "<port>",
    "client_host": "<host>",
    "cluster_id": "<cluster>",
    "log_dir": "<dir>",
    "total_bytes": "<bytes>",
    "usable_bytes": "<bytes>",
    "producer_id": "<producer>",
    "session_id": "<session>",
    "log_append_time_ms": "<now>",
}
OF_QUORUM = {  # where its log is, and where its controllers listen, is each broker's own
    "DescribeQuorumPartitionResult": {"leader_epoch", "high_watermark"},
    "QuorumReplicaState": {"log_end_offset", "replica_directory_id"},
    "QuorumListener": {"name"},
}
# What identifies an element of a list: its name, or else its ID, and its numbers; of a broker its number.
NAMES = ("name", "topic", "topic_name", "group_id", "resource_name", "key")
NUMBERS = ("partition_index", "partition", "index", "resource_type", "member_id", "api_key", "batch_index")
IDENTITY = {*NAMES, *NUMBERS, "topic_id", "node_id", "broker_id"}
MADE_UP = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
MADE_UP_BY_GROUPS = re.compile(r"[A-Za-z0-9_-]{22}")
REPEATED = re.compile(r"(.)\1{40,}")
NOW = re.compile(r"\b1[78]\d{11}\b(?<!1700\d{9})")  # in a text: later than our records
LONG_AGO = re.compile(r"-922337\d{13}\b")  # as far before as can be
NOW_MS = 1_750_000_000_000  # later times are not of our records
API_VERSIONS = 18
OWN_CONFIGS = "kbroker."
STAGED = ("idle", "open")  # transactional ids that are there for every probe
TRANSACTIONS = "__transaction_state"  # Kafka makes it as soon as somebody speaks of transactions


def normal(answer: Answer, version: int, words: Mapping[Any, str], tag: str) -> Plain:
    """The answer in comparable form; `words` names the IDs that are known."""
    if answer.fate != "answered":
        return {"fate": answer.fate}
    return _Normal(version, words, tag).message(answer.message)


class _Normal:
    def __init__(self, version: int, words: Mapping[Any, str], tag: str) -> None:
        self.version, self.words, self.tag = version, words, tag

    def message(self, message: Any) -> Plain:
        found: Plain = {}
        own = OF_QUORUM.get(type(message).__name__, ())
        for field in layout(type(message)).fields:
            value = getattr(message, field.name)
            if field.name in own and field.has(self.version):
                found[field.name] = "<its own>"
                continue
            if not field.has(self.version) or field.name in DROPPED or (field.tag or 0) >= OWN_TAG_MIN:
                continue
            if field.name in IDENTITY or value != field.fresh_default():
                found[field.name] = self._value(field, value)
        return found

    def _value(self, field: Field, value: Any) -> Any:
        if value is None:
            return None
        if field.kind == "array" and isinstance(field.item, type):
            return self._elements(field.name, value)
        if field.kind == "array":
            found = [self._leaf(field.name, each) for each in value]
            return sorted(found) if field.name == "partitions" else found  # a set of Kafka's
        if field.kind == "struct":
            return self.message(value)
        if field.kind == "records":
            return batches(bytes(value))
        return self._leaf(field.name, value)

    def _elements(self, name: str, elements: list[Any]) -> Plain:
        found: Plain = {}
        for each in elements:
            plain = self.message(each)
            if isinstance(each, ListedTransaction) and each.transactional_id not in STAGED:
                continue  # which others have begun depends on the probes before
            if isinstance(each, ReplicaElectionResult) and not each.partition_result:
                continue  # of all topics: which others there are depends on the probes before
            if name == "api_keys" and plain["api_key"] != API_VERSIONS:
                continue  # which other APIs there are is no oddity
            if TRANSACTIONS in (plain.get("name"), plain.get("resource_name")):
                continue
            if name == "configs" and plain.get("name", "").startswith(OWN_CONFIGS):
                continue
            key = _identity(plain) or str(len(found))
            while key in found:
                key += " again"
            found[key] = plain
        return dict(sorted(found.items()))

    def _leaf(self, name: str, value: Any) -> Any:
        if isinstance(value, bytes | bytearray | memoryview):
            value = bytes(value)
            if value in self.words:
                return self.words[value]
            return "<id>" if name == "topic_id" and any(value) else value.hex()
        if name.endswith("error_code"):
            return ErrorCode(value).name if value in ErrorCode.__members__.values() else value
        if name in WORDS and value not in ("", -1) and (value or name == "producer_id"):
            return WORDS[name]
        if isinstance(value, str):
            return self._text(name, value)
        return "<now>" if isinstance(value, int) and NOW_MS < value < 4 * NOW_MS else value

    def _text(self, name: str, value: str) -> str:
        if value in self.words:
            return self.words[value]
        if name in ("member_id", "leader") and (MADE_UP.search(value) or MADE_UP_BY_GROUPS.fullmatch(value)):
            return "<member>"
        value = MADE_UP.sub("<uuid>", value.replace(self.tag, "@"))
        if name.endswith("error_message"):
            return NOW.sub("<now>", LONG_AGO.sub("<long ago>", without_repetition(value)))
        return value if len(value) <= 300 else f"{value[:40]}…({len(value)})"


def without_repetition(text: str) -> str:
    """A text without long repetitions: where a huge value is part of it, the rest can be compared."""
    return REPEATED.sub(r"\1…", text)


def _identity(plain: Plain) -> str:
    parts = [str(plain.pop(part)) or "''" for part in NAMES if plain.get(part) is not None]
    parts = parts or [plain.pop("topic_id")] if "topic_id" in plain else parts
    parts += [str(plain.pop(part)) for part in NUMBERS if part in plain]
    return " ".join(parts or [str(plain.pop(part)) for part in ("node_id", "broker_id") if part in plain])


def batches(data: bytes) -> list[str]:
    """Each batch as far as it tells something: offsets, epoch, codec, times, producer, and the payload's digest."""
    found = []
    try:
        for at, header in r.headers(data):
            payload = hashlib.sha256(data[at + r.HEADER_SIZE : at + header.size]).hexdigest()[:6]
            times = [str(t) if t < NOW_MS else "<now>" for t in (header.base_timestamp, header.max_timestamp)]
            found.append(
                f"{header.base_offset}+{header.last_offset_delta} count {header.count} epoch {header.leader_epoch} "
                f"attributes {header.attributes} times {' '.join(times)} payload {payload}"
            )
    except KafkaError as error:
        found.append(f"{error.code.name} after {len(found)} batches")
    return found
