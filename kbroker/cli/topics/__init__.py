"""`topic ...`: topic.py; overview.py, all of them; compact.py; trim.py; produce.py, given.py what it is given;
consume.py, as a member of a group consume_group.py, reading.py for both; formats.py, how a record is printed;
offsets.py, where many partitions begin and end. archive/: export and import.
"""
