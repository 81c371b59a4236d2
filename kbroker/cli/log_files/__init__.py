"""`log ...`: a broker's files without a broker.

log.py, the commands; segments.py, segments and their indexes as they are read; transactions.py, which were aborted;
small_files.py, what lies beside them; ends.py, how far they go.
"""
