"""InitProducerId 0-5: a producer id for an idempotent producer.

Ids come in blocks from the coordination store, so that no two producers of the cluster ever get the same (P4). A
producer without a transactional id always gets a fresh one, whatever it says it had, as in Kafka.
"""

from __future__ import annotations

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.transactions import InitProducerIdRequest, InitProducerIdResponse
from kbroker.api.context import Context
from kbroker.api.registry import handles


@handles(ApiKey.INIT_PRODUCER_ID, 0, 5)
async def init_producer_id(request: InitProducerIdRequest, context: Context) -> InitProducerIdResponse:
    """Allocate a producer id with epoch 0. Transactional ids are refused: there is no transaction coordinator."""
    if request.transactional_id is not None:
        return _refused(ErrorCode.INVALID_REQUEST if request.transactional_id == "" else ErrorCode.NOT_COORDINATOR)
    if (request.producer_id == -1) != (request.producer_epoch == -1):
        return _refused(ErrorCode.INVALID_REQUEST)
    try:
        producer_id = await context.services.producer_ids.next()
    except KafkaError as error:
        return _refused(error.code)
    return InitProducerIdResponse(producer_id=producer_id, producer_epoch=0)


def _refused(code: ErrorCode) -> InitProducerIdResponse:
    return InitProducerIdResponse(error_code=code, producer_id=-1, producer_epoch=-1)
