"""`topic ...`: topics, produce, consume."""
