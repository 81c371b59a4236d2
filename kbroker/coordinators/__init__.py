"""Coordinators: consumer groups and their offsets, kept in `__consumer_offsets`, decided by pure state machines.

    effects.py         what a pure core returns for the shell to perform, and the values it stores
    group.py           Group, the classic group: its requests; on group_rebalance.py, what happens between them,
                       group_member.py, its members, votes and leader, and consumer_protocol.py, what consumers tell it
    timeline.py        the last rebalances of a group
    consumer_group.py  ConsumerGroup (KIP-848)           assignors.py     its server-side assignors
    offsets.py         committed offsets                 records.py       the records of `__consumer_offsets`
    shell.py           Coordinator: loads, performs effects in order, keeps the alarms

A core never waits and never sees a clock, a file or a socket: `now` (and randomness) are arguments, effects the result.
"""
