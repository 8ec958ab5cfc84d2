"""A name server on loopback for tests: UDP and TCP on one port, with answers from a table that a test may change.

What lives here: a recursive server as a resolver sees it, with the faults that a test asks for. What does not: any
expectation, and anything of smtpcore.
"""

from __future__ import annotations

import contextlib
import enum
import random
import socket
import struct
import threading
from collections.abc import Mapping

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

__all__ = ["Fault", "NameServer"]

#: Aliases that the server itself follows before it leaves the rest to whoever asks.
_FOLLOWED = 20


class Fault(enum.Enum):
    """What is wrong with a name, or with one type of it."""

    SERVFAIL = enum.auto()
    REFUSED = enum.auto()
    #: FORMERR for questions with EDNS, a good answer for others.
    NO_EDNS = enum.auto()
    SILENCE = enum.auto()
    #: Over UDP an answer that says it is cut off, the whole over TCP.
    TRUNCATED = enum.auto()
    #: Cut off over UDP, octets that are no message over TCP.
    GARBAGE = enum.auto()
    #: Cut off over UDP, the true answer with some octets changed over TCP.
    DAMAGED = enum.auto()
    #: Cut off over UDP, the end of the connection over TCP.
    HANG_UP = enum.auto()
    #: Over UDP first an answer with another id and one to another question, then the true one.
    FORGED = enum.auto()
    #: An alias is given alone, without what it leads to.
    ALIAS_ALONE = enum.auto()


class NameServer:
    """Running inside ``with``; by default on a port of its own.

    ``zone`` has what is known, by name: records by type, each ``"TTL DATA"`` or ``"DATA"``. A name that is not there
    does not exist; a type that is not there has no data. ``faults`` are by name, or by name and type.
    """

    def __init__(self, zone: Mapping[str, Mapping[str, list[str]]] | None = None) -> None:
        self.zone: dict[str, Mapping[str, list[str]]] = dict(zone or {})
        self.faults: dict[str | tuple[str, str], Fault] = {}
        #: Records of the additional section, as text, that go with every answer.
        self.additional: list[str] = []
        #: Seconds that a negative answer holds; ``None`` leaves the SOA record out.
        self.negative_seconds: int | None = 300
        #: (transport, name, type) of every question.
        self.asked: list[tuple[str, str, str]] = []
        self.dice = random.Random(0)
        #: Set whenever a question arrives that is met with silence.
        self.silent = threading.Event()
        self.address = "127.0.0.1"
        self._udp, self._tcp = _sockets(self.address)
        self.port: int = self._udp.getsockname()[1]
        self._over = False
        self._threads = [threading.Thread(target=self._serve_udp), threading.Thread(target=self._serve_tcp)]

    def __enter__(self) -> NameServer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", (self.address, self.port))
        socket.create_connection((self.address, self.port)).close()
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()

    def questions(self, name: str, kind: str) -> int:
        """How often was asked for it."""
        return sum(1 for _, *asked in self.asked if asked == [name, kind])

    # --- transports -------------------------------------------------------------------------------------------------

    def _serve_udp(self) -> None:
        while True:
            octets, peer = self._udp.recvfrom(65_535)
            if self._over:
                return
            query = dns.message.from_wire(octets)
            fault = self._note("udp", query)
            response = self._respond(query, fault)
            if response is None:
                continue
            if fault in {Fault.TRUNCATED, Fault.GARBAGE, Fault.DAMAGED, Fault.HANG_UP}:
                response = dns.message.make_response(query)
                response.flags |= dns.flags.TC
            if fault is Fault.FORGED:
                for forged in _forged(query):
                    self._udp.sendto(forged, peer)
            try:
                wire = response.to_wire(max_size=max(512, query.payload))
            except dns.exception.TooBig:
                response = dns.message.make_response(query)
                response.flags |= dns.flags.TC
                wire = response.to_wire()
            self._udp.sendto(wire, peer)

    def _serve_tcp(self) -> None:
        while True:
            connection, _ = self._tcp.accept()
            with connection:
                if self._over:
                    return
                # Who asks may give up before the answer has come.
                with contextlib.suppress(OSError, struct.error):
                    self._answer_over_tcp(connection)

    def _answer_over_tcp(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        query = dns.message.from_wire(_message(connection))
        fault = self._note("tcp", query)
        response = self._respond(query, fault)
        if response is None or fault is Fault.HANG_UP:
            return
        wire = b"\x00\x00\x80\x00\xff" if fault is Fault.GARBAGE else response.to_wire(max_size=65_535)
        if fault is Fault.DAMAGED:
            wire = self._damaged(wire)
        connection.sendall(struct.pack("!H", len(wire)) + wire)

    def _damaged(self, wire: bytes) -> bytes:
        octets = bytearray(wire)
        for _ in range(self.dice.randint(1, 4)):
            # The id stays, or nobody would read on.
            octets[self.dice.randrange(2, len(octets))] = self.dice.randrange(256)
        return bytes(octets)

    def _note(self, transport: str, query: dns.message.Message) -> Fault | None:
        name, kind = _question(query)
        self.asked.append((transport, name, kind))
        return self.faults.get((name, kind), self.faults.get(name))

    # --- answers ----------------------------------------------------------------------------------------------------

    def _respond(self, query: dns.message.Message, fault: Fault | None) -> dns.message.Message | None:
        response = dns.message.make_response(query, recursion_available=True)
        if fault is Fault.SILENCE:
            self.silent.set()
            return None
        if fault is Fault.SERVFAIL or fault is Fault.REFUSED:
            response.set_rcode(dns.rcode.SERVFAIL if fault is Fault.SERVFAIL else dns.rcode.REFUSED)
            return response
        if fault is Fault.NO_EDNS and query.edns >= 0:
            response.set_rcode(dns.rcode.FORMERR)
            return response
        self._answer(response, *_question(query), follow=0 if fault is Fault.ALIAS_ALONE else _FOLLOWED)
        for text in self.additional:
            name, seconds, of_class, of_type, data = text.split(" ", 4)
            response.additional.append(dns.rrset.from_text(name, int(seconds), of_class, of_type, data))
        return response

    def _answer(self, response: dns.message.Message, name: str, kind: str, *, follow: int) -> None:
        known = self.zone.get(name)
        if known is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
            self._deny(response)
        elif kind in known:
            response.answer.append(_rrset(name, kind, known[kind]))
        elif "CNAME" in known:
            response.answer.append(_rrset(name, "CNAME", known["CNAME"]))
            target = known["CNAME"][0].split()[-1].removesuffix(".")
            if follow:
                self._answer(response, target, kind, follow=follow - 1)
        else:
            self._deny(response)

    def _deny(self, response: dns.message.Message) -> None:
        if self.negative_seconds is not None:
            soa = f"{self.negative_seconds} ns.example. admin.example. 1 3600 600 86400 {self.negative_seconds}"
            response.authority.append(_rrset(".", "SOA", [soa]))


def _sockets(address: str) -> tuple[socket.socket, socket.socket]:
    """A datagram socket and a listening one on the same free port."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((address, 0))
        try:
            return udp, socket.create_server(udp.getsockname())
        except OSError:
            udp.close()


def _message(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as stream:
        (length,) = struct.unpack("!H", stream.read(2))
        return stream.read(length)


def _question(query: dns.message.Message) -> tuple[str, str]:
    question = query.question[0]
    return question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)


def _rrset(name: str, kind: str, records: list[str]) -> dns.rrset.RRset:
    texts = [record.split(" ", 1) for record in records]
    seconds = int(texts[0][0]) if _has_ttl(kind, records[0]) else 3600
    data = [record.split(" ", 1)[1] if _has_ttl(kind, record) else record for record in records]
    return dns.rrset.from_text(dns.name.from_text(name), seconds, "IN", kind, *data)


def _has_ttl(kind: str, record: str) -> bool:
    words = {"MX": 3, "SOA": 8}.get(kind, 2)
    return len(record.split()) == words


def _forged(query: dns.message.Message) -> list[bytes]:
    """Answers of somebody who guesses: to another id, and to another question."""
    name, kind = _question(query)
    data = {"MX": "0 evil.example.", "A": "127.6.6.6", "AAAA": "::6"}[kind]
    wrong_id = dns.message.make_response(query)
    wrong_id.id = query.id ^ 1
    wrong_id.answer.append(_rrset(name, kind, [data]))
    other = dns.message.make_response(dns.message.make_query("evil.example", kind))
    other.id = query.id
    other.answer.append(_rrset("evil.example", kind, [data]))
    return [wrong_id.to_wire(), other.to_wire()]
