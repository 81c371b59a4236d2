"""Verdicts: which batches of a Produce request with a transactional id may be appended (KIP-890).

    headers of transactional batches ─▶ a guard for each partition that has no transaction of the producer open
                                     ─▶ one question about all of them (transaction_verification.py)
                                     ─▶ a guard stands, or a refusal takes its place

Nothing is appended before all of that is known.
"""

from __future__ import annotations

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.produce_fetch import ProduceRequest
from kafka_wire.records import HEADER_SIZE, BatchHeader, Buffer, read_header
from kbroker.api.context import Services
from kbroker.api.transaction_verification import Question, Refusals, Rules, ask, is_to_be_asked, rules_of_produce
from kbroker.log.derived.producers import TRANSACTIONAL, UNVERIFIED, Guard
from kbroker.replication.doubt import InDoubt
from kbroker.turns import Later, Work

PARTITIONS_A_PAUSE = 4
ATTRIBUTES_AT = 22  # of the lower byte of a batch's attributes
UNHEARD = frozenset(
    {
        ErrorCode.NETWORK_EXCEPTION, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
    }
)  # fmt: skip


class NotVerified(KafkaError):
    """A batch may not be appended within its transaction, or nobody could say whether it may."""


class Verdicts:
    """What is known of one request's partitions."""

    __slots__ = ("_of", "_rules", "_services")

    def __init__(self, version: int, services: Services) -> None:
        """version: of the Produce request."""
        self._of: dict[tuple[str, int], Guard | KafkaError] = {}
        self._rules = rules_of_produce(version)
        self._services = services

    def guard(self, topic: str, index: int) -> Guard | None:
        """What to hand to `Partition.write`; None for a batch that needed no verification. Raises KafkaError."""
        verdict = self._of.get((topic, index))
        if isinstance(verdict, KafkaError):
            raise verdict
        return verdict

    def are_clear(self, request: ProduceRequest) -> bool:
        """Whether it is clear at once that nobody has to be asked: one batch, amid its transaction, as most often."""
        topics = request.topic_data
        if len(topics) != 1 or len(topics[0].partition_data) != 1:
            return False
        topic, (data,) = topics[0], topics[0].partition_data
        header = _transactional_header(data.records)
        if header is None:
            return True
        partition = self._services.partitions.get((topic.name or self._services.topic_name(topic.topic_id), data.index))
        return partition is not None and partition.leading and partition.has_open(header)

    def find_out(self, request: ProduceRequest) -> Work[Later | None]:
        """Find out about every partition. Returns what has to be awaited for `take`; None when all is known."""
        question = yield from self._question(request)
        if question is None:
            return None
        refusals = yield from ask(self._services, question)
        if isinstance(refusals, Later):
            return refusals
        self.take(refusals)
        return None

    def take(self, refusals: Refusals) -> None:
        """Note what the coordinator has said."""
        for place, code in refusals.items():
            self._of[place] = _not_verified(code, self._rules)

    def _question(self, request: ProduceRequest) -> Work[Question | None]:
        """What the coordinator has to be asked; None: nothing.

        The batches of a request are of one producer, in one epoch: else none of them is appended.
        """
        batches = yield from self._transactional(request)
        writers = {(header.producer_id, header.producer_epoch) for _, _, header in batches}
        if len(writers) > 1:
            text = "Transactional records contained more than one producer ID"
            refusal = NotVerified(ErrorCode.INVALID_PRODUCER_ID_MAPPING, text)
            self._of.update(((name, index), refusal) for name, index, _ in batches)
            return None
        if not is_to_be_asked(self._services, self._rules):
            self._of.update(((name, index), UNVERIFIED) for name, index, _ in batches)
            return None
        topics: dict[str, dict[int, None]] = {}
        for number, (name, index, header) in enumerate(batches):
            if not number % PARTITIONS_A_PAUSE and number:
                yield
            if self._begin(name, index, header):
                topics.setdefault(name, {})[index] = None
        if not topics or request.transactional_id is None:
            return None
        return Question(request.transactional_id, *writers.pop(), topics, self._rules)

    def _transactional(self, request: ProduceRequest) -> Work[list[tuple[str, int, BatchHeader]]]:
        """Topic, partition and header of each transactional batch."""
        batches: list[tuple[str, int, BatchHeader]] = []
        count = 0
        for topic in request.topic_data:
            name = topic.name or self._services.topic_name(topic.topic_id)
            for data in topic.partition_data:
                header = _transactional_header(data.records)
                if header is not None:
                    batches.append((name, data.index, header))
                count += 1
                if not count % PARTITIONS_A_PAUSE:
                    yield
        return batches

    def _begin(self, topic: str, index: int, header: BatchHeader) -> bool:
        """Note the guard of a partition that has to be asked for; whether there is one."""
        try:
            partition = self._services.partition(topic, index)
            partition.check_leader()
            guard = partition.verification(header, begins_at_zero=self._rules is Rules.ADDING)
        except InDoubt:
            return False  # the append finds the same, and has it confirmed
        except KafkaError as error:  # it may be better by the time of the append, which nobody then has verified
            self._of[topic, index] = NotVerified(error.code, error.message)
            return False
        if guard is None:
            return False
        self._of[topic, index] = guard
        return True


def _transactional_header(records: Buffer | None) -> BatchHeader | None:
    """The header of a transactional batch; None if it is none, or has no producer."""
    if records is None or len(records) < HEADER_SIZE or not records[ATTRIBUTES_AT] & TRANSACTIONAL:
        return None
    header = read_header(records)
    return header if header.producer_id >= 0 else None


def _not_verified(code: ErrorCode, rules: Rules) -> NotVerified:
    """What a producer is told for a code of the coordinator's (Kafka: ReplicaManager.handleProduceAppend).

    Old clients do not try again what they might: they are told something else, with which they do.
    """
    if code is ErrorCode.INVALID_TXN_STATE:
        return NotVerified(code, "Partition was not added to the transaction")
    if code in UNHEARD or (code is ErrorCode.CONCURRENT_TRANSACTIONS and rules is not Rules.ADDING):
        text = f"Unable to verify the partition has been added to the transaction. Underlying error: {code.name}"
        return NotVerified(ErrorCode.NOT_ENOUGH_REPLICAS, text)
    return NotVerified(code)
