"""The cluster as brokers agree on it: a small guarded key-value store, and the picture every broker keeps of it.

    store.py       the contract of the coordination store: seven methods
    memory.py      in this process (tests, simulation)      sqlite.py   one file, shared by the processes of a machine
    feed.py        recent changes and their watchers        session.py  keeping a session alive   (for both engines)
    keys.py        names and values of what is stored
    image.py       ClusterImage, immutable                  controller.py   decisions, pure
    writer.py      guarded transactions, lost replies       admin.py    topics, configurations, producer ids
    member.py      Member: registration, controller claim, leaderships taken, the image kept up to date

Offsets, groups and transactions are not here: they live in replicated internal topics.
"""
