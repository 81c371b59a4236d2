"""How commands speak with brokers: as any client does, with kafka-python, whose import alone takes a tenth of a second.

connecting.py   its clients: options, clear errors         bridge.py      requests that it has no class for
servers.py      where brokers are: the option, addresses   plain.py       a request over a plain socket, without it
properties.py   -X and --command-config                    presence.py    a broker that is lost, and back
quirks.py       what it leaves to be desired
"""
