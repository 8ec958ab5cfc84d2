"""What needs the standard library's email package: envelopes out of headers, octets out of messages, conversion.

What lives here: the way from ``email.message.Message`` objects, and from addresses as people write them, to what the
core takes; the name of what converts messages (:mod:`smtpcore._conversion`). What does not: anything that
``import smtpcore`` loads; dates, message identifiers and the quoting of local parts, which the standard library has
(``email.utils``, ``email.headerregistry.Address``).
"""

from __future__ import annotations

import copy
import io
from email.errors import HeaderParseError, InvalidHeaderDefect
from email.generator import BytesGenerator
from email.header import Header
from email.headerregistry import Address
from email.message import Message
from email.policy import EmailPolicy, Policy, default
from typing import Any

from smtpcore._conversion import convert
from smtpcore._errors import LocalProtocolError
from smtpcore._grammar import check_mailbox

__all__ = ["convert", "flatten", "mailbox_of", "recipients_of", "sender_of", "without_blind_copies"]


def mailbox_of(address: str | Address) -> str:
    """The mailbox out of an address as people write it, such as ``Anna <anna@home.example>``, or as an object.

    For the sender and the recipients of an envelope. A display name, comments and a source route (RFC 5321 Appendix C)
    are left out; nothing is added, so a name without a domain is no address. Raises ``LocalProtocolError`` for whatever
    is not one address, and for one that cannot be used.
    """
    if isinstance(address, Address):
        _check_ascii_mailbox(address.addr_spec)
        return address.addr_spec
    if not isinstance(address, str) or not address.isprintable():  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise LocalProtocolError("an address must be a printable str, or an email.headerregistry.Address", address)
    header = _parsed("address", address)
    if len(header.addresses) != 1 or header.groups[0].display_name is not None:
        raise LocalProtocolError("not one address", address)
    return _mailboxes("address", address, header)[0]


def sender_of(message: Message[Any, Any]) -> str:
    """The reverse-path as the header says: Sender if there is one, else the address of From.

    A message that was resent is judged by its Resent- fields alone (RFC 5322 §3.6.6). Raises ``LocalProtocolError``
    that names the field and the address: for an address that cannot be used, for none, for several in From without a
    Sender (RFC 5322 §3.6.2), and for several resent blocks, which nothing can tell apart safely.
    """
    prefix = _prefix(message)
    senders = _addresses(message, f"{prefix}Sender")
    if senders:
        return senders[0]
    authors = list(dict.fromkeys(_addresses(message, f"{prefix}From")))
    if not authors:
        raise LocalProtocolError(f"the message has no {prefix}From or {prefix}Sender; give the sender")
    if len(authors) > 1:
        words = f"{prefix}From has several addresses, and there is no {prefix}Sender (RFC 5322 §3.6.2); give the sender"
        raise LocalProtocolError(words, ", ".join(authors))
    return authors[0]


def recipients_of(message: Message[Any, Any]) -> tuple[str, ...]:
    """The recipients as the header says: all of To, Cc and Bcc, however often the fields occur, each address once.

    Resent- fields and errors as :func:`sender_of`.
    """
    prefix = _prefix(message)
    recipients: dict[str, None] = {}
    for name in ("To", "Cc", "Bcc"):
        recipients |= dict.fromkeys(_addresses(message, prefix + name))
    if not recipients:
        raise LocalProtocolError(f"the message has no {prefix}To, {prefix}Cc or {prefix}Bcc; give the recipients")
    return tuple(recipients)


def _prefix(message: Message[Any, Any]) -> str:
    blocks = sum(name.lower() == "resent-date" for name in message)
    if blocks > 1:
        raise LocalProtocolError("the message was resent more than once; give sender and recipients", blocks)
    return "Resent-" if any(name.lower().startswith("resent-") for name in message) else ""


def _addresses(message: Message[Any, Any], name: str) -> list[str]:
    found: list[str] = []
    for field, value in message.raw_items():
        if field.lower() == name.lower():
            found += _mailboxes(name, value, _parsed(name, value))
    return found


def _mailboxes(name: str, value: Any, header: Any) -> list[str]:
    """The checked mailboxes of a field that was parsed."""
    unreadable = [d for d in header.defects if isinstance(d, InvalidHeaderDefect) and "encoded" not in str(d)]
    if unreadable:
        # The parser goes on behind what it cannot read, and recipients are lost on the way.
        raise LocalProtocolError(f"{name} cannot be read: {unreadable[0]}", str(value))
    mailboxes = [address.addr_spec for address in header.addresses]
    for mailbox in mailboxes:
        try:
            _check_ascii_mailbox(mailbox)
        except LocalProtocolError as error:
            raise LocalProtocolError(f"{name} holds an address that cannot be used: {error}", str(value)) from None
    return mailboxes


def _check_ascii_mailbox(mailbox: str) -> None:
    # First, for octets beyond ASCII that stand in a header as they are come out of the email package as surrogates.
    if not mailbox.isascii():
        raise LocalProtocolError("addresses beyond ASCII (RFC 6531) are taken from an Envelope only", mailbox)
    check_mailbox(mailbox)


def _parsed(name: str, value: Any) -> Any:
    """The value of a field with its ``addresses`` and ``defects``, whatever policy the message has."""
    if hasattr(value, "addresses"):
        return value
    text = str(value)
    if isinstance(value, Header) and "unknown-8bit" not in value.encode():
        # As it will stand in the message: an encoded name is a name, whatever commas and addresses are in it.
        text = value.encode()
    try:
        # Every field of addresses has the grammar of To.
        return default.header_factory("To", "".join(text.splitlines()))
    except (HeaderParseError, IndexError, ValueError) as error:
        # The parser stumbles over some texts, such as a mailbox that ends with "@".
        raise LocalProtocolError(f"{name} cannot be read: {error}", text) from None


def without_blind_copies(message: Message[Any, Any]) -> Message[Any, Any]:
    """The message without Bcc and Resent-Bcc (RFC 5322 §3.6.3); the very object if it has neither."""
    if "Bcc" not in message and "Resent-Bcc" not in message:
        return message
    shown = copy.copy(message)
    # A shallow copy shares the list of fields, and deleting replaces that list in the copy only.
    del shown["Bcc"]
    del shown["Resent-Bcc"]
    return shown


def flatten(message: Message[Any, Any]) -> bytes:
    """The octets of a message, with CRLF line ends and without blind copies; folded as it was, signatures intact.

    Raises ``LocalProtocolError`` for one that cannot be written, such as one with text beyond ASCII and no charset.
    """
    octets = io.BytesIO()
    policy: Policy[Any]
    if isinstance(message.policy, EmailPolicy):
        # Lines that came folded stay as they are; fields beyond ASCII would need SMTPUTF8 (RFC 6531 §3.4).
        policy = message.policy.clone(linesep="\r\n", refold_source="none", utf8=False)
    else:
        # The old policy cannot tell what came folded; it leaves alone what is no longer than this (RFC 5322 §2.1.1).
        policy = message.policy.clone(linesep="\r\n", max_line_length=998)
    try:
        BytesGenerator(octets, mangle_from_=False, policy=policy).flatten(without_blind_copies(message))
    except Exception as error:
        # Of messages that were put together wrongly the library raises what it meets.
        raise LocalProtocolError(f"the email object cannot be written: {type(error).__name__}: {error}") from error
    return octets.getvalue()
