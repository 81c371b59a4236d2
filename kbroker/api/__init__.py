"""One handler for each API of Kafka, registered where it is written.

registry.py    which handlers there are        context.py   what a handler is given: Services, Peer, Context
addresses.py   how a client reaches a broker            leaders.py   whom to ask instead of this one
brokers.py     how this broker asks itself and others   telling.py   what clients have changed, for the log
tallies.py     what connections count, for metrics

produce.py            whose transactions produce_transactions.py judges, transaction_verification.py asks about
fetch.py, with its sessions (fetch_sessions.py) and its waiting (fetch_waits.py); read_replicas.py says who else has it
replica_fetch.py      what followers fetch                                            offsets.py
metadata.py           topics.py   configs.py   features.py   log_dirs.py
elections.py          reassignments.py   quorum.py: who decides
transactions.py       producer ids, too        transaction_admin.py   transactions seen from outside
transaction_markers.py    how they ended, in each partition
transaction_offsets.py    what they commit for groups
partition_producers.py   who wrote to a partition
groups.py             the classic protocol       consumer_groups.py   KIP-848
internal.py           what only brokers ask each other        compaction.py    a log, now
delays.py             what is to be delivered later
group_offsets.py      committed offsets (offset_changes.py)       group_admin.py       groups seen from outside

Handlers own no state: they ask the owners that Services names.
"""
