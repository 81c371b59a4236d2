"""/metrics: what Prometheus scrapes, in its text format, under the names that dashboards for Kafka know.

    table.py        every metric: its name, type, labels, and what it tells
    text.py         the text format
    page.py         the whole page, piece by piece
    partitions.py   of partitions, replicas and the cluster       traffic.py    of requests, connections, topics
    groups.py       of consumer groups                            internals.py  of kbroker's own, and its process

Nothing is gathered before somebody asks. A page is made of the owners' state in turns, so what it tells is of a few
milliseconds, not of one moment. Sums over brokers are right: what all of them know is told by one. A partition's
metrics come from its leader, a group's from its coordinator, the cluster's from the controller.
"""
