"""`log ...`: segment files, without a broker."""
