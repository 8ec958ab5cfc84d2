"""The durable spool: a directory with a SQLite database and the bodies that are too large for it.

What lives here: storing mails and jobs, and executing the relay's orders in one transaction. What does not: any
decision about mail; tables, columns, bodies, the lock, what is due, and what operators wish (``_spool``).

A mail is accepted when :meth:`Spool.add` returns: it is on disk then, whole. Any process may add; only the holder of
the lock relays. SQLite runs with a write-ahead log and full synchronisation, so a transaction that was committed
survives a loss of power. A body in a file is written, synchronised and renamed before the transaction that knows of it,
and removed after the one that forgets it; what lies between is swept up at the next start.

A mail of which something cannot be read is **set aside**: it stays stored with the reason, is shown to operators, and
is not relayed until one of them releases it. It keeps no other mail waiting.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from smtpcore import (
    DEFAULT_LIMITS,
    BodyFacts,
    Envelope,
    LocalProtocolError,
    MailOptions,
    RecipientOptions,
    domain_of,
)
from smtpcore.drivers._session.bodies import octets_of
from smtpcore.drivers._session.options import a_labels, check_envelope
from smtpcore.drivers._spool.bodies import Bodies
from smtpcore.drivers._spool.due import Due
from smtpcore.drivers._spool.errors import SpoolError, SpoolFull, SpoolLocked, SpoolUnusable, is_full, problem_of
from smtpcore.drivers._spool.forgetting import forget, forget_removed
from smtpcore.drivers._spool.intake import Intake, IntakeFailed, sync_folder
from smtpcore.drivers._spool.listing import QueueEntry, entry_of, page_after, place_of
from smtpcore.drivers._spool.lock import Lock
from smtpcore.drivers._spool.operating import commanded, operate, wishes_after
from smtpcore.drivers._spool.reserve import Reserve
from smtpcore.drivers._spool.rows import UTF8_FOUND, dump, dump_options
from smtpcore.drivers._spool.schema import HELD, REMOVED, SET_ASIDE, open_database, transaction
from smtpcore.drivers._spool.seconds import check_seconds
from smtpcore.relay import (
    Action,
    Bounce,
    Claim,
    Commanded,
    Confirmation,
    Continue,
    DelayWarning,
    Delivery,
    Fact,
    Forget,
    Job,
    JobsRemoved,
    Load,
    LoadDomains,
    MailAccepted,
    OpenSession,
    Operate,
    Orders,
    PendingRecipient,
    RelaySettings,
    Save,
    StoredMail,
    compose_bounce,
    compose_confirmation,
    compose_delay_warning,
    recipients_by_domain,
)

__all__ = [
    "Executed",
    "Prepared",
    "QueueEntry",
    "Spool",
    "SpoolError",
    "SpoolFull",
    "SpoolLocked",
    "SpoolUnusable",
]

_CLAIM = """
UPDATE job SET owner = ?, attempts = json_extract(claim.value, '$[1]')
FROM json_each(?) AS claim WHERE job_id = json_extract(claim.value, '$[0]')
"""
#: What an operator removed while it was on its way keeps that mark, and is told apart by it.
_SAVE = f"""
UPDATE job SET
    owner = CASE WHEN owner = {REMOVED} THEN owner ELSE coalesce((
        SELECT CASE WHEN problem IS NOT NULL THEN {SET_ASIDE} WHEN held THEN {HELD} ELSE 0 END
        FROM mail WHERE mail.mail_id = job.mail_id
    ), 0) END,
    due_at = json_extract(saved.value, '$[1]'), attempts = json_extract(saved.value, '$[2]'),
    recipients = json_extract(saved.value, '$[3]')
FROM json_each(?) AS saved WHERE job_id = json_extract(saved.value, '$[0]')
RETURNING owner
"""
_Report = Bounce | DelayWarning | Confirmation
_COMPOSE: dict[type[_Report], Callable[[Any, bytes, RelaySettings, float], bytes]] = {
    Bounce: compose_bounce,
    DelayWarning: compose_delay_warning,
    Confirmation: compose_confirmation,
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A mail that is whole and only needs to be committed."""

    envelope: Envelope
    body: Intake


@dataclass(frozen=True, slots=True)
class Executed:
    """What came of a batch of orders: facts for the next one, and the bodies of the deliveries, by mail."""

    facts: tuple[Fact, ...]
    bodies: dict[int, bytes | BinaryIO]


class Spool:
    """A spool directory, open; as a context manager it is closed at the end.

    One object may be used from several threads. All errors of the file system and of SQLite come as
    :class:`SpoolError`. ``directory`` is made, with its parents, if it does not exist.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._reserve = Reserve(self.directory)
        self._mutex = threading.RLock()
        self._lock = Lock(self.directory)
        #: The number of this relay among all that ever held the lock; 0 without it.
        self._owner = 0
        self._data_version = 0
        #: The last operators' command that was given to the relay.
        self._command = 0
        with self._guard():
            if not self.directory.exists():
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_folder(self.directory.parent)
            (self.directory / "bodies").mkdir(mode=0o700, exist_ok=True)
            self._database = open_database(self.directory)
        self._bodies = Bodies(self.directory, self._database)
        self._due = Due(self._database, self._bodies.directory)

    def close(self) -> None:
        """Close the database and give up the lock."""
        with self._mutex:
            self._database.close()
            self._be_no_relay()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _guard(self) -> Generator[None]:
        """One thread at a time, and errors as our own."""
        with self._mutex:
            try:
                yield
            except (sqlite3.Error, IntakeFailed, OSError) as error:
                raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error | IntakeFailed | OSError) -> SpoolUnusable:
        if isinstance(error, sqlite3.Error):
            problem = problem_of(error)
        elif isinstance(error, OSError):
            problem = error.strerror or str(error)
        else:
            problem = f"a body cannot be stored ({error})"
        return (SpoolFull if is_full(error) else SpoolUnusable)(self.directory, problem)

    # --- intake -----------------------------------------------------------------------------------------------------

    def prepare(self, envelope: Envelope, chunks: bytes | Iterable[bytes]) -> Prepared:
        """Read a body, whole or in pieces, and write it to its file if it is large; nothing is accepted yet.

        Raises ``LocalProtocolError`` for an envelope beyond the limits or with a domain that has no A-labels, and for
        what are no octets, :class:`SpoolFull` where there is no room, and whatever ``chunks`` raises.
        """
        check_envelope(envelope)
        pieces = _pieces_of(chunks)
        envelope.check_limits(DEFAULT_LIMITS)
        if envelope.extended:
            for domain in map(domain_of, (envelope.reverse_path, *envelope.recipients)):
                if not domain.isascii():
                    a_labels(domain)
        intake = Intake(self._bodies.directory, binary=envelope.body.binary)
        try:
            return Prepared(envelope, intake.read(pieces))
        except IntakeFailed as error:
            raise self._unusable(error) from error

    def add(self, prepared: Sequence[Prepared], now: float) -> tuple[MailAccepted, ...]:
        """Accept mails: when this returns they are safe. One transaction for all.

        ``now`` is the time of acceptance, as ``time.time()`` gives it. A relay notices what other objects add, not what
        is added through its own: its ``submit`` is for that. Raises ``LocalProtocolError`` for a time that is none
        and for what was not prepared, and :class:`SpoolFull` when there is no room, also where there is only the room
        that is kept for results.
        """
        mails = _all_prepared(prepared)
        try:
            # What is accepted at a time that is none could never fall due.
            check_seconds("the time of acceptance", now)
            with self._guard(), self._keeping_the_reserve(), transaction(self._database):
                accepted = tuple(self._insert(mail.envelope, mail.body, now) for mail in mails)
        except BaseException:
            _discard(mails)
            raise
        for mail in mails:
            mail.body.close()
        return accepted

    @contextlib.contextmanager
    def _keeping_the_reserve(self) -> Generator[None]:
        self._reserve.keep()
        yield

    def _insert(self, envelope: Envelope, body: Intake, now: float) -> MailAccepted:
        found = not envelope.body.utf8_header and (envelope.body.utf8_found or body.utf8_found)
        row = self._database.execute(
            "INSERT INTO mail (reverse_path, size, eight_bit, leading_dots, longest_line, accepted_at, body_file, body,"
            " binary, utf8_header, options) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                envelope.reverse_path,
                body.size,
                body.eight_bit,
                body.leading_dots,
                body.longest_line,
                now,
                body.file_name,
                body.octets,
                envelope.body.binary,
                int(envelope.body.utf8_header) or UTF8_FOUND * found,
                dump_options(envelope.options),
            ),
        )
        assert row.lastrowid is not None
        mail = StoredMail(
            mail_id=row.lastrowid,
            reverse_path=envelope.reverse_path,
            size=body.size,
            eight_bit=body.eight_bit,
            leading_dots=body.leading_dots,
            accepted_at=now,
            longest_line=body.longest_line,
            binary=envelope.body.binary,
            utf8_header=envelope.body.utf8_header,
            utf8_found=found,
            options=envelope.options,
        )
        wishes = envelope.recipient_options
        jobs = tuple(
            self._insert_job(mail, domain, members, wishes, now)
            for domain, members in recipients_by_domain(envelope.recipients, to_a_labels=_known_to_the_dns)
        )
        return MailAccepted(mail, jobs)

    def _insert_job(
        self,
        mail: StoredMail,
        domain: str,
        recipients: Sequence[str],
        wishes: Mapping[str, RecipientOptions],
        now: float,
    ) -> Job:
        pending = tuple(PendingRecipient(recipient, options=wishes.get(recipient)) for recipient in recipients)
        row = self._database.execute(
            "INSERT INTO job (mail_id, domain, due_at, attempts, owner, recipients) VALUES (?, ?, ?, 0, 0, ?)",
            (mail.mail_id, domain, now, dump(pending)),
        )
        assert row.lastrowid is not None
        return Job(
            job_id=row.lastrowid, mail_id=mail.mail_id, domain=domain, due_at=now, attempts=0, recipients=pending
        )

    # --- relaying ---------------------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Become the one relay of this spool, and sweep up what a crash may have left; until :meth:`unlock`.

        Raises :class:`SpoolLocked` if there is one, in another process or in this one.
        """
        with self._guard():
            self._lock.take()
            try:
                self._become_the_relay()
            except BaseException:
                self._be_no_relay()
                raise

    def _become_the_relay(self) -> None:
        self._reserve.keep()
        with transaction(self._database):
            self._database.execute("UPDATE incarnation SET number = number + 1")
            forgotten = forget_removed(self._database)
        self._bodies.remove(forgotten)
        self._owner = self._database.execute("SELECT number FROM incarnation").fetchone()[0]
        self._command = 0
        self._bodies.sweep()
        self.changed()

    def unlock(self) -> None:
        """Be the relay no more: what it had in hand is free for the next one."""
        with self._guard():
            self._be_no_relay()

    def _be_no_relay(self) -> None:
        self._owner = 0
        self._lock.release()

    def execute(self, orders: Orders, settings: RelaySettings, now: float) -> Executed:
        """Commit the durable orders in one transaction; then load what the effects ask for.

        If the commit fails, nothing of it happened.
        """
        facts: list[Fact] = []
        with self._guard():
            if orders.durable:
                forgotten: list[str] = []
                facts += self._commit(orders, settings, now, forgotten)
                self._bodies.remove(forgotten)
            deliveries = [e.delivery for e in orders.effects if isinstance(e, (OpenSession, Continue))]
            bodies = self._open_bodies(deliveries)
            loads = [effect for effect in orders.effects if isinstance(effect, (Load, LoadDomains))]
            if loads and not self._owner:
                raise SpoolError(self.directory, "only the relay that holds its lock may load from it")
            for effect in loads:
                if isinstance(effect, LoadDomains):
                    facts.append(self._due.domains(effect, self._owner))
                else:
                    facts.append(self._due.jobs(effect, self._owner))
        return Executed(tuple(facts), bodies)

    def _commit(self, orders: Orders, settings: RelaySettings, now: float, forgotten: list[str]) -> list[Fact]:
        """Execute the durable orders in one transaction; where the disk is full, in the room that was kept for them."""
        while True:
            try:
                with transaction(self._database):
                    return list(self._execute_durable(orders, settings, now, forgotten))
            except (sqlite3.Error, IntakeFailed, OSError) as error:
                forgotten.clear()
                if not (is_full(error) and self._reserve.give_up()):
                    raise

    def _execute_durable(
        self, orders: Orders, settings: RelaySettings, now: float, forgotten: list[str]
    ) -> Iterator[Fact]:
        """Reports first, for they read what is forgotten next; claims after saves, which they may follow; operators'
        wishes last, for they are about what all the others leave.

        One statement for all orders of a kind: each statement gives up the interpreter's lock, and getting it back is
        what costs.
        """
        claims: list[tuple[int, int]] = []
        saves: list[tuple[int, float, int, str]] = []
        forgets: list[Job] = []
        wishes: list[Operate] = []
        for order in orders.durable:
            if isinstance(order, Claim):
                claims.append((order.job.job_id, order.job.attempts))
            elif isinstance(order, Save):
                job = order.job
                saves.append((job.job_id, job.due_at, job.attempts, dump(job.recipients)))
            elif isinstance(order, Forget):
                forgets.append(order.job)
            elif isinstance(order, Operate):
                wishes.append(order)
            else:
                yield self._store_report(order, settings, now)
        if saves and (REMOVED,) in self._database.execute(_SAVE, (json.dumps(saves),)).fetchall():
            forgotten += forget_removed(self._database, json.dumps([job_id for job_id, *_ in saves]))
        if forgets:
            forgotten += forget(self._database, forgets)
        if claims:
            self._database.execute(_CLAIM, (self._owner, json.dumps(claims)))
        for wish in wishes:
            if removed := operate(self._database, self._owner, wish.action, wish.mail_ids, now, forgotten):
                yield JobsRemoved(removed)
        if wishes:
            self._database.execute("DELETE FROM command WHERE command_id <= ?", (self._command,))

    def _store_report(self, order: _Report, settings: RelaySettings, now: float) -> MailAccepted:
        """Store a report on a mail; what that asked of the way, TLS, the report asks too (RFC 8689 §5)."""
        original = b""
        mail = _with_a_labels(order.mail)
        body = self.open_body(mail.mail_id)
        if isinstance(body, bytes):
            original = body
        else:
            with body, contextlib.suppress(FileNotFoundError):
                original = body.read(settings.whole_message_in_reports)
        report = _COMPOSE[type(order)](replace(order, mail=mail), original, settings, now)
        envelope = Envelope(
            "",
            (mail.reverse_path,),
            body=BodyFacts(utf8_header=not mail.reverse_path.isascii()),
            options=MailOptions(require_tls=mail.options.require_tls),
        )
        intake = Intake(self._bodies.directory).read([report])
        try:
            return self._insert(envelope, intake, now)
        finally:
            intake.close()

    def open_body(self, mail_id: int) -> bytes | BinaryIO:
        """The canonical octets of a body, or a file that holds them."""
        with self._guard():
            return self._bodies.read([mail_id])[mail_id]

    def _open_bodies(self, deliveries: Sequence[Delivery]) -> dict[int, bytes | BinaryIO]:
        """The body for each delivery: two that are on their way at once must not share one file's position."""
        bodies: dict[int, bytes | BinaryIO] = {}
        if deliveries:
            found = self._bodies.read([delivery.mail.mail_id for delivery in deliveries])
            for delivery in deliveries:
                mail_id = delivery.mail.mail_id
                bodies[delivery.delivery_id] = found.pop(mail_id) if mail_id in found else self.open_body(mail_id)
        return bodies

    def changed(self) -> bool:
        """Whether another process has written to the spool since this was last asked."""
        with self._guard():
            version = self._database.execute("PRAGMA data_version").fetchone()[0]
        before, self._data_version = self._data_version, int(version)
        return before != self._data_version

    # --- operating --------------------------------------------------------------------------------------------------

    def command(self, action: Action, mail_ids: Iterable[int]) -> None:
        """Do what an operator wishes with mails, or have the relay do it that works on the spool.

        Mails that are not queued are passed over. When this returns, the wish is on disk.
        """
        wanted = sorted(set(mail_ids))
        forgotten: list[str] = []
        with self._guard(), self._lock.nobody_has_it() as alone, transaction(self._database):
            if alone:
                now = time.time()
                # What the last relay left undone comes first, or it would be done after what was wished later.
                for _, earlier, among in wishes_after(self._database, 0):
                    operate(self._database, self._owner, earlier, among, now, forgotten)
                self._database.execute("DELETE FROM command")
                operate(self._database, self._owner, action, wanted, now, forgotten)
            else:
                values = (action.value, json.dumps(wanted))
                self._database.execute("INSERT INTO command (action, mail_ids) VALUES (?, ?)", values)
        self._bodies.remove(forgotten)

    def commands(self) -> tuple[Commanded, ...]:
        """What operators wished for since this was last asked; each is forgotten with the order that answers it."""
        with self._guard():
            found = wishes_after(self._database, self._command)
            if found:
                self._command = found[-1][0]
            return tuple(commanded(self._database, action, mail_ids) for _, action, mail_ids in found)

    def list(self, mail_ids: Iterable[int] | None = None) -> Iterator[QueueEntry]:
        """What is queued, all or of these mails, oldest mail first; what is read at once is a page, however long it is.

        What comes and goes meanwhile may be in it or not.
        """
        wanted = None if mail_ids is None else sorted(set(mail_ids))
        with self._guard():
            with self._lock.nobody_has_it() as alone:
                pass
            current = 0 if alone else self._database.execute("SELECT number FROM incarnation").fetchone()[0]
        place = (-1, -1)
        while True:
            with self._guard():
                rows = page_after(self._database, place, wanted)
            for row in rows:
                yield entry_of(row, current)
            if not rows:
                return
            place = place_of(rows[-1])

    def __len__(self) -> int:
        """How many mails are queued."""
        with self._guard():
            return int(self._database.execute("SELECT count(*) FROM mail").fetchone()[0])


def _pieces_of(chunks: object) -> Iterable[bytes]:
    """A body in pieces; each is looked at when it comes."""
    if isinstance(chunks, (bytes, bytearray, memoryview)):
        return (octets_of(cast("object", chunks)),)
    if isinstance(chunks, str) or not isinstance(chunks, Iterable):
        raise LocalProtocolError(f"a body is bytes, or an iterable of bytes, not a {type(chunks).__name__}")
    return map(octets_of, cast("Iterable[object]", chunks))


def _all_prepared(given: object) -> tuple[Prepared, ...]:
    """What is to be added; where a part of it was not prepared, nothing of the rest is left behind."""
    mails = tuple(cast("Iterable[object]", given)) if isinstance(given, Iterable) else (given,)
    prepared = tuple(mail for mail in mails if isinstance(mail, Prepared))
    others = {type(mail).__name__ for mail in mails if not isinstance(mail, Prepared)}
    if others or isinstance(given, Prepared):
        _discard(prepared)
        raise LocalProtocolError(f"add takes a list of what prepare gave, not: {', '.join(sorted(others)) or 'one'}")
    return prepared


def _discard(mails: Sequence[Prepared]) -> None:
    for mail in mails:
        mail.body.discard()


def _known_to_the_dns(domain: str) -> str:
    """A domain in A-labels; one that lost them since it was accepted is one that the DNS does not know."""
    try:
        return a_labels(domain)
    except LocalProtocolError:
        return domain


def _with_a_labels(mail: StoredMail) -> StoredMail:
    """The mail as a report speaks of it: a sender of whom only the domain is beyond ASCII needs no SMTPUTF8."""
    local_part, at, domain = mail.reverse_path.rpartition("@")
    if mail.reverse_path.isascii() or not local_part.isascii():
        return mail
    return replace(mail, reverse_path=f"{local_part}{at}{_known_to_the_dns(domain)}")
