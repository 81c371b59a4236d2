"""The broker as a server: its connections, its listeners, its life.

connection.py   Connection: one client without I/O: frames in, answers out
driver.py       Driver: that, a stream, and what has to be waited for
porter.py       Porter: sees to connections whose answer may be there, as something rang
listener.py     Server: accepts, bounds and reaps connections
complaints.py   Complaints: what is told of clients who do what they may not, bounded
memory.py       what all connections together hold in memory, bounded
identity.py     whom a data directory belongs to
broker.py       Broker: everything put together; how it comes up and goes down
"""
