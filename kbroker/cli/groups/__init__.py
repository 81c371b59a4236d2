"""`group ...`: overview.py, all of them; group.py, what one is, and deleting it; seek.py, moving it; timeline.py,
its rebalances.

reads.py is what those know of a group.
"""
