"""What a consumer would choke on in a batch that is stored: `kbroker log verify` and the scrubber look for it.

A batch whose CRC is right may still be none a client can read: its producer lied, and `kbroker.produce.validate` let it
pass. Records are walked field by field, a batch with gaps (compaction made them) record by record.
"""

from __future__ import annotations

from kafka_wire import compression as codecs
from kafka_wire.errors import KafkaError
from kafka_wire.records import HEADER_SIZE, BatchHeader, read_records
from kafka_wire.walk import RecordWalk

DECOMPRESSED_BYTES_MAX = 100 * 1024 * 1024  # of one batch; clients take no more either


def batch_problem(data: memoryview, position: int, header: BatchHeader) -> str:
    """Why the records of the whole batch at a position would stop a consumer or mislead a look-up; "" if they do not.

    Takes as long as decompressing and reading it.
    """
    if not header.count:
        return ""
    try:
        if header.count != header.last_offset_delta + 1:
            for _ in read_records(data, position, max_bytes=DECOMPRESSED_BYTES_MAX):
                pass
            return ""
        packed = data[position + HEADER_SIZE : position + header.size]
        payload = (
            codecs.decompress(header.compression, packed, DECOMPRESSED_BYTES_MAX) if header.compression else packed
        )
        walk = RecordWalk(payload, header.count, fields=True)
        while not walk.step():
            pass
    except KafkaError as error:
        return f"its records cannot be read: {error.message}"
    latest = header.base_timestamp + walk.high
    if not header.log_append_time and not header.has_delete_horizon and max(latest, -1) != header.max_timestamp:
        return f"its largest timestamp is {latest}, the header says {header.max_timestamp}"
    return ""
