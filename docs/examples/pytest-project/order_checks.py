"""Half an hour after an order: was it paid?

Every order sends a record that is to be delivered 30 minutes later; the payment cancels it. What is delivered is an
order that was not paid. The waiting is done by the broker: the topic has kbroker.delay.enable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kafka import KafkaConsumer, KafkaProducer

TOPIC = "checks"
PATIENCE = [("kbroker-deliver-after", b"1800000")]  # milliseconds
PAID = [("kbroker-delay-cancel", b"")]


class Shop:
    """Takes orders and payments."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """settings: of a KafkaProducer."""
        self._producer = KafkaProducer(**settings)

    def order(self, number: str) -> None:
        """An order comes in."""
        self._producer.send(TOPIC, b"was it paid?", key=number.encode(), headers=PATIENCE).get(timeout=10)

    def pay(self, number: str) -> None:
        """It is paid."""
        self._producer.send(TOPIC, None, key=number.encode(), headers=PAID).get(timeout=10)

    def close(self) -> None:
        """Closing time."""
        self._producer.close()


def unpaid(settings: Mapping[str, Any]) -> Iterator[str]:
    """The orders that were not paid in time, as they are found. settings: of a KafkaConsumer."""
    consumer = KafkaConsumer(TOPIC, group_id="order-checks", auto_offset_reset="earliest", **settings)
    try:
        for record in consumer:
            yield record.key.decode()
            consumer.commit()
    finally:
        consumer.close()
