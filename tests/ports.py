"""A port of loopback for a server that cannot choose one itself."""

from __future__ import annotations

import os
import socket
from itertools import count

# below those that the system gives to connections, which may take a port between the look at it
# and the server's start; from another place in each process of tests
_NEXT = count(os.getpid())


def free_port() -> int:
    """One that nobody listens on; never the same twice."""
    while True:
        port = 10_000 + next(_NEXT) % 20_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
