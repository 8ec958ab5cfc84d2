"""The routing table out of settings: where mail for a domain goes, and how sessions with the hosts of a route are held.

What lives here: ``[routing]`` and ``[[route]]``. What does not: reading the settings; MX rules, which are the relay
machine's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from smtpcore import LocalProtocolError, TlsPolicy, Verdict
from smtpcore.drivers._configuration.reader import Origin, Reader
from smtpcore.drivers._configuration.sessions import security_options
from smtpcore.drivers._session.options import Options
from smtpcore.relay import FixedHosts, Lmtp, Mx, RoutingTable, SmartHost, Unroutable, Way

__all__ = ["Routing", "read_routing"]

_NOBODY_LISTENS = "a unix socket is spoken to in clear and without credentials"
_STATUS = re.compile(r"([45])\.\d{1,3}\.\d{1,3}(?= \S)")


@dataclass(frozen=True, slots=True)
class Routing:
    """Where mail goes, and how sessions are encrypted and authenticated.

    ``security`` is for the hosts that a route or the default names, by name in lower case and port; ``others`` for all
    other hosts. Neither is shown, for they hold secrets.
    """

    table: RoutingTable
    security: Mapping[tuple[str, int], Options] = field(repr=False)
    others: Options = field(repr=False)

    @property
    def asks_the_dns(self) -> bool:
        """Whether any mail goes where MX records say."""
        return any(isinstance(way, Mx) for way in self.table.rows.values())


def read_routing(reader: Reader, rows: Sequence[Reader]) -> Routing:
    """The routing table; what is wrong with it is noted."""
    security = security_options(reader)
    others = security.copy()
    if "credentials" in others:
        # Who the relay is concerns the hosts of the default only, and so does judging certificates for its sake.
        del others["credentials"]
        if others.get("tls") not in {TlsPolicy.REQUIRED, TlsPolicy.IMPLICIT}:
            others.pop("tls_context", None)
    ways = _Ways(reader, others)
    default = _way(reader["routing.default"])
    if isinstance(default, Lmtp) and default.path:
        if reader["credentials.user"] is not None:
            reader.wrong("credentials.user", _NOBODY_LISTENS)
    elif isinstance(default, (SmartHost, FixedHosts, Lmtp)):
        ways.hold(default, "routing.default", reader, security)
    elif reader["credentials.user"] is not None:
        reader.wrong("credentials.user", "these would be said to every host of the world; give them to a route")
    for row in rows:
        ways.add(row)
    table = RoutingTable({**ways.rows, "*": default}, reader["routing.fallback"] or ())
    return Routing(table, ways.security, others)


class _Ways:
    """The routes so far."""

    def __init__(self, whole: Reader, others: Options) -> None:
        self.rows: dict[str, Way] = {}
        self.security: dict[tuple[str, int], Options] = {}
        self._whole = whole
        self._others = others
        self._origins: dict[str, Origin] = {}
        #: What was said of the sessions with each host, and where.
        self._said: dict[tuple[str, int], tuple[dict[str, object], Origin]] = {}

    def add(self, row: Reader) -> None:
        """Take one ``[[route]]``."""
        way = _way_of(row)
        if not row.has("domains"):
            row.wrong("domains", "this must be given")
        for number, pattern in enumerate(row["domains"] or ()):
            self._add_domain(row, number, pattern, way)
        said = row.given.keys() - {"domains", "to", "refuse"}
        if isinstance(way, Lmtp) and way.path:
            for key in said:
                row.wrong(key, _NOBODY_LISTENS)
        elif isinstance(way, (SmartHost, FixedHosts, Lmtp)):
            merged = self._merged(row)
            self.hold(way, "to", merged, security_options(merged) if said else self._others)
        else:
            for key in said:
                row.wrong(key, "this is for routes that name their hosts")

    def _add_domain(self, row: Reader, number: int, pattern: str, way: Way) -> None:
        name = pattern.lower()
        if name in self._origins:
            row.wrong("domains", f"{pattern} has a route already: {self._origins[name]}", element=number)
            return
        self._origins[name] = row.where("domains", number)
        if name == "*":
            row.wrong("domains", "for all that no route speaks of there is routing.default", element=number)
            return
        try:
            RoutingTable({pattern: way})
        except LocalProtocolError as error:
            row.wrong("domains", str(error), element=number)
        else:
            self.rows[pattern] = way

    def _merged(self, row: Reader) -> Reader:
        """What a route says of its sessions; of TLS it says all or nothing."""
        merged = Reader(row.settings.values(), row.problems)
        merged.origin = row.origin
        merged.given = dict(row.given)
        if not any(key.startswith("tls.") for key in row.given):
            merged.given |= {key: given for key, given in self._whole.given.items() if key.startswith("tls.")}
        return merged

    def hold(self, way: SmartHost | FixedHosts | Lmtp, key: str, reader: Reader, security: Options) -> None:
        """Sessions with the hosts of a way are held so; a host has one kind of session."""
        said: dict[str, object] = {
            name: given.value for name, given in reader.given.items() if name.startswith(("tls.", "credentials."))
        }
        for host in way.hosts if isinstance(way, FixedHosts) else (way,):
            name = (host.host.lower(), host.port)
            before, origin = self._said.setdefault(name, (said, reader.where(key)))
            if before != said:
                reader.wrong(key, f"sessions with {host.host}:{host.port} are held otherwise: {origin}")
            self.security[name] = security


def _way(hosts: tuple[SmartHost, ...] | Lmtp) -> Way:
    """What ``mx``, one host or several, or a store of mailboxes mean."""
    if isinstance(hosts, Lmtp):
        return hosts
    if not hosts:
        return Mx()
    return hosts[0] if len(hosts) == 1 else FixedHosts(hosts)


def _way_of(row: Reader) -> Way:
    if row.has("to") and row.has("refuse"):
        row.wrong("refuse", "a route leads somewhere or refuses, not both")
    if not row.has("to") and not row.has("refuse"):
        row.wrong("to", "this must be given, or refuse")
    return _refusal(row["refuse"]) if row["refuse"] is not None else _way(row["to"] or ())


def _refusal(words: str) -> Unroutable:
    """A status code that begins the words is the report's, and says whether mail waits until it expires."""
    status = _STATUS.match(words)
    if status is None:
        return Unroutable(words)
    verdict = Verdict.NEVER if status[1] == "5" else Verdict.LATER
    return Unroutable(words[status.end() + 1 :], verdict, status[0])
