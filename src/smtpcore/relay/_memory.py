"""The jobs that the relay holds in memory, and their mails.

What lives here: what is held, and where. What does not: when jobs come and go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from smtpcore.relay._destination import Destination
from smtpcore.relay._facts import Action, Job, StoredMail

__all__ = ["Memory"]


@dataclass(slots=True)
class _Held:
    mail: StoredMail
    #: Where each job of this mail waits, or is on its way to.
    jobs: dict[int, Destination] = field(default_factory=dict[int, Destination])
    #: What an operator wished for those that are on their way.
    wish: Action | None = None


class Memory:
    """Jobs in memory, waiting or claimed."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        #: The jobs of each domain that are held, in the order in which they came.
        self.domains: dict[str, dict[int, None]] = {}
        self._mails: dict[int, _Held] = {}

    def __len__(self) -> int:
        return len(self.jobs)

    def __contains__(self, job: Job) -> bool:
        return job.job_id in self.jobs

    def hold(self, mail: StoredMail, job: Job, destination: Destination) -> None:
        """Let a job wait for a destination."""
        held = self._mails.setdefault(mail.mail_id, _Held(mail))
        held.jobs[job.job_id] = destination
        self.jobs[job.job_id] = job
        self.domains.setdefault(job.domain, {})[job.job_id] = None
        destination.add(job)

    def change(self, jobs: Iterable[Job]) -> None:
        """The jobs were claimed or given back."""
        for job in jobs:
            self.jobs[job.job_id] = job

    def drop(self, jobs: Iterable[Job]) -> None:
        """Let jobs go; the spool has them, or they are done."""
        for job in jobs:
            del self.jobs[job.job_id]
            of_domain = self.domains[job.domain]
            del of_domain[job.job_id]
            if not of_domain:
                del self.domains[job.domain]
            held = self._mails[job.mail_id]
            del held.jobs[job.job_id]
            if not held.jobs:
                del self._mails[job.mail_id]

    def of_domain(self, domain: str) -> tuple[int, ...]:
        """The jobs of a domain that are held, by their numbers."""
        return tuple(self.domains.get(domain, ()))

    def mail(self, mail_id: int) -> StoredMail:
        """A mail of which a job is held."""
        return self._mails[mail_id].mail

    def places(self, mail_ids: Iterable[int]) -> Iterator[tuple[int, set[Destination]]]:
        """Each of these mails of which a job is held, with the destinations of those."""
        for mail_id in mail_ids:
            if mail_id in self._mails:
                yield mail_id, set(self._mails[mail_id].jobs.values())

    def wish(self, mail_id: int, action: Action | None) -> None:
        """Note what an operator wishes for the jobs of this mail that are on their way, if there are any."""
        if mail_id in self._mails:
            self._mails[mail_id].wish = action

    def wish_for(self, mail_id: int) -> Action | None:
        """What an operator wished for the jobs that are on their way."""
        held = self._mails.get(mail_id)
        return None if held is None else held.wish
