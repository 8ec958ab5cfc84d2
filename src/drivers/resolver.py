"""DNS lookups for mail to the world, by dnspython: blocking, and on asyncio or trio.

What lives here: the questions that a recipient domain needs, and what came of them as raw records. What does not: what
the records mean for mail (preference, null MX, fallback to the domain's own address), which is the relay machine's.

Answers are cached as long as their records say, negative ones too. Names are absolute: search lists never apply. Only
answers to questions that were asked are believed; what a server adds of its own accord is left unread.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

from smtpcore import LocalProtocolError
from smtpcore.relay import AddressAnswer, AnswerKind, DomainResolved, MxAnswer, MxRecord

try:
    import anyio
    import dns.asyncbackend
    import dns.asyncresolver
    import dns.exception
    import dns.message
    import dns.name
    import dns.resolver
    from dns.rdataclass import RdataClass
    from dns.rdatatype import RdataType
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"looking up names needs the extra smtpcore[relay]: {error}", name=error.name) from error

__all__ = ["AsyncResolver", "Resolver", "ResolverSettings"]

_Servers = TypeVar("_Servers", bound="dns.resolver.BaseResolver")

#: What fits through nearly every path without fragments (the DNS flag day 2020).
_UDP_PAYLOAD = 1232
#: How servers that do not know EDNS answer it (RFC 6891 §7).
_NO_EDNS = frozenset({"FORMERR", "NOTIMP"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolverSettings:
    """How names are looked up. Raises ``LocalProtocolError`` that names a setting which makes no sense."""

    #: Addresses of recursive name servers, asked in this order; empty for those of the system.
    name_servers: Sequence[str] = ()
    port: int = 53
    #: Seconds for one query to one name server.
    query_seconds: float = 3.0
    #: Seconds for one name and type, over all name servers.
    lookup_seconds: float = 10.0
    #: Seconds for all that one domain needs.
    total_seconds: float = 30.0
    #: Bounds in seconds of how long what was found for a domain holds; a failure holds for the lower one.
    shortest: float = 60.0
    longest: float = 86_400.0
    #: Answers kept.
    cache_size: int = 10_000
    #: MX hosts whose addresses are looked up: those of the lowest preference. The rest is left out.
    hosts: int = 16
    #: Aliases (CNAME records) followed from one name.
    aliases: int = 8

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, (int, float)) and not value > 0:
                raise LocalProtocolError(f"{setting.name} must be more than 0", value)
        if self.port > 65_535:
            raise LocalProtocolError("a port is a number from 1 to 65535", self.port)
        if self.longest < self.shortest:
            raise LocalProtocolError("longest may not be less than shortest", self.longest)
        if isinstance(self.name_servers, str):
            raise LocalProtocolError("name_servers is a sequence of addresses", self.name_servers)
        for server in self.name_servers:
            _check_address(server)


def _check_address(server: str) -> None:
    try:
        ipaddress.ip_address(server)
    except ValueError:
        raise LocalProtocolError("a name server is given by its IP address", server) from None


class Resolver:
    """Looks up what mail to a domain needs, on the calling thread; may be used by many threads at once."""

    def __init__(self, settings: ResolverSettings | None = None) -> None:
        """Raises ``LocalProtocolError`` when the system is to tell the name servers and has none."""
        self._settings = settings or ResolverSettings()
        self._cache = _Cache(self._settings)
        self._servers = _configured(dns.resolver.Resolver, self._settings, self._cache)

    def resolve(self, domain: str) -> DomainResolved:
        """The MX records of ``domain`` and the addresses of their hosts, or its own where it has no MX records.

        Never raises for what the network or the name servers do: that is in the answers.
        """
        questions = _Questions(domain, self._settings, self._cache)
        while lookups := questions.next_lookups():
            for lookup in lookups:
                self._look_up(lookup)
        return questions.resolved()

    def _look_up(self, lookup: _Lookup) -> None:
        while (name := lookup.next_name) is not None:
            servers = self._servers[lookup.edns]
            try:
                answer = servers.resolve(name, lookup.rdtype, raise_on_no_answer=False, lifetime=lookup.lifetime())
            except (dns.exception.DNSException, OSError) as error:
                lookup.failed(error)
            else:
                lookup.answered(answer)


class AsyncResolver:
    """Looks up what mail to a domain needs, on asyncio or trio; questions that can go together do."""

    def __init__(self, settings: ResolverSettings | None = None) -> None:
        """Raises ``LocalProtocolError`` when the system is to tell the name servers and has none."""
        self._settings = settings or ResolverSettings()
        self._cache = _Cache(self._settings)
        self._servers = _configured(dns.asyncresolver.Resolver, self._settings, self._cache)

    async def resolve(self, domain: str) -> DomainResolved:
        """The MX records of ``domain`` and the addresses of their hosts, or its own where it has no MX records.

        Never raises for what the network or the name servers do: that is in the answers.
        """
        questions = _Questions(domain, self._settings, self._cache)
        while lookups := questions.next_lookups():
            async with anyio.create_task_group() as tasks:
                for lookup in lookups:
                    tasks.start_soon(self._look_up, lookup)
        return questions.resolved()

    async def _look_up(self, lookup: _Lookup) -> None:
        # Asked each time: what dnspython finds by itself it keeps, for event loops of another kind too.
        backend = dns.asyncbackend.get_backend(dns.asyncbackend.sniff())
        while (name := lookup.next_name) is not None:
            servers = self._servers[lookup.edns]
            try:
                answer = await servers.resolve(
                    name, lookup.rdtype, raise_on_no_answer=False, lifetime=lookup.lifetime(), backend=backend
                )
            except (dns.exception.DNSException, OSError) as error:
                lookup.failed(error)
            else:
                lookup.answered(answer)


class _Cache(dns.resolver.LRUCache):
    """Answers by their time to live, which no zone may stretch beyond ``longest``."""

    def __init__(self, settings: ResolverSettings) -> None:
        super().__init__(settings.cache_size)
        self._longest = settings.longest

    def put(self, key: Any, value: dns.resolver.Answer) -> None:
        value.expiration = min(value.expiration, time.time() + self._longest)
        super().put(key, value)

    def negative_seconds(self, name: dns.name.Name) -> float:
        """How long it holds that there is no such name; 0 where that may not be kept."""
        answer = self.get((name, RdataType.ANY, RdataClass.IN))
        return 0.0 if answer is None else answer.expiration - time.time()


def _configured(kind: type[_Servers], settings: ResolverSettings, cache: _Cache) -> dict[bool, _Servers]:
    """The name servers, to be asked with EDNS and without."""
    both = {True: _name_servers(kind, settings), False: _name_servers(kind, settings)}
    both[True].use_edns(0, 0, _UDP_PAYLOAD)
    both[False].use_edns(False)
    for servers in both.values():
        servers.cache = cache
        servers.timeout = settings.query_seconds
    return both


def _name_servers(kind: type[_Servers], settings: ResolverSettings) -> _Servers:
    if not settings.name_servers:
        try:
            return kind()
        except dns.resolver.NoResolverConfiguration as error:
            raise LocalProtocolError("the system names no name servers: give name_servers", str(error)) from error
    servers = kind(configure=False)
    servers.nameservers = list(settings.name_servers)
    servers.port = settings.port
    return servers


@dataclass(frozen=True, slots=True)
class _Found:
    """What came of one question. ``seconds`` is how long it holds, before any bounds."""

    kind: AnswerKind
    seconds: float
    records: tuple[Any, ...] = ()
    problem: str = ""


class _Lookup:
    """One name and type, followed through aliases to the end."""

    def __init__(
        self, name: dns.name.Name, rdtype: RdataType, settings: ResolverSettings, cache: _Cache, deadline: float
    ) -> None:
        self.rdtype = rdtype
        #: Whether to ask with EDNS.
        self.edns = True
        self.found: _Found | None = None
        self._settings = settings
        self._cache = cache
        self._deadline = deadline
        #: The name that was asked for and the aliases' targets, in order.
        self._chain = [name]
        self._seconds = settings.longest

    @property
    def next_name(self) -> dns.name.Name | None:
        """The name to ask for next; ``None`` when all is known."""
        return self._chain[-1] if self.found is None else None

    def lifetime(self) -> float:
        """Seconds that the next question may take."""
        return min(self._settings.lookup_seconds, max(0.0, self._deadline - time.monotonic()))

    def answered(self, answer: dns.resolver.Answer) -> None:
        """Take an answer to the question for ``next_name``."""
        asked = self._chain[-1]
        self._seconds = min(self._seconds, answer.expiration - time.time())
        problem = self._follow(answer.response)
        if problem:
            self.found = _Found(AnswerKind.FAILURE, 0.0, problem=problem)
        elif answer.rrset is not None:
            self.found = _Found(AnswerKind.RECORDS, self._seconds, tuple(cast("Iterable[Any]", answer.rrset)))
        elif self._chain[-1] == asked or _denies(answer.response, self._chain[-1]):
            self.found = _Found(AnswerKind.NO_DATA, self._seconds)

    def failed(self, error: Exception) -> None:
        """Take the failure of the question for ``next_name``."""
        name = self._chain[-1]
        if isinstance(error, dns.resolver.NXDOMAIN):
            seconds = min(self._seconds, self._cache.negative_seconds(name))
            # That the name which was asked for does not exist is the answer; an alias that leads nowhere is news.
            alias = "" if name == self._chain[0] else f"its alias {_text(name)} leads nowhere"
            self.found = _Found(AnswerKind.NO_NAME, seconds, problem=alias)
            return
        errors = _errors(error)
        if self.edns and any(words in _NO_EDNS for _, words, _ in errors):
            self.edns = False
            return
        for _, _, response in errors:
            # An answer that loops is refused before it gets here, and only its aliases tell why.
            if response is not None and (problem := self._follow(response)):
                break
        else:
            problem = _problem(error, errors, name)
        self.found = _Found(AnswerKind.FAILURE, 0.0, problem=problem)

    def _follow(self, response: dns.message.Message) -> str:
        """Go along the aliases in an answer; returns what is wrong with them, if anything."""
        answers = cast("Iterable[Any]", response.answer)
        targets: dict[dns.name.Name, dns.name.Name] = {
            rrset.name: rrset[0].target for rrset in answers if rrset.rdtype == RdataType.CNAME
        }
        while (target := targets.get(self._chain[-1])) is not None:
            if target in self._chain:
                return f"the aliases of {_text(self._chain[0])} run in a circle"
            if len(self._chain) > self._settings.aliases:
                return f"{_text(self._chain[0])} has a chain of more than {self._settings.aliases} aliases"
            self._chain.append(target)
        return ""


def _denies(response: dns.message.Message, name: dns.name.Name) -> bool:
    """Whether an answer without records says that there are none, and does not just end at an alias (RFC 2308 §2.2)."""
    return any(rrset.rdtype == RdataType.SOA and name.is_subdomain(rrset.name) for rrset in response.authority)


def _errors(error: Exception) -> list[tuple[str, str, dns.message.Message | None]]:
    """The server, its failure in words and its answer, if it gave one, of every query that failed."""
    errors: Iterable[Any] = getattr(error, "kwargs", {}).get("errors", ())
    return [(_server(server), _words(reason), response) for server, _, _, reason, response in errors]


def _server(text: str) -> str:
    """dnspython writes the protocol in front."""
    return f"name server {text.removeprefix('Do53:')}"


def _words(reason: Exception | str) -> str:
    if isinstance(reason, str):
        return reason
    if isinstance(reason, dns.exception.Timeout):
        return "no answer"
    if isinstance(reason, OSError):
        return reason.strerror or str(reason)
    if isinstance(reason, dns.message.Truncated):
        return "an answer that is cut off"
    if isinstance(reason, (dns.exception.FormError, EOFError)):
        return "a malformed answer"
    return str(reason)


def _problem(
    error: Exception, errors: Sequence[tuple[str, str, dns.message.Message | None]], name: dns.name.Name
) -> str:
    details = "; ".join(dict.fromkeys(f"{server}: {words}" for server, words, _ in errors))
    if isinstance(error, dns.resolver.LifetimeTimeout):
        return f"{_text(name)}: the time for looking it up is over" + (f" ({details})" if details else "")
    return f"{_text(name)}: {details or error}"


def _text(name: dns.name.Name) -> str:
    """A name as A-labels in lower case, without the final dot; the root is a dot."""
    return name.canonicalize().to_text(omit_final_dot=True)


def _absolute(domain: str) -> tuple[dns.name.Name, str]:
    """A domain as an absolute name of A-labels, and what is wrong with it if it cannot be one."""
    try:
        name = dns.name.from_text(domain, dns.name.root, dns.name.IDNA_2008_Practical)
    except (dns.exception.DNSException, UnicodeError) as error:
        return dns.name.root, f"{domain!r} is no name that DNS can hold: {error}"
    return name, f"{domain!r} is no domain" if name == dns.name.root else ""


class _Questions:
    """All that one domain needs: first its MX records, then addresses."""

    def __init__(self, domain: str, settings: ResolverSettings, cache: _Cache) -> None:
        self._domain = domain
        self._settings = settings
        self._cache = cache
        self._deadline = time.monotonic() + settings.total_seconds
        self._name, problem = _absolute(domain)
        self._mx = self._lookup(self._name, RdataType.MX)
        if problem:
            self._mx.found = _Found(AnswerKind.NO_NAME, settings.longest, problem=problem)
        #: Both lookups of each host, once they are known.
        self._hosts: dict[str, tuple[_Lookup, _Lookup]] | None = None

    def _lookup(self, name: dns.name.Name, rdtype: RdataType) -> _Lookup:
        return _Lookup(name, rdtype, self._settings, self._cache, self._deadline)

    def next_lookups(self) -> Sequence[_Lookup]:
        """The lookups to be done now, together or in any order; none when all is known."""
        if self._mx.found is None:
            return [self._mx]
        if self._hosts is None:
            self._hosts = {
                _text(name): (self._lookup(name, RdataType.AAAA), self._lookup(name, RdataType.A))
                for name in self._host_names(self._mx.found)
            }
            return [lookup for lookups in self._hosts.values() for lookup in lookups]
        return []

    def _host_names(self, mx: _Found) -> Sequence[dns.name.Name]:
        """Whose addresses matter: the MX hosts, as far as they have names, or the domain itself."""
        if mx.kind is AnswerKind.NO_DATA:
            return [self._name]
        names = dict.fromkeys(record.exchange for record in self._preferred(mx))
        return [name for name in names if name != dns.name.root]

    def _preferred(self, mx: _Found) -> Sequence[Any]:
        return sorted(mx.records, key=lambda record: (record.preference, record.exchange))[: self._settings.hosts]

    def resolved(self) -> DomainResolved:
        """What was found, when there are no more lookups."""
        assert self._mx.found is not None
        assert self._hosts is not None
        mx = self._mx.found
        records = tuple(MxRecord(record.preference, _text(record.exchange)) for record in self._preferred(mx))
        addresses: dict[str, AddressAnswer] = {}
        seconds = [mx.seconds]
        for host, lookups in self._hosts.items():
            found = [lookup.found for lookup in lookups if lookup.found is not None]
            addresses[host] = _addresses(found)
            seconds += [one.seconds for one in found]
        return DomainResolved(
            self._domain,
            MxAnswer(mx.kind, records, mx.problem),
            tuple(addresses.items()),
            max(self._settings.shortest, min(self._settings.longest, *seconds)),
        )


#: Which of the two answers on a host's addresses counts where neither has any.
_WEIGHT = {AnswerKind.NO_NAME: 0, AnswerKind.FAILURE: 1, AnswerKind.NO_DATA: 2}


def _addresses(found: Sequence[_Found]) -> AddressAnswer:
    """One answer of two: addresses of one family count whatever came of the other."""
    addresses = tuple(record.address for one in found for record in one.records)
    if addresses:
        return AddressAnswer(AnswerKind.RECORDS, addresses)
    worst = min(found, key=lambda one: _WEIGHT[one.kind])
    return AddressAnswer(worst.kind, (), worst.problem)
