"""The durable spool: a directory with a SQLite database and the bodies that are too large for it.

What lives here: storing mails and jobs, executing the relay's orders in one transaction, the lock. What does not: any
decision about mail.

A mail is accepted when :meth:`Spool.add` returns: it is on disk then, whole. Any process may add; only the holder of
the lock relays. SQLite runs with a write-ahead log and full synchronisation, so a transaction that was committed
survives a loss of power. A body in a file is written, synchronised and renamed before the transaction that knows of it,
and removed after the one that forgets it; what lies between is swept up at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import sqlite3
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, cast

from smtpcore import DEFAULT_LIMITS, Envelope, SmtpError
from smtpcore.drivers._intake import Intake, IntakeFailed, sync_folder
from smtpcore.relay import (
    Bounce,
    Claim,
    Continue,
    DelayWarning,
    Delivery,
    DomainsLoaded,
    Fact,
    Forget,
    Job,
    JobsLoaded,
    Load,
    LoadDomains,
    MailAccepted,
    OpenSession,
    Orders,
    PendingRecipient,
    RelaySettings,
    Save,
    StoredMail,
    compose_bounce,
    compose_delay_warning,
    recipients_by_domain,
)

__all__ = [
    "Executed",
    "Prepared",
    "QueueEntry",
    "Spool",
    "SpoolError",
    "SpoolLocked",
    "SpoolUnusable",
]

_APPLICATION = 0x534D5443
_VERSION = 1

_SCHEMA = """
CREATE TABLE incarnation (number INTEGER NOT NULL);
INSERT INTO incarnation VALUES (0);
CREATE TABLE mail (
    mail_id INTEGER PRIMARY KEY AUTOINCREMENT,
    reverse_path TEXT NOT NULL,
    size INTEGER NOT NULL,
    eight_bit INTEGER NOT NULL,
    leading_dots INTEGER NOT NULL,
    longest_line INTEGER NOT NULL,
    accepted_at REAL NOT NULL,
    body_file TEXT,
    body BLOB
);
CREATE TABLE job (
    job_id INTEGER PRIMARY KEY AUTOINCREMENT,
    mail_id INTEGER NOT NULL REFERENCES mail,
    domain TEXT NOT NULL,
    due_at REAL NOT NULL,
    attempts INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    recipients TEXT NOT NULL
);
CREATE INDEX job_by_domain ON job (domain, due_at, job_id, owner);
CREATE INDEX job_by_time ON job (due_at, owner);
CREATE INDEX job_by_mail ON job (mail_id);
CREATE INDEX mail_by_file ON mail (body_file) WHERE body_file IS NOT NULL;
"""

_MAIL = "mail_id, reverse_path, size, eight_bit, leading_dots, accepted_at"
_JOB = "job_id, mail_id, domain, due_at, attempts, recipients"

_DUE_OF_DOMAIN = f"""
SELECT {_JOB} FROM job WHERE domain = :domain AND due_at <= :until AND owner <> :owner
ORDER BY due_at, job_id LIMIT :limit
"""
_BEYOND_OF_DOMAIN = f"""
SELECT {_JOB} FROM job WHERE domain = :domain AND due_at > :horizon AND owner <> :owner
ORDER BY due_at, job_id LIMIT :limit
"""
#: One step of the recursion a domain, so that a long queue for few domains is not read through.
_DUE_DOMAINS = """
WITH RECURSIVE
    domains (domain) AS (
        SELECT min(domain) FROM job
        UNION ALL
        SELECT (SELECT min(domain) FROM job WHERE job.domain > domains.domain) FROM domains WHERE domain IS NOT NULL
    ),
    first (domain, due_at) AS (
        SELECT domain, (
            SELECT due_at FROM job WHERE job.domain = domains.domain AND owner <> :owner ORDER BY due_at LIMIT 1
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
_SAVE = """
UPDATE job SET owner = 0, due_at = json_extract(saved.value, '$[1]'), attempts = json_extract(saved.value, '$[2]'),
    recipients = json_extract(saved.value, '$[3]')
FROM json_each(?) AS saved WHERE job_id = json_extract(saved.value, '$[0]')
"""
_NEXT_DUE = """
SELECT due_at FROM job WHERE due_at > :until AND due_at <= :horizon AND owner <> :owner ORDER BY due_at LIMIT 1
"""


#: Held while a database is opened: between making its file and closing it no other thread may come to lock it.
_opening = threading.Lock()


class SpoolError(SmtpError):
    """Something is wrong with a spool; ``directory`` says with which."""

    def __init__(self, directory: Path, problem: str) -> None:
        super().__init__(f"spool {directory}: {problem}")
        self.directory = directory
        self.problem = problem


class SpoolLocked(SpoolError):
    """Another relay works on this spool."""


class SpoolUnusable(SpoolError):
    """The spool cannot be opened, read or written: missing, read-only, full, corrupt, or of a later version."""


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


class Spool:
    """A spool directory, open; as a context manager it is closed at the end.

    One object may be used from several threads. All errors of the file system and of SQLite come as
    :class:`SpoolError`. ``directory`` is made, with its parents, if it does not exist.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._bodies = self.directory / "bodies"
        self._mutex = threading.RLock()
        self._lock_file = -1
        self._owner = 0
        self._data_version = 0
        with self._guard():
            self._make_folder()
            self._database = self._open_database()

    def _make_folder(self) -> None:
        if not self.directory.exists():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_folder(self.directory.parent)
        self._bodies.mkdir(mode=0o700, exist_ok=True)

    def _open_database(self) -> sqlite3.Connection:
        path = self.directory / "spool.db"
        with _opening:
            # SQLite gives its other files the mode of this one. One that exists must not be opened here: closing it
            # would drop all locks of this process on it (POSIX), those of SQLite too, and with them the journal that
            # another spool object of this process is writing.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            database = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            try:
                self._check_owner(database)
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = FULL")
                self._make_schema(database)
            except BaseException:
                database.close()
                raise
        return database

    def _check_owner(self, database: sqlite3.Connection) -> None:
        """Refuse a database that is not a spool's, before anything of it is changed."""
        application = database.execute("PRAGMA application_id").fetchone()[0]
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != _APPLICATION and (application or tables):
            raise SpoolUnusable(self.directory, "spool.db is the database of something else")

    def _make_schema(self, database: sqlite3.Connection) -> None:
        if database.execute("PRAGMA user_version").fetchone()[0] == 0:
            database.execute("BEGIN IMMEDIATE")
            # Another process may have been faster.
            if database.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _SCHEMA.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(f"PRAGMA user_version = {_VERSION}")
            database.execute("COMMIT")
            sync_folder(self.directory)
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version != _VERSION:
            raise SpoolUnusable(self.directory, f"its version is {version}; this program knows version {_VERSION}")

    def close(self) -> None:
        """Close the database and give up the lock."""
        with self._mutex:
            self._database.close()
            if self._lock_file >= 0:
                os.close(self._lock_file)
                self._lock_file = -1

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
            except sqlite3.Error as error:
                raise SpoolUnusable(self.directory, _problem(error)) from error
            except IntakeFailed as error:
                raise SpoolUnusable(self.directory, f"a report cannot be stored ({error})") from error
            except OSError as error:
                raise SpoolUnusable(self.directory, error.strerror or str(error)) from error

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    # --- intake -----------------------------------------------------------------------------------------------------

    def prepare(self, envelope: Envelope, chunks: Iterable[bytes]) -> Prepared:
        """Read a body, and write it to its file if it is large; nothing is accepted yet.

        Raises ``LocalProtocolError`` for an envelope beyond the limits, and whatever ``chunks`` raises.
        """
        envelope.check_limits(DEFAULT_LIMITS)
        try:
            return Prepared(envelope, Intake(self._bodies).read(chunks))
        except IntakeFailed as error:
            raise SpoolUnusable(self.directory, f"a body cannot be stored ({error})") from error

    def add(self, prepared: Sequence[Prepared], now: float) -> tuple[MailAccepted, ...]:
        """Accept mails: when this returns they are safe. One transaction for all."""
        try:
            with self._guard(), self._transaction():
                accepted = tuple(self._insert(mail.envelope, mail.body, now) for mail in prepared)
        except BaseException:
            for mail in prepared:
                mail.body.discard()
            raise
        for mail in prepared:
            mail.body.close()
        return accepted

    def _insert(self, envelope: Envelope, body: Intake, now: float) -> MailAccepted:
        row = self._database.execute(
            "INSERT INTO mail (reverse_path, size, eight_bit, leading_dots, longest_line, accepted_at, body_file, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                envelope.reverse_path,
                body.size,
                body.eight_bit,
                body.leading_dots,
                body.longest_line,
                now,
                body.file_name,
                body.octets,
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
        )
        jobs = tuple(
            self._insert_job(mail, domain, members, now)
            for domain, members in recipients_by_domain(envelope.recipients)
        )
        return MailAccepted(mail, jobs)

    def _insert_job(self, mail: StoredMail, domain: str, recipients: Sequence[str], now: float) -> Job:
        pending = tuple(PendingRecipient(recipient) for recipient in recipients)
        row = self._database.execute(
            "INSERT INTO job (mail_id, domain, due_at, attempts, owner, recipients) VALUES (?, ?, ?, 0, 0, ?)",
            (mail.mail_id, domain, now, _dump(pending)),
        )
        assert row.lastrowid is not None
        return Job(
            job_id=row.lastrowid, mail_id=mail.mail_id, domain=domain, due_at=now, attempts=0, recipients=pending
        )

    # --- relaying ---------------------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Become the one relay of this spool, and sweep up what a crash may have left.

        Raises :class:`SpoolLocked` if another process is.
        """
        with self._guard():
            if self._lock_file < 0:
                self._take_lock()
            with self._transaction():
                self._database.execute("UPDATE incarnation SET number = number + 1")
            self._owner = self._database.execute("SELECT number FROM incarnation").fetchone()[0]
            self._sweep()
            self.changed()

    def _take_lock(self) -> None:
        lock_file = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(lock_file, 32).decode("ascii", "replace").strip()
            os.close(lock_file)
            raise SpoolLocked(self.directory, f"another relay works on it (process {holder or 'unknown'})") from None
        self._lock_file = lock_file
        os.ftruncate(lock_file, 0)
        os.pwrite(lock_file, b"%d\n" % os.getpid(), 0)

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
                with self._transaction():
                    facts += self._execute_durable(orders, settings, now, forgotten)
                for name in forgotten:
                    (self._bodies / name).unlink(missing_ok=True)
            deliveries = [e.delivery for e in orders.effects if isinstance(e, (OpenSession, Continue))]
            bodies = self._open_bodies(deliveries)
            for effect in orders.effects:
                if isinstance(effect, LoadDomains):
                    facts.append(self._load_domains(effect))
                elif isinstance(effect, Load):
                    facts.append(self._load(effect))
        return Executed(tuple(facts), bodies)

    def _execute_durable(
        self, orders: Orders, settings: RelaySettings, now: float, forgotten: list[str]
    ) -> Iterator[Fact]:
        """Reports first, for they read what is forgotten next; claims last, for they may follow a save.

        One statement for all orders of a kind: each statement gives up the interpreter's lock, and getting it back is
        what costs.
        """
        claims: list[tuple[int, int]] = []
        saves: list[tuple[int, float, int, str]] = []
        forgets: list[Job] = []
        for order in orders.durable:
            if isinstance(order, Claim):
                claims.append((order.job.job_id, order.job.attempts))
            elif isinstance(order, Save):
                job = order.job
                saves.append((job.job_id, job.due_at, job.attempts, _dump(job.recipients)))
            elif isinstance(order, Forget):
                forgets.append(order.job)
            elif isinstance(order, (Bounce, DelayWarning)):
                yield self._store_report(order, settings, now)
        if saves:
            self._database.execute(_SAVE, (json.dumps(saves),))
        if forgets:
            forgotten += self._forget(forgets)
        if claims:
            self._database.execute(_CLAIM, (self._owner, json.dumps(claims)))

    def _forget(self, jobs: Iterable[Job]) -> list[str]:
        """Forget jobs, and mails that have no others; returns the names of files to remove after the commit."""
        job_ids = json.dumps([job.job_id for job in jobs])
        mail_ids = json.dumps([job.mail_id for job in jobs])
        self._database.execute("DELETE FROM job WHERE job_id IN (SELECT value FROM json_each(?))", (job_ids,))
        rows = self._database.execute(
            "DELETE FROM mail WHERE mail_id IN (SELECT value FROM json_each(?))"
            " AND NOT EXISTS (SELECT 1 FROM job WHERE job.mail_id = mail.mail_id) RETURNING body_file",
            (mail_ids,),
        )
        return [name for (name,) in rows.fetchall() if name is not None]

    def _store_report(self, order: Bounce | DelayWarning, settings: RelaySettings, now: float) -> MailAccepted:
        original = b""
        body = self.open_body(order.mail.mail_id)
        if isinstance(body, bytes):
            original = body
        else:
            with body, contextlib.suppress(FileNotFoundError):
                original = body.read(settings.whole_message_in_reports)
        compose = compose_bounce if isinstance(order, Bounce) else compose_delay_warning
        report = compose(order, original, settings, now)  # type: ignore[arg-type]
        intake = Intake(self._bodies).read([report])
        try:
            return self._insert(Envelope("", (order.mail.reverse_path,)), intake, now)
        finally:
            intake.close()

    def _load_domains(self, order: LoadDomains) -> DomainsLoaded:
        values = {
            "until": order.until,
            "horizon": order.horizon,
            "owner": self._owner,
            "known": json.dumps(order.known),
            "limit": order.limit + 1,
        }
        domains = [domain for (domain,) in self._database.execute(_DUE_DOMAINS, values)]
        next_due = self._database.execute(_NEXT_DUE, values).fetchone()
        return DomainsLoaded(
            tuple(domains[: order.limit]), len(domains) <= order.limit, None if next_due is None else next_due[0]
        )

    def _load(self, order: Load) -> JobsLoaded:
        values = {
            "domain": order.domain,
            "until": order.until,
            "horizon": order.horizon,
            "owner": self._owner,
            "limit": order.limit + 1,
        }
        rows = self._database.execute(_DUE_OF_DOMAIN, values).fetchall()
        if len(rows) <= order.limit:
            rows += self._database.execute(_BEYOND_OF_DOMAIN, values).fetchall()
        jobs = {row[0]: _job(row) for row in rows[: order.limit]}
        mails = tuple(self._mail(mail_id) for mail_id in dict.fromkeys(job.mail_id for job in jobs.values()))
        for mail in mails:
            siblings = self._database.execute(
                f"SELECT {_JOB} FROM job WHERE mail_id = ? AND owner <> ? AND (due_at <= ? OR due_at > ?)",
                (mail.mail_id, self._owner, order.until, order.horizon),
            )
            jobs |= {row[0]: _job(row) for row in siblings if row[2] != order.domain}
        return JobsLoaded(order.domain, mails, tuple(jobs.values()), len(rows) <= order.limit)

    def _mail(self, mail_id: int) -> StoredMail:
        row = self._database.execute(f"SELECT {_MAIL} FROM mail WHERE mail_id = ?", (mail_id,)).fetchone()
        return _stored_mail(row)

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

    # --- inspection -------------------------------------------------------------------------------------------------

    def list(self) -> Iterator[QueueEntry]:
        """Everything that is queued, oldest mail first."""
        columns = ", ".join(f"mail.{name.strip()}" for name in _MAIL.split(","))
        columns += ", " + ", ".join(f"job.{name.strip()}" for name in _JOB.split(","))
        query = f"SELECT {columns}, owner FROM job JOIN mail USING (mail_id) ORDER BY mail.mail_id, job_id"
        with self._guard():
            rows = self._database.execute(query).fetchall()
            current = self._database.execute("SELECT number FROM incarnation").fetchone()[0]
        for row in rows:
            yield QueueEntry(_stored_mail(row[:6]), _job(row[6:12]), 0 < row[12] == current)

    def __len__(self) -> int:
        """How many mails are queued."""
        with self._guard():
            return int(self._database.execute("SELECT count(*) FROM mail").fetchone()[0])


class _LostBody(io.RawIOBase):
    """The body of a mail whose file is gone: whoever reads it is told."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def read(self, size: int = -1) -> bytes:
        raise FileNotFoundError(errno.ENOENT, "the body is gone from the spool", str(self._path))


def _problem(error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return f"the database is damaged ({error})"
    if name.startswith("SQLITE_FULL"):
        return "the disk is full"
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return f"the database cannot be written ({error})"
    return str(error)


def _stored_mail(row: Sequence[int | str | float]) -> StoredMail:
    mail_id, reverse_path, size, eight_bit, leading_dots, accepted_at = row
    return StoredMail(
        mail_id=int(mail_id),
        reverse_path=str(reverse_path),
        size=int(size),
        eight_bit=bool(eight_bit),
        leading_dots=bool(leading_dots),
        accepted_at=float(accepted_at),
    )


def _job(row: Sequence[int | str | float]) -> Job:
    job_id, mail_id, domain, due_at, attempts, recipients = row
    return Job(
        job_id=int(job_id),
        mail_id=int(mail_id),
        domain=str(domain),
        due_at=float(due_at),
        attempts=int(attempts),
        recipients=tuple(PendingRecipient(*fields) for fields in json.loads(str(recipients))),
    )


def _dump(recipients: Iterable[PendingRecipient]) -> str:
    return json.dumps([(r.address, r.last_words, r.warned) for r in recipients], separators=(",", ":"))
