"""Coordinators: consumer groups and their offsets, kept in `__consumer_offsets`, decided by pure state machines.

    effects.py         what a pure core returns for the shell to perform, and the values it stores
    group.py           Group, the classic group: its requests; on group_rebalance.py, what happens between them,
                       group_member.py, its members, votes and leader, and consumer_protocol.py, what consumers tell it
    consumer_group.py  ConsumerGroup (KIP-848); consumer_*.py, reconciliation.py, assignors.py, topic_regex.py serve it,
                       classic_members.py and migration.py join the two kinds
    timeline.py        the last rebalances of a group; timeline_views.py, as they are told to who asks
    offsets.py         committed offsets
    records.py         the records of `__consumer_offsets`; stored.py, the cores' values as records
    shell.py           Coordinator; its shards (shard.py), what handlers ask (membership.py, requests.py), loading
                       (replay.py), keeping the log short (rewrite.py), the alarms (alarms.py), configs (settings.py)

A core never waits and never sees a clock, a file or a socket: `now` (and randomness) are arguments, effects the result.
"""
