"""Output at a terminal: lines, numbers, times, progress and the log."""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from math import ceil

from rich.console import Console
from rich.status import Status

from leadpost.bucket import LIMIT, PERIOD
from leadpost.errors import OutboxUnavailable


def say(console: Console, text: str) -> None:
    """Print a line without markup, highlighting and wrapping."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def is_interactive() -> bool:
    """Whether somebody can be asked: standard input and standard error are terminals."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def number_of(count: int, one: str, many: str = "") -> str:
    """
    Return a number with its words: those for one, or those for many, by default with an s.

    >>> number_of(1, "row"), number_of(3000, "row"), number_of(2, "row was", "rows were")
    ('1 row', '3,000 rows', '2 rows were')
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def spoken(seconds: float) -> str:
    """
    Return a length of time in its two largest units.

    >>> spoken(4.2), spoken(75), spoken(7500)
    ('4 s', '1 min 15 s', '2 h 5 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def at_time(moment: datetime) -> str:
    """Return the local time of day, with the date if it is not today."""
    local = moment.astimezone()
    is_today = local.date() == datetime.now().astimezone().date()
    return f"{local:%H:%M}" if is_today else f"{local.day} {local:%b %H:%M}"


def duration(calls: int, limit: int = LIMIT) -> float:
    """Return the seconds that `calls` take at best: bursts of `limit`, 5 s apart."""
    return max(ceil(calls / limit) - 1, 0) * PERIOD


def at_best(calls: int, limit: int = LIMIT) -> str:
    """
    Return how long calls take at best, in words.

    >>> at_best(25), at_best(60)
    ('a few seconds', '10 s at best')
    """
    seconds = duration(calls, limit)
    return f"{spoken(seconds)} at best" if seconds else "a few seconds"


@asynccontextmanager
async def counting(console: Console, text: Callable[[], Awaitable[str]]) -> AsyncGenerator[None]:
    """Show `text` in this context, updated every second; on a terminal only."""

    async def keep(status: Status) -> None:
        while True:
            with suppress(OutboxUnavailable):
                status.update(await text())
            await asyncio.sleep(1)

    if not console.is_terminal:
        yield
        return
    with console.status(await text()) as status:
        task = asyncio.create_task(keep(status))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


class _Lines(logging.Handler):
    """Prints records above what the console shows."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        plain = f"{record.levelname.lower()}: {record.getMessage()}"
        say(self._console, self.format(record) if self.formatter else plain)


@contextmanager
def logged(console: Console, *, verbose: bool) -> Generator[None]:
    """Show warnings of leadpost in this context; with `verbose`, its log, with times."""
    handler = _Lines(console)
    if verbose:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("leadpost")
    before = logger.level
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
