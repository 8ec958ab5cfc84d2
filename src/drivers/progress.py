"""What ``smtpcore relay`` shows: a live view on a terminal, counts in a line elsewhere.

What lives here: counting fates, and drawing them with what the relay says of its destinations. What does not: relaying,
and the log.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from smtpcore.relay import Attempted, DestinationView, Fate, FateKind, NextHop

__all__ = ["Progress", "Relaying"]

#: Times a second that the view is drawn.
_HERTZ: Final = 4
#: Seconds over which the current rate is taken.
_WINDOW: Final = 10.0
#: Of the time that a look at the destinations takes, how many times as long the next one waits.
_PATIENCE: Final = 50
#: Lines that are not destinations: totals, headers, what is left out, last words.
_FRAME: Final = 7


class Relaying(Protocol):
    """What a relay shows of itself; it may be asked for from any thread."""

    @property
    def destinations(self) -> tuple[DestinationView, ...]: ...


class _Rate:
    """How fast a count has grown lately, from the moments at which it was looked at."""

    def __init__(self, count: int, now: float) -> None:
        self._seen: deque[tuple[float, int]] = deque([(now, count)])

    def of(self, count: int, now: float) -> float:
        """The growth for each second, after ``count`` is taken note of."""
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        return (count - before) / (now - then) if now > then else 0.0


class Progress:
    """Counts what the relay reports, and shows it while it grows, unless ``show`` says not to.

    ``clock`` counts seconds; ``now`` is the time of day on the relay's clock.
    """

    def __init__(
        self,
        *,
        show: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.show = show
        self.fates: Counter[FateKind] = Counter()
        self.deferrals = 0
        self.last_words = ""
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._now = now
        self._began = clock()
        self._rate = _Rate(0, self._began)
        self._rates: dict[NextHop, _Rate] = {}
        self._destinations: tuple[DestinationView, ...] = ()
        self._look_at = self._began
        self._relaying: Relaying | None = None

    def notice(self, event: Fate | Attempted) -> None:
        """Take note of one fate or one attempt."""
        if isinstance(event, Fate):
            self.fates[event.kind] += 1
        else:
            self.deferrals += 1
        if not (isinstance(event, Fate) and event.kind is FateKind.DELIVERED):
            self.last_words = f"{event.recipient}: {event.words}"

    @property
    def live(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self.show and self._console.is_terminal

    @contextmanager
    def shown(self, relaying: Relaying) -> Generator[None]:
        """Show the view while the block runs, if there is a terminal."""
        self._relaying = relaying
        if not self.live:
            yield
            return
        with Live(self, console=self._console, refresh_per_second=_HERTZ):
            yield

    @property
    def summary(self) -> str:
        """One line that says it all."""
        kinds = ", ".join(f"{self.fates[kind]} {kind.value}" for kind in FateKind)
        return f"{kinds}; {self.deferrals} deferrals"

    # --- drawing ----------------------------------------------------------------------------------------------------

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self._look()
        yield Group(
            self._totals(),
            self._table(max(1, options.size.height - _FRAME)),
            # What a peer said is shown as it is, never read as markup.
            Text(self.last_words, style="dim", no_wrap=True, overflow="ellipsis"),
        )

    def _look(self) -> None:
        """Look at the destinations, where there are very many less often, for the relay waits meanwhile."""
        began = self._clock()
        if self._relaying is not None and began >= self._look_at:
            self._destinations = self._relaying.destinations
            ended = self._clock()
            self._look_at = ended + _PATIENCE * (ended - began)

    def _totals(self) -> Table:
        clock, total = self._clock(), self.fates.total()
        seconds = max(clock - self._began, 0.001)
        table = Table.grid(padding=(0, 3))
        table.add_row(*(kind.value for kind in FateKind), "deferrals", "now/s", "average/s", "since the start")
        table.add_row(
            *(f"{self.fates[kind]:,}" for kind in FateKind),
            f"{self.deferrals:,}",
            f"{self._rate.of(total, clock):,.0f}",
            f"{total / seconds:,.0f}",
            _duration(seconds),
        )
        return table

    def _table(self, most: int) -> Table:
        """The busiest destinations first, as many as the terminal holds."""
        table = Table(box=None, header_style="dim", expand=True)
        for header in ("next hop", "waiting", "on their way", "sessions", "now/s", ""):
            table.add_column(header, no_wrap=True)
        table.add_column("last words", no_wrap=True, overflow="ellipsis", ratio=1)
        ordered = sorted(self._destinations, key=lambda seen: (-seen.sessions, -seen.waiting, str(seen.next_hop)))
        shown, clock = ordered[:most], self._clock()
        self._rates = {seen.next_hop: self._rates.get(seen.next_hop) or _Rate(seen.answered, clock) for seen in shown}
        for seen in shown:
            rests = "" if seen.resting_until is None else f"rests for {_duration(seen.resting_until - self._now())}"
            table.add_row(
                str(seen.next_hop),
                f"{seen.waiting:,}",
                f"{seen.on_their_way:,}",
                f"{seen.sessions:,}",
                f"{max(0.0, self._rates[seen.next_hop].of(seen.answered, clock)):,.0f}",
                rests,
                Text(seen.last_words),
            )
        if len(ordered) > most:
            table.add_row(f"and {len(ordered) - most:,} more")
        return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
