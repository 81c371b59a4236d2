"""Groups as records: snapshots.py, the values that cores store; records.py, Kafka's formats; stored.py, in between."""
