"""Log compaction: of each key the newest value stays (L9). Offsets never change.

cleaner.py      Cleaner: which log is next, and what becomes of it
"""
