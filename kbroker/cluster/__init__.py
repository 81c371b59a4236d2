"""The cluster as brokers agree on it: a small guarded key-value store, and the picture every broker keeps of it.

    store.py           the contract of the coordination store: seven methods
    stores/            its engines
    keys.py            names and values of what is stored
    writer.py          guarded transactions, lost replies
    image.py           ClusterImage, immutable
    elections.py       who leads, and who is in sync   (pure)
    controller.py      the one broker that sees to every partition
    registration.py    a broker's part in the cluster: its session, the image kept up to date, a farewell
    joining.py         how it becomes a part of it
    isr_changes.py     changes of ISRs, by the leaders of partitions
    admin.py           what clients ask for: topics, configurations, elections, reassignments
    changes/           what may be changed, and what comes of it   (pure)
    producer_ids.py    ProducerIds: one by one, from blocks of the cluster's
    peers/             how brokers speak with each other

Offsets, groups and transactions are not here: they live in replicated internal topics.
"""
