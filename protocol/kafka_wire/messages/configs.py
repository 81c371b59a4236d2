"""DescribeConfigs, AlterConfigs, IncrementalAlterConfigs, ListConfigResources.

Resource types: 2 topic, 4 broker, 8 broker logger, 16 client metrics, 32 group."""

from __future__ import annotations

from kafka_wire.schema import array, boolean, int8, int16, int32, message, string, struct


@struct
class DescribeConfigsResource:
    resource_type: int = int8()
    resource_name: str = string()
    configuration_keys: list[str] | None = array("string", nullable=0)  # null: all


@message(key=32, versions=(1, 4), flexible=4)
class DescribeConfigsRequest:
    """Configuration values and where they come from."""

    resources: list[DescribeConfigsResource] = array(DescribeConfigsResource)
    include_synonyms: bool = boolean(default=False)
    include_documentation: bool = boolean(since=3, default=False)


@struct
class DescribeConfigsSynonym:
    name: str = string()
    value: str | None = string(nullable=0, default="")
    source: int = int8(default=0)


@struct
class DescribeConfigsResourceResult:
    name: str = string()
    value: str | None = string(nullable=0, default="")  # null when sensitive
    read_only: bool = boolean(default=False)
    config_source: int = int8(default=-1)
    is_sensitive: bool = boolean(default=False)
    synonyms: list[DescribeConfigsSynonym] = array(DescribeConfigsSynonym, default=[])
    config_type: int = int8(since=3, default=0)  # KIP-569
    documentation: str | None = string(since=3, nullable=0, default="")


@struct
class DescribeConfigsResult:
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    resource_type: int = int8(default=0)
    resource_name: str = string()
    configs: list[DescribeConfigsResourceResult] = array(DescribeConfigsResourceResult, default=[])


@message(key=32, versions=(1, 4), flexible=4)
class DescribeConfigsResponse:
    """The values of each resource."""

    throttle_time_ms: int = int32(default=0)
    results: list[DescribeConfigsResult] = array(DescribeConfigsResult, default=[])


@struct
class AlterableConfig:
    name: str = string()
    value: str | None = string(nullable=0)  # null: back to the default


@struct
class AlterConfigsResource:
    resource_type: int = int8()
    resource_name: str = string()
    configs: list[AlterableConfig] = array(AlterableConfig)


@message(key=33, versions=(0, 2), flexible=2)
class AlterConfigsRequest:
    """Replace all configuration of resources. Prefer the incremental form."""

    resources: list[AlterConfigsResource] = array(AlterConfigsResource)
    validate_only: bool = boolean()


@struct
class AlterConfigsResourceResponse:
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    resource_type: int = int8(default=0)
    resource_name: str = string()


@message(key=33, versions=(0, 2), flexible=2)
class AlterConfigsResponse:
    """What became of each resource."""

    throttle_time_ms: int = int32(default=0)
    responses: list[AlterConfigsResourceResponse] = array(AlterConfigsResourceResponse, default=[])


@struct
class IncrementalAlterableConfig:
    name: str = string()
    config_operation: int = int8()  # 0 set, 1 delete, 2 append, 3 subtract
    value: str | None = string(nullable=0)


@struct
class IncrementalAlterConfigsResource:
    resource_type: int = int8()
    resource_name: str = string()
    configs: list[IncrementalAlterableConfig] = array(IncrementalAlterableConfig)


@message(key=44, versions=(0, 1), flexible=1)
class IncrementalAlterConfigsRequest:
    """Change single configurations (KIP-339)."""

    resources: list[IncrementalAlterConfigsResource] = array(IncrementalAlterConfigsResource)
    validate_only: bool = boolean()


@struct
class IncrementalAlterConfigsResourceResponse:
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    resource_type: int = int8(default=0)
    resource_name: str = string()


@message(key=44, versions=(0, 1), flexible=1)
class IncrementalAlterConfigsResponse:
    """What became of each resource."""

    throttle_time_ms: int = int32(default=0)
    responses: list[IncrementalAlterConfigsResourceResponse] = array(
        IncrementalAlterConfigsResourceResponse, default=[]
    )


@message(key=74, versions=(0, 1), flexible=0)
class ListConfigResourcesRequest:
    """Names of the resources that have configuration (KIP-714, KIP-1142)."""

    resource_types: list[int] = array("int8", since=1, default=[])


@struct
class ConfigResource:
    resource_name: str = string()
    resource_type: int = int8(since=1, default=16)


@message(key=74, versions=(0, 1), flexible=0)
class ListConfigResourcesResponse:
    """The resources; v0 knows only client metrics."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    config_resources: list[ConfigResource] = array(ConfigResource, default=[])
