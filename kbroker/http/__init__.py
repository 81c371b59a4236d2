"""What a broker tells over HTTP: metrics, health, a JSON view. Read-only, and off unless `kbroker.http.port` is set.

    beside.py     the server beside a broker: bound before it comes up, there until it is down
    server.py     HTTP/1.1 on streams of the environment: connections, their bounds and deadlines
    messages.py   requests that were read, and answers
    hosts.py      which names a request may call this server by
    paths.py      what is to be had, and who answers it
    metrics/      what Prometheus scrapes
    api/          topics, groups and brokers as JSON
    offsets.py    where partitions begin and end, also those that other brokers lead
    health.py     whether the broker lives, and whether it serves

A broker that is not asked for it imports none of this.
"""
