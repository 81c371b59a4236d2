"""Partitions as this broker holds them.

isr.py         what a set of in-sync replicas means: arithmetic
partition.py   Partition: role, leader epoch, ISR and high watermark around a log
followers.py   what a leader knows of each follower
isr_updates.py when a leader has its ISR changed
fetcher.py     the fetch session of a follower with one leader broker: what to ask, what answers mean
fetchers.py    carries that out: what this broker follows, fetched from its leaders
sessions.py    the other side: what each follower of this broker has, and what is news to it
openings.py    logs that are being opened
failures.py    logs that fail: handed over, begun anew
traffic.py     counts what goes through, by topic
throttles.py   room for others while replicas are filled
reads.py       what a fetch of one partition is told
visible.py     what consumers see of a log that hides what is for later
doubt.py       has confirmed what a leader is about to say for good
starts.py      waits until replicas have given up what their leader has
stable.py      the last stable offset, to wait for
manager.py     ReplicaManager: which partitions are here, kept in step with the picture of the cluster
"""
