"""`log ...`: segment files without a broker. log.py, the commands; segments.py, how the files are read."""
