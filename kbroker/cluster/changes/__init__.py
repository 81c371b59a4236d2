"""What may be changed of the cluster, and what comes of it: pure functions of what there is, with Kafka's refusals.

    placement.py         new topics and partitions, and on which brokers their replicas lie
    reassignments.py     elections, and other replicas, that clients ask for
    config_changes.py    configs of topics, groups and brokers
    features.py          feature levels, and who may change them how
    views.py             views of topics, and what cannot be done to one
    internal_topics.py   what internal topics gain when there are brokers for it

`cluster/admin.py` writes it.
"""
