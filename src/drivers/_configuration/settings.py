"""Every setting of a relay, declared once: its key, its kind, what it means, and its default.

What lives here: the tables. What does not: reading a configuration, and the texts that document it.

A setting has a key such as ``schedule.give_up_after``; most are a field of one of the value objects of the relay and of
the core, and have its default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from smtpcore import Conversion, Deadlines, Limits, Pipelining, TlsPolicy
from smtpcore.drivers._configuration.kinds import (
    ADDRESS,
    DIRECTORY,
    DURATION,
    FACTOR,
    FILE,
    FLAG,
    HOST_AND_PORT,
    HOST_NAME,
    NEVER,
    NUMBER,
    OCTETS,
    SHARE,
    TEXT,
    WAY,
    Kind,
    choice,
    list_of,
    or_word,
)
from smtpcore.drivers.resolver import ResolverSettings
from smtpcore.relay import RelaySettings, Schedule

__all__ = ["BACKENDS", "LEVELS", "ROUTE_SETTINGS", "SECTIONS", "SETTINGS", "Setting", "settings_by_section"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. ``default`` is ``None`` for what is not set unless given; ``field`` is where its value goes."""

    key: str
    kind: Kind
    meaning: str
    default: Any = None
    field: tuple[type, str] | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """The key as a path from the top of the document."""
        return tuple(self.key.split("."))

    @property
    def section(self) -> str:
        """The table that the setting belongs to; empty at the top."""
        return self.key.rpartition(".")[0]


def _of(owner: type, key: str, kind: Kind, meaning: str, name: str | None = None) -> Setting:
    """A setting that is a field of ``owner``, named as the last part of its key unless ``name`` says otherwise."""
    name = name or key.rpartition(".")[2]
    found = next(one for one in dataclasses.fields(owner) if one.name == name)
    missing = found.default is dataclasses.MISSING
    return Setting(key, kind, meaning, None if missing or found.default == () else found.default, (owner, name))


#: What a log is written from, the talkative first.
LEVELS: Final = ("debug", "info", "warning", "error")

#: What a relay can run on.
BACKENDS: Final = ("asyncio", "trio", "threads")

#: What each section is about, in the order in which they are shown; the first is the top of the document.
SECTIONS: Final[Mapping[str, str]] = {
    "": "Where the mail is, and what runs the relay.",
    "identity": "What the relay calls itself.",
    "routing": "Where mail goes.",
    "tls": "How sessions are encrypted, unless a route says anything of TLS: then it says all.",
    "credentials": "Who the relay is to the hosts of routing.default; for other hosts a route says it.",
    "dns": "How names are looked up.",
    "session": "How a session is held.",
    "schedule": "When a mail is tried again, and when it is given up (RFC 5321, 4.5.4.1).",
    "concurrency": "How much is done at once.",
    "reports": "What senders are told of mail that could not be delivered.",
    "limits": "Bounds on what either side of a session may send.",
    "deadlines": "How long to wait for a peer (RFC 5321, 4.5.3.2).",
    "logging": "What is written of each attempt and fate.",
}

_SESSION: Final = (
    Setting(
        "tls.policy",
        choice(TlsPolicy.OPPORTUNISTIC, TlsPolicy.NEVER, TlsPolicy.REQUIRED, TlsPolicy.IMPLICIT),
        "Whether sessions are encrypted: opportunistic encrypts when the peer offers it and judges no certificate;"
        " required and implicit verify it. Default: implicit on port 465, required with credentials, else"
        " opportunistic.",
    ),
    Setting("tls.ca_file", FILE, "Trust the certificates in this file (PEM) instead of the system's."),
    Setting("tls.certificate_file", FILE, "The certificate that this relay shows when it is asked for one (PEM)."),
    Setting("tls.key_file", FILE, "The key of that certificate, unencrypted, if it is not in the same file."),
    Setting("tls.server_name", HOST_NAME, "The name that certificates must be for, instead of the host's."),
    Setting("credentials.user", TEXT, "Authenticate as this user; the password comes from one of the next two."),
    Setting("credentials.password_file", FILE, "The password is the first line of this file."),
    Setting("credentials.password_variable", TEXT, "The password is in this environment variable."),
)

#: The settings of each ``[[route]]``.
ROUTE_SETTINGS: Final = (
    Setting(
        "domains",
        list_of(TEXT),
        'The recipient domains that this route is for; ".a.example" stands for all below a.example. Required.',
    ),
    Setting("to", or_word(WAY, "mx", ()), "Where their mail goes, as in routing.default."),
    Setting(
        "refuse",
        TEXT,
        "Mail to these domains goes nowhere, and its sender is told these words. An enhanced status code may begin"
        " them: with 5 mail is returned at once, with 4 when it expires.",
    ),
    *_SESSION,
)

#: Every setting but those of routes, in the order in which they are shown.
SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("spool", DIRECTORY, "The spool directory; it is made if it does not exist. Required."),
    Setting("backend", choice(*BACKENDS), "What runs the sessions; trio needs the extra smtpcore[trio].", BACKENDS[0]),
    Setting(
        "grace",
        DURATION,
        "How long what is on its way may take when the relay is told to stop; a second signal breaks it off at once.",
        10.0,
    ),
    Setting("identity.helo_name", HOST_NAME, "The name to greet with. Default: the host's name, or its address."),
    _of(
        RelaySettings,
        "identity.reporting_mta",
        HOST_NAME,
        "The name of this relay in its reports to senders. Default: helo_name, or the host's name.",
    ),
    Setting(
        "routing.default",
        or_word(WAY, "mx", ()),
        "Where mail goes that no route speaks of: where the MX records of its domain say, to one host that knows the"
        " way, to the first of several that can be reached, or by LMTP into a store of mailboxes, which listens on a"
        " port (24 unless it is said) or a unix socket.",
        (),
    ),
    Setting(
        "routing.fallback",
        list_of(HOST_AND_PORT),
        "Hosts that are tried when those of a way cannot be reached or looked up; never for a store of mailboxes.",
    ),
    _of(
        RelaySettings,
        "routing.own_names",
        list_of(HOST_NAME),
        "Names of this relay as an MX host: mail for it is not given to others of the same or a worse preference.",
    ),
    _of(
        RelaySettings,
        "routing.hosts_per_attempt",
        NUMBER,
        "Hosts and addresses tried in one attempt before the next hop counts as failed.",
    ),
    _of(
        RelaySettings,
        "routing.set_aside",
        DURATION,
        "How long a host that could not be reached is set aside while there are others.",
    ),
    *_SESSION,
    _of(
        ResolverSettings,
        "dns.name_servers",
        list_of(ADDRESS),
        "The recursive name servers to ask, in this order. Default: those of the system.",
    ),
    _of(ResolverSettings, "dns.port", NUMBER, "The port of the name servers."),
    _of(ResolverSettings, "dns.query", DURATION, "One query to one name server.", "query_seconds"),
    _of(ResolverSettings, "dns.lookup", DURATION, "One name and type, over all name servers.", "lookup_seconds"),
    _of(ResolverSettings, "dns.total", DURATION, "All that one domain needs.", "total_seconds"),
    _of(ResolverSettings, "dns.shortest", DURATION, "What was found for a domain holds at least as long."),
    _of(ResolverSettings, "dns.longest", DURATION, "What was found for a domain holds no longer."),
    _of(ResolverSettings, "dns.cache_size", NUMBER, "Answers kept."),
    _of(ResolverSettings, "dns.hosts", NUMBER, "MX hosts of a domain that are considered, the preferred ones first."),
    _of(ResolverSettings, "dns.aliases", NUMBER, "Aliases (CNAME records) followed from one name."),
    Setting(
        "session.pipelining",
        choice(*Pipelining),
        "How far commands run ahead of their replies, where the peer allows it (RFC 2920).",
        Pipelining.WITHIN,
    ),
    Setting(
        "session.chunking",
        FLAG,
        "Whether messages go in chunks where the peer offers it (RFC 3030).",
        True,
    ),
    Setting(
        "session.eight_bit",
        choice(*Conversion),
        "What to do with a message that has octets above 127 where the peer does not take them (RFC 6152): its parts"
        " are encoded anew, or it is returned to its sender, or it is sent as it is.",
        Conversion.CONVERT,
    ),
    Setting(
        "session.long_lines",
        choice(*Conversion),
        "The same for a message with lines of more than 998 octets.",
        Conversion.AS_IS,
    ),
    Setting(
        "session.break_signatures",
        FLAG,
        "Whether a message that is signed (DKIM, S/MIME, PGP) may be converted, which breaks the signature, or is"
        " returned to its sender.",
        False,
    ),
    Setting(
        "session.source_addresses",
        list_of(ADDRESS),
        "The addresses of this machine to connect from, one of each family; no other family is tried then.",
    ),
    _of(Schedule, "schedule.delays", list_of(DURATION), "The delay after each failed attempt; the last one repeats."),
    _of(
        Schedule,
        "schedule.warn_after",
        or_word(DURATION, NEVER),
        "The age at which the sender is told of the delay.",
    ),
    _of(Schedule, "schedule.give_up_after", DURATION, "The age from which a failed attempt is the last."),
    _of(Schedule, "schedule.spread", SHARE, "How far a delay is stretched or shortened, as a share of it."),
    _of(
        RelaySettings,
        "schedule.rest",
        DURATION,
        "How long a next hop rests after it failed as a whole; doubled at each failure.",
    ),
    _of(RelaySettings, "schedule.longest_rest", DURATION, "The longest rest of a next hop."),
    _of(RelaySettings, "concurrency.sessions", NUMBER, "Sessions at once, in total."),
    _of(RelaySettings, "concurrency.sessions_per_next_hop", NUMBER, "Sessions at once with one next hop."),
    _of(
        RelaySettings,
        "concurrency.deliveries_ahead",
        NUMBER,
        "Mails that a session is given before it has reported the first of them.",
    ),
    _of(RelaySettings, "concurrency.mails_per_session", NUMBER, "Mails over one session."),
    _of(
        RelaySettings,
        "concurrency.idle",
        DURATION,
        "How long a session without work stays open.",
        "idle_seconds",
    ),
    _of(RelaySettings, "concurrency.window", NUMBER, "Jobs held in memory, in total."),
    _of(RelaySettings, "concurrency.window_per_next_hop", NUMBER, "Jobs held in memory for one next hop."),
    _of(RelaySettings, "concurrency.recipients_per_delivery", NUMBER, "Recipients of one delivery."),
    _of(
        RelaySettings,
        "reports.whole_message_up_to",
        OCTETS,
        "The size up to which a report of failure carries the whole message, and not only its header.",
        "whole_message_in_reports",
    ),
    _of(Limits, "limits.command_line", OCTETS, "One command line."),
    _of(Limits, "limits.auth_line", OCTETS, "One line of an authentication exchange."),
    _of(Limits, "limits.reply_line", OCTETS, "One line of a reply."),
    _of(Limits, "limits.reply_lines", NUMBER, "Lines of one reply."),
    _of(Limits, "limits.auth_steps", NUMBER, "Challenges answered in one authentication exchange."),
    _of(Limits, "limits.path", OCTETS, "One address with its angle brackets."),
    _of(Limits, "limits.recipients", NUMBER, "Recipients of one mail."),
    _of(Limits, "limits.commands_in_flight", NUMBER, "Commands said and not yet answered."),
    _of(Limits, "limits.chunks_in_flight", NUMBER, "Chunks of one message said and not yet answered."),
    _of(
        Limits,
        "limits.mails_kept_back",
        NUMBER,
        "With pipelining across mails: mails whose verdict waits for a reply that cannot be mistaken.",
    ),
    _of(Limits, "limits.body_chunk", OCTETS, "What is read from a message at a time."),
    _of(
        Limits,
        "limits.converted_message",
        OCTETS,
        "A message that must be converted for a peer; it takes up to five times as much memory.",
    ),
    _of(Limits, "limits.transcript_lines", NUMBER, "Lines kept of the dialogue for error reports; 0 keeps none."),
    _of(Deadlines, "deadlines.connect", DURATION, "One attempt to reach one address."),
    _of(Deadlines, "deadlines.greeting", DURATION, "The greeting."),
    _of(Deadlines, "deadlines.ehlo", DURATION, "The reply to EHLO or HELO."),
    _of(Deadlines, "deadlines.starttls", DURATION, "The reply to STARTTLS, and the handshake."),
    _of(Deadlines, "deadlines.auth", DURATION, "Each step of an authentication exchange."),
    _of(Deadlines, "deadlines.mail", DURATION, "The reply to MAIL."),
    _of(Deadlines, "deadlines.rcpt", DURATION, "The reply to RCPT."),
    _of(Deadlines, "deadlines.data_initiation", DURATION, "The reply to DATA."),
    _of(Deadlines, "deadlines.data_block", DURATION, "Handing one block of the message to the network."),
    _of(Deadlines, "deadlines.data_termination", DURATION, "The verdict on the message."),
    _of(Deadlines, "deadlines.other", DURATION, "The reply to RSET and everything that has no row."),
    _of(Deadlines, "deadlines.quit", DURATION, "The reply to QUIT."),
    _of(Deadlines, "deadlines.last_words", DURATION, "Reading on after a failed write."),
    Setting("deadlines.scale", FACTOR, "Multiply all deadlines by this.", 1.0),
    Setting(
        "logging.level",
        choice(*LEVELS),
        "The least that is written: info has every attempt and fate, debug the dialogue with every host, too.",
        "info",
    ),
    Setting("logging.file", FILE, "Append to this file; where it was renamed, begin it anew. Default: standard error."),
    Setting("logging.format", choice("text", "json"), "text is key=value, json is one object a line.", "text"),
    Setting(
        "logging.summary_every",
        or_word(DURATION, NEVER),
        "How often the counts so far are written where no live view is shown.",
        60.0,
    ),
)


def settings_by_section() -> Iterator[tuple[str, str, tuple[Setting, ...]]]:
    """``(header of the section, what it is about, its settings)``, in the order in which they are shown."""
    for section, about in SECTIONS.items():
        yield f"[{section}]" if section else "", about, tuple(one for one in SETTINGS if one.section == section)
    yield "[[route]]", "Where mail to some domains goes instead; once for each route.", ROUTE_SETTINGS
