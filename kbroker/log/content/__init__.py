"""What is in the batches of a log: the rest of the log knows them by their headers alone.

validation.py   what a client's batch must be       lookup.py     records by their timestamps
inspection.py   what a consumer would choke on      scrubber.py   looks for it afterwards
delayed.py      what is for later, hidden in it
tagged.py       which tags its records have
"""
