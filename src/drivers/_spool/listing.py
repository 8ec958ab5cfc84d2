"""The queue as an operator sees it.

What lives here: its entries, and reading them a page at a time. What does not: who looks.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smtpcore.drivers._spool.rows import JOB_COLUMNS, MAIL_COLUMNS, NO_MAIL, Damaged, job_of, mail_of, readable
from smtpcore.drivers._spool.schema import REMOVED
from smtpcore.relay import Job, StoredMail

__all__ = ["QueueEntry", "entry_of", "page_after", "place_of"]

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
#: Rows of a list that are in memory at once.
_PAGE = 1000


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


def page_after(database: sqlite3.Connection, place: tuple[int, int], mail_ids: Sequence[int] | None) -> list[Any]:
    """The rows behind a place in the list, all or of these mails, as many as should be in memory at once."""
    among = "" if mail_ids is None else "AND job.mail_id IN (SELECT value FROM json_each(:mails))"
    after_mail, after_job = place
    values = {"after_mail": after_mail, "after_job": after_job, "mails": json.dumps(mail_ids or ()), "limit": _PAGE}
    return database.execute(_LIST.format(among=among), values).fetchall()


def place_of(row: Sequence[Any]) -> tuple[int, int]:
    """The place of a row in the list."""
    return row[_MAIL_OF_JOB], row[_JOB_ID]


def entry_of(row: Sequence[Any], current: int) -> QueueEntry:
    """An entry out of a row of ``_LIST``; ``current`` is the number of the relay that works, 0 for none."""
    owner, held, problem = row[-3:]
    mail_row, job_row = row[: len(MAIL_COLUMNS)], row[len(MAIL_COLUMNS) : -3]
    try:
        mail, job = mail_of(mail_row), job_of(job_row)
    except Damaged as damage:
        problem = problem or (NO_MAIL if mail_row[0] is None else str(damage))
        mail, job = readable(mail_row, job_row)
    words = problem if problem is None or isinstance(problem, str) else repr(problem)
    return QueueEntry(mail, job, current > 0 and owner in (current, REMOVED), bool(held), words)
