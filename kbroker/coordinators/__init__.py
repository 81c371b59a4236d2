"""The runtime of coordinators: state kept in the partitions of an internal topic, by whoever leads them.

    effects.py    what a pure core returns for its shell to perform
    shard.py      Shard: the state of one partition in one leader epoch; appends, waits, answers
    routing.py    InternalTopic: which partition, and which broker, a name belongs to; the topic is made when asked for
    leading.py    Leading: the shards of the partitions led here, loaded from the log (replay.py)
    runtime.py    Runtime: hands requests to shards, performs, rings alarms (alarms.py), keeps logs short
    coordinator.py    Coordinator: what every kind of coordinator has, and what the replica manager tells it

It knows no group and no transaction: a kind of state is a subclass of Shard, and pure cores in it. A core never waits
and never sees a clock, a file or a socket: `now` (and randomness) are arguments, effects the result.
"""
