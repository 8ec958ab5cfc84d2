"""Forgetting jobs, and the mails that have none left.

What lives here: what is deleted within a transaction. What does not: the files of the bodies, which go after it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from smtpcore.drivers._spool.schema import REMOVED
from smtpcore.relay import Job

__all__ = ["forget", "forget_mails", "forget_removed"]


def forget(database: sqlite3.Connection, jobs: Sequence[Job]) -> list[str]:
    """Forget jobs, and mails that have no others; returns the names of files to remove after the commit."""
    job_ids = json.dumps([job.job_id for job in jobs])
    database.execute("DELETE FROM job WHERE job_id IN (SELECT value FROM json_each(?))", (job_ids,))
    return forget_mails(database, json.dumps([job.mail_id for job in jobs]))


def forget_removed(database: sqlite3.Connection, among: str = "") -> list[str]:
    """Forget the jobs that were removed on their way, ``among`` those of a list or all that a relay left."""
    condition = "AND job_id IN (SELECT value FROM json_each(?))" if among else "AND ? = ''"
    rows = database.execute(
        f"DELETE FROM job WHERE owner = {REMOVED} {condition} RETURNING mail_id", (among,)
    ).fetchall()
    return forget_mails(database, json.dumps([mail_id for (mail_id,) in rows])) if rows else []


def forget_mails(database: sqlite3.Connection, mail_ids: str) -> list[str]:
    """Forget those mails of a list as JSON that have no jobs; returns the names of their files."""
    rows = database.execute(
        "DELETE FROM mail WHERE mail_id IN (SELECT value FROM json_each(?))"
        " AND NOT EXISTS (SELECT 1 FROM job WHERE job.mail_id = mail.mail_id) RETURNING body_file",
        (mail_ids,),
    )
    return [name for (name,) in rows.fetchall() if name is not None]
