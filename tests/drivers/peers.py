"""The scripted peers of the public test kit, and what only the tests here need beside them.

What lives here: a port that answers nobody. What does not: the peers and certificates themselves, which are
:mod:`smtpcore.testing.peer` and :mod:`smtpcore.testing.certificates`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from smtpcore.testing.certificates import authority, client_certificate, server_context, trusting_context
from smtpcore.testing.peer import EXTENSIONS, PATIENCE, Closed, Line, Peer, Script, steps

__all__ = [
    "EXTENSIONS",
    "PATIENCE",
    "Closed",
    "Line",
    "Peer",
    "Script",
    "authority",
    "client_certificate",
    "server_context",
    "silent_port",
    "steps",
    "trusting_context",
]


@contextlib.contextmanager
def silent_port(family: int = socket.AF_INET, *, everywhere: bool = False) -> Iterator[int]:
    """A port at which newcomers get no answer, as a listener leaves them that accepts nobody once its queue is full.

    ``everywhere`` is at every address of 127.0.0.0/8.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        listener.bind(("0.0.0.0" if everywhere else host, 0))
        listener.listen(0)
        for _ in range(3):
            sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.setblocking(False)
            sock.connect_ex((host, listener.getsockname()[1]))
        yield listener.getsockname()[1]
