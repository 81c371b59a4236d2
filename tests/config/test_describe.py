"""Rows for DescribeConfigs, with the exact expectations of clients (trap 30 of the wire surface)."""

from __future__ import annotations

from kbroker.config import (
    TABLE,
    BrokerConfig,
    ConfigRow,
    ConfigType,
    Scope,
    Source,
    SynonymRow,
    describe_broker,
    describe_cluster_default,
    describe_group,
    describe_topic,
    load,
)


def one(rows: list[ConfigRow]) -> ConfigRow:
    assert len(rows) == 1
    return rows[0]


def test_topic_default() -> None:
    row = one(describe_topic({}, BrokerConfig(), ["retention.bytes"]))
    assert row == ConfigRow(
        "retention.bytes",
        "-1",
        False,
        Source.DEFAULT,
        False,
        (SynonymRow("log.retention.bytes", "-1", Source.DEFAULT),),
        ConfigType.LONG,
        None,
    )


def test_topic_override_and_synonyms() -> None:
    config = load({"log.retention.hours": "1"}).with_dynamic(cluster={"log.retention.ms": "5"}, broker={})
    row = one(describe_topic({"retention.ms": "7"}, config, ["retention.ms"]))
    assert (row.value, row.source) == ("7", Source.DYNAMIC_TOPIC)
    assert row.synonyms == (
        SynonymRow("retention.ms", "7", Source.DYNAMIC_TOPIC),
        SynonymRow("log.retention.ms", "5", Source.DYNAMIC_DEFAULT_BROKER),
        SynonymRow("log.retention.hours", "1", Source.STATIC_BROKER),
        SynonymRow("log.retention.hours", "168", Source.DEFAULT),
    )
    row = one(describe_topic({}, load({"log.retention.hours": "1"}), ["retention.ms"]))
    assert (row.value, row.source) == ("3600000", Source.STATIC_BROKER)


def test_whole_topic() -> None:
    rows = describe_topic({}, BrokerConfig(), documentation=True)
    assert {row.name for row in rows} == {key.name for key in TABLE[Scope.TOPIC].values() if not key.internal}
    assert all(row.documentation for row in rows)
    assert describe_topic({}, BrokerConfig(), ["no.such"]) == []


def test_advertised_listeners() -> None:
    config = BrokerConfig().with_values({"advertised.listeners": "PLAINTEXT://localhost:9092"})
    row = one(describe_broker(config, ["advertised.listeners"]))
    assert (row.value, row.source, row.read_only) == ("PLAINTEXT://localhost:9092", Source.STATIC_BROKER, True)
    assert row.type in (ConfigType.LIST, ConfigType.STRING)


def test_passwords_are_not_shown() -> None:
    row = one(describe_broker(load({"ssl.key.password": "hunter2"}), ["ssl.key.password"]))
    assert (row.value, row.sensitive, row.type) == (None, True, ConfigType.PASSWORD)
    assert "hunter2" not in repr(row)


def test_dynamic_broker_config() -> None:
    config = load({"message.max.bytes": "9"}).with_dynamic(cluster={"message.max.bytes": "8"}, broker={})
    row = one(describe_broker(config, ["message.max.bytes"]))
    assert (row.value, row.source, row.read_only) == ("8", Source.DYNAMIC_DEFAULT_BROKER, False)
    assert [synonym.value for synonym in row.synonyms] == ["8", "9", "1048588"]
    assert [row.name for row in describe_cluster_default(config)] == ["message.max.bytes"]


def test_all_rows_of_a_broker_can_be_written() -> None:
    for row in describe_broker(BrokerConfig(), documentation=True):
        assert row.value is None or isinstance(row.value, str)
        assert 1 <= row.type <= 9
        assert row.documentation


def test_group() -> None:
    row = one(describe_group({}, BrokerConfig(), ["share.auto.offset.reset"]))
    assert (row.value, row.source, row.synonyms) == ("latest", Source.DEFAULT, ())
    row = one(describe_group({"consumer.session.timeout.ms": "50000"}, BrokerConfig(), ["consumer.session.timeout.ms"]))
    assert (row.value, row.source) == ("50000", Source.DYNAMIC_GROUP)
    row = one(describe_group({}, load({"group.consumer.session.timeout.ms": "46000"}), ["consumer.session.timeout.ms"]))
    assert (row.value, row.source) == ("46000", Source.STATIC_BROKER)
