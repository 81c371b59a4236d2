"""Delayed delivery in the simulated world: D1, D2, D3.

ledger      what was sent for later, cancelled and hurried; and whether it can all be true at once
story       what a log says, read by somebody who knows nothing of the broker's own reading of it
senders     producers whose batches are of all kinds, in transactions and without
watch       sees each delivery at the moment it is appended, by the clock of who appends it
scenario    a single broker, and a cluster of three
planted     bugs that must be found
"""
