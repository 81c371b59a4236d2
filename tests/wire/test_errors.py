"""Error codes, judged by kio's table and by kafka-python's."""

from __future__ import annotations

import pickle
from typing import Any

import kafka.errors
import pytest
from kio.schema.errors import ErrorCode as KioErrorCode

from kafka_wire.errors import ErrorCode, KafkaError, ProtocolError

# Names that kafka-python kept from before Kafka renamed them, and the one code it does not retry.
RENAMED_IN_KAFKA_PYTHON = {
    "UNKNOWN": ErrorCode.UNKNOWN_SERVER_ERROR,
    "NO_ERROR": ErrorCode.NONE,
    "NOT_LEADER_FOR_PARTITION": ErrorCode.NOT_LEADER_OR_FOLLOWER,
    "MESSAGE_SIZE_TOO_LARGE": ErrorCode.MESSAGE_TOO_LARGE,
    "INVALID_TOPIC": ErrorCode.INVALID_TOPIC_EXCEPTION,
    "INVALID_REPLICATION_ASSIGNMENT": ErrorCode.INVALID_REPLICA_ASSIGNMENT,
}
NOT_RETRIED_BY_KAFKA_PYTHON = {ErrorCode.CORRUPT_MESSAGE}


def test_the_codes_are_kios() -> None:
    ours = {(int(code), code.name, code.retriable) for code in ErrorCode}
    theirs = {(int(code), code.name.upper(), code.retriable) for code in KioErrorCode}
    assert ours == theirs


def test_the_codes_are_kafka_pythons() -> None:
    known = 0
    cls: Any
    for cls in vars(kafka.errors).values():
        if isinstance(cls, type) and issubclass(cls, kafka.errors.BrokerResponseError) and cls.errno is not None:
            code = ErrorCode(cls.errno)
            assert RENAMED_IN_KAFKA_PYTHON.get(cls.message, code) is code
            assert cls.message == code.name or cls.message in RENAMED_IN_KAFKA_PYTHON
            assert cls.retriable == code.retriable or code in NOT_RETRIED_BY_KAFKA_PYTHON
            known += 1
    assert known > 120


def test_every_code_has_a_text() -> None:
    assert all(code.text.endswith(".") for code in ErrorCode)
    assert ErrorCode.UNKNOWN_TOPIC_OR_PARTITION.text == "This server does not host this topic-partition."


def test_a_kafka_error_falls_back_to_the_codes_text() -> None:
    error = KafkaError(ErrorCode.INVALID_CONFIG)
    assert (error.code, error.message) == (ErrorCode.INVALID_CONFIG, "Configuration is invalid.")
    assert str(KafkaError(ErrorCode.INVALID_CONFIG, "no such thing")) == "INVALID_CONFIG: no such thing"
    assert KafkaError(ErrorCode.INVALID_CONFIG, "").message == ""


def test_a_kafka_error_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(KafkaError(ErrorCode.NOT_COORDINATOR, "elsewhere")))
    assert (again.code, again.message) == (ErrorCode.NOT_COORDINATOR, "elsewhere")


def test_the_two_blames_are_apart() -> None:
    assert not issubclass(ProtocolError, KafkaError)
    with pytest.raises(ValueError):
        ErrorCode(12345)
