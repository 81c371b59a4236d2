"""`kbroker coord`: the coordination store, looked at and moved, without a broker.

coord.py     what is in it, and elsewhere with it
adopt.py     up to the logs, after it was restored from an older copy
"""
