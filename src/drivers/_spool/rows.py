"""Rows of a spool as values, and what may be wrong with them.

What lives here: reading and writing the columns of mails and jobs. What does not: SQL, and what becomes of a row that
cannot be read.

A row that this program wrote is right. One that something else wrote, or a failing disk changed, may hold anything, for
SQLite keeps what it is given: so every column is looked at before a machine sees it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from smtpcore import LocalProtocolError, MailOptions, check_forward_path, check_reverse_path
from smtpcore.drivers._spool.bodies import is_body_name
from smtpcore.drivers._spool.errors import Damaged
from smtpcore.drivers._spool.seconds import are_seconds
from smtpcore.drivers._spool.wishes import (
    mail_options_as_json,
    mail_options_of,
    recipient_options_as_json,
    recipient_options_of,
)
from smtpcore.relay import Job, PendingRecipient, StoredMail

__all__ = [
    "JOB_COLUMNS",
    "MAIL_COLUMNS",
    "NO_MAIL",
    "UTF8_FOUND",
    "Damaged",
    "check_body",
    "dump",
    "dump_options",
    "job_of",
    "mail_ids_of",
    "mail_of",
    "readable",
]

MAIL_COLUMNS: Final = (
    "mail_id", "reverse_path", "size", "eight_bit", "leading_dots", "accepted_at", "longest_line", "binary",
    "utf8_header", "options",
)  # fmt: skip
#: What the column ``utf8_header`` holds where UTF-8 was found that nobody had declared; else it is 0 or 1.
UTF8_FOUND: Final = 2
JOB_COLUMNS: Final = ("job_id", "mail_id", "domain", "due_at", "attempts", "recipients")

NO_MAIL: Final = "there is no such mail, only its jobs"

_T = TypeVar("_T")
_NO_OPTIONS: Final = MailOptions()


def _is(kind: type[_T], what: str, value: Any) -> _T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Damaged(f"its {what} is {value!r}")
    return value


def _seconds(what: str, value: Any) -> float:
    if not are_seconds(value):
        raise Damaged(f"its {what} is {value!r}")
    return float(value)


def mail_of(row: Sequence[Any]) -> StoredMail:
    """A mail out of ``MAIL_COLUMNS``; raises :class:`Damaged`."""
    mail_id, reverse_path, size, eight_bit, leading_dots, accepted_at, longest_line, binary, utf8_header, options = row
    try:
        check_reverse_path(reverse_path)
    except LocalProtocolError as error:
        raise Damaged(f"its reverse-path cannot be said: {error}") from None
    if _is(int, "size", size) < 0:
        raise Damaged(f"its size is {size}")
    return StoredMail(
        mail_id=mail_id,
        reverse_path=reverse_path,
        size=size,
        eight_bit=bool(_is(int, "eight_bit", eight_bit)),
        leading_dots=bool(_is(int, "leading_dots", leading_dots)),
        accepted_at=_seconds("time of acceptance", accepted_at),
        longest_line=_is(int, "longest line", longest_line),
        binary=bool(_is(int, "binary", binary)),
        utf8_header=_is(int, "utf8_header", utf8_header) not in {0, UTF8_FOUND},
        utf8_found=utf8_header == UTF8_FOUND,
        options=_options_of(options),
    )


def _options_of(column: Any) -> MailOptions:
    return _NO_OPTIONS if column is None else mail_options_of(_json("list of options", column))


def check_body(octets: object, name: object, size: int, bodies: Path) -> None:
    """Check that a body of ``size`` octets is there: ``octets`` is how many are in the database, ``name`` its file's.

    Raises :class:`Damaged`.
    """
    if name is None:
        if octets != size:
            raise Damaged(f"its body has {octets} octets; {size} were accepted")
        return
    if not is_body_name(name):
        raise Damaged(f"its body is said to be in {name!r}")
    try:
        found = (bodies / name).stat().st_size
    except OSError as error:
        raise Damaged(f"its body {name} cannot be read: {error.strerror}") from None
    if found != size:
        raise Damaged(f"its body {name} has {found} octets; {size} were accepted")


def job_of(row: Sequence[Any]) -> Job:
    """A job out of ``JOB_COLUMNS``; raises :class:`Damaged`."""
    job_id, mail_id, domain, due_at, attempts, recipients = row
    if _is(int, "number of attempts", attempts) < 0:
        raise Damaged(f"its number of attempts is {attempts}")
    return Job(
        job_id=job_id,
        mail_id=_is(int, "mail", mail_id),
        domain=_is(str, "domain", domain),
        due_at=_seconds("due time", due_at),
        attempts=attempts,
        recipients=_recipients_of(recipients),
    )


def _json(what: str, text: Any) -> Any:
    try:
        return json.loads(_is(str, what, text))
    except (ValueError, RecursionError):
        raise Damaged(f"its {what} is no JSON") from None


def _recipients_of(text: Any) -> tuple[PendingRecipient, ...]:
    found = _json("list of recipients", text)
    if not isinstance(found, list) or not found:
        raise Damaged("it has no recipients")
    recipients: list[Any] = found  # pyright: ignore[reportUnknownVariableType]  # JSON has no types
    return tuple(map(_recipient_of, recipients))


def _recipient_of(fields: Any) -> PendingRecipient:
    try:
        address, last_words, warned, *more = fields
    except (TypeError, ValueError):
        raise Damaged(f"one of its recipients is {fields!r}") from None
    if not (isinstance(address, str) and isinstance(last_words, str) and isinstance(warned, bool) and len(more) < 2):
        raise Damaged(f"one of its recipients is {fields!r}")
    try:
        check_forward_path(address)
    except LocalProtocolError as error:
        raise Damaged(f"a recipient cannot be said: {error}") from None
    return PendingRecipient(address, last_words, warned, recipient_options_of(more[0]) if more else None)


def mail_ids_of(text: Any) -> list[int]:
    """The mails that an operator's command is about; raises :class:`Damaged`."""
    found = _json("list of mails", text)
    if not isinstance(found, list):
        raise Damaged("it has no list of mails")
    mail_ids: list[Any] = found  # pyright: ignore[reportUnknownVariableType]  # JSON has no types
    return [_is(int, "mail", mail_id) for mail_id in mail_ids]


def readable(mail: Sequence[Any], job: Sequence[Any]) -> tuple[StoredMail, Job]:
    """What can be read of a row that is damaged, for an operator: what cannot is empty."""

    def text(value: object) -> str:
        return value if isinstance(value, str) else "" if value is None else repr(value)

    def number(value: object) -> float:
        return float(value) if are_seconds(value) else 0.0

    _, reverse_path, size, eight_bit, leading_dots, accepted_at, longest_line, binary, utf8_header, options = mail
    job_id, mail_id, domain, due_at, attempts, recipients = job
    return (
        StoredMail(
            mail_id=int(number(mail_id)),
            reverse_path=text(reverse_path),
            size=int(number(size)),
            eight_bit=bool(eight_bit),
            leading_dots=bool(leading_dots),
            accepted_at=number(accepted_at),
            longest_line=longest_line if isinstance(longest_line, int) else None,
            binary=bool(binary),
            utf8_header=bool(utf8_header) and utf8_header != UTF8_FOUND,
            utf8_found=utf8_header == UTF8_FOUND,
            options=_readable(_options_of, options, _NO_OPTIONS),
        ),
        Job(
            job_id=job_id,
            mail_id=int(number(mail_id)),
            domain=text(domain),
            due_at=number(due_at),
            attempts=int(number(attempts)),
            recipients=_readable(_recipients_of, recipients, ()),
        ),
    )


def _readable(read: Callable[[Any], _T], column: object, otherwise: _T) -> _T:
    try:
        return read(column)
    except Damaged:
        return otherwise


def dump(recipients: Iterable[PendingRecipient]) -> str:
    """The column of a job's recipients."""
    return json.dumps([_fields(recipient) for recipient in recipients], separators=(",", ":"))


def _fields(recipient: PendingRecipient) -> tuple[object, ...]:
    said = (recipient.address, recipient.last_words, recipient.warned)
    return said if recipient.options is None else (*said, recipient_options_as_json(recipient.options))


def dump_options(options: MailOptions) -> str | None:
    """The column of a mail's options; empty for a mail that asks for nothing."""
    said = mail_options_as_json(options)
    return json.dumps(said, separators=(",", ":")) if said else None


def jobs_of(rows: Iterable[Sequence[object]], problems: dict[object, str]) -> list[Job]:
    """The jobs that can be read; for the others the mail's id and what is wrong go to ``problems``."""
    jobs: list[Job] = []
    for row in rows:
        try:
            jobs.append(job_of(row))
        except Damaged as damage:
            problems[row[1]] = f"job {row[0]}: {damage}"
    return jobs
