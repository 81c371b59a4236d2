"""The log: partitions as segments of record batches on a disk, in Kafka's file formats (drawn in docs/formats.md).

directory.py    LogDirectory: all logs of a broker; lock, crash marker, checkpoints, duties in the background
log.py          PartitionLog: append, read, truncate, delete, flush; nobody else changes what follows
segment.py      a file of batches and its indexes   producers.py    sequences, the last five batches, snapshots
index.py        offset and time index               snapshots.py    which snapshots are kept
scan.py         walking batches                     epochs.py       leader epochs
recovery.py     opening after a stop or a crash     checkpoints.py  small text files
validation.py   what a client's batch must be       flushing.py     what a worker syncs, in which order
retention.py    which segments are to go            lookup.py       records by their timestamps
inspection.py   what a consumer would choke on      scrubber.py     looks for it afterwards
opening.py      opening logs in workers             cold.py         what is not in memory, for workers to bring
errors.py       what a log raises                   troubles.py     telling people of a disk that refuses
"""
