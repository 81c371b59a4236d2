"""What kafka-python leaves to be desired, lent to it: codecs it has only with further packages, nulls, quiet threads.

A record of Kafka's may have neither key nor value, and a header may be null. kafka-python encodes both, but refuses
them before that: `NULL` is None once it has looked, `header` makes a header whose value it does not look at.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

BATCH_BYTES_MAX = 1 << 30  # decompressed
NULL = object()


def lend_codecs() -> None:
    """Give kafka-python our codecs where it has none: it wants three more packages to read a compressed topic."""
    import kafka.codec
    import kafka.record.default_records as batches

    from kafka_wire.compression import compress, decompress

    for number, name in ((2, "snappy"), (3, "lz4"), (4, "zstd")):
        if not getattr(kafka.codec, f"has_{name}")():
            setattr(kafka.codec, name, "kafka_wire")  # has_<name>() asks whether this is None
            setattr(batches, f"{name}_encode", functools.partial(compress, number))
            setattr(batches, f"{name}_decode", functools.partial(decompress, number, max_bytes=BATCH_BYTES_MAX))


def keep_threads_quiet() -> None:
    """Its threads end in tracebacks; who waits for them is given the same error, and tells it."""
    if threading.excepthook is _quiet:
        return
    _told_before.append(threading.excepthook)
    threading.excepthook = _quiet


_told_before: list[Any] = []


def _quiet(args: threading.ExceptHookArgs) -> None:
    if args.thread is None or not args.thread.name.startswith("kafka-"):
        _told_before[-1](args)


def with_nulls() -> dict[str, Any]:
    """Settings of a producer that sends `NULL` as null, and the headers of `header`."""
    import kafka.producer.producer_batch as batches
    from kafka.serializer import Serializer

    class Nullable(Serializer):  # type: ignore[misc]
        def serialize(self, topic: str, headers: object, data: object) -> object:
            return None if data is NULL else data

    # It adds up what headers measure, for the one who wants to know: null measures nothing.
    setattr(batches, "len", lambda value: 0 if value is None else len(value))  # noqa: B010
    return {"key_serializer": Nullable(), "value_serializer": Nullable()}


def producer_class() -> Any:
    """KafkaProducer, which closes once: when it is forgotten it would wait again for a broker that is not there."""
    from kafka import KafkaProducer

    class Producer(KafkaProducer):  # type: ignore[misc]
        def __del__(self) -> None:
            pass

    return Producer


def header(name: str, value: bytes | None) -> tuple[str, bytes | None]:
    """A header as KafkaProducer.send takes it."""
    return (name, value) if value is not None else _NullHeader((name, None))


class _NullHeader(tuple[Any, ...]):
    """Asked for its second item it says b"", which is checked; taken apart it gives None, which is encoded."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        return b"" if index == 1 else super().__getitem__(index)
