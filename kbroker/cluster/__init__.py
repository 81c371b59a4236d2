"""The cluster as brokers agree on it: a small guarded key-value store, and the picture every broker keeps of it.

    store.py       the contract of the coordination store: seven methods
    stores/        its engines
    keys.py        names and values of what is stored
    image.py       ClusterImage, immutable
    placement.py   new topics and partitions    elections.py   who leads    config_changes.py   (all pure)
    reassignments.py   elections and other replicas that clients ask for   (pure)
    isr_changes.py     changes of ISRs, by the leaders of partitions
    writer.py      guarded transactions, lost replies       admin.py    topics, configurations
    features.py    feature levels, and who may change them how   (pure)
    brokers.py         Brokers: how one broker asks another, or itself       links.py   connections to the others
    applying.py        waiting for all of them to have carried out a change
    introductions.py   how two brokers prove to each other who they are   (pure)
    producer_ids.py    ProducerIds: one by one, from blocks of the cluster's
    internal_topics.py     what internal topics gain when there are brokers for it   (pure)
    registration.py    a broker's part in the cluster: its session, the image kept up to date, a farewell
    joining.py         how it becomes a part of it      controller.py   the one that sees to every partition

Offsets, groups and transactions are not here: they live in replicated internal topics.
"""
