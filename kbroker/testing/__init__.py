"""Tools for tests: a whole broker world in memory that can be broken on purpose, and repeated exactly.

    clock       JumpClock drives a trio run without waiting; SteeredClock is an Env's clock with a lever per domain
    disk        MemoryDisk: power loss, full disks, failing calls (its state: volume)
    net         MemoryNetwork: latency, cuts, resets, fragments
    broker      memory_broker(), memory_cluster(): a whole broker on these, or several
    world       simulate(): nodes on such disks and such a network, decided by one seed (scheduler: trio's part in it;
                workers: threads that take turns with it)
    store       ProcessStore: one process's way to the coordination store, to be cut; StoreServer (store_server): the
                store of such a world, far away, slow, down, forgetful
    client      a bare Kafka client
    embedded    a broker beside a program that is not async: in a thread, or in a process
    control     what a test can do with a broker: faults, a journal of requests, its clock
    handles     KBroker, which a test has of it
    pytest_plugin           the fixtures                   pytest_trio_plugin      those for tests in trio

Import what you need from its module: this package itself imports nothing.
"""
