"""What ``smtpcore relay`` shows: a live view on a terminal, counts in a line elsewhere.

What lives here: counting fates, and drawing them with what the relay says of its destinations. What does not: relaying,
and the log.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from smtpcore.relay import Attempted, Fate, FateKind, NextHop

__all__ = ["Progress", "Relaying"]

#: Times a second that the view is drawn.
_HERTZ: Final = 4
#: Seconds over which the current rate is taken.
_WINDOW: Final = 10.0
#: Lines that are not destinations: totals, headers, what is left out, last words.
_FRAME: Final = 7


class Relaying(Protocol):
    """What a relay shows of itself; it may be asked for from any thread."""

    @property
    def destinations(self) -> tuple[tuple[NextHop, int, int, float | None], ...]: ...


class _Rate:
    """How fast a count has grown lately, from the moments at which it was looked at."""

    def __init__(self, now: float) -> None:
        self._seen: deque[tuple[float, int]] = deque([(now, 0)])

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
        self._rate = _Rate(self._began)
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
        destinations = self._relaying.destinations if self._relaying else ()
        yield Group(
            self._totals(),
            self._destinations(destinations, max(1, options.size.height - _FRAME)),
            # What a peer said is shown as it is, never read as markup.
            Text(self.last_words, style="dim", no_wrap=True, overflow="ellipsis"),
        )

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

    def _destinations(self, destinations: Sequence[tuple[NextHop, int, int, float | None]], most: int) -> Table:
        """The busiest first, as many as the terminal holds."""
        table = Table("next hop", "waiting", "sessions", "", box=None, header_style="dim")
        ordered = sorted(destinations, key=lambda row: (-row[2], -row[1], str(row[0])))
        for next_hop, waiting, sessions, resting_until in ordered[:most]:
            rests = "" if resting_until is None else f"rests for {_duration(max(0.0, resting_until - self._now()))}"
            table.add_row(str(next_hop), f"{waiting:,}", f"{sessions:,}", rests)
        if len(ordered) > most:
            table.add_row(f"and {len(ordered) - most:,} more")
        return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
