"""`group ...`: group.py, what groups there are, and deleting them; seek.py, moving them; timeline.py, their rebalances.

reads.py is what those know of a group, bridge.py sends what kafka-python has no class for.
"""
