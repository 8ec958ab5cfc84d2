"""Every number of the relay but the schedule's, with its reason.

What lives here: one value object. What does not: the code that applies it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from smtpcore._errors import LocalProtocolError
from smtpcore._grammar import check_host_name
from smtpcore._kinds import check_fields
from smtpcore.relay._schedule import Schedule

__all__ = ["RelaySettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """How a relay works. Raises ``LocalProtocolError`` that names a setting which makes no sense."""

    #: The name of this relay in its reports to senders (Reporting-MTA, RFC 3464 §2.2.2): a domain.
    reporting_mta: str
    schedule: Schedule = field(default_factory=Schedule)
    #: Sessions at once, in total and with one next hop.
    sessions: int = 20
    sessions_per_next_hop: int = 5
    #: Deliveries that a session is given before it has reported the first of them: so it never waits for the spool,
    #: and what it reports meanwhile is committed together.
    deliveries_ahead: int = 10
    #: Mails over one session; some servers end sessions that last.
    mails_per_session: int = 1000
    #: Seconds that a session without work stays open.
    idle_seconds: float = 5.0
    #: Jobs held in memory, in total and for one next hop.
    window: int = 5000
    window_per_next_hop: int = 500
    #: Recipients of one delivery; the client splits further where a peer takes fewer.
    recipients_per_delivery: int = 1000
    #: Seconds that a next hop rests after it failed as a whole; doubled at each failure, up to ``longest_rest``.
    rest: float = 60.0
    longest_rest: float = 1800.0
    #: Hosts and addresses tried in one attempt before the next hop counts as failed, or its fallback is tried.
    hosts_per_attempt: int = 5
    #: Seconds for which a host that could not be reached is set aside while there are others.
    set_aside: float = 3600.0
    #: Names under which this relay itself is known as an MX host: mail for it is not given away to come back.
    own_names: tuple[str, ...] = ()
    #: Octets up to which a report of failure carries the whole message, and not only its header.
    whole_message_in_reports: int = 51_200

    def __post_init__(self) -> None:
        check_fields(self, schedule=Schedule, own_names=tuple)
        for name in (self.reporting_mta, *self.own_names):
            check_host_name(name)
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, (int, float)) and not value > 0:
                raise LocalProtocolError(f"{setting.name} must be more than 0", value)
        if self.longest_rest < self.rest:
            raise LocalProtocolError("longest_rest may not be shorter than rest", self.longest_rest)

    def rest_after(self, failures: int) -> float:
        """Seconds of rest after the ``failures``-th failure in a row."""
        return float(min(self.longest_rest, self.rest * 2 ** min(failures - 1, 32)))
