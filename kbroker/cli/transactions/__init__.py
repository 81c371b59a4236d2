"""`kbroker transaction` (KIP-664): reads.py asks coordinators and partitions; transaction.py tells people, aborts."""
