"""The environments of brokers in compose files that are around: names and values as their authors wrote them."""

from __future__ import annotations

from typing import NamedTuple


class Service(NamedTuple):
    """A broker in a compose file."""

    environment: dict[str, str]
    listens: dict[str, int]  # by what name it listens where, in kbroker
    advertised: dict[str, str]
    told: tuple[str, ...] = ()  # words in what the log warns of
    refused: str = ""  # why it does not start
    command: tuple[str, ...] = ()


_KRAFT_LISTENERS = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PLAINTEXT_HOST:PLAINTEXT"
_CLUSTER = {
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": _KRAFT_LISTENERS,
    "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "CLUSTER_ID": "4L6g3nShT-eMCtK--X86sw",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_LOG_DIRS": "/tmp/kraft-combined-logs",
}

SERVICES = {
    # Apache Kafka, docker/examples/docker-compose-files/single-node/plaintext
    "apache single node": Service(
        {
            **_CLUSTER,
            "KAFKA_NODE_ID": "1",
            "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT_HOST://localhost:9092,PLAINTEXT://broker:19092",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@broker:29093",
            "KAFKA_LISTENERS": "CONTROLLER://:29093,PLAINTEXT_HOST://:9092,PLAINTEXT://:19092",
        },
        {"PLAINTEXT_HOST": 9092, "PLAINTEXT": 19092},
        {"PLAINTEXT_HOST": "localhost:9092", "PLAINTEXT": "broker:19092"},
        ("CONTROLLER is not opened",),
    ),
    # Apache Kafka, .../cluster/combined/plaintext
    "apache cluster": Service(
        {
            **_CLUSTER,
            "KAFKA_NODE_ID": "2",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@kafka-1:9093,2@kafka-2:9093,3@kafka-3:9093",
            "KAFKA_LISTENERS": "PLAINTEXT://:19092,CONTROLLER://:9093,PLAINTEXT_HOST://:9092",
            "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://kafka-2:19092,PLAINTEXT_HOST://localhost:39092",
        },
        {},
        {},
        refused="controller.quorum.voters names 3 controllers, and this broker would be alone",
    ),
    # Apache Kafka, .../cluster/isolated/plaintext
    "apache controller": Service(
        {
            "KAFKA_NODE_ID": "1",
            "KAFKA_PROCESS_ROLES": "controller",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@controller-1:9093,2@controller-2:9093,3@controller-3:9093",
            "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
            "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "KAFKA_LISTENERS": "CONTROLLER://:9093",
            "CLUSTER_ID": "4L6g3nShT-eMCtK--X86sw",
            "KAFKA_LOG_DIRS": "/tmp/kraft-combined-logs",
        },
        {},
        {},
        refused="process.roles is controller: kbroker is broker and controller in one process",
    ),
    # confluentinc/cp-all-in-one, cp-all-in-one-kraft: its command edits the start scripts first
    "confluent kraft": Service(
        {
            "KAFKA_BROKER_ID": "1",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": _KRAFT_LISTENERS,
            "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://broker:29092,PLAINTEXT_HOST://localhost:9092",
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
            "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "KAFKA_JMX_PORT": "9101",
            "KAFKA_JMX_HOSTNAME": "localhost",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_NODE_ID": "1",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@broker:29093",
            "KAFKA_LISTENERS": "PLAINTEXT://broker:29092,CONTROLLER://broker:29093,PLAINTEXT_HOST://0.0.0.0:9092",
            "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
            "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "KAFKA_LOG_DIRS": "/tmp/kraft-combined-logs",
        },
        {"PLAINTEXT": 29092, "PLAINTEXT_HOST": 9092},
        {"PLAINTEXT": "broker:29092", "PLAINTEXT_HOST": "localhost:9092"},
        command=(
            "bash",
            "-c",
            "sed -i '/KAFKA_ZOOKEEPER_CONNECT/d' /etc/confluent/docker/configure"
            " && sed -i 's/cub zk-ready/echo ignore zk-ready/' /etc/confluent/docker/ensure"
            ' && echo "kafka-storage format --ignore-formatted -t NqnEdODVKkiLTfJvqd1uqQ== -c'
            ' /etc/kafka/kafka.properties" >> /etc/confluent/docker/ensure && /etc/confluent/docker/run',
        ),
    ),
    # conduktor/kafka-stack-docker-compose, zk-single-kafka-single: no listeners, only what is advertised
    "conduktor with ZooKeeper": Service(
        {
            "KAFKA_ADVERTISED_LISTENERS": "LISTENER_DOCKER_INTERNAL://kafka1:19092,"
            "LISTENER_DOCKER_EXTERNAL://127.0.0.1:9092",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "LISTENER_DOCKER_INTERNAL:PLAINTEXT,"
            "LISTENER_DOCKER_EXTERNAL:PLAINTEXT",
            "KAFKA_INTER_BROKER_LISTENER_NAME": "LISTENER_DOCKER_INTERNAL",
            "KAFKA_ZOOKEEPER_CONNECT": "zoo1:2181",
            "KAFKA_BROKER_ID": "1",
            "KAFKA_LOG4J_LOGGERS": "kafka.controller=INFO,kafka.producer.async.DefaultEventHandler=INFO",
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        },
        {"LISTENER_DOCKER_INTERNAL": 19092, "LISTENER_DOCKER_EXTERNAL": 9092},
        {"LISTENER_DOCKER_INTERNAL": "kafka1:19092", "LISTENER_DOCKER_EXTERNAL": "127.0.0.1:9092"},
        ("KAFKA_ZOOKEEPER_CONNECT is ignored: kbroker needs no ZooKeeper",),
    ),
    # ... an older one of the same: ${DOCKER_HOST_IP:-"127.0.0.1"} leaves the quotes in the value
    "conduktor with quotes in a value": Service(
        {"KAFKA_ADVERTISED_LISTENERS": 'PLAINTEXT://"127.0.0.1":9092'},
        {},
        {},
        refused='a host has no \'"\', as "127.0.0.1":9092 has',
    ),
    # bitnami/containers, bitnami/kafka: a prefix of its own, and an address without a host
    "bitnami": Service(
        {
            "KAFKA_CFG_NODE_ID": "0",
            "KAFKA_CFG_PROCESS_ROLES": "controller,broker",
            "KAFKA_CFG_CONTROLLER_QUORUM_VOTERS": "0@kafka:9093",
            "KAFKA_CFG_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
            "KAFKA_CFG_ADVERTISED_LISTENERS": "PLAINTEXT://:9092",
            "KAFKA_CFG_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "KAFKA_CFG_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "KAFKA_CFG_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
        },
        {"PLAINTEXT": 9092},
        {"PLAINTEXT": "127.0.0.1:9092"},  # by which the test came
    ),
    # a tutorial of Spring Boot on apache/kafka
    "spring with three listeners": Service(
        {
            "KAFKA_NODE_ID": "1",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@kafka:9093",
            "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093,EXTERNAL://:9094",
            "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://kafka:9092,EXTERNAL://localhost:9094",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,EXTERNAL:PLAINTEXT",
            "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
            "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        },
        {"PLAINTEXT": 9092, "EXTERNAL": 9094},
        {"PLAINTEXT": "kafka:9092", "EXTERNAL": "localhost:9094"},
    ),
    # another one, which Apache Kafka refuses as well
    "spring without a protocol": Service(
        {
            "KAFKA_NODE_ID": "1",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_LISTENERS": "PLAINTEXT://0.0.0.0:29092,CONTROLLER://0.0.0.0:29093,PLAINTEXT_HOST://0.0.0.0:9092",
            "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://kafka:29092,PLAINTEXT_HOST://localhost:9092",
            "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@kafka:29093",
        },
        {},
        {},
        refused="PLAINTEXT_HOST has no entry in listener.security.protocol.map",
    ),
    # wurstmeister/kafka-docker
    "wurstmeister": Service(
        {
            "KAFKA_ADVERTISED_HOST_NAME": "192.168.99.100",
            "KAFKA_CREATE_TOPICS": "test:1:1",
            "KAFKA_ZOOKEEPER_CONNECT": "zookeeper:2181",
        },
        {"PLAINTEXT": 9092, "INTERNAL": 19092},
        {"PLAINTEXT": "localhost:9092", "INTERNAL": "127.0.0.1:19092"},
        (
            "KAFKA_ADVERTISED_HOST_NAME is ignored: say KAFKA_ADVERTISED_LISTENERS",
            "KAFKA_CREATE_TOPICS is ignored: say it in the command: start --topic",
        ),
    ),
    # nothing at all
    "docker run": Service(
        {},
        {"PLAINTEXT": 9092, "INTERNAL": 19092},
        {"PLAINTEXT": "localhost:9092", "INTERNAL": "127.0.0.1:19092"},
    ),
    # confluentinc/cp-kafka with TLS
    "with TLS": Service(
        {
            "KAFKA_LISTENERS": "SSL://0.0.0.0:9093",
            "KAFKA_ADVERTISED_LISTENERS": "SSL://kafka:9093",
            "KAFKA_SSL_KEYSTORE_FILENAME": "kafka.broker1.keystore.jks",
        },
        {},
        {},
        refused="SSL would speak SSL; kbroker speaks only PLAINTEXT so far",
    ),
}
