"""Transactions (KIP-98, KIP-890): who may write under a transactional id, what it has written to, and how that ends.

states.py        the states and what may follow what
transaction.py   Transaction: the pure core, of one transactional id
storage.py       its record in `__transaction_state`, in Kafka's formats
shard.py         TransactionShard: the ids of one partition of `__transaction_state`
coordinator.py   TransactionCoordinator: all ids whose partition is led here
markers.py       Markers: has every partition of a transaction write how it ended
requests.py      what handlers call
housekeeping.py  ids that nobody uses are forgotten

InitProducerId ──▶ Empty ──AddPartitions──▶ Ongoing ──EndTxn──▶ PrepareCommit ──every marker written──▶ CompleteCommit
"""
