"""DescribeConfigs 1-4, AlterConfigs 0-2, IncrementalAlterConfigs 0-1, ListConfigResources 0-1.

Resources are topics, brokers (this one by its id, or all of them by the empty name) and groups. What may be set, and
what it means, is the table in `kbroker.config`; what is set lives in the coordination store and reaches topics and
brokers with the next image.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.configs import (
    AlterConfigsRequest,
    AlterConfigsResourceResponse,
    AlterConfigsResponse,
    ConfigResource,
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
    IncrementalAlterConfigsResourceResponse,
    ListConfigResourcesRequest,
    ListConfigResourcesResponse,
)
from kbroker.api.context import Context, Services
from kbroker.api.registry import handles
from kbroker.api.topics import wait_applied
from kbroker.cluster.member import ConfigChange, ConfigOperation
from kbroker.config import Scope, describe_broker, describe_cluster_default, describe_group, describe_topic
from kbroker.config.describe import ConfigRow

CLIENT_METRICS = 16
TIMEOUT_S = 30.0
SET = 0
