"""`kbroker coord`: the coordination store, looked at and moved, without a broker.

coord.py     the commands
"""
