"""In a container: what is different where KBROKER_CONTAINER=1, which the image sets (docs/examples/docker).

no listeners          those that are advertised, on every interface, as images of Apache Kafka have it; else
                      PLAINTEXT at 9092, advertised as localhost:9092 for the host the port is published on, and
                      INTERNAL at 19092, advertised as what a container of the same network came by
no data directory     /var/lib/kafka/data, where other images have their volume
KAFKA_* variables     one that means nothing is told of: here, it was meant for the broker
a quorum of several   refused, unless the broker is told where it meets the others: it would be alone
ready                 one line has what Testcontainers' modules wait for
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from kbroker.cli.broker.listeners import MAP
from kbroker.cli.broker.service.life import READY, Life
from kbroker.cli.errors import Misconfigured
from kbroker.config import TABLE, BrokerConfig, Scope
from kbroker.config.checks import parse_listener, parse_protocol_map
from kbroker.config.keys import split_list
from kbroker.config.sources import env_name, may_be_config
from kbroker.config.table import did_you_mean

DATA_DIR = "/var/lib/kafka/data"
LISTENERS = "PLAINTEXT://:9092,INTERNAL://:19092"
ADVERTISED = "PLAINTEXT://localhost:9092"
QUORUM = ("controller.quorum.voters", "controller.quorum.bootstrap.servers")

# Of other programs in the same images, or without a meaning of their own.
_OTHERS = ("KAFKA_CONFLUENT_", "KAFKA_REST_", "KAFKA_ENABLE_KRAFT", "KAFKA_KRAFT_CLUSTER_ID")
_INSTEAD = {
    "KAFKA_ADVERTISED_PORT": "say KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://HOST:PORT",
    "KAFKA_CREATE_TOPICS": "say it in the command: start --topic NAME:PARTITIONS",
    "KAFKA_ZOOKEEPER": "kbroker needs no ZooKeeper; brokers of several containers meet in etcd (kbroker.coordination)",
}

log = logging.getLogger("kbroker")


def defaults(given: Mapping[str, object]) -> dict[str, str]:
    """The configs that follow from those that are given."""
    configs: dict[str, str] = {}
    if "listeners" not in given:
        advertised = [parse_listener(item) for item in split_list(str(given.get("advertised.listeners") or ""))]
        if advertised:
            configs["listeners"] = ",".join(f"{each.name}://:{each.port}" for each in advertised)
        else:
            configs |= {"listeners": LISTENERS, "advertised.listeners": ADVERTISED}
            known = str(given.get(MAP, TABLE[Scope.BROKER][MAP].default))
            if "INTERNAL" not in parse_protocol_map(known):
                configs[MAP] = f"{known},INTERNAL:PLAINTEXT"
    if not {"kbroker.data.dir", "log.dirs", "log.dir"} & set(given):
        configs["log.dirs"] = DATA_DIR
    return configs


def check(config: BrokerConfig, environment: Mapping[str, str]) -> None:
    """Before the start: log what is passed over. Raises Misconfigured."""
    _refuse_alone(config)
    for line in _unknown_variables(environment):
        log.warning("%s", line)


def _refuse_alone(config: BrokerConfig) -> None:
    """Raise Misconfigured for one of several containers that would each be a cluster of its own."""
    for name in QUORUM:
        controllers = config.get_list(name)
        if len(controllers) > 1 and not config.is_set("kbroker.coordination"):
            raise Misconfigured(
                f"{name} names {len(controllers)} controllers, and this broker would be alone: brokers of several "
                "containers meet in etcd, by KBROKER_COORDINATION=etcd://HOST:PORT; or have one container with the "
                "command: start --brokers 3"
            )


def _unknown_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """A line for each KAFKA_* variable that does nothing, save those that `load` tells of."""
    for variable in sorted(environment):
        if not variable.startswith("KAFKA_") or variable.startswith(_OTHERS):
            continue
        if not may_be_config(variable, environment[variable]):
            continue
        name = env_name(variable.removeprefix("KAFKA_CFG_").removeprefix("KAFKA_"))
        if name not in TABLE[Scope.BROKER] and not did_you_mean(Scope.BROKER, name):
            instead = next((text for prefix, text in _INSTEAD.items() if variable.startswith(prefix)), None)
            yield f"environment variable {variable} is ignored: {instead or f'unknown config {name}'}"


class Testcontainers:
    """The herald of Testcontainers' modules, which read the log. Whatever its level: they would wait for ever.

    Java, Go: "Transitioning from RECOVERY to RUNNING"; Java and Python with ZooKeeper: "[KafkaServer id=1] started";
    Python, Rust: "Kafka Server started".
    """

    __test__ = False

    def __str__(self) -> str:
        return "the line for Testcontainers"

    def tell(self, life: Life) -> None:
        """Once, when it is ready."""
        if life.state == READY:
            node = life.about.get("node", 1)
            text = f"[KafkaServer id={node}] started: Kafka Server started, Transitioning from RECOVERY to RUNNING"
            log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, text, (), None))
