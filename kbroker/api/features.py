"""UpdateFeatures 0-2: raise or lower the cluster's feature levels (KIP-584, KIP-778).

All of a request or none of it. Version 0 cannot lower a level, whatever its `allow_downgrade` says: Apache Kafka 4 does
not look at it either. A feature that is named twice is given the later level.
"""

from __future__ import annotations

from kafka_wire.api import ApiKey
from kafka_wire.errors import KafkaError
from kafka_wire.messages.admin import (
    FeatureUpdateKey,
    UpdatableFeatureResult,
    UpdateFeaturesRequest,
    UpdateFeaturesResponse,
)
from kbroker.api.context import Context
from kbroker.api.registry import handles
from kbroker.cluster.changes.features import FeatureUpdate
from kbroker.turns import each, finish


@handles(ApiKey.UPDATE_FEATURES, 0, 2)
async def update_features(request: UpdateFeaturesRequest, context: Context) -> UpdateFeaturesResponse:
    """Change levels of features, and answer when every request is served by them."""
    updates: dict[str, FeatureUpdate] = {}

    def note(key: FeatureUpdateKey) -> UpdatableFeatureResult:
        """One update; and its result, unless there is an error."""
        updates[key.feature] = FeatureUpdate(key.feature, key.max_version_level, key.upgrade_type)
        return UpdatableFeatureResult(feature=key.feature, error_message="NONE")  # as in Kafka

    results = await finish(each(note, request.feature_updates))
    try:
        await context.services.admin.update_features(list(updates.values()), request.validate_only)
        await context.services.wait_applied()
    except KafkaError as error:
        return UpdateFeaturesResponse(error_code=error.code, error_message=error.message)
    return UpdateFeaturesResponse(results=results if context.version <= 1 else [])
