"""Names and values in the coordination store. docs/coordination.md is the description for people.

    /kb/<cluster>/cluster                     id of the cluster, written once
    /kb/<cluster>/moved                       where all this was copied to: this store is used no more
    /kb/<cluster>/features                    the levels of the cluster's features
    /kb/<cluster>/secret                      by which brokers know each other, written once
    /kb/<cluster>/brokers/<id>                a live broker                                    (goes with its session)
    /kb/<cluster>/registrations/<id>          a broker as it last registered; stays when it dies
    /kb/<cluster>/controller                  who decides, in which epoch                      (goes with its session)
    /kb/<cluster>/controller_epoch            the last controller epoch given out
    /kb/<cluster>/topics/<name>               a topic: id and number of partitions; written last, deleted first
    /kb/<cluster>/p/<topic id>/<partition>    a partition's replicas, ISR, leader, epochs
    /kb/<cluster>/config/topics/<name>        a topic's own configs
    /kb/<cluster>/config/brokers/<id>         a broker's dynamic configs; <id> "default": those of all brokers
    /kb/<cluster>/config/groups/<name>        a group's own configs; what is no letter, digit, - _ . is %XX of its UTF-8
    /kb/<cluster>/pending/<topic id>          a change of more than one transaction is under way (goes with its session)
    /kb/<cluster>/ids/producer                the first producer id not given out
    /kb/<cluster>/ids/broker_epoch            the last broker epoch given out

A value is compact JSON in ASCII. Each carries `by`, who wrote it (broker id and incarnation), and `seq`, that writer's
counter: two writes are never equal, so who lost a reply can recognise its own. Topic ids are 16 bytes, in keys and
values base64url without padding (22 characters), as Kafka prints them.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from typing import Any, NamedTuple

CLUSTER = "kbroker"  # its name in the store, unless told otherwise
BROKER_DEFAULT = "default"  # in config/brokers/: what Kafka calls the resource ""


class Stamp(NamedTuple):
    """Who writes, and which of its writes this is."""

    by: str
    seq: int


class Keys:
    """The keys of one cluster."""

    __slots__ = (
        "prefix",
        "cluster",
        "moved",
        "secret",
        "features",
        "controller",
        "controller_epoch",
        "producer_ids",
        "broker_epochs",
    )

    def __init__(self, cluster: str) -> None:
        self.prefix = f"/kb/{cluster}/".encode("ascii")
        self.cluster = self.prefix + b"cluster"
        self.moved = self.prefix + b"moved"
        self.secret = self.prefix + b"secret"
        self.features = self.prefix + b"features"
        self.controller = self.prefix + b"controller"
        self.controller_epoch = self.prefix + b"controller_epoch"
        self.producer_ids = self.prefix + b"ids/producer"
        self.broker_epochs = self.prefix + b"ids/broker_epoch"

    def broker(self, broker_id: int) -> bytes:
        """Key of a live broker."""
        return b"%sbrokers/%d" % (self.prefix, broker_id)

    def registration(self, broker_id: int) -> bytes:
        """Key of a broker as it last registered."""
        return b"%sregistrations/%d" % (self.prefix, broker_id)

    def topic(self, name: str) -> bytes:
        """Key of a topic."""
        return self.prefix + b"topics/" + name.encode("ascii")

    def partition(self, topic_id: bytes, index: int) -> bytes:
        """Key of a partition."""
        return b"%sp/%s/%d" % (self.prefix, urlsafe_b64encode(topic_id)[:22], index)

    def topic_config(self, name: str) -> bytes:
        """Key of a topic's configs."""
        return self.prefix + b"config/topics/" + name.encode("ascii")

    def broker_config(self, name: str) -> bytes:
        """Key of a broker's dynamic configs; "" for those of all brokers."""
        return self.prefix + b"config/brokers/" + (name or BROKER_DEFAULT).encode("ascii")

    def group_config(self, name: str) -> bytes:
        """Key of a group's configs."""
        return self.prefix + b"config/groups/" + name_text(name).encode("ascii")

    def pending(self, topic_id: bytes) -> bytes:
        """Key that marks a topic as being made or grown."""
        return self.prefix + b"pending/" + urlsafe_b64encode(topic_id)[:22]


def name_text(name: str) -> str:
    """Any name in ASCII that has no slash."""
    return "".join(chr(c) if c in _PLAIN else f"%{c:02X}" for c in name.encode())


def text_name(text: str) -> str:
    """The reverse of name_text."""
    first, *rest = text.split("%")
    return (first.encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in rest)).decode()


def id_text(topic_id: bytes) -> str:
    """16 bytes as 22 characters."""
    return urlsafe_b64encode(topic_id)[:22].decode("ascii")


def id_bytes(text: str) -> bytes:
    """The reverse of id_text."""
    return a2b_base64(text.replace("-", "+").replace("_", "/") + "==")


def encode(fields: dict[str, Any], stamp: Stamp) -> bytes:
    """The value of these fields, signed."""
    return _ENCODE({**fields, "by": stamp.by, "seq": stamp.seq}).encode("ascii")


def decode(value: bytes) -> dict[str, Any]:
    """The fields of a value. Raises ValueError when it is none."""
    fields, _ = _DECODE(str(value, "ascii"))
    if not isinstance(fields, dict):
        raise ValueError(f"not a record: {value!r}")
    return fields


_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
_DECODE = json.JSONDecoder().raw_decode
_ENCODE = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
