"""`log ...`: a broker's files without a broker.

log.py, the commands but for dump.py; segments.py, segments and their indexes as they are read; transactions.py, which
were aborted; tags.py, which tags are where; small_files.py, what lies beside them; ends.py, how far they go.
"""
