"""Configuration: one table of keys, from which files, flags, DescribeConfigs and the documentation derive.

    keys.py         what a key is; text to value  units.py        7d and 64MiB as the numbers that keys count
    topic_keys.py   the topic and group keys      topic.py        TopicConfig, a topic's values
    broker_keys.py  the broker keys               inert_keys.py   Kafka's keys that change nothing here
    checks.py       values with a shape           docs.py         what each key means
    views.py        ViewSpec, what makes a topic a view
    table.py        the whole table by name; "did you mean"
    values.py       BrokerConfig (layers of values), topic_config
    consistent.py   what no single key can tell
    sources.py      .properties, TOML, environment and flags into a BrokerConfig
    review.py       every mistake of a file           describe.py     rows for DescribeConfigs

Everything here is pure: text in, values out. `kbroker.cli` reads the files and the environment.
"""

from __future__ import annotations

from kbroker.config.checks import ListenerAddress, StoreAddress
from kbroker.config.describe import (
    ConfigRow,
    SynonymRow,
    describe_broker,
    describe_cluster_default,
    describe_group,
    describe_topic,
)
from kbroker.config.keys import ConfigError, ConfigKey, ConfigType, Scope, Update, format_value, parse
from kbroker.config.sources import Derive, load, read_file, read_properties, read_toml
from kbroker.config.table import TABLE, check_broker_configs, check_group_configs, check_topic_configs, find
from kbroker.config.topic import TopicConfig
from kbroker.config.values import BrokerConfig, Source, topic_config
from kbroker.config.views import VIEW_SOURCE, ViewSpec, view_of

__all__ = [
    "TABLE",
    "VIEW_SOURCE",
    "BrokerConfig",
    "ConfigError",
    "ConfigKey",
    "ConfigRow",
    "ConfigType",
    "Derive",
    "ListenerAddress",
    "Scope",
    "Source",
    "StoreAddress",
    "SynonymRow",
    "TopicConfig",
    "Update",
    "ViewSpec",
    "check_broker_configs",
    "check_group_configs",
    "check_topic_configs",
    "describe_broker",
    "describe_cluster_default",
    "describe_group",
    "describe_topic",
    "find",
    "format_value",
    "load",
    "parse",
    "read_file",
    "read_properties",
    "read_toml",
    "topic_config",
    "view_of",
]
