"""Port: a TCP port that stays a broker's own while the broker does not run.

    port = Port("127.0.0.1", 0)        chosen by the system
    port.make_room()                   a broker is about to listen
    port.hold()                        it does not listen any more

What holds the port is a socket that is bound and does not listen: clients are refused, as by a dead broker, and the
system gives the port to nobody else; nor to a client that knocks, which would then be connected with itself. On Linux a
broker can listen beside it, elsewhere it has to make room.
"""

from __future__ import annotations

import errno
import os
import socket
import sys

from kbroker.env import AddressInUse
from kbroker.env.procfs import port_holder
from kbroker.testing.embedded.forks import let_go_in_children
from kbroker.testing.embedded.portal import CannotStart

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

CAN_SHARE = sys.platform == "linux"  # two bound sockets, as long as only one listens


class Port:
    """A bound address. CannotStart when somebody listens there already, or it cannot be had."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.number = port
        self._socket: socket.socket | None = None
        self.hold()
        let_go_in_children(self)

    def hold(self) -> None:
        """Keep it from others; idempotent."""
        if self._socket is not None:
            return
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((self.host, self.number))
        except OSError as error:
            bound.close()
            if error.errno == errno.EADDRINUSE:
                error = AddressInUse(self.host, self.number, port_holder(self.number))
            raise CannotStart(f"a broker cannot listen there: {error}") from None
        self._socket, self.number = bound, bound.getsockname()[1]

    def make_room(self) -> None:
        """Let a broker listen there."""
        if not CAN_SHARE:
            self.close()

    def close(self) -> None:
        """Give it up; idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    abandon = close
