"""Log compaction: of each key the newest value stays (L9). Offsets never change.

cleaner.py      Cleaner: which log is next, and what becomes of it      orders.py   compactions that somebody waits for
choosing.py     what of a log may be compacted, and whether it is worth it
job.py          what a pass is told, and what it tells
passes.py       one pass over a log, in a helper: keys first, then all segments anew
filtering.py    what is left of a batch                 transactions.py   whose records count
offset_map.py   the newest offset of each key           swap.py           new segments in place of old ones
"""
