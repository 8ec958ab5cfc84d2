"""What operators wish for: reading their wishes, and executing them.

What lives here: what each wish does to mails and jobs within a transaction. What does not: who executes it, the relay
that works on the spool or, where there is none, whoever wishes.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Sequence

from smtpcore.drivers._spool.forgetting import forget_mails
from smtpcore.drivers._spool.rows import JOB_COLUMNS, Damaged, jobs_of, mail_ids_of
from smtpcore.drivers._spool.schema import HELD, NOBODY, REMOVED, SET_ASIDE
from smtpcore.relay import Action, Commanded, Job

__all__ = ["commanded", "operate", "wishes_after"]

_JOB = ", ".join(JOB_COLUMNS)
_AMONG = "mail_id IN (SELECT value FROM json_each(:mails))"
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


def wishes_after(database: sqlite3.Connection, command_id: int) -> list[tuple[int, Action, list[int]]]:
    """Wishes that nobody has answered; what is none, because something else wrote it, is passed over."""
    rows = database.execute(
        "SELECT command_id, action, mail_ids FROM command WHERE command_id > ? ORDER BY command_id", (command_id,)
    )
    found: list[tuple[int, Action, list[int]]] = []
    for number, action, mail_ids in rows.fetchall():
        with contextlib.suppress(Damaged, ValueError):
            found.append((number, Action(action), mail_ids_of(mail_ids)))
    return found


def commanded(database: sqlite3.Connection, action: Action, mail_ids: Sequence[int]) -> Commanded:
    """A wish as the relay's fact."""
    domains = database.execute(
        "SELECT DISTINCT domain FROM job WHERE mail_id IN (SELECT value FROM json_each(?))", (json.dumps(mail_ids),)
    )
    return Commanded(action, tuple(mail_ids), tuple(domain for (domain,) in domains if isinstance(domain, str)))


def operate(
    database: sqlite3.Connection, owner: int, action: Action, mail_ids: Sequence[int], now: float, forgotten: list[str]
) -> tuple[Job, ...]:
    """Execute one wish; returns the jobs that are gone. The files to remove after the commit go to ``forgotten``.

    ``owner`` is the number of the relay that executes it, 0 for none. A job that a relay has in hand is not gone yet.
    """
    ids = json.dumps(mail_ids)
    values = {"mails": ids, "owner": owner or NOBODY, "now": now}
    removed: list[Job] = []
    if action is Action.REMOVE:
        rows = database.execute(
            f"SELECT {_JOB} FROM job WHERE {_AMONG} AND owner <> :owner AND owner <> {REMOVED}", values
        )
        removed = jobs_of(rows, {})
    for statement in _OPERATE[action]:
        database.execute(statement, values)
    if action is Action.REMOVE:
        forgotten += forget_mails(database, ids)
    return tuple(removed)
