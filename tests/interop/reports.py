"""Reports of delivery (RFC 3464) that came back: what they say of which recipient.

What lives here: reading them. What does not: what ought to be there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message


@dataclass(frozen=True)
class Told:
    """What a report says of one recipient."""

    action: str
    recipient: str
    envelope_id: str | None
    original: str | None
    #: The type of what it gives back of the message.
    given_back: str
    #: Who reports.
    reporter: str


def told_in(reports: Iterable[bytes], number: str) -> list[Told]:
    """What all reports on the messages whose identifiers begin with ``number`` say."""
    told = []
    for octets in reports:
        if f"<{number}@".encode() not in octets:
            continue
        _, status, given_back = parts(message_from_bytes(octets))
        assert status.get_content_type() == "message/delivery-status"
        of_mail, *of_recipients = parts(status)
        # Some end with an empty group of fields.
        for fields in filter(len, of_recipients):
            _, _, recipient = (field(fields, "Final-Recipient") or "").partition(";")
            one = Told(
                field(fields, "Action") or "",
                recipient.strip(),
                field(of_mail, "Original-Envelope-Id"),
                field(fields, "Original-Recipient"),
                given_back.get_content_type(),
                (field(of_mail, "Reporting-MTA") or "").partition(";")[2].strip(),
            )
            told.append(one)
    return told


def parts(message: Message) -> list[Message]:
    """The parts of a message that has some."""
    payload = message.get_payload()
    assert isinstance(payload, list)
    return [part for part in payload if isinstance(part, Message)]


def field(fields: Message, name: str) -> str | None:
    """The value of a field, which may be beyond ASCII whatever the format says."""
    values = [value for key, value in fields.raw_items() if key.lower() == name.lower()]
    return values[0].encode("ascii", "surrogateescape").decode() if values else None
