"""The classic group protocol: JoinGroup, SyncGroup, and a leader among the members that assigns.

group.py       ClassicGroup: requests and alarms in, effects out
members.py     who they are, what they vote for, who leads
rebalance.py   from joins to a generation, to assignments
"""
