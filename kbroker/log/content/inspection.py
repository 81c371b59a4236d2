"""What a consumer would choke on in a batch that is stored: `kbroker log verify` and the scrubber look for it.

A batch whose CRC is right may still be none a client can read: its producer lied, and `kbroker.produce.validate` let it
pass. Records are walked field by field, a batch with gaps (compaction made them) record by record.
"""

from __future__ import annotations

from functools import partial

from kafka_wire import compression as codecs
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import HEADER_SIZE, BatchHeader, read_records
from kafka_wire.walk import RecordWalk
from kbroker.turns import Errands

DECOMPRESSED_BYTES_MAX = 100 * 1024 * 1024  # of one batch; clients take no more either
_STRIDE = 64  # records read between two pauses


def batch_problem(data: memoryview, header: BatchHeader, bytes_max: int = DECOMPRESSED_BYTES_MAX) -> Errands[str]:
    """Why the records of a whole batch would stop a consumer or mislead a look-up; "" if they do not.

    Takes as long as decompressing and reading it, with pauses. bytes_max: of memory; beyond, a batch is not judged,
    unless it is the most that any batch may hold.
    """
    if not header.count:
        return ""
    try:
        if header.count != header.last_offset_delta + 1:
            for number, _ in enumerate(read_records(data, max_bytes=bytes_max)):
                if not number % _STRIDE:
                    yield None
            return ""
        payload = data[HEADER_SIZE:]
        if header.compression:
            payload = yield partial(codecs.decompress, header.compression, payload, bytes_max)
        walk = RecordWalk(payload, header.count)
        while not walk.step():
            yield None
    except KafkaError as error:
        is_judged = error.code is not ErrorCode.MESSAGE_TOO_LARGE or bytes_max == DECOMPRESSED_BYTES_MAX
        return f"its records cannot be read: {error.message}" if is_judged else ""
    latest = header.base_timestamp + walk.high
    if not header.log_append_time and not header.has_delete_horizon and max(latest, -1) != header.max_timestamp:
        return f"its largest timestamp is {latest}, the header says {header.max_timestamp}"
    return ""
