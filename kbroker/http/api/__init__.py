"""/api/v1: the broker, its topics and groups as JSON, in the words of the command line's `--format json`.

    listing.py   objects that hold a long list: a page at a time, made in turns
    brokers.py   /brokers             topics.py    /topics, /topics/NAME
    groups.py    /groups, /groups/NAME, /groups/NAME/rebalances

A broker tells what it knows, or learns from those that lead, within a second; what it does not is null. Of groups it
tells those that it coordinates.
"""
