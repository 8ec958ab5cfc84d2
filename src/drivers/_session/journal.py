"""What a session writes to the logging of the standard library.

What lives here: the lines. What does not: levels, handlers and files, which are the application's; the masking of
secrets, which the trace floor does.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from typing import Final

from smtpcore import Client, Disconnect, Event, MailRefused, MailSent, NeedConversion, Report, Verdict, printable

__all__ = ["Journal", "make_journal"]

_numbers: Final = itertools.count(1)


class Journal:
    """The log lines of one session.

    INFO: the session opened, a message is converted, what became of each mail, why the session ended. DEBUG: every line
    said and heard. All lines of a session begin with its number, for sessions of one program are often interleaved.
    """

    def __init__(self, logger: logging.Logger, peer: str) -> None:
        self._logger = logger
        self._peer = printable(peer)
        self._number = next(_numbers)
        self._told_of_opening = False

    @property
    def wants_lines(self) -> bool:
        """Whether the dialogue is to be written down too."""
        return self._logger.isEnabledFor(logging.DEBUG)

    def line(self, text: str) -> None:
        """One line of the dialogue, as the trace floor shows it."""
        self._logger.debug("session %d: %s", self._number, text)

    def opened(self, client: Client) -> None:
        """Write down, once, how the session was opened."""
        if self._told_of_opening:
            return
        self._told_of_opening = True
        tls = "in clear"
        if client.tls is not None:
            judged = "verified" if client.tls.verified else "not verified"
            tls = f"{client.tls.version} with {client.tls.cipher}, certificate {judged}"
        user = "authenticated" if client.authenticated else "not authenticated"
        self._logger.info("session %d: open with %s: %s, %s", self._number, self._peer, tls, user)

    def note(self, event: Event) -> None:
        """Write down a report, a conversion or the end; all else is nothing to write."""
        if isinstance(event, (MailSent, MailRefused)):
            self._logger.info("session %d: %s", self._number, _summary(event))
        elif isinstance(event, NeedConversion):
            sender = printable(event.mail.envelope.reverse_path)
            self._logger.info("session %d: converting the message of the mail from <%s>", self._number, sender)
        elif isinstance(event, Disconnect):
            why = "" if event.error is None else f": {type(event.error).__name__}: {printable(str(event.error))}"
            self._logger.info("session %d: ended with %s: %s%s", self._number, self._peer, event.reason.value, why)


def _summary(report: Report) -> str:
    """One line for one mail, however many recipients it has: the words are those to the last of the worst off."""
    envelope = report.mail.envelope
    verdicts = Counter(f"{outcome.verdict.value}{' in doubt' * outcome.in_doubt}" for outcome in report.outcomes)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    words = next(
        (str(o) for o in reversed(report.outcomes) if o.verdict is not Verdict.DELIVERED), str(report.outcomes[-1])
    )
    kind = "sent" if isinstance(report, MailSent) else "refused"
    return printable(f"mail from <{envelope.reverse_path}> {kind}: {counts}; {words}")


def make_journal(logger: logging.Logger | None, peer: str) -> Journal | None:
    """A journal if anybody wants to read it, as the levels stand now."""
    return Journal(logger, peer) if logger is not None and logger.isEnabledFor(logging.INFO) else None
