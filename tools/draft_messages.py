"""Print a first draft of message declarations from Kafka's message JSON.

    python tools/draft_messages.py FetchRequest.json FetchResponse.json

Kafka keeps these files in clients/src/main/resources/common/message; the kafka-clients jar and kafka-python carry them
too. What comes out follows the rules of kafka_wire.schema and still wants what a person knows: a sentence for each
message, a KIP where a version needs explaining, a better order. The tests compare the result with the JSON.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

KINDS = {
    "bool": ("bool", "boolean"),
    "string": ("str", "string"),
    "bytes": ("Buffer", "bytes_"),
    "records": ("Any", "records"),
    "uuid": ("bytes", "uuid"),
    "float64": ("float", "float64"),
}
# Structs whose own name says too little among the others of their module: (message, Kafka's name) -> ours.
RENAMED = {
    ("ConsumerGroupDescribeResponse", "Assignment"): "ConsumerGroupDescribeAssignment",
    ("ConsumerGroupDescribeResponse", "DescribedGroup"): "DescribedConsumerGroup",
    ("ConsumerGroupDescribeResponse", "Member"): "DescribedConsumerGroupMember",
    ("ConsumerGroupDescribeResponse", "TopicPartitions"): "ConsumerGroupDescribeTopicPartitions",
    ("ConsumerGroupHeartbeatRequest", "TopicPartitions"): "ConsumerGroupTopicPartitions",
    ("ConsumerGroupHeartbeatResponse", "Assignment"): "ConsumerGroupAssignment",
    ("ConsumerGroupHeartbeatResponse", "TopicPartitions"): "ConsumerGroupTopicPartitions",
    ("ConsumerProtocolAssignment", "TopicPartition"): "ConsumerProtocolTopicPartitions",
    ("ConsumerProtocolSubscription", "TopicPartition"): "ConsumerProtocolTopicPartitions",
    ("DescribeProducersRequest", "TopicRequest"): "DescribeProducersTopic",
    ("DescribeProducersResponse", "PartitionResponse"): "DescribeProducersPartitionResult",
    ("DescribeProducersResponse", "TopicResponse"): "DescribeProducersTopicResult",
    ("DescribeQuorumRequest", "PartitionData"): "DescribeQuorumPartition",
    ("DescribeQuorumRequest", "TopicData"): "DescribeQuorumTopic",
    ("DescribeQuorumResponse", "Listener"): "QuorumListener",
    ("DescribeQuorumResponse", "Node"): "QuorumNode",
    ("DescribeQuorumResponse", "PartitionData"): "DescribeQuorumPartitionResult",
    ("DescribeQuorumResponse", "ReplicaState"): "QuorumReplicaState",
    ("DescribeQuorumResponse", "TopicData"): "DescribeQuorumTopicResult",
    ("DescribeTopicPartitionsRequest", "Cursor"): "DescribeTopicPartitionsCursor",
    ("DescribeTopicPartitionsRequest", "TopicRequest"): "DescribeTopicPartitionsTopic",
    ("DescribeTopicPartitionsResponse", "Cursor"): "DescribeTopicPartitionsCursor",
    ("DescribeTransactionsResponse", "TopicData"): "TransactionTopic",
    ("ElectLeadersRequest", "TopicPartitions"): "ElectLeadersTopic",
    ("ElectLeadersResponse", "PartitionResult"): "ElectLeadersPartitionResult",
    ("FetchResponse", "PartitionData"): "FetchPartitionData",
    ("IncrementalAlterConfigsRequest", "AlterConfigsResource"): "IncrementalAlterConfigsResource",
    ("IncrementalAlterConfigsRequest", "AlterableConfig"): "IncrementalAlterableConfig",
    ("IncrementalAlterConfigsResponse", "AlterConfigsResourceResponse"): "IncrementalAlterConfigsResourceResponse",
    ("ListTransactionsResponse", "TransactionState"): "ListedTransaction",
    ("OffsetForLeaderEpochResponse", "EpochEndOffset"): "OffsetForLeaderPartitionResult",
    ("ShareAcknowledgeResponse", "PartitionData"): "ShareAcknowledgePartitionData",
    ("ShareFetchRequest", "FetchPartition"): "ShareFetchPartition",
    ("ShareFetchRequest", "FetchTopic"): "ShareFetchTopic",
    ("ShareFetchRequest", "ForgottenTopic"): "ShareForgottenTopic",
    ("ShareFetchResponse", "PartitionData"): "ShareFetchPartitionData",
    ("ShareGroupDescribeResponse", "Assignment"): "ShareGroupDescribeAssignment",
    ("ShareGroupDescribeResponse", "DescribedGroup"): "DescribedShareGroup",
    ("ShareGroupDescribeResponse", "Member"): "DescribedShareGroupMember",
    ("ShareGroupDescribeResponse", "TopicPartitions"): "ShareGroupDescribeTopicPartitions",
    ("ShareGroupHeartbeatResponse", "Assignment"): "ShareGroupAssignment",
    ("ShareGroupHeartbeatResponse", "TopicPartitions"): "ShareGroupTopicPartitions",
}
# What a struct in a response must be given; all else of a response may be left at its default.
IDENTITIES = {
    "api_key", "broker_id", "group_id", "index", "name", "node_id", "partition", "partition_index", "resource_name",
    "topic_name", "transactional_id", "user",
}  # fmt: skip


def load(path: Path) -> Any:
    """A message's JSON, in which Kafka puts comments on lines of their own."""
    return json.loads(re.sub(r"(?m)^\s*//.*$", "", path.read_text()))


def snake(name: str) -> str:
    """A field's name in Python."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def span(text: str, top: int) -> tuple[int, int]:
    """A version range as JSON writes it: "3", "3+", "3-5", "none"."""
    if text == "none":
        return top + 1, top
    low, _, high = text.rstrip("+").partition("-")
    return int(low), top if text.endswith("+") else int(high or low)


class Draft:
    """The declarations of one module; structs of the same name in several messages must not collide."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[str]] = {}  # class name -> its fields
        self.texts: list[tuple[str, str, list[str]]] = []  # class name, decorator, fields

    def message(self, spec: Any, low: int | None = None) -> None:
        """Add a message and its structs; low replaces the JSON's lowest version."""
        versions = span(spec["validVersions"], 0)
        versions = (versions[0] if low is None else low, versions[1])
        common = {each["name"]: each["fields"] for each in spec.get("commonStructs", [])}
        lines = self.fields(spec["name"], spec.get("fields", []), common, versions)
        key = f"key={spec['apiKey']}, " if "apiKey" in spec else ""
        flexible = spec.get("flexibleVersions", "none")
        flexible = "" if flexible == "none" else f", flexible={flexible.rstrip('+')}"
        self.texts.append((spec["name"], f"@message({key}versions={versions}{flexible})", lines))

    def fields(self, message: str, specs: list[Any], common: dict[str, Any], versions: tuple[int, int]) -> list[str]:
        """The lines of a class; structs it needs are added before it."""
        lines = []
        for spec in specs:
            since, until = span(spec["versions"], versions[1])
            if until < versions[0] or since > versions[1]:
                continue
            lines.append(self.field(message, spec, common, versions))
        return lines

    def struct(
        self, message: str, name: str, specs: list[Any], common: dict[str, Any], versions: tuple[int, int]
    ) -> str:
        """Add a nested struct; its name, which is prefixed when another struct has it already."""
        lines = self.fields(message, specs, common, versions)
        api = message.removesuffix("Request").removesuffix("Response")
        for candidate in (RENAMED.get((message, name), name), api + name, message + name):
            if candidate not in self.bodies:
                self.bodies[candidate] = lines
                self.texts.append((candidate, "@struct", lines))
            if self.bodies[candidate] == lines:
                return candidate
        raise ValueError(f"no free name for {message}.{name}")

    def field(self, message: str, spec: Any, common: dict[str, Any], versions: tuple[int, int]) -> str:
        """One field's line."""
        name, kind = snake(spec["name"]), spec["type"].removeprefix("[]")
        since, until = span(spec["versions"], versions[1])
        arguments = []
        if kind[0].isupper():
            within = (max(since, versions[0]), min(until, versions[1]))
            inner = self.struct(message, kind, spec.get("fields") or common[kind], common, within)
            hint, specifier = inner, "embed"
        else:
            hint, specifier = KINDS.get(kind, ("int", kind))
            inner = f'"{kind}"'
        is_array = spec["type"].startswith("[]")
        if is_array:
            hint, specifier = f"list[{hint}]", "array"
        if specifier in ("array", "embed"):
            arguments.append(inner)
        if since > versions[0]:
            arguments.append(f"since={since}")
        if until < versions[1]:
            arguments.append(f"until={until}")
        nullable = spec.get("nullableVersions", "none")
        if nullable != "none" and span(nullable, versions[1])[1] >= versions[0]:
            first = span(nullable, 0)[0]
            arguments.append(f"nullable={first if first > max(since, versions[0]) else 0}")
            hint += " | None"
        if "tag" in spec:
            arguments.append(f"tag={spec['tag']}")
            if specifier == "embed" and not hint.endswith("None"):
                hint += " | None"
        default = self.default(spec, kind, is_array)
        if name == "error_message" and hint.endswith("None"):
            default = "None"  # Kafka's Java says "" here where its broker sends null
        optional = (
            "default" in spec
            or since > versions[0]
            or until < versions[1]
            or "tag" in spec
            or (message.endswith("Response") and name not in IDENTITIES)
        )
        if optional and specifier == "embed" and default == "[]":
            default = "None" if hint.endswith("None") else ""
        if optional and default:
            arguments.append(f"default={default}")
        if hint == "Any | None":
            hint = "Any"
        return f"{name}: {hint} = {specifier}({', '.join(arguments)})"

    def default(self, spec: Any, kind: str, is_array: bool) -> str:
        """The default as Python writes it: the JSON's, else the kind's zero."""
        given = spec.get("default")
        if given == "null" or (given is None and kind == "records"):
            return "None"
        if is_array or kind[0].isupper():
            return "[]"
        if kind == "bool":
            return str(str(given).lower() == "true")
        if kind == "string":
            return f'"{given or ""}"'
        if kind == "float64":
            return str(float(given or 0))
        if kind in ("bytes", "records"):
            return 'b""'
        if kind == "uuid":
            return "bytes(16)"
        return str(given or 0)


def main(paths: list[str]) -> None:
    """Print the draft of the given files, as one module."""
    draft = Draft()
    for path in paths:
        draft.message(load(Path(path)))
    for name, decorator, lines in draft.texts:
        print(f"{decorator}\nclass {name}:")
        for line in lines or ["pass"]:
            print(f"    {line}")
        print("\n")


if __name__ == "__main__":
    main(sys.argv[1:])
