"""`start --topic` and `start --seed`: topics, with configs and records, to have from the start.

wishes.py     --topic NAME:PARTITIONS:REPLICAS,KEY=VALUE        reading.py    a seed file into topics and records
planting.py   records into topics that are empty, as a client
"""
