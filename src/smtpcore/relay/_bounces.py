"""Reports to senders: what could not be delivered, what is late, what went well (RFC 3464 in the frame of RFC 6522).

What lives here: pure composers, from an order of the relay and the octets of the original to the octets of a report
with CRLF line ends. What does not: storing the report, and deciding that there must be one.

Nothing that a peer said can break the structure: replies come without control characters, every line is folded, and the
boundary is chosen so that it occurs in no part. A report that a server does not take would be lost, and with it the
word of what became of a mail: so reports have 7 bits and short lines from the beginning, and what cannot be brought
into that form is left out.
"""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from smtpcore._conversion import convert
from smtpcore._errors import ConversionFailed
from smtpcore._events import BodyForm
from smtpcore._grammar import encode_utf8_address, printable
from smtpcore._options import RecipientOptions, Return
from smtpcore.relay._facts import Bounce, Confirmation, DelayWarning, Failure, StoredMail, Success
from smtpcore.relay._settings import RelaySettings
from smtpcore.relay._wishes import due_time

__all__ = ["compose_bounce", "compose_confirmation", "compose_delay_warning"]

_VERSION = b"MIME-Version: 1.0\r\n"
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
#: The last second of the year 9999: whoever never gives up tries until then.
_LAST_MOMENT = 253_402_300_799.0
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def compose_bounce(order: Bounce, original: bytes, settings: RelaySettings, now: float) -> bytes:
    """The report that mail could not be delivered, as a whole message.

    ``original`` holds the octets of the mail, or its beginning, of which the header is shown then. The whole is shown
    up to ``settings.whole_message_in_reports`` octets, unless the sender asked for headers (RFC 3461 §4.3), or for TLS
    (RFC 8689 §5), or the mail is binary, or cannot be converted into 7 bits and short lines. What was converted decodes
    to what was sent, but its signature may verify no more. With senders who speak SMTPUTF8 reports may have 8 bits.
    """
    text = (
        f"This is the mail relay {settings.reporting_mta}.",
        "Your message could not be delivered to the recipients below. It will not be tried again.",
    )
    report = _Report(order.mail, settings, now)
    blocks = [report.fields(failure, "failed", failure.diagnostic) for failure in order.failures]
    return report.compose(
        "Undelivered mail returned to sender",
        [*text, *map(_shown, order.failures)],
        blocks,
        report.whole_or_header(original),
    )


def compose_delay_warning(order: DelayWarning, original: bytes, settings: RelaySettings, now: float) -> bytes:
    """The report that mail is late and still being tried, with its header; arguments as :func:`compose_bounce`."""
    text = (
        f"This is the mail relay {settings.reporting_mta}.",
        "Your message has not yet been delivered to the recipients below. It will be tried again until "
        f"{_date(order.retry_until)}; there is no need to send it again.",
    )
    report = _Report(order.mail, settings, now)
    blocks = [
        [
            *report.fields(failure, "delayed", failure.diagnostic),
            f"Will-Retry-Until: {_date(order.retry_until)}",
        ]
        for failure in order.failures
    ]
    return report.compose(
        "Delayed mail, still being tried",
        [*text, *map(_shown, order.failures)],
        blocks,
        report.header(original),
    )


def compose_confirmation(order: Confirmation, original: bytes, settings: RelaySettings, now: float) -> bytes:
    """The report that mail was delivered, or passed on, with its header; arguments as :func:`compose_bounce`."""
    text = (
        f"This is the mail relay {settings.reporting_mta}.",
        "You asked to be told what becomes of your message. It has come this far:",
    )
    report = _Report(order.mail, settings, now)
    blocks = [
        report.fields(success, "relayed" if success.relayed else "delivered", success.diagnostic)
        for success in order.successes
    ]
    return report.compose(
        "Your mail has been passed on" if order.successes[0].relayed else "Your mail has been delivered",
        [*text, *map(_shown_success, order.successes)],
        blocks,
        report.header(original),
    )


def _shown(failure: Failure) -> str:
    return f"<{failure.recipient}>: {printable(failure.reason)}"


def _shown_success(success: Success) -> str:
    if success.relayed:
        return f"<{success.recipient}>: passed on to {success.remote_host}, which reports no deliveries"
    return f"<{success.recipient}>: delivered to the mailbox"


class _Report:
    """One report on a mail. With senders who speak SMTPUTF8 it is spoken in the forms of RFC 6533."""

    def __init__(self, mail: StoredMail, settings: RelaySettings, now: float) -> None:
        self._mail = mail
        self._settings = settings
        self._now = now
        self._utf8 = mail.utf8_header or not mail.reverse_path.isascii()

    def compose(self, subject: str, text: Iterable[str], recipients: Sequence[Sequence[str]], content: bytes) -> bytes:
        mail, name = self._mail, self._settings.reporting_mta
        envelope_id = [] if mail.options.envelope_id is None else [f"Original-Envelope-Id: {mail.options.envelope_id}"]
        about_mail = [*envelope_id, f"Reporting-MTA: dns; {name}", f"Arrival-Date: {_date(mail.accepted_at)}"]
        if (wanted_by := due_time(mail)) is not None:
            # A field of RFC 2852.
            about_mail.append(f"Deliver-By-Date: {_date(wanted_by)}")
        status = _blocks([about_mail, *recipients])
        kind = "message/delivery-status" if status.isascii() else "message/global-delivery-status"
        parts = [self._fitting("text/plain; charset=utf-8", _wrapped(text)), _part(kind, status), content]
        # Two reports on one mail at one moment speak of different recipients, or of different things.
        mark = zlib.crc32(status)
        boundary = _boundary(f"report.{mail.mail_id}.{mark:08x}", parts)
        header = [
            f"From: Mail Delivery System <MAILER-DAEMON@{name}>",
            f"To: <{mail.reverse_path}>",
            f"Subject: {subject}",
            f"Date: {_date(self._now)}",
            f"Message-ID: <{mail.mail_id}.{mark:08x}.{int(self._now * 1000)}@{name}>",
            "Auto-Submitted: auto-replied",
            "MIME-Version: 1.0",
            f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"',
            f"Content-Transfer-Encoding: {_encoding(b''.join(parts))}",
        ]
        delimiter = b"--" + boundary.encode("ascii")
        body = b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts)
        return "\r\n".join(header).encode("utf-8") + b"\r\n\r\n" + body + delimiter + b"--\r\n"

    # --- about a recipient ------------------------------------------------------------------------------------------

    def fields(self, about: Failure | Success, action: str, diagnostic: str | None) -> list[str]:
        """The per-recipient fields of RFC 3464 §2.3."""
        fields = [
            *self._original_recipient(about.options),
            f"Final-Recipient: {self._address('rfc822', about.recipient)}",
            f"Action: {action}",
            f"Status: {about.status}",
        ]
        if about.remote_host:
            fields.append(f"Remote-MTA: dns; {_mta_name(about.remote_host)}")
        if diagnostic is not None:
            fields.append(self._folded(f"Diagnostic-Code: smtp; {printable(diagnostic)}"))
        return [*fields, f"Last-Attempt-Date: {_date(self._now)}"]

    def _original_recipient(self, options: RecipientOptions | None) -> Iterable[str]:
        if options is not None and options.original_recipient is not None:
            yield f"Original-Recipient: {self._address(options.address_type, options.original_recipient)}"

    def _address(self, kind: str, address: str) -> str:
        """An address with its type; one beyond ASCII is encoded for those who cannot read it (RFC 6533 §3)."""
        if address.isascii():
            return f"{kind}; {address}"
        return f"utf-8; {address if self._utf8 else encode_utf8_address(address)}"

    def _folded(self, field: str) -> str:
        """One header field, folded so that no line exceeds what RFC 5322 §2.1.1 allows."""
        encoding = "utf-8" if self._utf8 else "ascii"
        text = field.encode(encoding, "backslashreplace").decode(encoding)
        return "\r\n ".join(textwrap.wrap(text, 76, break_on_hyphens=False)) or text

    # --- the original -----------------------------------------------------------------------------------------------

    def whole_or_header(self, original: bytes) -> bytes:
        """The part that gives the original back, as much of it as may be."""
        mail, options = self._mail, self._mail.options
        header_only = options.returned is Return.HEADERS or options.require_tls or mail.binary
        if header_only or mail.size > self._settings.whole_message_in_reports:
            return self.header(original)
        try:
            return self._fitting("message/global" if mail.utf8_header else "message/rfc822", original)
        except ConversionFailed:
            return self.header(original)

    def header(self, original: bytes) -> bytes:
        """The part that gives the header of the original back."""
        shown = original[: self._settings.whole_message_in_reports]
        header, _, _ = shown.partition(b"\r\n\r\n")
        lines = header.split(b"\r\n")
        if len(header) >= self._settings.whole_message_in_reports:
            lines = lines[:-1]
        kind = "message/global-headers" if self._mail.utf8_header else "text/rfc822-headers"
        return self._fitting(kind, b"".join(line + b"\r\n" for line in lines))

    def _fitting(self, kind: str, content: bytes) -> bytes:
        """A part in the form that a report has. Raises ``ConversionFailed`` for some of ``message/rfc822`` alone."""
        part = convert(_VERSION + _part(kind, content), BodyForm(eight_bit=self._utf8), break_signatures=True)
        return part.removeprefix(_VERSION)


def _mta_name(host: str) -> str:
    """A host as RFC 3464 §2.1.2 wants it: an address stands in brackets."""
    if ":" in host:
        return f"[IPv6:{host}]"
    return f"[{host}]" if host.replace(".", "").isdigit() else host


def _wrapped(paragraphs: Iterable[str]) -> bytes:
    lines = [line for paragraph in paragraphs for line in (*textwrap.wrap(paragraph, 76, break_on_hyphens=False), "")]
    return "\r\n".join(lines).encode("utf-8", "backslashreplace")


def _blocks(blocks: Iterable[Sequence[str]]) -> bytes:
    return "\r\n".join("".join(f"{line}\r\n" for line in block) for block in blocks).encode("utf-8")


def _part(kind: str, content: bytes) -> bytes:
    header = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {_encoding(content)}\r\n\r\n"
    return header.encode("ascii") + content


def _encoding(octets: bytes) -> str:
    return "7bit" if octets.isascii() else "8bit"


def _boundary(base: str, parts: Iterable[bytes]) -> str:
    """A boundary that occurs in no part (RFC 2046 §5.1.1)."""
    octets = b"".join(parts)
    number = 0
    while (boundary := f"{base}.{number}").encode("ascii") in octets:
        number += 1
    return boundary


def _date(moment: float) -> str:
    """A date of RFC 5322 §3.3, in UTC; what lies beyond all dates is the last one, or the first."""
    at = datetime.fromtimestamp(min(max(moment, 0.0), _LAST_MOMENT), UTC)
    return f"{_DAYS[at.weekday()]}, {at.day} {_MONTHS[at.month - 1]} {at.year} {at:%H:%M:%S} +0000"
