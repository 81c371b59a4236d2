"""The coordination store in etcd v3, for brokers of several machines (extra: kbroker[etcd]).

store.py      the seven methods                     watch.py      following changes, from member to member
client.py     which member is asked, how long, and what its failure means
messages.py   etcd's protocol                       opening.py    what is looked at before the first use

Nothing here is imported unless etcd is asked for. What happens on the wire is `env.Net.rpc_channel`'s.
"""
