"""What ``smtpcore relay`` shows: a live table on a terminal, counts elsewhere.

What lives here: counting fates and drawing them. What does not: relaying.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from smtpcore.relay import Attempted, Fate, FateKind, Relay

__all__ = ["Progress"]


class Progress:
    """Counts what the relay reports, and shows it while it grows, unless ``show`` says not to."""

    def __init__(self, *, show: bool = True) -> None:
        self.show = show
        self._console = Console(stderr=True)
        self.fates: Counter[FateKind] = Counter()
        self.deferrals = 0
        self.last_words = ""
        self._began = time.monotonic()
        self._relay: Relay | None = None

    def notice(self, event: Fate | Attempted) -> None:
        """Take note of one fate or one attempt."""
        if isinstance(event, Fate):
            self.fates[event.kind] += 1
        else:
            self.deferrals += 1
        if not (isinstance(event, Fate) and event.kind is FateKind.DELIVERED):
            self.last_words = f"{event.recipient}: {event.words}"

    def __rich__(self) -> Group:
        seconds = time.monotonic() - self._began
        counts = Table.grid(padding=(0, 3))
        counts.add_row("delivered", "bounced", "expired", "discarded", "deferrals", "recipients/s")
        counts.add_row(
            *(str(self.fates[kind]) for kind in FateKind), str(self.deferrals), f"{self.fates.total() / seconds:,.0f}"
        )
        destinations = Table("next hop", "waiting in memory", "sessions", "", box=None, header_style="dim")
        for next_hop, waiting, sessions, resting_until in self._relay.destinations if self._relay else ():
            rests = "" if resting_until is None else f"rests for {max(0.0, resting_until - time.time()):.0f} s"
            destinations.add_row(str(next_hop), str(waiting), str(sessions), rests)
        # What a peer said is shown as it is, never read as markup.
        return Group(counts, destinations, Text(self.last_words, style="dim", no_wrap=True, overflow="ellipsis"))

    @property
    def live(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self.show and self._console.is_terminal

    @contextmanager
    def shown(self, relay: Relay) -> Generator[None]:
        """Show the table while the block runs, if there is a terminal."""
        self._relay = relay
        if not self.live:
            yield
            return
        with Live(self, console=self._console, refresh_per_second=4):
            yield

    @property
    def summary(self) -> str:
        """One line that says it all."""
        kinds = ", ".join(f"{self.fates[kind]} {kind.value}" for kind in FateKind)
        return f"{kinds}; {self.deferrals} deferrals"
