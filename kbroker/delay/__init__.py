"""Delayed delivery: what is pending in each partition, and its delivery when it is due.

schedule.py      what is pending in one partition, by due time
"""
