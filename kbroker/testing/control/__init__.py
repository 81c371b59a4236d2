"""What a test can do with a broker: break answers, read which requests came, move data time, ask what is there.

in the broker's loop                                  in the test
    controls    Controls: one broker's                    remote   Faults, Clock, Requests, over a portal
    words       how a test says what is to happen         spans    "30m", seconds, timedelta
    faults      which requests it happens to
    striking    what happens to them
    answers     answers that carry an error
    topics      which topics a request is about           kafka    Kafka: topics, records, groups, by its protocol
    asked       the same, of a fetch session              links    connections to brokers
    journal     the requests that came                    reader   a topic's records (reading: from bytes)
                                                          groups   a group's members and lag
                                                          offsets  where partitions begin and end
                                                          clients  settings for client libraries

Nothing here imports a client library. In tests of the broker itself: `memory_broker(controls=...)`.
"""

# Who asks for a test: neither noted in the journal nor hit by a fault.
CONTROL_CLIENT_ID = "kbroker-testing"
