"""Reports to senders: what could not be delivered, and what is late (RFC 3464 in the frame of RFC 6522).

What lives here: two pure composers, from an order of the relay and the octets of the original to the octets of a report
with CRLF line ends. What does not: storing the report, and deciding that there must be one.

Nothing that a peer said can break the structure: replies come without control characters, every line is folded, and the
boundary is chosen so that it occurs in no part.
"""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from smtpcore._grammar import printable
from smtpcore.relay._facts import Bounce, DelayWarning, Failure, StoredMail
from smtpcore.relay._settings import RelaySettings

__all__ = ["compose_bounce", "compose_delay_warning"]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
#: The last second of the year 9999: whoever never gives up tries until then.
_LAST_MOMENT = 253_402_300_799.0
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def compose_bounce(order: Bounce, original: bytes, settings: RelaySettings, now: float) -> bytes:
    """The report that mail could not be delivered, as a whole message.

    ``original`` holds the octets of the mail, or its beginning, of which the header is shown then: the whole is shown
    up to ``settings.whole_message_in_reports`` octets.
    """
    text = (
        f"This is the mail relay {settings.reporting_mta}.",
        "Your message could not be delivered to the recipients below. It will not be tried again.",
    )
    status = [_recipient_fields(failure, "failed", now) for failure in order.failures]
    return _compose("Undelivered mail returned to sender", text, order, status, original, settings, now)


def compose_delay_warning(order: DelayWarning, original: bytes, settings: RelaySettings, now: float) -> bytes:
    """The report that mail is late and still being tried; arguments as :func:`compose_bounce`."""
    text = (
        f"This is the mail relay {settings.reporting_mta}.",
        "Your message has not yet been delivered to the recipients below. It will be tried again until "
        f"{_date(order.retry_until)}; there is no need to send it again.",
    )
    status = [
        [*_recipient_fields(failure, "delayed", now), f"Will-Retry-Until: {_date(order.retry_until)}"]
        for failure in order.failures
    ]
    return _compose("Delayed mail, still being tried", text, order, status, original, settings, now)


def _compose(
    subject: str,
    text: Iterable[str],
    order: Bounce | DelayWarning,
    status: Sequence[Sequence[str]],
    original: bytes,
    settings: RelaySettings,
    now: float,
) -> bytes:
    mail, name = order.mail, settings.reporting_mta
    shown = [f"<{failure.recipient}>: {printable(failure.reason)}" for failure in order.failures]
    message_fields = [f"Reporting-MTA: dns; {name}", f"Arrival-Date: {_date(mail.accepted_at)}"]
    parts = [
        _part("text/plain; charset=utf-8", _wrapped([*text, *shown])),
        _part("message/delivery-status", _blocks([message_fields, *status])),
        _original(mail, original, settings.whole_message_in_reports),
    ]
    # Two reports on one mail at one moment speak of different recipients.
    mark = zlib.crc32(repr(order.failures).encode("utf-8", "backslashreplace"))
    boundary = _boundary(f"report.{mail.mail_id}.{mark:08x}", parts)
    header = [
        f"From: Mail Delivery System <MAILER-DAEMON@{name}>",
        f"To: <{mail.reverse_path}>",
        f"Subject: {subject}",
        f"Date: {_date(now)}",
        f"Message-ID: <{mail.mail_id}.{mark:08x}.{int(now * 1000)}@{name}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"',
        f"Content-Transfer-Encoding: {_encoding(b''.join(parts))}",
    ]
    delimiter = b"--" + boundary.encode("ascii")
    body = b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts)
    return "\r\n".join(header).encode("ascii") + b"\r\n\r\n" + body + delimiter + b"--\r\n"


def _recipient_fields(failure: Failure, action: str, now: float) -> list[str]:
    """The per-recipient fields of RFC 3464 §2.3."""
    fields = [
        f"Final-Recipient: rfc822; {failure.recipient}",
        f"Action: {action}",
        f"Status: {failure.status}",
    ]
    if failure.remote_host:
        fields.append(f"Remote-MTA: dns; {_mta_name(failure.remote_host)}")
    if failure.diagnostic is not None:
        fields.append(_folded(f"Diagnostic-Code: smtp; {printable(failure.diagnostic)}"))
    return [*fields, f"Last-Attempt-Date: {_date(now)}"]


def _mta_name(host: str) -> str:
    """A host as RFC 3464 §2.1.2 wants it: an address stands in brackets."""
    if ":" in host:
        return f"[IPv6:{host}]"
    return f"[{host}]" if host.replace(".", "").isdigit() else host


def _folded(field: str) -> str:
    """One header field in ASCII, folded so that no line exceeds what RFC 5322 §2.1.1 allows."""
    ascii_only = field.encode("ascii", "backslashreplace").decode("ascii")
    return "\r\n ".join(textwrap.wrap(ascii_only, 76, break_on_hyphens=False)) or ascii_only


def _wrapped(paragraphs: Iterable[str]) -> bytes:
    lines = [line for paragraph in paragraphs for line in (*textwrap.wrap(paragraph, 76, break_on_hyphens=False), "")]
    return "\r\n".join(lines).encode("utf-8", "backslashreplace")


def _blocks(blocks: Iterable[Sequence[str]]) -> bytes:
    return "\r\n".join("".join(f"{line}\r\n" for line in block) for block in blocks).encode("ascii")


def _original(mail: StoredMail, original: bytes, whole: int) -> bytes:
    if mail.size <= whole:
        return _part("message/rfc822", original)
    header, _, _ = original[:whole].partition(b"\r\n\r\n")
    lines = header.split(b"\r\n")
    if len(header) >= whole:
        lines = lines[:-1]
    return _part("text/rfc822-headers", b"".join(line + b"\r\n" for line in lines))


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
