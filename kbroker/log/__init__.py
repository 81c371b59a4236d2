"""The log: partitions as segments of record batches on a disk, in Kafka's file formats (drawn in docs/formats.md).

directory.py    LogDirectory: all logs of a broker; lock, crash marker, checkpoints, duties in the background
log.py          PartitionLog: append, read, truncate, delete; the owner of everything below
validation.py   what a client's batch must be       producers.py    sequences, the last five batches, snapshots
segment.py      a file of batches and its indexes   snapshots.py    which snapshots are kept
index.py        offset and time index               epochs.py       leader epochs
scan.py         walking batches                     checkpoints.py  small text files
recovery.py     opening after a stop or a crash     flushing.py     group commit
retention.py    deletion and truncation             lookup.py, rolling.py
"""
