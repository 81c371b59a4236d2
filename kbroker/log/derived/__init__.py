"""What is derived from the batches of a log: it can be missing or torn, and is then made anew from them (L5).

index.py        where an offset and a timestamp are        producers.py     sequences, the last five batches
epochs.py       which leader wrote from where on           snapshots.py     which snapshots of producers are kept
aborted.py      which transactions were aborted            transactions.py  which are undecided: what is stable
ahead.py        what a leader has hidden in its log, and its delayer has yet to read
tags.py         which tags are where

The log owns all of it; a recovery makes it good.
"""
