"""How the brokers of a cluster speak with each other.

brokers.py         Brokers: how one broker asks another, or itself
links.py           whom to connect to, and when: one link a broker and API
wire.py            one such connection
introductions.py   how two brokers prove to each other who they are   (pure)
applying.py        waiting for all of them to have carried out a change
"""
