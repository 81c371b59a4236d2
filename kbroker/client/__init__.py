"""For programs that use a Kafka client: what kbroker's broker does, on the client's side, with any broker.

filtering   only the records that match an expression of the filter language, from the consumer one has

Imports no client library, no trio and nothing of the broker but `kbroker.filters`: it runs in its user's process.
"""
