"""The planner: what MAIL and RCPT say of a mail to a peer, or why it cannot be given to that peer.

What lives here: one table of the parameters of MAIL and RCPT, and the lines that follow from it; whether the body can
go as it is. What does not: when the lines are said, what options there are (:mod:`smtpcore._options`), and converting
(:mod:`smtpcore._conversion`).

A row says when a parameter is wanted and how it is written, which extension allows it, and what happens at a peer that
does not offer it: either the mail is refused here, before a byte is said, or the parameter is left out, where the RFC
of the extension has the mail go on without it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from smtpcore._errors import ExtensionRequired, LocalProtocolError
from smtpcore._events import BodyFacts, BodyForm, Command, Envelope, Verb
from smtpcore._extensions import NO_CAPABILITIES, Capabilities, number_in
from smtpcore._grammar import check_mailbox, encode_xtext
from smtpcore._limits import Limits
from smtpcore._options import MailOptions, RecipientOptions
from smtpcore._xclient import Attribute

__all__ = [
    "MAIL_PARAMETERS",
    "NO_OFFER",
    "RCPT_PARAMETERS",
    "Conversion",
    "Offer",
    "Parameter",
    "attribute_commands",
    "fit",
    "in_a_labels",
    "plan",
    "rehearse",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a session allows: the peer's extensions, chunks, and TLS with a certificate that was verified."""

    capabilities: Capabilities = NO_CAPABILITIES
    chunking: bool = False
    tls_verified: bool = False

    def parameters(self, extension: str) -> tuple[str, ...]:
        """The parameters of an extension that is offered."""
        return self.capabilities.extensions[extension]


NO_OFFER: Final = Offer()


@dataclass(frozen=True, slots=True)
class Parameter(Generic[T]):
    """One parameter of MAIL or RCPT."""

    #: The keyword of EHLO that allows it.
    extension: str
    #: The parameter as it is said, or ``None`` if it is not wanted.
    text: Callable[[T], str | None]
    #: Why a peer that does not offer the extension cannot be given the mail, and the enhanced status code that says so;
    #: without it the parameter is left out.
    need: tuple[str, str] | None = None
    #: Why a peer that offers the extension cannot be given the mail nevertheless.
    refusal: Callable[[T, Offer], ExtensionRequired | None] | None = None
    #: Whether the parameter may go over TLS with a verified certificate only, and is left out elsewhere.
    over_tls: bool = False


# --- how parameters are written, and what else they need --------------------------------------------------------------


def _option(write: Callable[[MailOptions], str | None]) -> Callable[[Envelope], str | None]:
    return lambda envelope: write(envelope.options)


def _size(envelope: Envelope) -> str | None:
    return None if envelope.body.size is None else f"SIZE={envelope.body.size}"


def _too_large(envelope: Envelope, offer: Offer) -> ExtensionRequired | None:
    limit, size = offer.capabilities.size_limit, envelope.body.size or 0
    if limit is None or size <= limit:
        return None
    return ExtensionRequired(f"a message of {size} octets; the peer takes at most {limit}", "5.3.4")


def _eight_bit(envelope: Envelope) -> str | None:
    return "BODY=8BITMIME" if envelope.body.eight_bit and not envelope.body.binary else None


def _perhaps_eight_bit(envelope: Envelope) -> str | None:
    return "BODY=8BITMIME" if envelope.body.eight_bit is None and not envelope.body.binary else None


def _binary(envelope: Envelope) -> str | None:
    return "BODY=BINARYMIME" if envelope.body.binary else None


def _without_chunks(envelope: Envelope, offer: Offer) -> ExtensionRequired | None:
    if offer.chunking:
        return None
    return ExtensionRequired("the message is binary, and this session does not send in chunks", "5.6.3")


def _utf8(envelope: Envelope) -> str | None:
    paths = (envelope.reverse_path, *envelope.recipients)
    return None if not envelope.body.utf8_header and all(map(str.isascii, paths)) else "SMTPUTF8"


def _perhaps_utf8(envelope: Envelope) -> str | None:
    return "SMTPUTF8" if envelope.body.utf8_found and _utf8(envelope) is None else None


def _require_tls(envelope: Envelope) -> str | None:
    return "REQUIRETLS" if envelope.options.require_tls else None


def _without_tls(envelope: Envelope, offer: Offer) -> ExtensionRequired | None:
    if offer.tls_verified:
        return None
    return ExtensionRequired("REQUIRETLS needs a session with TLS and a verified certificate", "5.7.10")


def _deliver_by(options: MailOptions, *, notify_only: bool) -> str | None:
    wish = options.deliver_by
    if wish is None or wish.notify_only is not notify_only:
        return None
    return f"BY={wish.seconds};{'N' if notify_only else 'R'}{'T' if wish.trace else ''}"


def _too_soon(envelope: Envelope, offer: Offer) -> ExtensionRequired | None:
    wish = envelope.options.deliver_by
    # A list with commas, of which only the first member has a meaning yet (RFC 2852 §2).
    least = next((number_in(listed.partition(",")[0]) for listed in offer.parameters("DELIVERBY")), None)
    if wish is None or least is None or wish.seconds >= least:
        return None
    return ExtensionRequired(f"delivery within {wish.seconds} seconds; the peer needs at least {least}", "5.4.7")


def _hold_for(envelope: Envelope) -> str | None:
    seconds = envelope.options.hold_for
    return None if seconds is None else f"HOLDFOR={seconds}"


def _held_too_long(envelope: Envelope, offer: Offer) -> ExtensionRequired | None:
    seconds = envelope.options.hold_for or 0
    most = next(map(number_in, offer.parameters("FUTURERELEASE")), None)
    if most is None or seconds <= most:
        return None
    return ExtensionRequired(f"a mail held for {seconds} seconds; the peer holds one for at most {most}", "5.5.4")


def _hold_until(envelope: Envelope) -> str | None:
    moment = envelope.options.held_until
    return None if moment is None else f"HOLDUNTIL={moment}"


def _held_too_far(envelope: Envelope, offer: Offer) -> ExtensionRequired | None:
    moment = envelope.options.held_until or ""
    latest = next(iter(offer.parameters("FUTURERELEASE")[1:]), "")
    # Moments of one shape and one zone are in the order of their texts.
    if len(latest) != len(moment) or not latest.endswith("Z") or moment <= latest:
        return None
    return ExtensionRequired(f"a mail held until {moment}; the peer holds one until {latest} at most", "5.5.4")


@dataclass(frozen=True, slots=True)
class _Recipient:
    """What is asked for one recipient, and whether the mail goes with SMTPUTF8."""

    options: RecipientOptions
    utf8: bool


def _notify(recipient: _Recipient) -> str | None:
    notify = recipient.options.notify
    return f"NOTIFY={','.join(kind.value for kind in notify)}" if notify else None


def _original_recipient(recipient: _Recipient) -> str | None:
    options = recipient.options
    said = options.original_in_utf8 if recipient.utf8 else options.original
    return None if said is None else f"ORCPT={said}"


_BEYOND_ASCII: Final = ("the mail has addresses or a header beyond ASCII", "5.6.7")

#: The parameters of MAIL. The first rows are for every mail, those behind them for mails that ask for more.
_USUAL: Final[Sequence[Parameter[Envelope]]] = (
    Parameter("SIZE", _size, refusal=_too_large),
    Parameter("8BITMIME", _eight_bit, ("the message has octets above 127", "5.6.3")),
    Parameter("8BITMIME", _perhaps_eight_bit),
)
MAIL_PARAMETERS: Final[Sequence[Parameter[Envelope]]] = (
    *_USUAL,
    Parameter("BINARYMIME", _binary, ("the message is binary", "5.6.3"), _without_chunks),
    Parameter("SMTPUTF8", _utf8, _BEYOND_ASCII),
    # Many a header holds UTF-8 of which its sender knows nothing, and always went.
    Parameter("SMTPUTF8", _perhaps_utf8),
    Parameter(
        "REQUIRETLS",
        lambda envelope: _require_tls(envelope) if envelope.reverse_path else None,
        ("the mail may go over TLS only, all the way", "5.7.30"),
        _without_tls,
    ),
    # A report that could not be sent would be lost (RFC 8689 §5); in other sessions it may not be said (§2).
    Parameter("REQUIRETLS", lambda envelope: None if envelope.reverse_path else _require_tls(envelope), over_tls=True),
    Parameter("DSN", _option(lambda options: options.returned and f"RET={options.returned.value}")),
    Parameter("DSN", _option(lambda options: options.envelope_id and f"ENVID={encode_xtext(options.envelope_id)}")),
    Parameter(
        "DELIVERBY",
        _option(lambda options: _deliver_by(options, notify_only=False)),
        ("the mail is to be delivered in time or given back", "5.3.3"),
        _too_soon,
    ),
    Parameter("DELIVERBY", _option(lambda options: _deliver_by(options, notify_only=True))),
    Parameter(
        "MT-PRIORITY",
        _option(lambda options: None if options.priority is None else f"MT-PRIORITY={options.priority}"),
    ),
    Parameter("FUTURERELEASE", _hold_for, ("the mail is to be held for a time", "5.3.3"), _held_too_long),
    Parameter("FUTURERELEASE", _hold_until, ("the mail is to be held until a moment", "5.3.3"), _held_too_far),
    Parameter(
        "AUTH",
        _option(
            lambda options: None if options.submitter is None else f"AUTH={encode_xtext(options.submitter) or '<>'}"
        ),
    ),
)

#: The parameters of RCPT.
RCPT_PARAMETERS: Final[Sequence[Parameter[_Recipient]]] = (
    Parameter("DSN", _notify),
    Parameter("DSN", _original_recipient),
)

_EVERYTHING: Final = Offer(
    capabilities=Capabilities(
        "", dict.fromkeys([row.extension for row in MAIL_PARAMETERS] + [row.extension for row in RCPT_PARAMETERS], ())
    ),
    chunking=True,
    tls_verified=True,
)
#: A line of XCLIENT or XFORWARD with its CRLF: servers take no longer ones.
_ATTRIBUTE_LINE: Final = 512
#: What a MAIL line without options holds at most beside the reverse-path, CRLF included.
_USUAL_PARAMETERS: Final = len("MAIL FROM:<> SIZE= BODY=8BITMIME\r\n") + 20


# --- domains beyond ASCII ---------------------------------------------------------------------------------------------


def in_a_labels(envelope: Envelope, to_a_labels: Callable[[str], str] | None) -> Envelope:
    """The envelope as it is said: domains beyond ASCII in A-labels (RFC 5890 §2.3.2.1) where nothing else is beyond it.

    So the mail needs no SMTPUTF8, here or further on its way. ``to_a_labels`` does it for one domain; without it, and
    where a local part or the header is beyond ASCII, the envelope stays as it is. The options of recipients are left
    out, for two recipients may become one address: each keeps its own, by its place. Raises ``LocalProtocolError`` for
    a domain that has no A-labels.
    """
    paths = (envelope.reverse_path, *envelope.recipients)
    local_parts = "".join(path.rpartition("@")[0] for path in paths)
    if to_a_labels is None or envelope.body.utf8_header or not local_parts.isascii() or all(map(str.isascii, paths)):
        return envelope
    said = {path: _said(path, to_a_labels) for path in paths}
    return replace(
        envelope,
        reverse_path=said[envelope.reverse_path],
        recipients=tuple(said[path] for path in envelope.recipients),
        recipient_options={},
    )


def _said(path: str, to_a_labels: Callable[[str], str]) -> str:
    if path.isascii():
        return path
    local_part, _, domain = path.rpartition("@")
    try:
        said = f"{local_part}@{to_a_labels(domain)}"
        check_mailbox(said)
    except (ValueError, LocalProtocolError) as error:
        raise LocalProtocolError(f"the domain cannot be written in A-labels: {error}", path) from error
    return said


# --- bodies -----------------------------------------------------------------------------------------------------------


class Conversion(enum.Enum):
    """What to do with a body that cannot go as it is: because of octets above 127, or because of long lines."""

    #: Parts of it are encoded anew (RFC 6152 §3); what stays unknown goes as it is.
    CONVERT = "convert"
    #: The mail is refused here, also where it stays unknown what the body is.
    REFUSE = "refuse"
    #: It goes nevertheless, and nothing is declared.
    AS_IS = "as-is"


_WANTS_TO_KNOW: Final = frozenset({Conversion.CONVERT, Conversion.REFUSE})
#: What may be in a body, in the order of the wishes, with the enhanced status codes of refusals.
_NOT_KNOWN: Final = (("octets above 127", "5.6.3"), ("lines of more than 998 octets", "5.6.0"))


def fit(
    body: BodyFacts, offer: Offer, eight_bit: Conversion | None, long_lines: Conversion, *, asked: bool
) -> BodyFacts | BodyForm | ExtensionRequired | None:
    """What is to be planned with: the facts of the body, the form into which it must be brought first, or a refusal.

    ``None`` where more must be known of it; ``asked`` says that no more can be: then it goes as it is, unless the wish
    is to refuse. Without a wish for ``eight_bit`` nothing needs to be known of it. What the table of MAIL refuses is
    not refused here.
    """
    if long_lines is Conversion.AS_IS and not body.binary and (body.eight_bit is False or eight_bit is None):
        return body
    takes_eight_bit = "8BITMIME" in offer.capabilities
    form = BodyForm(
        eight_bit=takes_eight_bit or eight_bit is not Conversion.CONVERT,
        long_lines=long_lines is not Conversion.CONVERT,
    )
    if body.binary:
        goes = offer.chunking and "BINARYMIME" in offer.capabilities
        return body if goes or eight_bit is not Conversion.CONVERT else form
    wishes = ((None if takes_eight_bit else eight_bit, body.eight_bit), (long_lines, body.long_lines))
    if (Conversion.CONVERT, True) in wishes:
        return form
    if not asked and any(wish in _WANTS_TO_KNOW and known is None for wish, known in wishes):
        return None
    if wishes[1] == (Conversion.REFUSE, True):
        return ExtensionRequired("the message has lines of more than 998 octets", "5.6.0")
    for wish, (what, enhanced) in zip(wishes, _NOT_KNOWN, strict=True):
        if wish == (Conversion.REFUSE, None):
            return ExtensionRequired(f"the message may have {what}: it is not known", enhanced)
    return replace(body, eight_bit=False) if wishes[0] == (Conversion.AS_IS, True) else body


# --- lines ------------------------------------------------------------------------------------------------------------


def _parameters(rows: Sequence[Parameter[T]], subject: T, offer: Offer) -> str | ExtensionRequired:
    """What ``rows`` say of ``subject``, each parameter with a space before it."""
    extensions = offer.capabilities.extensions
    said = ""
    for row in rows:
        text = row.text(subject)
        if text is None:
            continue
        if row.extension in extensions and (offer.tls_verified or not row.over_tls):
            if row.refusal is not None and (refusal := row.refusal(subject, offer)) is not None:
                return refusal
            said += f" {text}"
        elif row.need is not None:
            why, enhanced = row.need
            return ExtensionRequired(f"{why} and the peer does not offer {row.extension}", enhanced)
    return said


def plan(
    envelope: Envelope, given: Envelope, commands: list[Command], offer: Offer, limits: Limits
) -> tuple[Sequence[Command], list[Command]] | ExtensionRequired:
    """MAIL and what comes before it, and RCPT for each recipient, with the parameters that ``offer`` allows.

    Or why the mail cannot be given. ``envelope`` is how it is said, ``given`` how it was asked for, whose options of
    recipients hold.

    ``commands`` are what :func:`rehearse` gave. Raises ``LocalProtocolError`` when a line would exceed its limit, which
    after :func:`rehearse` none does.
    """
    said = _parameters(MAIL_PARAMETERS if envelope.extended else _USUAL, envelope, offer)
    if isinstance(said, ExtensionRequired):
        return said
    mail = _bounded(Verb.MAIL, f"MAIL FROM:<{envelope.reverse_path}>{said}", limits)
    opening = (mail,) if envelope.options.forwarded is None else (*_forwarded(envelope, offer, limits), mail)
    if not given.recipient_options:
        return opening, commands
    utf8 = " SMTPUTF8" in said
    return opening, [
        _rcpt(recipient, given.recipient_options.get(asked), utf8, offer, limits)
        for recipient, asked in zip(envelope.recipients, given.recipients, strict=True)
    ]


def _forwarded(envelope: Envelope, offer: Offer, limits: Limits) -> list[Command]:
    """XFORWARD with the attributes that the peer takes."""
    assert envelope.options.forwarded is not None
    attributes = envelope.options.forwarded.attributes
    if offer is not _EVERYTHING:
        taken = {keyword.upper() for keyword in offer.capabilities.extensions.get("XFORWARD", ())}
        attributes = tuple(each for each in attributes if each[0] in taken)
    return attribute_commands(Verb.XFORWARD, attributes, limits)


def attribute_commands(verb: Verb, attributes: Sequence[Attribute], limits: Limits) -> list[Command]:
    """XCLIENT or XFORWARD with these attributes, as many of them as the length of a line asks for.

    Raises ``LocalProtocolError`` when a line would exceed ``limits``.
    """
    lines: list[str] = []
    for keyword, text in attributes:
        attribute = f" {keyword}={text}"
        if not lines or len(lines[-1]) + len(attribute) + 2 > min(_ATTRIBUTE_LINE, limits.command_line):
            lines.append(verb.value)
        lines[-1] += attribute
    return [_bounded(verb, line, limits) for line in lines]


def rehearse(envelope: Envelope, given: Envelope, limits: Limits) -> list[Command]:
    """RCPT for each recipient, without parameters (RFC 5321 §4.1.1.3); the envelopes are as in :func:`plan`.

    Raises ``LocalProtocolError`` if a line of the mail could exceed its limit with everything that a peer may offer.
    """
    if given.extended or len(envelope.reverse_path) + _USUAL_PARAMETERS > limits.command_line:
        plan(envelope, given, [], _EVERYTHING, limits)
    return [_bounded(Verb.RCPT, f"RCPT TO:<{recipient}>", limits) for recipient in envelope.recipients]


def _rcpt(recipient: str, options: RecipientOptions | None, utf8: bool, offer: Offer, limits: Limits) -> Command:
    said = "" if options is None else _parameters(RCPT_PARAMETERS, _Recipient(options, utf8), offer)
    assert isinstance(said, str)  # no row of RCPT refuses
    return _bounded(Verb.RCPT, f"RCPT TO:<{recipient}>{said}", limits)


def _bounded(verb: Verb, text: str, limits: Limits) -> Command:
    """The command of one line (RFC 5321 §4.5.3.1.4)."""
    line = text.encode("utf-8")
    if len(line) + 2 > limits.command_line:
        raise LocalProtocolError(f"a command line has at most {limits.command_line} octets (Limits.command_line)", line)
    return Command(verb, line)
