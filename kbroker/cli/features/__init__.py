"""`kbroker feature` (feature.py): the levels that a cluster's brokers have agreed on (KIP-584)."""
