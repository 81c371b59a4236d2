"""The log: partitions as segments of record batches on a disk, in Kafka's file formats (drawn in docs/formats.md).

directory.py    LogDirectory: all logs of a broker; lock, crash marker, checkpoints, duties in the background
log.py          PartitionLog: read, truncate, delete, flush; nobody else changes what follows
writing.py      WritableLog, its base: append, roll    replicated.py   judging what a leader sends
segment.py      a file of batches and its indexes   scan.py         walking batches
reading.py      from an offset to slices of segments rediscovery.py  which transactions were aborted, if lost
derived/        what can be made anew from them     content/        what is in them
cleaner/        compaction: of each key the newest value stays
recovery.py     opening after a stop or a crash     opening.py      opening logs in workers
flushing.py     what a worker syncs, in which order retention/      old segments go
checkpoints.py  small text files                    cold.py         what is not in memory, for workers to bring
errors.py       what a log raises                   troubles.py     telling people of a disk that refuses
"""
