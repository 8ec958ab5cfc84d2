"""For those who test what they build on smtpcore: machines in memory, peers, strategies, and a suite for drivers.

What lives here: the names of the pure machines. What does not: what is imported by its own name:
:mod:`smtpcore.testing.memory` (a transport in memory), :mod:`smtpcore.testing.peer` (scripted peers on sockets), and,
with the extra ``smtpcore[testing]``, :mod:`smtpcore.testing.conformance` (the suite that drivers pass),
:mod:`smtpcore.testing.strategies` (by hypothesis) and :mod:`smtpcore.testing.certificates` (by trustme).
"""

from smtpcore.testing._machines import (
    AS_USUAL,
    Answer,
    Answers,
    PureDriver,
    ReceivedMail,
    ScriptedServer,
    converse,
)

__all__ = ["AS_USUAL", "Answer", "Answers", "PureDriver", "ReceivedMail", "ScriptedServer", "converse"]
