"""What is due in a spool, and what of it cannot be read.

What lives here: the looks into the database for domains and jobs, and setting aside the mails of which something is
damaged. What does not: when to look, and what becomes of what is found.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from pathlib import Path

from smtpcore.drivers._spool.rows import JOB_COLUMNS, MAIL_COLUMNS, NO_MAIL, Damaged, check_body, jobs_of, mail_of
from smtpcore.drivers._spool.schema import SET_ASIDE, transaction
from smtpcore.relay import DomainsLoaded, JobsLoaded, Load, LoadDomains, StoredMail

__all__ = ["Due"]

_log = logging.getLogger("smtpcore.relay")

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
_NEXT_DUE = """
SELECT due_at FROM job WHERE due_at > :until AND due_at <= :horizon AND owner >= 0 AND owner <> :owner
ORDER BY due_at LIMIT 1
"""
#: Jobs that a look for due domains reads before it asks domain by domain.
_GLANCE = 2000


class Due:
    """What is due in a database; what is damaged is set aside while it is read."""

    def __init__(self, database: sqlite3.Connection, bodies: Path) -> None:
        self._database = database
        self._bodies = bodies

    def domains(self, order: LoadDomains, owner: int) -> DomainsLoaded:
        """The domains that have jobs due, for the relay of that number."""
        values: dict[str, object] = {
            "until": order.until,
            "horizon": order.horizon,
            "owner": owner,
            "known": json.dumps(order.known),
            "limit": order.limit + 1,
        }
        found = self._due_domains(values, order)
        domains = tuple(domain for domain in found if isinstance(domain, str))
        if len(domains) < len(found):
            self._set_aside_by_domain(owner)
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

    def jobs(self, order: Load, owner: int) -> JobsLoaded:
        """The jobs of a domain that are due, for the relay of that number, with their mails and their siblings."""
        values = {
            "domain": order.domain,
            "until": order.until,
            "horizon": order.horizon,
            "owner": owner,
            "known": json.dumps(order.known),
            "limit": order.limit + 1,
        }
        rows = self._database.execute(_DUE_OF_DOMAIN, values).fetchall()
        if len(rows) <= order.limit:
            rows += self._database.execute(_BEYOND_OF_DOMAIN, values).fetchall()
        problems: dict[object, str] = {}
        jobs = jobs_of(rows[: order.limit], problems)
        mail_ids = json.dumps(list(dict.fromkeys(job.mail_id for job in jobs)))
        mails = self._mails(mail_ids, problems)
        siblings = self._database.execute(
            f"SELECT {_JOB} FROM job WHERE mail_id IN (SELECT value FROM json_each(?)) AND owner >= 0 AND owner <> ?"
            " AND (due_at <= ? OR due_at > ?) AND domain <> ?",
            (mail_ids, owner, order.until, order.horizon, order.domain),
        )
        jobs += jobs_of(siblings.fetchall(), problems)
        if problems:
            self._set_aside(problems, owner)
        return JobsLoaded(
            order.domain,
            tuple(mail for mail in mails if mail.mail_id not in problems),
            tuple(job for job in jobs if job.mail_id not in problems),
            len(rows) <= order.limit,
        )

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

    def _set_aside(self, problems: dict[object, str], owner: int) -> None:
        """Take mails out of the relay's sight, with the reason, until an operator releases them."""
        rows = json.dumps([problem for problem in problems.items() if isinstance(problem[0], int)])
        with transaction(self._database):
            self._database.execute(
                f"UPDATE job SET owner = {SET_ASIDE} WHERE typeof(mail_id) <> 'integer' AND owner >= 0 AND owner <> ?",
                (owner,),
            )
            self._database.execute(
                "UPDATE mail SET problem = json_extract(damaged.value, '$[1]') FROM json_each(?) AS damaged"
                " WHERE mail_id = json_extract(damaged.value, '$[0]')",
                (rows,),
            )
            self._database.execute(
                f"UPDATE job SET owner = {SET_ASIDE} WHERE owner >= 0 AND owner <> ?"
                " AND mail_id IN (SELECT json_extract(value, '$[0]') FROM json_each(?))",
                (owner, rows),
            )
        for mail_id, words in problems.items():
            fields = {"event": "set-aside", "queue_id": mail_id, "words": words}
            _log.warning("mail %s is set aside: %s", mail_id, words, extra=fields)

    def _set_aside_by_domain(self, owner: int) -> None:
        """Set aside what is for no domain that could be one."""
        rows = self._database.execute("SELECT mail_id, domain FROM job WHERE owner >= 0 AND owner <> ?", (owner,))
        damaged = [(mail_id, domain) for mail_id, domain in rows if not isinstance(domain, str)]
        self._set_aside({mail_id: f"its domain is {domain!r}" for mail_id, domain in damaged}, owner)
