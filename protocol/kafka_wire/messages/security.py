"""SASL, ACLs, SCRAM credentials, client quotas.

The numbers of resource types, pattern types, operations and permissions are those of Kafka's `common.acl` and
`common.resource`: in filters 1 means "any"; a pattern is 3 literal or 4 prefixed, in filters also 2 "match"."""

from __future__ import annotations

from kafka_wire.primitives import Buffer
from kafka_wire.schema import array, boolean, bytes_, float64, int8, int16, int32, int64, message, string, struct


@message(key=17, versions=(0, 1))
class SaslHandshakeRequest:
    """The mechanism the client wants. After v0 raw SASL bytes follow, after v1 SaslAuthenticate (KIP-152)."""

    mechanism: str = string()


@message(key=17, versions=(0, 1))
class SaslHandshakeResponse:
    """The mechanisms there are."""

    error_code: int = int16(default=0)
    mechanisms: list[str] = array("string", default=[])


@message(key=36, versions=(0, 2), flexible=2)
class SaslAuthenticateRequest:
    """One step of the mechanism, client to broker."""

    auth_bytes: Buffer = bytes_()


@message(key=36, versions=(0, 2), flexible=2)
class SaslAuthenticateResponse:
    """The broker's answer to the step."""

    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    auth_bytes: Buffer = bytes_(default=b"")
    session_lifetime_ms: int = int64(since=1, default=0)  # 0: no need to authenticate again (KIP-368)


@message(key=29, versions=(1, 3), flexible=2)
class DescribeAclsRequest:
    """The ACLs that match a filter."""

    resource_type_filter: int = int8()
    resource_name_filter: str | None = string(nullable=0)
    pattern_type_filter: int = int8(default=3)
    principal_filter: str | None = string(nullable=0)
    host_filter: str | None = string(nullable=0)
    operation: int = int8()
    permission_type: int = int8()


@struct
class AclDescription:
    principal: str = string(default="")
    host: str = string(default="")
    operation: int = int8(default=0)
    permission_type: int = int8(default=0)


@struct
class DescribeAclsResource:
    resource_type: int = int8(default=0)
    resource_name: str = string()
    pattern_type: int = int8(default=3)
    acls: list[AclDescription] = array(AclDescription, default=[])


@message(key=29, versions=(1, 3), flexible=2)
class DescribeAclsResponse:
    """ACLs by resource."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    resources: list[DescribeAclsResource] = array(DescribeAclsResource, default=[])


@struct
class AclCreation:
    resource_type: int = int8()
    resource_name: str = string()
    resource_pattern_type: int = int8(default=3)
    principal: str = string()
    host: str = string()
    operation: int = int8()
    permission_type: int = int8()


@message(key=30, versions=(1, 3), flexible=2)
class CreateAclsRequest:
    """Add ACLs."""

    creations: list[AclCreation] = array(AclCreation)


@struct
class AclCreationResult:
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)


@message(key=30, versions=(1, 3), flexible=2)
class CreateAclsResponse:
    """What became of each, in the same order."""

    throttle_time_ms: int = int32(default=0)
    results: list[AclCreationResult] = array(AclCreationResult, default=[])


@struct
class DeleteAclsFilter:
    resource_type_filter: int = int8()
    resource_name_filter: str | None = string(nullable=0)
    pattern_type_filter: int = int8(default=3)
    principal_filter: str | None = string(nullable=0)
    host_filter: str | None = string(nullable=0)
    operation: int = int8()
    permission_type: int = int8()


@message(key=31, versions=(1, 3), flexible=2)
class DeleteAclsRequest:
    """Delete the ACLs that match filters."""

    filters: list[DeleteAclsFilter] = array(DeleteAclsFilter)


@struct
class DeleteAclsMatchingAcl:
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    resource_type: int = int8(default=0)
    resource_name: str = string()
    pattern_type: int = int8(default=3)
    principal: str = string(default="")
    host: str = string(default="")
    operation: int = int8(default=0)
    permission_type: int = int8(default=0)


@struct
class DeleteAclsFilterResult:
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    matching_acls: list[DeleteAclsMatchingAcl] = array(DeleteAclsMatchingAcl, default=[])


@message(key=31, versions=(1, 3), flexible=2)
class DeleteAclsResponse:
    """What each filter matched."""

    throttle_time_ms: int = int32(default=0)
    filter_results: list[DeleteAclsFilterResult] = array(DeleteAclsFilterResult, default=[])


@struct
class UserName:
    name: str = string()


@message(key=50, versions=(0, 0), flexible=0)
class DescribeUserScramCredentialsRequest:
    """Users with SCRAM credentials (KIP-554)."""

    users: list[UserName] | None = array(UserName, nullable=0)


@struct
class CredentialInfo:
    mechanism: int = int8(default=0)
    iterations: int = int32(default=0)


@struct
class DescribeUserScramCredentialsResult:
    user: str = string()
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    credential_infos: list[CredentialInfo] = array(CredentialInfo, default=[])


@message(key=50, versions=(0, 0), flexible=0)
class DescribeUserScramCredentialsResponse:
    """Mechanisms and iterations, never the credential."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    results: list[DescribeUserScramCredentialsResult] = array(DescribeUserScramCredentialsResult, default=[])


@struct
class ScramCredentialDeletion:
    name: str = string()
    mechanism: int = int8()


@struct
class ScramCredentialUpsertion:
    name: str = string()
    mechanism: int = int8()  # 1 SCRAM-SHA-256, 2 SCRAM-SHA-512
    iterations: int = int32()
    salt: Buffer = bytes_()
    salted_password: Buffer = bytes_()


@message(key=51, versions=(0, 0), flexible=0)
class AlterUserScramCredentialsRequest:
    """Set or delete SCRAM credentials; the password comes salted (KIP-554)."""

    deletions: list[ScramCredentialDeletion] = array(ScramCredentialDeletion)
    upsertions: list[ScramCredentialUpsertion] = array(ScramCredentialUpsertion)


@struct
class AlterUserScramCredentialsResult:
    user: str = string()
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)


@message(key=51, versions=(0, 0), flexible=0)
class AlterUserScramCredentialsResponse:
    """What became of each user."""

    throttle_time_ms: int = int32(default=0)
    results: list[AlterUserScramCredentialsResult] = array(AlterUserScramCredentialsResult, default=[])


@struct
class ComponentData:
    entity_type: str = string()
    match_type: int = int8()  # 0 exact, 1 default, 2 any
    match: str | None = string(nullable=0)


@message(key=48, versions=(0, 1), flexible=1)
class DescribeClientQuotasRequest:
    """The quotas that match a filter (KIP-546)."""

    components: list[ComponentData] = array(ComponentData)
    strict: bool = boolean()


@struct
class EntityData:
    entity_type: str = string(default="")
    entity_name: str | None = string(nullable=0, default="")


@struct
class ValueData:
    key: str = string(default="")
    value: float = float64(default=0.0)


@struct
class EntryData:
    entity: list[EntityData] = array(EntityData, default=[])
    values: list[ValueData] = array(ValueData, default=[])


@message(key=48, versions=(0, 1), flexible=1)
class DescribeClientQuotasResponse:
    """Quotas by entity."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    entries: list[EntryData] | None = array(EntryData, nullable=0, default=[])


@struct
class AlterClientQuotasEntityData:
    entity_type: str = string()
    entity_name: str | None = string(nullable=0)


@struct
class OpData:
    key: str = string()
    value: float = float64()
    remove: bool = boolean()  # else set


@struct
class AlterClientQuotasEntryData:
    entity: list[AlterClientQuotasEntityData] = array(AlterClientQuotasEntityData)
    ops: list[OpData] = array(OpData)


@message(key=49, versions=(0, 1), flexible=1)
class AlterClientQuotasRequest:
    """Set or remove quotas (KIP-546)."""

    entries: list[AlterClientQuotasEntryData] = array(AlterClientQuotasEntryData)
    validate_only: bool = boolean()


@struct
class AlterClientQuotasResponseEntryData:
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    entity: list[EntityData] = array(EntityData, default=[])


@message(key=49, versions=(0, 1), flexible=1)
class AlterClientQuotasResponse:
    """What became of each entity."""

    throttle_time_ms: int = int32(default=0)
    entries: list[AlterClientQuotasResponseEntryData] = array(AlterClientQuotasResponseEntryData, default=[])
