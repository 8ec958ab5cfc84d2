"""The reconnecting client without a spool: which mail goes over which session to one host, as a pure machine.

What lives here: the public names, nothing else. Pools that run it are :mod:`smtpcore.drivers.pool` (asyncio and trio)
and :mod:`smtpcore.drivers.blocking_pool` (threads).
"""

from smtpcore.pool._facts import (
    Answer,
    CloseSession,
    DropSession,
    Fact,
    GiveMail,
    MailAsked,
    MailWithdrawn,
    OpenSession,
    Order,
    PoolStatus,
    Reported,
    SessionEnded,
    SessionOpened,
    ShutDown,
    TimePassed,
)
from smtpcore.pool._pool import PoolMachine
from smtpcore.pool._settings import PoolSettings, Retries

__all__ = [
    "Answer",
    "CloseSession",
    "DropSession",
    "Fact",
    "GiveMail",
    "MailAsked",
    "MailWithdrawn",
    "OpenSession",
    "Order",
    "PoolMachine",
    "PoolSettings",
    "PoolStatus",
    "Reported",
    "Retries",
    "SessionEnded",
    "SessionOpened",
    "ShutDown",
    "TimePassed",
]
