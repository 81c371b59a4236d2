"""Retention: old segments go, the oldest first (L8). No file is touched by the event loop.

    expiry.find ──▶ the new start, noted durably ──▶ segments off the log ──▶ files renamed, ──▶ and later removed,
                    (LogDirectory.move_starts)       (PartitionLog.drop)      by a worker        by a worker

At whichever step it is killed, the next open finds a log without a hole, and the start is where it was told to be: what
is left below it goes at the next look.

expiry.py     which segments are too old, too many, or below the start
dropping.py   what a worker does with the files of deleted segments
retainer.py   Retainer: the duty, for all logs
"""
