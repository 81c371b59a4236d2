"""The engines of the coordination store; `cluster/store.py` is their contract.

copying.py       from one store to another                 adopting.py     up to the logs, after a restore
opening.py       which of them a configuration asks for
memory.py        in this process (tests, simulation)
sqlite.py        one file, shared by the processes of a machine
sqlite_file.py   what lies in that file                  heartbeats.py   when its sessions end
etcd/            in etcd, for brokers of several machines
sqlite_reader.py ranges of it, in pieces
bell.py          how its processes tell each other that something is new
feed.py          recent changes and their watchers       session.py      keeping a session alive
"""
