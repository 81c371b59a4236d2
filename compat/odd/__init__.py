"""Odd but decodable requests, sent to kbroker and to Apache Kafka alike: what differs? See README.md."""
