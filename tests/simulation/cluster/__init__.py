"""Clusters in the simulated world.

ghost       what leaders have exposed, and what must never change of it; pure
history     what clients of a replicated partition are told
log_files   the batches in a log's files, for the moments in which no client can look
nodes       brokers on nodes of their own, and how they start, stop, die and lose power
watch       sees every partition and every commit of the store at the moment it happens
clients     they find the leaders, as real ones do
admins      clients that make and delete topics, move replicas and leaders
nemesis     faults
macros      faults one after the other, aimed at what is rare
scenario    all of it together
planted     bugs that must be found
"""
