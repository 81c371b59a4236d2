"""How far the logs of a data directory go: what `log ends` tells, and `coord adopt-logs` is given.

The last whole batch of a log says its leader epoch and where it ends; what is torn behind it nobody was told of.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kbroker.cli.broker.layout import META
from kbroker.cli.log_files.segments import batches, opened, segment_paths
from kbroker.cli.log_files.small_files import is_partition, topic_id_of
from kbroker.cluster.keys import id_bytes, id_text
from kbroker.cluster.stores.adopting import LogEnd
from kbroker.config import read_properties

CLUSTER_ID = "kbroker.cluster.id"


class Ends(NamedTuple):
    """What one broker has."""

    cluster_id: str
    broker_id: int
    logs: list[tuple[str, LogEnd]]  # with the names of their directories

    def told(self) -> dict[str, Any]:
        """As JSON."""
        logs = [
            {
                "log": name, "topic_id": id_text(end.topic_id), "partition": end.partition,
                "leader_epoch": end.leader_epoch, "end_offset": end.end,
            }
            for name, end in self.logs
        ]  # fmt: skip
        return {"cluster": self.cluster_id, "broker": self.broker_id, "logs": logs}


def heard(told: Any) -> Ends:
    """The reverse of `told`. Raises ValueError when it is something else."""
    try:
        broker_id = int(told["broker"])
        logs = [
            (
                str(each["log"]),
                LogEnd(
                    broker_id, id_bytes(each["topic_id"]), int(each["partition"]), int(each["leader_epoch"]),
                    int(each["end_offset"]),
                ),
            )
            for each in told["logs"]
        ]  # fmt: skip
        return Ends(str(told["cluster"]), broker_id, logs)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not what `log ends` tells: {error}") from error


def ends_below(directory: Path) -> Ends:
    """The logs of a broker's data directory. Raises OSError, ValueError where it is none."""
    about = read_properties((directory / META).read_text())
    broker_id = int(about["node.id"]) if about.get("node.id", "").isdecimal() else -1
    if broker_id < 0 or CLUSTER_ID not in about:
        raise ValueError(f"{directory / META} names no broker, or no cluster")
    logs = []
    for each, segments in segment_paths(directory).items():
        topic_id = topic_id_of(each)
        if each.parent == directory and is_partition(each) and topic_id is not None:
            epoch, end = _end_of(segments)
            logs.append((each.name, LogEnd(broker_id, topic_id, int(each.name.rpartition("-")[2]), epoch, end)))
    return Ends(about[CLUSTER_ID], broker_id, logs)


def _end_of(segments: list[Path]) -> tuple[int, int]:
    """Epoch and end of the last whole batch; (-1, the base offset) where there is none."""
    for path in reversed(segments):
        last = None
        for found in _whole(path):
            last = found
        if last is not None:
            return last
    return -1, int(segments[0].stem)


def _whole(path: Path) -> Iterator[tuple[int, int]]:
    with opened(path) as view:
        for _, header, problem in batches(view):
            if header is None or problem:
                return
            yield header.leader_epoch, header.next_offset
