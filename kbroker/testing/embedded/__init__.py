"""A broker inside a program that is not async: beside it in a thread, or in a process of its own.

    backends    what all kinds have in common, and the choice
    thread      ThreadBroker: in memory, ready in milliseconds; another one for each test
    process     ProcessBroker: killed and stopped by the system; what runs there: child; when nothing does: between
    external    a Kafka that is not ours
    cluster     several in a thread; process_cluster: each in a process

    host        the broker's lives, in the loop it runs in
    machines    what outlives them: disk, clock, store
    net         the system's network as long as one life          port     a port that stays the broker's
    loop        trio in a background thread                       portal   the way to the controls
    lines       what it logged                                    forks    what a forked child lets go of

Import what you need from its module: this package itself imports nothing.
"""
