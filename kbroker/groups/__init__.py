"""Consumer groups and their offsets, kept in `__consumer_offsets`: pure state machines on the runtime of coordinators.

group.py               Group: what a group of either type answers to
classic/               ClassicGroup, whose members assign among themselves
consumer/              ConsumerGroup, whose assignment the broker computes (KIP-848)
offsets.py             committed offsets, and those of transactions that have not ended (pending.py)
storage/               the records of all that
shard.py               GroupShard: the groups and offsets of one partition
coordinator.py         GroupCoordinator: all shards here, and what their groups are made with (settings.py)
membership.py, offset_requests.py, transaction_requests.py        what handlers call
housekeeping.py        what is forgotten
timeline.py            the last rebalances of a group; timeline_views.py, as they are told to who asks, and
                       timeline_json.py, as JSON
consumer_protocol.py   what consumers write into a classic group's opaque bytes
"""
