"""The durable spool: a directory with a SQLite database and the bodies that are too large for it.

What lives here: storing mails and jobs, executing the relay's orders in one transaction, operators' commands, the lock.
What does not: any decision about mail; tables and versions, columns, taking bodies in (``_spool``).

A mail is accepted when :meth:`Spool.add` returns: it is on disk then, whole. Any process may add; only the holder of
the lock relays. SQLite runs with a write-ahead log and full synchronisation, so a transaction that was committed
survives a loss of power. A body in a file is written, synchronised and renamed before the transaction that knows of it,
and removed after the one that forgets it; what lies between is swept up at the next start.

A mail of which something cannot be read is **set aside**: it stays stored with the reason, is shown to operators, and
is not relayed until one of them releases it. It keeps no other mail waiting.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import logging
import os
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
from smtpcore.drivers._session.options import a_labels
from smtpcore.drivers._spool.errors import SpoolError, SpoolFull, SpoolLocked, SpoolUnusable, is_full, problem_of
from smtpcore.drivers._spool.intake import Intake, IntakeFailed, sync_folder
from smtpcore.drivers._spool.reserve import Reserve
from smtpcore.drivers._spool.rows import (
    JOB_COLUMNS,
    MAIL_COLUMNS,
    NO_MAIL,
    Damaged,
    check_body,
    dump,
    dump_options,
    job_of,
    mail_ids_of,
    mail_of,
    readable,
)
from smtpcore.drivers._spool.schema import HELD, NOBODY, REMOVED, SET_ASIDE, open_database, transaction
from smtpcore.relay import (
    Action,
    Bounce,
    Claim,
    Commanded,
    Confirmation,
    Continue,
    DelayWarning,
    Delivery,
    DomainsLoaded,
    Fact,
    Forget,
    Job,
    JobsLoaded,
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

_log = logging.getLogger("smtpcore.relay")

#: Seconds that a relay which starts waits for the lock: who only looks whether there is one holds it for a moment.
_PATIENCE = 0.5

_MAIL = ", ".join(MAIL_COLUMNS)
_JOB = ", ".join(JOB_COLUMNS)
_UNKNOWN = "AND job_id NOT IN (SELECT value FROM json_each(:known))"

_DUE_OF_DOMAIN = f"""
SELECT {_JOB} FROM job WHERE domain = :domain AND due_at <= :until AND owner >= 0 AND owner <> :owner {_UNKNOWN}
ORDER BY due_at, job_id LIMIT :limit
"""
_BEYOND_OF_DOMAIN = f"""
SELECT {_JOB} FROM job WHERE domain = :domain AND due_at > :horizon AND owner >= 0 AND owner <> :owner {_UNKNOWN}
ORDER BY due_at, job_id LIMIT :limit
"""
#: Most looks end here: those that find few jobs due, and those that find enough domains among the first of them.
_DUE_AT_A_GLANCE = """
SELECT domain, count(*) FROM (
    SELECT * FROM (
        SELECT domain, due_at FROM job WHERE due_at <= :until AND owner >= 0 AND owner <> :owner
        ORDER BY due_at LIMIT :glance
    )
    UNION ALL
    SELECT * FROM (
        SELECT domain, due_at FROM job WHERE due_at > :horizon AND owner >= 0 AND owner <> :owner
        ORDER BY due_at LIMIT :glance
    )
) GROUP BY domain ORDER BY min(due_at)
"""
#: One step of the recursion a domain: a long queue for few domains is not read through.
_DUE_DOMAINS = """
WITH RECURSIVE
    domains (domain) AS (
        SELECT min(domain) FROM job WHERE owner >= 0
        UNION ALL
        SELECT (SELECT min(domain) FROM job WHERE job.domain > domains.domain AND owner >= 0)
        FROM domains WHERE domain IS NOT NULL
    ),
    first (domain, due_at) AS (
        SELECT domain, (
            SELECT due_at FROM job WHERE job.domain = domains.domain AND owner >= 0 AND owner <> :owner
            ORDER BY due_at LIMIT 1
        ) FROM domains WHERE domain IS NOT NULL
    )
SELECT domain FROM first
WHERE (due_at <= :until OR due_at > :horizon) AND domain NOT IN (SELECT value FROM json_each(:known))
ORDER BY due_at LIMIT :limit
"""
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
_NEXT_DUE = """
SELECT due_at FROM job WHERE due_at > :until AND due_at <= :horizon AND owner >= 0 AND owner <> :owner
ORDER BY due_at LIMIT 1
"""
#: A job whose mail is gone is there too, for an operator to remove.
_LIST = f"""
SELECT {", ".join(f"mail.{name}" for name in MAIL_COLUMNS)}, {", ".join(f"job.{name}" for name in JOB_COLUMNS)},
    owner, held, problem
FROM job LEFT JOIN mail USING (mail_id)
WHERE (job.mail_id, job_id) > (:after_mail, :after_job) {{among}}
ORDER BY job.mail_id, job_id LIMIT :limit
"""
_JOB_ID = len(MAIL_COLUMNS) + JOB_COLUMNS.index("job_id")
_MAIL_OF_JOB = len(MAIL_COLUMNS) + JOB_COLUMNS.index("mail_id")
#: Jobs that a look for due domains reads before it asks domain by domain.
_GLANCE = 2000
#: Rows of a list that are in memory at once.
_PAGE = 1000
_AMONG = "mail_id IN (SELECT value FROM json_each(:mails))"
_Report = Bounce | DelayWarning | Confirmation
_COMPOSE: dict[type[_Report], Callable[[Any, bytes, RelaySettings, float], bytes]] = {
    Bounce: compose_bounce,
    DelayWarning: compose_delay_warning,
    Confirmation: compose_confirmation,
}
#: What an operator's wish does; of the jobs that a relay has in hand it changes none.
_OPERATE = {
    Action.HOLD: (
        f"UPDATE mail SET held = 1 WHERE {_AMONG}",
        f"UPDATE job SET owner = {HELD} WHERE {_AMONG} AND owner >= 0 AND owner <> :owner",
    ),
    Action.RELEASE: (
        f"UPDATE mail SET held = 0, problem = NULL WHERE {_AMONG}",
        f"UPDATE job SET owner = 0 WHERE {_AMONG} AND owner IN ({HELD}, {SET_ASIDE})",
    ),
    Action.RETRY: (f"UPDATE job SET due_at = :now WHERE {_AMONG} AND owner <> :owner",),
    Action.REMOVE: (
        f"UPDATE job SET owner = {REMOVED} WHERE {_AMONG} AND owner = :owner",
        f"DELETE FROM job WHERE {_AMONG} AND owner <> :owner AND owner <> {REMOVED}",
    ),
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


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One job as an operator sees it."""

    mail: StoredMail
    job: Job
    #: Whether a relay is at it now.
    active: bool
    #: Whether an operator holds the mail.
    held: bool = False
    #: Why the mail was set aside; what of it cannot be read is empty here.
    problem: str | None = None


class Spool:
    """A spool directory, open; as a context manager it is closed at the end.

    One object may be used from several threads. All errors of the file system and of SQLite come as
    :class:`SpoolError`. ``directory`` is made, with its parents, if it does not exist.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._bodies = self.directory / "bodies"
        self._reserve = Reserve(self.directory)
        self._mutex = threading.RLock()
        self._lock_file = -1
        #: The number of this relay among all that ever held the lock; 0 without it.
        self._owner = 0
        self._data_version = 0
        #: The last operators' command that was given to the relay.
        self._command = 0
        with self._guard():
            if not self.directory.exists():
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_folder(self.directory.parent)
            self._bodies.mkdir(mode=0o700, exist_ok=True)
            self._database = open_database(self.directory)

    def close(self) -> None:
        """Close the database and give up the lock."""
        with self._mutex:
            self._database.close()
            self._release_lock()

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

        Raises ``LocalProtocolError`` for an envelope beyond the limits or with a domain that has no A-labels,
        :class:`SpoolFull` where there is no room, and whatever ``chunks`` raises.
        """
        envelope.check_limits(DEFAULT_LIMITS)
        if envelope.extended:
            for domain in map(domain_of, (envelope.reverse_path, *envelope.recipients)):
                if not domain.isascii():
                    a_labels(domain)
        intake = Intake(self._bodies, binary=envelope.body.binary)
        try:
            return Prepared(envelope, intake.read((chunks,) if isinstance(chunks, bytes) else chunks))
        except IntakeFailed as error:
            raise self._unusable(error) from error

    def add(self, prepared: Sequence[Prepared], now: float) -> tuple[MailAccepted, ...]:
        """Accept mails: when this returns they are safe. One transaction for all.

        A relay notices what other objects add, not what is added through its own: its ``submit`` is for that.
        Raises :class:`SpoolFull` when there is no room, also where there is only the room that is kept for results.
        """
        try:
            with self._guard(), self._keeping_the_reserve(), transaction(self._database):
                accepted = tuple(self._insert(mail.envelope, mail.body, now) for mail in prepared)
        except BaseException:
            for mail in prepared:
                mail.body.discard()
            raise
        for mail in prepared:
            mail.body.close()
        return accepted

    @contextlib.contextmanager
    def _keeping_the_reserve(self) -> Generator[None]:
        self._reserve.keep()
        yield

    def _insert(self, envelope: Envelope, body: Intake, now: float) -> MailAccepted:
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
                envelope.body.utf8_header,
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
            if self._lock_file >= 0:
                raise SpoolLocked(self.directory, "another relay of this process works on it")
            self._take_lock()
            try:
                self._become_the_relay()
            except BaseException:
                self._release_lock()
                raise

    def _become_the_relay(self) -> None:
        self._reserve.keep()
        with transaction(self._database):
            self._database.execute("UPDATE incarnation SET number = number + 1")
            forgotten = self._forget_removed()
        self._remove_files(forgotten)
        self._owner = self._database.execute("SELECT number FROM incarnation").fetchone()[0]
        self._command = 0
        self._sweep()
        self.changed()

    def unlock(self) -> None:
        """Be the relay no more: what it had in hand is free for the next one."""
        with self._guard():
            self._release_lock()

    def _release_lock(self) -> None:
        self._owner = 0
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def _take_lock(self) -> None:
        lock_file = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_up_at = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < give_up_at:
                    time.sleep(0.02)
                    continue
                holder = os.read(lock_file, 32).decode("ascii", "replace").strip()
                os.close(lock_file)
                words = f"another relay works on it (process {holder or 'unknown'})"
                raise SpoolLocked(self.directory, words) from None
        self._lock_file = lock_file
        os.ftruncate(lock_file, 0)
        os.pwrite(lock_file, b"%d\n" % os.getpid(), 0)

    @contextlib.contextmanager
    def _without_a_relay(self) -> Generator[bool]:
        """Whether no relay works on the spool; while the block lasts none can begin."""
        if self._lock_file >= 0:
            yield False
            return
        try:
            lock_file = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError:
            # Whoever may not even open it cannot know.
            yield False
            return
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock_file)
            yield False
            return
        try:
            yield True
        finally:
            os.close(lock_file)

    def _sweep(self) -> None:
        """Remove files that no mail refers to and that nobody is writing."""
        for path in self._bodies.iterdir():
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                known = self._database.execute("SELECT 1 FROM mail WHERE body_file = ?", (path.name,)).fetchone()
                if known is None:
                    path.unlink(missing_ok=True)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)

    def execute(self, orders: Orders, settings: RelaySettings, now: float) -> Executed:
        """Commit the durable orders in one transaction; then load what the effects ask for.

        If the commit fails, nothing of it happened.
        """
        facts: list[Fact] = []
        with self._guard():
            if orders.durable:
                forgotten: list[str] = []
                facts += self._commit(orders, settings, now, forgotten)
                self._remove_files(forgotten)
            deliveries = [e.delivery for e in orders.effects if isinstance(e, (OpenSession, Continue))]
            bodies = self._open_bodies(deliveries)
            loads = [effect for effect in orders.effects if isinstance(effect, (Load, LoadDomains))]
            if loads and not self._owner:
                raise SpoolError(self.directory, "only the relay that holds its lock may load from it")
            for effect in loads:
                facts.append(self._load_domains(effect) if isinstance(effect, LoadDomains) else self._load(effect))
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
            forgotten += self._forget_removed(json.dumps([job_id for job_id, *_ in saves]))
        if forgets:
            forgotten += self._forget(forgets)
        if claims:
            self._database.execute(_CLAIM, (self._owner, json.dumps(claims)))
        for wish in wishes:
            if removed := self._operate(wish.action, wish.mail_ids, now, forgotten):
                yield JobsRemoved(removed)
        if wishes:
            self._database.execute("DELETE FROM command WHERE command_id <= ?", (self._command,))

    def _forget(self, jobs: Sequence[Job]) -> list[str]:
        """Forget jobs, and mails that have no others; returns the names of files to remove after the commit."""
        job_ids = json.dumps([job.job_id for job in jobs])
        self._database.execute("DELETE FROM job WHERE job_id IN (SELECT value FROM json_each(?))", (job_ids,))
        return self._forget_mails(json.dumps([job.mail_id for job in jobs]))

    def _forget_removed(self, among: str = "") -> list[str]:
        """Forget the jobs that were removed on their way, ``among`` those of a list or all that a relay left."""
        condition = "AND job_id IN (SELECT value FROM json_each(?))" if among else "AND ? = ''"
        rows = self._database.execute(
            f"DELETE FROM job WHERE owner = {REMOVED} {condition} RETURNING mail_id", (among,)
        ).fetchall()
        return self._forget_mails(json.dumps([mail_id for (mail_id,) in rows])) if rows else []

    def _forget_mails(self, mail_ids: str) -> list[str]:
        rows = self._database.execute(
            "DELETE FROM mail WHERE mail_id IN (SELECT value FROM json_each(?))"
            " AND NOT EXISTS (SELECT 1 FROM job WHERE job.mail_id = mail.mail_id) RETURNING body_file",
            (mail_ids,),
        )
        return [name for (name,) in rows.fetchall() if name is not None]

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
        intake = Intake(self._bodies).read([report])
        try:
            return self._insert(envelope, intake, now)
        finally:
            intake.close()

    def _load_domains(self, order: LoadDomains) -> DomainsLoaded:
        values: dict[str, object] = {
            "until": order.until,
            "horizon": order.horizon,
            "owner": self._owner,
            "known": json.dumps(order.known),
            "limit": order.limit + 1,
        }
        found = self._due_domains(values, order)
        domains = tuple(domain for domain in found if isinstance(domain, str))
        if len(domains) < len(found):
            self._set_aside_by_domain()
        next_due = self._database.execute(_NEXT_DUE, values).fetchone()
        return DomainsLoaded(
            domains[: order.limit], len(found) <= order.limit, None if next_due is None else float(next_due[0])
        )

    def _due_domains(self, values: dict[str, object], order: LoadDomains) -> list[object]:
        """The domains that are asked for, and one more where there are more."""
        rows = self._database.execute(_DUE_AT_A_GLANCE, values | {"glance": _GLANCE}).fetchall()
        known = set(order.known)
        found = [domain for domain, _ in rows if domain not in known]
        if len(found) <= order.limit and sum(count for _, count in rows) >= _GLANCE:
            return [domain for (domain,) in self._database.execute(_DUE_DOMAINS, values)]
        return found[: order.limit + 1]

    def _load(self, order: Load) -> JobsLoaded:
        values = {
            "domain": order.domain,
            "until": order.until,
            "horizon": order.horizon,
            "owner": self._owner,
            "known": json.dumps(order.known),
            "limit": order.limit + 1,
        }
        rows = self._database.execute(_DUE_OF_DOMAIN, values).fetchall()
        if len(rows) <= order.limit:
            rows += self._database.execute(_BEYOND_OF_DOMAIN, values).fetchall()
        problems: dict[object, str] = {}
        jobs = self._jobs_of(rows[: order.limit], problems)
        mail_ids = json.dumps(list(dict.fromkeys(job.mail_id for job in jobs)))
        mails = self._mails(mail_ids, problems)
        siblings = self._database.execute(
            f"SELECT {_JOB} FROM job WHERE mail_id IN (SELECT value FROM json_each(?)) AND owner >= 0 AND owner <> ?"
            " AND (due_at <= ? OR due_at > ?) AND domain <> ?",
            (mail_ids, self._owner, order.until, order.horizon, order.domain),
        )
        jobs += self._jobs_of(siblings.fetchall(), problems)
        if problems:
            self._set_aside(problems)
        return JobsLoaded(
            order.domain,
            tuple(mail for mail in mails if mail.mail_id not in problems),
            tuple(job for job in jobs if job.mail_id not in problems),
            len(rows) <= order.limit,
        )

    @staticmethod
    def _jobs_of(rows: Iterable[Sequence[object]], problems: dict[object, str]) -> list[Job]:
        """The jobs that can be read; for the others the mail's id and what is wrong go to ``problems``."""
        jobs: list[Job] = []
        for row in rows:
            try:
                jobs.append(job_of(row))
            except Damaged as damage:
                problems[row[1]] = f"job {row[0]}: {damage}"
        return jobs

    def _mails(self, mail_ids: str, problems: dict[object, str]) -> list[StoredMail]:
        """The mails that can be read, of a list as JSON; what is wrong with the others goes to ``problems``."""
        rows = self._database.execute(
            f"SELECT wanted.value, {_MAIL}, length(body), body_file FROM json_each(?) AS wanted"
            " LEFT JOIN mail ON mail.mail_id = wanted.value",
            (mail_ids,),
        )
        mails: list[StoredMail] = []
        for mail_id, *columns, octets, file_name in rows.fetchall():
            try:
                if columns[0] is None:
                    raise Damaged(NO_MAIL)
                mail = mail_of(columns)
                check_body(octets, file_name, mail.size, self._bodies)
            except Damaged as damage:
                problems[mail_id] = str(damage)
            else:
                mails.append(mail)
        return mails

    def _set_aside(self, problems: dict[object, str]) -> None:
        """Take mails out of the relay's sight, with the reason, until an operator releases them."""
        rows = json.dumps([problem for problem in problems.items() if isinstance(problem[0], int)])
        with transaction(self._database):
            self._database.execute(
                f"UPDATE job SET owner = {SET_ASIDE} WHERE typeof(mail_id) <> 'integer' AND owner >= 0 AND owner <> ?",
                (self._owner,),
            )
            self._database.execute(
                "UPDATE mail SET problem = json_extract(damaged.value, '$[1]') FROM json_each(?) AS damaged"
                " WHERE mail_id = json_extract(damaged.value, '$[0]')",
                (rows,),
            )
            self._database.execute(
                f"UPDATE job SET owner = {SET_ASIDE} WHERE owner >= 0 AND owner <> ?"
                " AND mail_id IN (SELECT json_extract(value, '$[0]') FROM json_each(?))",
                (self._owner, rows),
            )
        for mail_id, words in problems.items():
            fields = {"event": "set-aside", "queue_id": mail_id, "words": words}
            _log.warning("mail %s is set aside: %s", mail_id, words, extra=fields)

    def _set_aside_by_domain(self) -> None:
        """Set aside what is for no domain that could be one."""
        rows = self._database.execute(
            "SELECT mail_id, domain FROM job WHERE typeof(domain) <> 'text' AND owner >= 0 AND owner <> ?",
            (self._owner,),
        )
        self._set_aside({mail_id: f"its domain is {domain!r}" for mail_id, domain in rows.fetchall()})

    def open_body(self, mail_id: int) -> bytes | BinaryIO:
        """The canonical octets of a body, or a file that holds them."""
        with self._guard():
            return self._read_bodies([mail_id])[mail_id]

    def _open_bodies(self, deliveries: Sequence[Delivery]) -> dict[int, bytes | BinaryIO]:
        """The body for each delivery: two that are on their way at once must not share one file's position."""
        bodies: dict[int, bytes | BinaryIO] = {}
        if deliveries:
            found = self._read_bodies([delivery.mail.mail_id for delivery in deliveries])
            for delivery in deliveries:
                mail_id = delivery.mail.mail_id
                bodies[delivery.delivery_id] = found.pop(mail_id) if mail_id in found else self.open_body(mail_id)
        return bodies

    def _read_bodies(self, mail_ids: Iterable[int]) -> dict[int, bytes | BinaryIO]:
        ids = list(dict.fromkeys(mail_ids))
        query = "SELECT mail_id, body, body_file FROM mail WHERE mail_id IN (SELECT value FROM json_each(?))"
        rows = self._database.execute(query, (json.dumps(ids),)).fetchall()
        if len(rows) < len(ids):
            missing = set(ids) - {row[0] for row in rows}
            raise SpoolError(self.directory, f"there is no mail {min(missing)}")
        return {
            mail_id: bytes(body) if name is None else self._open_file(self._bodies / name)
            for mail_id, body, name in rows
        }

    def _open_file(self, path: Path) -> BinaryIO:
        try:
            return path.open("rb")
        except FileNotFoundError:
            # One mail whose body somebody removed must not keep the others: its delivery fails, and says why.
            return cast("BinaryIO", _LostBody(path))

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
        with self._guard(), self._without_a_relay() as alone, transaction(self._database):
            if alone:
                now = time.time()
                # What the last relay left undone comes first, or it would be done after what was wished later.
                for _, earlier, among in self._commands_after(0):
                    self._operate(earlier, among, now, forgotten)
                self._database.execute("DELETE FROM command")
                self._operate(action, wanted, now, forgotten)
            else:
                values = (action.value, json.dumps(wanted))
                self._database.execute("INSERT INTO command (action, mail_ids) VALUES (?, ?)", values)
        self._remove_files(forgotten)

    def commands(self) -> tuple[Commanded, ...]:
        """What operators wished for since this was last asked; each is forgotten with the order that answers it."""
        with self._guard():
            found = self._commands_after(self._command)
            if found:
                self._command = found[-1][0]
            return tuple(self._commanded(action, mail_ids) for _, action, mail_ids in found)

    def _commands_after(self, command_id: int) -> list[tuple[int, Action, list[int]]]:
        """Wishes that nobody has answered; what is none, because something else wrote it, is passed over."""
        rows = self._database.execute(
            "SELECT command_id, action, mail_ids FROM command WHERE command_id > ? ORDER BY command_id", (command_id,)
        )
        found: list[tuple[int, Action, list[int]]] = []
        for number, action, mail_ids in rows.fetchall():
            with contextlib.suppress(Damaged, ValueError):
                found.append((number, Action(action), mail_ids_of(mail_ids)))
        return found

    def _commanded(self, action: Action, mail_ids: Sequence[int]) -> Commanded:
        domains = self._database.execute(
            "SELECT DISTINCT domain FROM job WHERE mail_id IN (SELECT value FROM json_each(?))"
            " AND typeof(domain) = 'text'",
            (json.dumps(mail_ids),),
        )
        return Commanded(action, tuple(mail_ids), tuple(domain for (domain,) in domains))

    def _operate(self, action: Action, mail_ids: Sequence[int], now: float, forgotten: list[str]) -> tuple[Job, ...]:
        """Execute one wish; returns the jobs that are gone. The files to remove after the commit go to ``forgotten``.

        A job that a relay has in hand is not gone yet.
        """
        ids = json.dumps(mail_ids)
        values = {"mails": ids, "owner": self._owner or NOBODY, "now": now}
        removed: list[Job] = []
        if action is Action.REMOVE:
            rows = self._database.execute(
                f"SELECT {_JOB} FROM job WHERE {_AMONG} AND owner <> :owner AND owner <> {REMOVED}", values
            )
            removed = self._jobs_of(rows, {})
        for statement in _OPERATE[action]:
            self._database.execute(statement, values)
        if action is Action.REMOVE:
            forgotten += self._forget_mails(ids)
        return tuple(removed)

    def _remove_files(self, names: Iterable[str]) -> None:
        for name in names:
            (self._bodies / name).unlink(missing_ok=True)

    def list(self, mail_ids: Iterable[int] | None = None) -> Iterator[QueueEntry]:
        """What is queued, all or of these mails, oldest mail first; what is read at once is a page, however long it is.

        What comes and goes meanwhile may be in it or not.
        """
        among = "" if mail_ids is None else "AND job.mail_id IN (SELECT value FROM json_each(:mails))"
        values = {"after_mail": -1, "after_job": -1, "mails": json.dumps(sorted(set(mail_ids or ()))), "limit": _PAGE}
        with self._guard():
            with self._without_a_relay() as alone:
                pass
            current = 0 if alone else self._database.execute("SELECT number FROM incarnation").fetchone()[0]
        rows = [()]
        while rows:
            with self._guard():
                rows = self._database.execute(_LIST.format(among=among), values).fetchall()
            for row in rows:
                yield self._entry(row, current)
            if rows:
                values |= {"after_mail": rows[-1][_MAIL_OF_JOB], "after_job": rows[-1][_JOB_ID]}

    @staticmethod
    def _entry(row: Sequence[Any], current: int) -> QueueEntry:
        """An entry out of a row of ``_LIST``; ``current`` is the number of the relay that works, 0 for none."""
        owner, held, problem = row[-3:]
        mail_row, job_row = row[: len(MAIL_COLUMNS)], row[len(MAIL_COLUMNS) : -3]
        try:
            mail, job = mail_of(mail_row), job_of(job_row)
        except Damaged as damage:
            problem = problem or (NO_MAIL if mail_row[0] is None else str(damage))
            mail, job = readable(mail_row, job_row)
        return QueueEntry(mail, job, current > 0 and owner in (current, REMOVED), bool(held), problem)

    def __len__(self) -> int:
        """How many mails are queued."""
        with self._guard():
            return int(self._database.execute("SELECT count(*) FROM mail").fetchone()[0])


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


class _LostBody(io.RawIOBase):
    """The body of a mail whose file is gone: whoever reads it is told."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def read(self, size: int = -1) -> bytes:
        raise FileNotFoundError(errno.ENOENT, "the body is gone from the spool", str(self._path))
