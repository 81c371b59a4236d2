"""Transactions in the simulated world.

batches     what a fetch brings, and what of it a consumer of committed records delivers
ledger      what transactional clients asked and were told, and whether all of it can be true at once
producers   transactional clients, as Kafka's own behave
copiers     groups that consume, transform and produce
readers     consumers of either isolation level; the judge
replica     a second replica, imagined: the high watermark lags, and a broker that dies is replaced by it
nemesis     faults, some of them aimed at a step of a transaction
scenario    all of it together
planted     bugs that must be found
"""
