"""From the records of the DNS to the hosts for a domain (RFC 5321 §5.1, RFC 7505, RFC 3974).

What lives here: pure rules over one set of answers. What does not: looking anything up, keeping it, and choosing among
the hosts (``_hosts``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from smtpcore._errors import LocalProtocolError
from smtpcore._events import Verdict
from smtpcore._grammar import check_host_name
from smtpcore.relay._facts import DomainResolved, NextHop
from smtpcore.relay._hosts import HostAddresses, HostSet
from smtpcore.relay._names import AddressAnswer, AnswerKind, MxAnswer, MxRecord
from smtpcore.relay._routing import Lmtp, Mx, SmartHost, Unroutable

__all__ = ["hosts_of_domain", "hosts_of_literal", "listed_hosts", "store_of_mailboxes"]

_ROOT = "."


@dataclass(frozen=True, slots=True)
class _NoHost(Exception):
    """There is no host, and this is why."""

    why: Unroutable


def listed_hosts(hosts: Sequence[SmartHost], fallback: Sequence[SmartHost] = ()) -> HostSet:
    """Hosts in the order in which they are listed, one after the other, and those of the fallback after them."""
    return _host_set([[_listed(host)] for host in hosts], fallback)


def store_of_mailboxes(way: Lmtp) -> HostSet:
    """The one place where LMTP is spoken."""
    if way.path:
        store = HostAddresses("", 0, lmtp=True, path=way.path)
    else:
        store = replace(_listed(SmartHost(way.host, way.port)), lmtp=True)
    return HostSet(NextHop(store.name, store.port, lmtp=True, path=store.path), ((store,),))


def hosts_of_literal(domain: str, way: Mx) -> HostSet | Unroutable:
    """The host that an address literal names (RFC 5321 §4.1.3): no lookup is needed."""
    try:
        address = ipaddress.ip_address(domain[1:-1].lower().removeprefix("ipv6:"))
    except ValueError:
        return Unroutable(f"{domain} is not the literal of an address", Verdict.NEVER, "5.1.2")
    host = HostAddresses(str(address), way.port, (str(address),))
    return _host_set([[host]], way.fallback)


def hosts_of_domain(answer: DomainResolved, way: Mx, own_names: frozenset[str]) -> HostSet | Unroutable:
    """The hosts for a domain, or why there are none.

    ``own_names`` are names of this relay, in lower case: to hosts of the same or a worse preference mail is not given,
    for it would come back (RFC 5321 §5.1). Where lookups fail, the fallback hosts of the way are all there is.
    """
    try:
        groups = _reachable(answer, way.port, own_names)
    except _NoHost as problem:
        if problem.why.verdict is Verdict.NEVER or not way.fallback:
            return problem.why
        groups = []
    return _host_set(groups, way.fallback)


def _reachable(answer: DomainResolved, port: int, own_names: frozenset[str]) -> list[list[HostAddresses]]:
    """The hosts that have addresses, by preference."""
    domain, addresses = answer.domain, dict(answer.addresses)
    records = _records(domain, answer.mx)
    records = _without_loops(domain, _usable(domain, records), own_names)
    groups: dict[int, list[HostAddresses]] = {}
    for record in sorted(records, key=lambda record: (record.preference, record.host)):
        found = addresses.get(record.host)
        if found is not None and found.addresses:
            host = HostAddresses(record.host, port, tuple(_in_turn(found.addresses)))
            groups.setdefault(record.preference, []).append(host)
    if not groups:
        raise _no_address(answer, [record.host for record in records], addresses)
    return list(groups.values())


def _records(domain: str, mx: MxAnswer) -> Sequence[MxRecord]:
    """The MX records of a domain; a domain without any is its own host."""
    detail = f": {mx.problem}" if mx.problem else ""
    if mx.kind is AnswerKind.NO_NAME:
        raise _NoHost(Unroutable(f"the domain {domain or '(none)'} does not exist{detail}", Verdict.NEVER, "5.1.2"))
    if mx.kind is AnswerKind.FAILURE:
        raise _NoHost(Unroutable(f"the MX records of {domain} cannot be looked up{detail}", Verdict.LATER, "4.4.3"))
    if not mx.records:
        return [MxRecord(0, domain)]
    if all(record.host == _ROOT for record in mx.records):
        raise _NoHost(Unroutable(f"the domain {domain} accepts no mail (null MX)", Verdict.NEVER, "5.1.10"))
    return mx.records


def _usable(domain: str, records: Iterable[MxRecord]) -> Sequence[MxRecord]:
    """One record for each host that has a name, the one that prefers it most; addresses are no names."""
    best: dict[str, MxRecord] = {}
    for record in records:
        name = record.host.lower().removesuffix(".")
        if _is_host_name(name) and (name not in best or record.preference < best[name].preference):
            best[name] = MxRecord(record.preference, name)
    if not best:
        raise _NoHost(Unroutable(f"the MX records of {domain} name no host", Verdict.LATER, "4.4.4"))
    return list(best.values())


def _without_loops(domain: str, records: Sequence[MxRecord], own_names: frozenset[str]) -> Sequence[MxRecord]:
    own = [record.preference for record in records if record.host in own_names]
    if not own:
        return records
    better = [record for record in records if record.preference < min(own)]
    if not better:
        words = f"mail for {domain} comes back to this relay, which is its best MX host"
        raise _NoHost(Unroutable(words, Verdict.NEVER, "5.4.6"))
    return better


def _no_address(answer: DomainResolved, hosts: Sequence[str], addresses: Mapping[str, AddressAnswer]) -> _NoHost:
    missing = AddressAnswer(AnswerKind.NO_DATA)
    found = [addresses.get(host, missing) for host in hosts]
    failed = next((one for one in found if one.kind is AnswerKind.FAILURE), None)
    if failed is not None:
        detail = f": {failed.problem}" if failed.problem else ""
        words = f"the addresses of the mail hosts of {answer.domain} cannot be looked up{detail}"
        return _NoHost(Unroutable(words, Verdict.LATER, "4.4.3"))
    if not answer.mx.records:
        return _NoHost(Unroutable(f"the domain {answer.domain} has no mail host", Verdict.NEVER, "5.1.2"))
    names = ", ".join(hosts)
    return _NoHost(Unroutable(f"no mail host of {answer.domain} has an address: {names}", Verdict.LATER, "4.4.4"))


def _in_turn(addresses: Iterable[str]) -> Iterable[str]:
    """IPv6 and IPv4 addresses in turn, so that where one family does not work the other is not far (RFC 3974)."""
    unique = dict.fromkeys(addresses)
    six = [address for address in unique if ":" in address]
    four = [address for address in unique if ":" not in address]
    for index in range(max(len(six), len(four))):
        yield from six[index : index + 1]
        yield from four[index : index + 1]


def _is_host_name(name: str) -> bool:
    try:
        check_host_name(name)
    except LocalProtocolError:
        return False
    return not name.startswith("[") and _address(name) is None


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _listed(host: SmartHost) -> HostAddresses:
    name = host.host.removeprefix("[").removesuffix("]")
    if name != host.host and name.lower().startswith("ipv6:"):
        name = name[5:]
    return HostAddresses(name, host.port, (_address(name),))


def _host_set(own: Sequence[Sequence[HostAddresses]], fallback: Sequence[SmartHost] = ()) -> HostSet:
    """Groups of hosts with the name of their set: the order of preferences counts, the numbers do not."""
    groups = [*own, *([_listed(host)] for host in fallback)]
    listed = [(rank, host) for rank, group in enumerate(groups) for host in group]
    _, first = listed[0]
    others = tuple(f"{rank} {host.name}:{host.port}" for rank, host in listed[1:])
    return HostSet(NextHop(first.name, first.port, others), tuple(tuple(group) for group in groups), len(fallback))
