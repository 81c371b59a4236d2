"""Delayed delivery: what is pending in each partition, and its delivery when it is due.

delays.py        the delayers of a broker
delayer.py       one partition's: follows its log, delivers what is due
tracker.py       what its log says is pending
listing.py       what is pending, for who asks
reads.py         reading the log in a worker
schedule.py      what is pending in one partition, by due time
runs.py          its rows, in files and in memory, read as one
gone.py          which of them do not count any more
saved.py         how it is found again after a restart
"""
