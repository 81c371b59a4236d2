"""`kbroker cluster`: cluster.py (info, brokers, elect-leaders), health.py, reassign.py (its decisions: plan.py, its
throttle: throttle.py); reads.py: what the brokers tell."""
