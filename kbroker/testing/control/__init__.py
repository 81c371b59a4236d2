"""What a test can do with a broker: break answers, read which requests came, move data time, ask what is there.

in the broker's loop                                  in the test
    controls    Controls: one broker's                    remote   Faults, Clock, Requests, over a portal
    faults      which requests something happens to       spans    "30m", seconds, timedelta
    answers     answers that carry an error
    topics      which topics a request is about           asked    the same of a fetch session
    journal     the requests that came

Nothing here imports a client library. In tests of the broker itself: `memory_broker(controls=...)`.
"""

# Who asks for a test: neither noted in the journal nor hit by a fault.
CONTROL_CLIENT_ID = "kbroker-testing"
