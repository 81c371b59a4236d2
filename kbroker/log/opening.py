"""Opening one log, in three steps: what to expect is gathered, the files are brought into order, the log is taken over.

    LogDirectory.opening ──▶ Opening ──run()──▶ a log, or None ──▶ LogDirectory.adopt
    (the event loop)                 (a worker: minutes, maybe)    (the event loop)

`run` reads and repairs the files of its own directory and touches nothing else, so that any number may run at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kafka_wire.errors import KafkaError
from kafka_wire.records import BatchHeader
from kbroker.config import TopicConfig
from kbroker.env import Clock, Disk
from kbroker.log.checkpoints import METADATA, Key, Witness, read_topic_id
from kbroker.log.errors import LogOffline
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash, End, Progress, Stopped

REFUSED_MAX = 10_000  # producers of whom it is noted that they were refused while a log was opened
TURN_LOGS = 32  # opened in one turn of a worker, at most
TURN_BYTES = 1024 * 1024  # after so much that had to be read the turn ends

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Opening:
    """One log that is to be opened, with all that is known of it beforehand."""

    key: Key
    directory: str
    topic_id: bytes
    config: TopicConfig
    disk: Disk
    clock: Clock
    is_new: bool  # the directory is not there
    crash: Crash
    recovery_point: int
    start_offset: int
    leader_epoch_max: int | None
    clean_end: End | None  # if crash is CLEAN
    on_due: Callable[[PartitionLog], None]  # see PartitionLog.open
    witness: Witness
    cleaned_to: int  # from the cleaner's checkpoint
    progress: Progress = field(default_factory=Progress)
    refused: dict[int, BatchHeader] = field(default_factory=dict)  # by producer id: a first batch that came too early

    def refuse(self, header: BatchHeader) -> None:
        """Note that a batch was refused because the log is not open yet; see PartitionLog.refuse."""
        if header.producer_id >= 0 and header.base_sequence == 0 and len(self.refused) < REFUSED_MAX:
            self.refused[header.producer_id] = header

    def _check_nothing_is_kept(self) -> None:
        """Nobody says whose data this is: an empty log may take its place if no records were there to stay.

        A power failure may leave that, as long as nothing of the log was made durable. Raises LogOffline, OSError.
        """
        if self.crash is Crash.POWER and not self.recovery_point:
            return
        names = [name for name in self.disk.list_dir(self.directory) if name.endswith(".log")]
        if any(self.disk.size(f"{self.directory}/{name}") for name in names):
            advice = "restore it, or move the directory away to begin with an empty log"
            raise LogOffline(f"{self.directory}/{METADATA} does not say whose data this is: {advice}")

    def run(self) -> PartitionLog | None:
        """The log, or None when the directory holds nothing of this topic. Blocks.

        Raises CorruptLog, LogOffline when it cannot be served as it is, OSError, Stopped.
        """
        found = None if self.is_new else read_topic_id(self.disk, self.directory)
        if found is None and not self.is_new:
            self._check_nothing_is_kept()
        if found != self.topic_id:
            return None
        return PartitionLog.open(
            self.disk,
            self.directory,
            config=self.config,
            clock=self.clock,
            topic_id=self.topic_id,
            crash=self.crash,
            recovery_point=self.recovery_point,
            start_offset=self.start_offset,
            leader_epoch_max=self.leader_epoch_max,
            clean_end=self.clean_end,
            on_due=self.on_due,
            witness=self.witness,
            cleaned_to=self.cleaned_to,
            progress=self.progress,
        )


Outcome = PartitionLog | None | OSError | KafkaError | Stopped


def run_some(openings: Sequence[Opening]) -> list[tuple[Opening, Outcome]]:
    """Open logs one after the other until a worker's turn is over; at least the first. Blocks."""
    outcomes: list[tuple[Opening, Outcome]] = []
    bytes_left = TURN_BYTES
    for opening in openings:
        try:
            outcomes.append((opening, opening.run()))
        except (OSError, KafkaError, Stopped) as error:
            outcomes.append((opening, error.with_traceback(None)))  # which holds this list, and all that was read
        except Exception as error:  # a bug, brought to light by what is on the disk: no reason to refuse all the others
            log.exception("%s could not be opened", opening.directory)
            outcomes.append((opening, LogOffline(f"{opening.directory}: {error!r}")))
        bytes_left -= opening.progress.bytes
        if bytes_left < 0:
            break
    return outcomes
