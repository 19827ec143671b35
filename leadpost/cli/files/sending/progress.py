"""How a run is doing: a bar on a terminal, a line now and then elsewhere."""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from math import inf

from attrs import define, field
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.text import Text

from leadpost.bucket import LIMIT, PERIOD
from leadpost.cli.console import at_time, spoken
from leadpost.hooks import Ended, Event, Paused, Sent

COLOURS = {
    "accepted": "green",
    "succeeded": "green",
    "rejected": "red",
    "failed": "red",
    "uncertain": "yellow",
}
_WINDOW = 10.0
_BETWEEN_LINES = 10.0


@define
class Progress:
    """What a run has come to so far."""

    what: str
    total: int
    host: str
    limit: int = LIMIT
    clock: Callable[[], float] = time.monotonic
    # The number of rows in each state that is final for this run; none is 0.
    counts: Mapping[str, int] = field(factory=dict[str, int])
    waits_for: str = ""  # why nothing is sent now, "" if nothing holds it up
    _in_flight: int = field(init=False, default=0)
    _paused_until: float = field(init=False, default=-inf)
    _sent: deque[float] = field(init=False, factory=deque[float])
    _started: float = field(init=False)
    _printed_at: float = field(init=False)
    _waited_for: str = field(init=False, default="")

    def __attrs_post_init__(self) -> None:
        self._started = self._printed_at = self.clock()

    def count(self, event: Event) -> None:
        """Count the posts; a hook of the poster."""
        if isinstance(event, Sent) and event.operation.is_post:
            self._sent.append(self.clock())
            self._in_flight += 1
        elif isinstance(event, Ended) and event.operation.is_post and event.attempts:
            self._in_flight -= 1
        elif isinstance(event, Paused):
            self._paused_until = self.clock() + event.seconds

    @property
    def paused_for(self) -> float:
        """Seconds until calls may go again after refusals, 0 without a pause."""
        return max(self._paused_until - self.clock(), 0.0)

    def is_sending(self, within: float) -> bool:
        """Whether a call is in flight, or was sent within so many seconds."""
        last = self._sent[-1] if self._sent else self._started
        return self._in_flight > 0 or self.clock() - last < within

    @property
    def done(self) -> int:
        return Counter(self.counts).total()

    @property
    def elapsed(self) -> float:
        return self.clock() - self._started

    @property
    def rate(self) -> float:
        """Calls per second over the last 10 s, at most the limit: a burst is not the speed."""
        now = self.clock()
        while self._sent and self._sent[0] < now - _WINDOW:
            self._sent.popleft()
        seconds = min(max(now - self._started, PERIOD), _WINDOW)
        return min(len(self._sent) / seconds, self.limit / PERIOD)

    @property
    def seconds_left(self) -> float:
        return (self.total - self.done) / (self.rate or self.limit / PERIOD)

    def pace(self) -> str:
        """Return how fast it goes, and when it ends."""
        if self.done >= self.total:
            return f"{self.rate:.1f} calls/s"
        left = self.seconds_left
        end = at_time(datetime.now(UTC) + timedelta(seconds=left))
        return f"{self.rate:.1f} calls/s, {spoken(left)} left, until {end}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        count = Text(f" {self.done:,} of {self.total:,} ", style="bold")
        yield Text.assemble(count, "to ", self.host, no_wrap=True, overflow="ellipsis")
        yield ProgressBar(total=max(self.total, 1), completed=self.done, width=options.max_width)
        yield Segment.line()
        states = Text(" ")
        for state, number in self.counts.items():
            states.append(f"{number:,} {state}  ", style=COLOURS.get(state, ""))
        yield states
        yield Text(f" {self.pace()}", no_wrap=True, overflow="ellipsis")
        if self.waits_for:
            yield Text(f" {self.waits_for}", style="yellow", no_wrap=True, overflow="ellipsis")

    def print_lines(self, console: Console) -> None:
        """Print why it waits, when that changes, and a line every 10 s."""
        if self.waits_for not in {"", self._waited_for}:
            self._print(console, self.waits_for)
        self._waited_for = self.waits_for
        if self.clock() - self._printed_at >= _BETWEEN_LINES:
            self._printed_at = self.clock()
            counts = [f"{number:,} {state}" for state, number in self.counts.items()]
            states = ", ".join(counts) or "nothing done yet"
            self._print(console, f"{self.done:,} of {self.total:,}: {states}; {self.pace()}")

    def _print(self, console: Console, text: str) -> None:
        console.out(f"{self.what}: {text}", highlight=False)


@contextmanager
def shown(progress: Progress, console: Console, *, quiet: bool) -> Generator[Callable[[], None]]:
    """Show progress while the context lasts; call what is yielded after each change."""
    if quiet:
        yield lambda: None
    elif console.is_terminal:
        with Live(progress, console=console, refresh_per_second=4) as live:
            yield live.refresh
    else:
        yield lambda: progress.print_lines(console)
