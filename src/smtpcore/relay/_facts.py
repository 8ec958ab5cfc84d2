"""What crosses the borders of the relay: stored mails and jobs, facts that come in, orders that go out.

What lives here: frozen values. What does not: any decision. Times are seconds since the epoch, on the clock of whoever
drives the relay.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from smtpcore._errors import SessionError
from smtpcore._events import BodyFacts, Envelope, Report
from smtpcore._grammar import domain_of
from smtpcore._limits import LINE_OCTETS
from smtpcore._options import NO_OPTIONS, MailOptions, RecipientOptions
from smtpcore.relay._names import AddressAnswer, MxAnswer

__all__ = [
    "Action",
    "Attempted",
    "Bounce",
    "Claim",
    "CloseSession",
    "Commanded",
    "Confirmation",
    "Continue",
    "DelayWarning",
    "Delivery",
    "DomainResolved",
    "DomainsLoaded",
    "Durable",
    "Effect",
    "Fact",
    "Failure",
    "Fate",
    "FateKind",
    "Forget",
    "Host",
    "Job",
    "JobsLoaded",
    "JobsRemoved",
    "Load",
    "LoadDomains",
    "MailAccepted",
    "NextHop",
    "OpenSession",
    "Operate",
    "Orders",
    "PendingRecipient",
    "Reported",
    "Resolve",
    "Save",
    "SessionEnded",
    "ShutDown",
    "SpoolChanged",
    "StoredMail",
    "Success",
    "TimePassed",
    "recipients_by_domain",
]


# --- what is stored -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMail:
    """A mail that the spool holds. ``mail_id`` is its queue id; the body is canonical (every line end CRLF)."""

    mail_id: int
    reverse_path: str
    #: Octets of the body, without dot-stuffing.
    size: int
    eight_bit: bool
    #: Whether any line begins with a dot: if none does, the body passes through DATA untouched.
    leading_dots: bool
    accepted_at: float
    #: Octets of the longest line without its CRLF; ``None`` if it is not known.
    longest_line: int | None = None
    #: Whether the body need not have lines; then it is kept and sent as it came.
    binary: bool = False
    #: Whether the header holds characters beyond ASCII.
    utf8_header: bool = False
    #: What the sender asks for the mail.
    options: MailOptions = NO_OPTIONS
    #: Whether UTF-8 was found in the header though nobody declared it.
    utf8_found: bool = False

    @property
    def body_facts(self) -> BodyFacts:
        """What a client may know of the body beforehand."""
        return BodyFacts(
            size=self.size,
            eight_bit=self.eight_bit,
            repeatable=True,
            canonical=not self.leading_dots,
            long_lines=None if self.longest_line is None else self.longest_line > LINE_OCTETS,
            binary=self.binary,
            utf8_header=self.utf8_header,
            utf8_found=self.utf8_found,
        )


@dataclass(frozen=True, slots=True)
class PendingRecipient:
    """A recipient without a final verdict.

    ``last_words`` is what the last attempt was told, empty where it has not come to that.
    """

    address: str
    last_words: str = ""
    #: Whether the sender was told of the delay.
    warned: bool = False
    #: What the sender asks for this recipient, if anything.
    options: RecipientOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One mail to one recipient domain: the unit of storage and retry."""

    job_id: int
    mail_id: int
    domain: str
    due_at: float
    #: Attempts begun so far, the running one among them.
    attempts: int
    recipients: tuple[PendingRecipient, ...]


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where a delivery goes; what sessions are shared and limits are counted by.

    ``host`` and ``port`` are those of the host that is tried first. ``others`` tells apart sets of hosts that share
    this one: what is known of the further ones, in words. Domains with the same set of MX hosts have one next hop. A
    store of mailboxes behind a unix socket has a ``path`` in place of both.
    """

    host: str
    port: int
    others: tuple[str, ...] = ()
    #: Whether LMTP is spoken there, and the unix socket if it is one.
    lmtp: bool = field(default=False, kw_only=True)
    path: str = field(default="", kw_only=True)

    def __str__(self) -> str:
        return _where(f"{self.host}:{self.port}", lmtp=self.lmtp, path=self.path)


@dataclass(frozen=True, slots=True)
class Host:
    """One host at one address, to be connected to.

    ``name`` is what its certificate must be for and what it is called in reports; ``address`` is an IPv6 or IPv4
    address, or ``None`` when the driver is to look the name up. What listens on the unix socket ``path`` has neither.
    """

    name: str
    address: str | None
    port: int
    #: Whether LMTP is spoken there, and the unix socket if it is one.
    lmtp: bool = field(default=False, kw_only=True)
    path: str = field(default="", kw_only=True)

    def __str__(self) -> str:
        at = f" ({self.address})" if self.address not in (None, self.name) else ""
        return _where(f"{self.name}{at}:{self.port}", lmtp=self.lmtp, path=self.path)


def _where(port_of_host: str, *, lmtp: bool, path: str) -> str:
    """A host as a configuration names it."""
    return f"lmtp:{path or port_of_host}" if lmtp else port_of_host


@dataclass(frozen=True, slots=True)
class Delivery:
    """The jobs of one mail that go to one next hop together; its report is one fact over all of them."""

    delivery_id: int
    mail: StoredMail
    jobs: tuple[Job, ...]
    next_hop: NextHop
    #: What is asked of the next hop, as it stood when the delivery was ordered; ``None`` for what the mail says.
    options: MailOptions | None = None

    @property
    def envelope(self) -> Envelope:
        """The envelope, its recipients in the order of the jobs."""
        recipients = [recipient for job in self.jobs for recipient in job.recipients]
        return Envelope(
            self.mail.reverse_path,
            tuple(recipient.address for recipient in recipients),
            body=self.mail.body_facts,
            options=self.mail.options if self.options is None else self.options,
            recipient_options={one.address: one.options for one in recipients if one.options is not None},
        )


def recipients_by_domain(
    recipients: Sequence[str], most: int = 1000, *, to_a_labels: Callable[[str], str] | None = None
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """``(domain, recipients)`` for each job that a mail makes; ``most`` bounds the recipients of one job.

    ``to_a_labels`` writes a domain beyond ASCII as the DNS and routes know it; what it raises passes as it is.
    """
    domains: dict[str, list[str]] = {}
    for recipient in recipients:
        domain = domain_of(recipient)
        if to_a_labels is not None and not domain.isascii():
            domain = to_a_labels(domain).lower()
        domains.setdefault(domain, []).append(recipient)
    for domain, members in domains.items():
        for start in range(0, len(members), most):
            yield domain, tuple(members[start : start + most])


# --- facts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MailAccepted:
    """A mail is safe in the spool."""

    mail: StoredMail
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class SpoolChanged:
    """Another process put something into the spool."""


@dataclass(frozen=True, slots=True)
class DomainsLoaded:
    """The answer to :class:`LoadDomains`: domains with due jobs, the longest due first.

    ``complete`` says that there are no others; ``next_due`` is when the next job falls due that is not due yet.
    """

    domains: tuple[str, ...]
    complete: bool
    next_due: float | None


@dataclass(frozen=True, slots=True)
class JobsLoaded:
    """The answer to :class:`Load`: due jobs of a domain and their siblings of the same mails, longest due first.

    ``complete`` says that the domain has no other due jobs but those that were known.
    """

    domain: str
    mails: tuple[StoredMail, ...]
    jobs: tuple[Job, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class DomainResolved:
    """The answer to :class:`Resolve`: the MX records of a domain, and the addresses of those hosts.

    ``addresses`` holds what was found for every MX host by its name, or for the domain itself when it has no MX.
    ``seconds`` is how long all this may be used.
    """

    domain: str
    mx: MxAnswer
    addresses: tuple[tuple[str, AddressAnswer], ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Reported:
    """A client's report of one delivery, unchanged."""

    session_id: int
    delivery_id: int
    report: Report
    #: Whether the host offers DSN, and so answers for what was asked of it (RFC 3461 §5.2.1).
    dsn: bool = False


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A session is gone, or could not be opened. A delivery of its that was not reported was not begun either."""

    session_id: int
    error: SessionError | None


class Action(enum.Enum):
    """What an operator may wish for mails that are queued."""

    #: Deliver them no more until they are released; what is on its way is finished first.
    HOLD = "hold"
    #: The end of ``HOLD``.
    RELEASE = "release"
    #: Try them now, and their destinations too where they rest.
    RETRY = "retry"
    #: Forget them without a word to their senders; what is on its way is finished first.
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Commanded:
    """An operator wishes something for these mails. Mails that are not queued are passed over.

    ``domains`` are their recipient domains, for ``RETRY``: it cuts the rests of their destinations short.
    """

    action: Action
    mail_ids: tuple[int, ...]
    domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobsRemoved:
    """The answer to an :class:`Operate` that removes: the jobs that were forgotten."""

    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing happened but time."""


@dataclass(frozen=True, slots=True)
class ShutDown:
    """Begin no more deliveries and close all sessions."""


Fact: TypeAlias = (
    MailAccepted
    | SpoolChanged
    | DomainsLoaded
    | JobsLoaded
    | DomainResolved
    | Reported
    | SessionEnded
    | Commanded
    | JobsRemoved
    | TimePassed
    | ShutDown
)


# --- durable orders -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """Record that an attempt begins: ``job.attempts`` counts it, and nobody else may load the job now."""

    job: Job


@dataclass(frozen=True, slots=True)
class Save:
    """Record what an attempt left of a job, and give it free."""

    job: Job


@dataclass(frozen=True, slots=True)
class Forget:
    """The job is done; its mail, too, if it has no other."""

    job: Job


@dataclass(frozen=True, slots=True)
class Failure:
    """One recipient in a report to the sender.

    ``status`` is an enhanced status code (RFC 3463), ``diagnostic`` the peer's reply (``None`` when there was none),
    ``reason`` the sentence for people.
    """

    recipient: str
    status: str
    diagnostic: str | None
    reason: str
    #: The name or the address of the peer; empty where it did not come to one, or where it has none.
    remote_host: str
    #: What the sender asked for the recipient, if anything.
    options: RecipientOptions | None = None


@dataclass(frozen=True, slots=True)
class Success:
    """One recipient in a report that things went well.

    ``relayed`` says that the mail went to a host which does not report deliveries itself; else it is in the recipient's
    mailbox. ``diagnostic`` is the peer's reply.
    """

    recipient: str
    relayed: bool
    status: str
    diagnostic: str
    remote_host: str
    options: RecipientOptions | None = None


@dataclass(frozen=True, slots=True)
class Bounce:
    """Store a report of failure for the sender (RFC 3464), before the jobs that it is about are forgotten."""

    mail: StoredMail
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class DelayWarning:
    """Store a report of delay for the sender (RFC 3464 §2.3.3, action "delayed")."""

    mail: StoredMail
    failures: tuple[Failure, ...]
    #: When the relay will give up.
    retry_until: float


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Store a report of success for the sender, who asked for one (RFC 3461 §5.2.2, §5.2.3)."""

    mail: StoredMail
    successes: tuple[Success, ...]


@dataclass(frozen=True, slots=True)
class Operate:
    """Do to all jobs of these mails what an operator wishes; comes after the other orders of its batch.

    ``HOLD``: mark them, so that they are not loaded; a job that is claimed is marked too, and is held once it is saved.
    ``RELEASE``: take the mark away. ``RETRY``: jobs that are not claimed are due at once. ``REMOVE``: forget jobs that
    are not claimed, answered by :class:`JobsRemoved`, and mark those that are: nobody loads them, and saving such a job
    forgets it.
    """

    action: Action
    mail_ids: tuple[int, ...]


Durable: TypeAlias = Claim | Save | Forget | Bounce | DelayWarning | Confirmation | Operate


# --- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoadDomains:
    """Ask for up to ``limit`` domains, but those in ``known``, with jobs that are due and not claimed.

    Due is what lies before ``until``, and, since a clock may have been set back, what lies beyond ``horizon``: no
    schedule reaches so far.
    """

    until: float
    horizon: float
    limit: int
    known: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Ask for up to ``limit`` due jobs of a domain, but those in ``known``, and for due siblings of the same mails.

    ``until`` and ``horizon`` are as for :class:`LoadDomains`.
    """

    domain: str
    until: float
    horizon: float
    limit: int
    known: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolve:
    """Look up the MX records of a domain and the addresses of its hosts; answered by :class:`DomainResolved`."""

    domain: str


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Connect to a host and make this delivery."""

    session_id: int
    delivery: Delivery
    host: Host


@dataclass(frozen=True, slots=True)
class Continue:
    """Make this delivery over a session, after those that it was given before."""

    session_id: int
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class CloseSession:
    """End a session; a delivery on its way may be broken off."""

    session_id: int


class FateKind(enum.Enum):
    """The end of one recipient's story."""

    DELIVERED = "delivered"
    #: Refused for good; the sender is told.
    BOUNCED = "bounced"
    #: Tried for too long; the sender is told.
    EXPIRED = "expired"
    #: Refused, or tried for too long, and there is nobody to tell: the reverse-path is null, or the sender does not
    #: want to hear of it.
    DISCARDED = "discarded"
    #: An operator removed it; nobody is told.
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one recipient of one mail, once, and after it is safe in the spool."""

    mail_id: int
    recipient: str
    kind: FateKind
    words: str


@dataclass(frozen=True, slots=True)
class Attempted:
    """An attempt for one recipient that did not settle its fate."""

    mail_id: int
    recipient: str
    attempts: int
    due_at: float
    words: str
    in_doubt: bool


Effect: TypeAlias = LoadDomains | Load | Resolve | OpenSession | Continue | CloseSession | Fate | Attempted


@dataclass(frozen=True, slots=True)
class Orders:
    """One batch: commit all durable orders, in their order, in one transaction; then perform the effects."""

    durable: tuple[Durable, ...] = field(default=())
    effects: tuple[Effect, ...] = field(default=())
